import io
import json
from dataclasses import replace

import pytest
from rich.console import Console
from simulated import MEAN, failed, score, scores_on, search, trial

from crossbreed.errors import MachineError
from crossbreed.runs.results.report import Report, make_report, report_json
from crossbreed.runs.results.report_text import caveats, sentences, summary
from crossbreed.runs.results.statistics import paired_difference
from crossbreed.runs.results.winner import reported
from crossbreed.runs.spec.objectives import Objective
from crossbreed.types import ProposedBy, Score, Status

WINNER = 25


@pytest.fixture(scope="module")
def report() -> Report:
    trials = search()
    return make_report(
        trials=trials, winner=WINNER, scores=scores_on("report", reported(trials, [MEAN], WINNER)), objectives=[MEAN]
    )


def test_promised_shape(report: Report) -> None:
    found = json.loads(json.dumps(report_json(report), allow_nan=False))
    assert found["schema"] == 1
    assert {"mean", "low", "high", "n", "tasks", "number", "recipe"} <= found["winner"].keys()
    assert found["winner"]["tasks"]["sums"].keys() == {"mean", "low", "high", "n"}
    assert [b["name"] for b in found["baselines"]] == ["base", "sums", "french", "uniform", "tuned_scalar"]
    assert all({"mean", "low", "high", "n", "tasks"} <= b.keys() for b in found["baselines"])
    for key in ("difference_to_best_baseline", "difference_to_tuned_scalar"):
        assert {"mean", "low", "high", "n"} <= found[key].keys()
    assert isinstance(found["optimism"], float)
    assert found["ideal"]["gap"].keys() == {"mean", "low", "high", "n"}


def test_near_ties_of_the_winner_are_counted(report: Report) -> None:
    assert report_json(report)["near_ties"] == {}
    assert not any("of a tie" in line for line in sentences(report))
    trials = search()
    near = make_report(
        trials=trials,
        winner=WINNER,
        scores=scores_on("report", reported(trials, [MEAN], WINNER)),
        objectives=[MEAN],
        margins={"sums": {"a": 0.0, "b": 0.049, "c": 0.05, "d": 3.0}, "french": {}},
    )
    assert report_json(near)["near_ties"] == {"sums": {"near": 2, "n": 4, "nats": 0.05}}
    [said] = [line for line in sentences(near) if "of a tie" in line]
    assert said.endswith("2 of 4 in sums.")


def test_differences_are_paired_on_the_report_items(report: Report) -> None:
    trials = search()
    scores = scores_on("report", reported(trials, [MEAN], WINNER))
    assert report.to_best_baseline is not None
    assert report.to_best_baseline.name == "uniform"
    assert report.to_best_baseline.by == paired_difference(scores[WINNER].tasks, scores[3].tasks, MEAN)
    assert report.to_best_baseline.by.low > 0
    assert report.to_best_baseline.by.n == 200
    assert report.to_tuned_scalar is not None
    assert report.to_tuned_scalar.by.mean == pytest.approx(report.winner.value.mean - report.baselines[-1].value.mean)


def test_the_ideal_is_every_task_as_good_as_its_best_parent(report: Report) -> None:
    ideal, by_name = report.ideal, {row.name: row for row in report.baselines}
    assert ideal is not None
    assert ideal.parents == {"sums": "sums", "french": "french"}
    best = (by_name["sums"].tasks["sums"].mean + by_name["french"].tasks["french"].mean) / 2
    assert ideal.value.mean == pytest.approx(best)
    assert ideal.gap.mean == pytest.approx(best - report.winner.value.mean)


def test_the_ideal_is_never_below_the_winner() -> None:
    """A winner may be better at a task than every parent."""
    trials = [
        trial(0, "baseline:base", 0.2, 0.2),
        trial(1, "baseline:expert:sums", 0.7, 0.1),
        trial(2, "baseline:expert:french", 0.1, 0.5),
        trial(3, "cma_es", 0.6, 0.9),
    ]
    for winner in range(4):
        report = make_report(trials=trials, winner=winner, scores=scores_on("report", trials), objectives=[MEAN])
        assert report.ideal is not None
        assert report.ideal.gap.mean >= 0
        assert report.ideal.gap.low >= 0
        assert report.ideal.value.mean == pytest.approx(report.winner.value.mean + report.ideal.gap.mean)
    assert report.ideal.parents == {"sums": "sums", "french": "winner"}
    assert any("Ideal (sums as sums, french as winner)" in line for line in sentences(report))


def test_optimism_is_search_less_report() -> None:
    trials = [trial(0, "baseline:base", 0.2, 0.2), trial(1, "cma_es", 0.9, 0.9)]
    scores = scores_on("report", trials) | {1: score({"sums": 0.5, "french": 0.5}, split="report", number=1)}
    report = make_report(trials=trials, winner=1, scores=scores, objectives=[MEAN])
    assert report.optimism == pytest.approx(trials[1].objectives[0] - report.winner.value.mean)
    assert report.optimism > 0.2


def test_where_less_is_better_a_positive_difference_still_means_better() -> None:
    less = Objective(kind="task", tasks=("sums",), minimize=True)
    trials = [trial(0, "baseline:base", 0.9, 0.5, (less,)), trial(1, "cma_es", 0.2, 0.5, (less,))]
    report = make_report(trials=trials, winner=1, scores=scores_on("report", trials), objectives=[less])
    assert report.to_best_baseline is not None
    assert report.to_best_baseline.by.low > 0
    assert report.winner.value.mean < 0.5
    assert report.ideal is not None
    assert report.ideal.gap.mean == 0
    assert report.ideal.parents == {"sums": "winner"}


def test_several_objectives_are_normalised_between_worst_and_best_baseline() -> None:
    both = (Objective(kind="task", tasks=("sums",)), Objective(kind="task", tasks=("french",)))
    trials = search(objectives=both)
    scores = {t.number: t.score for t in trials}  # the report's items are the search's: values known by hand
    report = make_report(trials=trials, winner=WINNER, scores=scores, objectives=both)
    columns = list(zip(*(t.objectives for t in trials[:4]), strict=True))
    expected = [
        (value - min(column)) / (max(column) - min(column))
        for value, column in zip(trials[WINNER].objectives, columns, strict=True)
    ]
    assert report.winner.value.mean == pytest.approx(sum(expected) / 2)
    assert report.optimism == pytest.approx(0.0)


def test_what_could_not_be_measured_is_named_and_never_a_zero() -> None:
    trials = [*search(), failed(99, "baseline:expert:roman")]
    scores = scores_on("report", reported(trials, [MEAN], WINNER))
    scores[1] = Score(status=Status.FAILED, error="out of memory")
    report = make_report(trials=trials, winner=WINNER, scores=scores, objectives=[MEAN])
    assert [row.name for row in report.baselines] == ["base", "french", "uniform", "tuned_scalar"]
    assert report.unmeasured == {
        "roman": "FAILED: the engine died",
        "sums": "not on the report split: out of memory",
    }
    assert report.num_trials == {Status.OK: 26, Status.FAILED: 1}
    with pytest.raises(MachineError, match=r"trial 25 .* out of memory"):
        make_report(trials=trials, winner=WINNER, scores=scores | {WINNER: scores[1]}, objectives=[MEAN])


def test_with_one_expert_uniform_is_the_expert() -> None:
    trials = [trial(0, "baseline:base", 0.2, 0.8), trial(1, "baseline:uniform", 0.8, 0.2), trial(2, "cma_es", 0.7, 0.7)]
    for i, t in enumerate(trials):
        sources = {"base": "b", "sums": "s"}
        recipe = type(t.candidate.recipe)(base="base", sources=sources, rules=())
        trials[i] = type(t)(
            candidate=type(t.candidate)(number=i, recipe=recipe, proposed_by=t.candidate.proposed_by),
            score=t.score,
            objectives=t.objectives,
        )
    report = make_report(trials=trials, winner=2, scores=scores_on("report", trials), objectives=[MEAN])
    assert report.ideal is not None
    assert report.ideal.parents == {"sums": "uniform", "french": "base"}


def test_text_names_every_row_and_says_what_it_means(report: Report) -> None:
    buffer = io.StringIO()
    Console(file=buffer, width=120).print(summary(report))
    text = buffer.getvalue()
    for expected in ("base", "sums (n=100)", "uniform", "tuned scalar", "winner", "best without tuning, uniform: +"):
        assert expected in text
    assert "short of it" in text
    assert "200 report items" in text
    assert "No bred merge beat" not in text


def test_no_name_is_cut_in_a_narrow_terminal(report: Report) -> None:
    long = replace(report, scalar=replace(MEAN, tasks=(*MEAN.tasks, "capitals", "letters", "history", "chats")))
    buffer = io.StringIO()
    Console(file=buffer, width=50).print(summary(long))
    text = buffer.getvalue()
    assert "\u2026" not in text
    assert all(name in text for name in long.scalar.tasks)
    table = text.partition("Report split")[2].partition("\n\n")[0]
    assert f"{report.winner.value.mean:.3f} [" in table
    assert "uniform" in table
    assert max(map(len, text.splitlines())) <= 50


def test_text_says_when_nothing_bred_won() -> None:
    trials = search()
    scores = scores_on("report", reported(trials, [MEAN], 3))
    report = make_report(trials=trials, winner=3, scores=scores, objectives=[MEAN])
    buffer = io.StringIO()
    Console(file=buffer, width=120).print(summary(report))
    assert "the winner is baseline:uniform" in buffer.getvalue()
    assert "not shown to be better" in buffer.getvalue()


def test_no_winner_is_compared_with_itself() -> None:
    trials = search()
    for number in (0, 3):
        scores = scores_on("report", reported(trials, [MEAN], number))
        made = make_report(trials=trials, winner=number, scores=scores, objectives=[MEAN])
        compared = [d.name for d in (made.to_best_baseline, made.to_tuned_scalar) if d and d.name not in made.won]
        told = [line for line in sentences(made) if line.startswith("Winner against ")]
        assert len(told) == len(compared)
        assert not [line for line in told if "0.000 [0.000, 0.000]" in line]


def test_what_an_error_holds_moves_no_cursor(report: Report) -> None:
    screen = io.StringIO()
    Console(file=screen, width=100).print(summary(replace(report, unmeasured={"base": "FAILED: \x1b[2Jgone"})))
    assert "\\x1b[2Jgone" in screen.getvalue()
    assert "\x1b" not in screen.getvalue()


def test_a_winner_that_was_given_is_not_called_bred() -> None:
    trials = search()
    given = replace(trials[WINNER].candidate, proposed_by=ProposedBy(kind="warm_start", index=0))
    trials[WINNER] = replace(trials[WINNER], candidate=given)
    scores = scores_on("report", reported(trials, [MEAN], WINNER))
    report = make_report(trials=trials, winner=WINNER, scores=scores, objectives=[MEAN])
    assert caveats(report) == ["No bred merge beat the baselines and warm starts: the winner is warm_start:0."]
