"""Constraints and relative objectives by hand: bounds, what is outside, what the baselines tell, who wins."""

from collections.abc import Mapping

import pytest
from pydantic import ValidationError
from simulated import failed, score, search, trial

from crossbreed.constraints import violation_of
from crossbreed.errors import InputError, MachineError
from crossbreed.runs.record.relative_criteria import RelativeCriteria
from crossbreed.runs.results.held import held_by
from crossbreed.runs.results.report import make_report
from crossbreed.runs.results.report_text import sentences
from crossbreed.runs.results.verdict import verdict_of
from crossbreed.runs.results.winner import choose_winner, finalists, reported
from crossbreed.runs.spec.constraints import Bound, Constraint, ConstraintConfig, build_constraints
from crossbreed.runs.spec.criteria import Criteria
from crossbreed.runs.spec.objectives import Objective, ObjectiveConfig, build_objectives
from crossbreed.types import ItemScores, Score, Trial

MINIMIZED = {"sums": False, "french": False, "prose": True}
SPANS = {"sums": (0.0, 1.0), "french": (0.0, 1.0), "prose": (0.0, float("inf"))}
SUMS = Objective(kind="task", tasks=("sums",))


def one(**config: object) -> Constraint:
    return build_constraints([ConstraintConfig.model_validate(config)], MINIMIZED, SPANS)[0]


def scores(**means: float) -> dict[str, ItemScores]:
    return {task: ItemScores(item_ids=("a",), values=(mean,)) for task, mean in means.items()}


@pytest.mark.parametrize(
    ("text", "base", "bound"),
    [
        (0.8, 0.5, 0.8),
        ("0.8", 0.5, 0.8),
        ("-1e-2", 0.5, -0.01),
        ("base", 0.5, 0.5),
        ("base + 0.02", 0.5, 0.52),
        (" base-.02 ", 0.5, 0.48),
        ("95% base", 0.5, 0.475),
        ("95 % of base", 0.5, 0.475),
    ],
)
def test_bounds(text: float | str, base: float, bound: float) -> None:
    assert Bound.parse(text).at(base) == pytest.approx(bound)


@pytest.mark.parametrize("text", ["bse + 1", "base + ", "base + -1", "95%", "base * 2", "", "95% base + 1", "1,5"])
def test_what_is_no_bound(text: str) -> None:
    with pytest.raises(InputError, match="a bound is not understood"):
        Bound.parse(text)


def test_excess_is_by_the_size_of_the_bound_and_0_at_it() -> None:
    base = scores(sums=0.5, prose=4.0)
    assert one(task="sums", at_least=0.8).excess(scores(sums=0.4), None) == pytest.approx(0.5)
    assert one(task="prose", at_most="base + 1").excess(scores(prose=6.0), base) == pytest.approx(0.2)
    assert one(task="prose", at_most="base").excess(base, base) == 0
    assert one(task="sums", at_least="50% base").excess(scores(sums=0.5), base) == pytest.approx(-1)
    assert one(task="prose", at_most=0).excess(scores(prose=3.0), None) == 3.0  # a bound of no size
    assert one(worst=["sums", "french"], at_least=0.5).excess(scores(sums=0.9, french=0.4), None) == pytest.approx(0.2)


@pytest.mark.parametrize(("bound", "value"), [("base - 0.1", 0.7), ("95% base", 0.76), (0.7, 0.8 - 0.1)])
def test_a_model_that_rounding_alone_takes_out_of_its_bound_keeps_it(bound: float | str, value: float) -> None:
    base = scores(sums=0.8, prose=0.8)
    assert one(task="sums", at_least=bound).excess(scores(sums=value), base) == 0
    assert one(task="sums", at_most=bound).excess(scores(sums=value), base) == 0
    assert one(task="sums", at_least=bound).excess(scores(sums=value - 1e-6), base) > 0
    [held] = held_by(scores(sums=value), base, [one(task="sums", at_least=bound)], seed=0)
    assert held.is_kept


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"task": "smus", "at_least": 0.5}, "write `sums`"),
        ({"task": "sums", "at_least": 1.2}, "no model keeps this bound"),
        ({"task": "sums", "at_least": 95}, "no model keeps this bound"),
        ({"task": "sums", "at_most": 1}, "every model keeps this bound"),
        ({"task": "sums", "at_least": 0}, "every model keeps this bound"),
        ({"task": "prose", "at_most": -0.1}, "no model keeps this bound"),
        ({"task": "prose", "at_most": "105% base"}, "a percentage of a loss"),
        ({"mean": ["sums", "prose"], "at_least": 0.5}, "make prose a constraint of its own"),
    ],
)
def test_constraints_that_cannot_be_meant(config: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        one(**config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"task": "sums"}, "exactly one of `at_least` and `at_most`"),
        ({"task": "sums", "at_least": 0.2, "at_most": 0.8}, "make two constraints"),
        ({"task": "sums", "at_least": True}, "true and false"),
        ({"at_least": 0.5}, "an objective or constraint has one of"),
        ({"task": "sums", "atleast": 0.5}, "did you mean `at_least`"),
        ({"task": "sums", "at_least": 0.5, "minimize": True}, "unknown key `minimize`"),
    ],
)
def test_bad_constraints(config: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ConstraintConfig.model_validate(config)


def judged(trials: list[Trial], criteria: Criteria) -> tuple[RelativeCriteria, list[Trial]]:
    relative_criteria = RelativeCriteria(criteria)
    relative_criteria.look((t.candidate for t in trials), {t.number: t for t in trials})
    return relative_criteria, [relative_criteria.measured(t) for t in trials]


def with_constraint(**config: object) -> tuple[RelativeCriteria, list[Trial]]:
    return judged(search(objectives=(SUMS,)), Criteria(objectives=(SUMS,), constraints=(one(**config),)))


def on(split: str, trials: list[Trial]) -> dict[int, Score]:
    """The scores of trials on another split, as good as on the search items."""
    return {
        t.number: score({task: s.mean for task, s in t.score.tasks.items()}, split=split, number=t.number)
        for t in trials
    }


def test_what_keeps_the_constraints_comes_first() -> None:
    """Deb's rules: the lone expert is best at sums, and breaks the bound for French."""
    relative_criteria, trials = with_constraint(task="french", at_least=0.4)
    best = finalists(trials, [SUMS])
    assert not violation_of(best[0].excesses)
    assert best[0].score.tasks["sums"].mean < max(t.score.tasks["sums"].mean for t in trials)
    winner = choose_winner(trials, [SUMS], on("select", best), relative_criteria=relative_criteria)
    assert not violation_of(winner.excesses)
    report = make_report(
        trials=trials,
        winner=winner.number,
        scores=on("report", reported(trials, [SUMS], winner.number)),
        objectives=[SUMS],
        relative_criteria=relative_criteria,
    )
    [held] = report.winner.constraints
    assert held.answer == "holds"
    assert report.to_best_baseline is not None
    assert report.to_best_baseline.name == "uniform"  # not the expert, which breaks it
    assert any(line.startswith("Constraint french at least 0.4 (0.400): holds") for line in sentences(report))


def test_if_none_keeps_them_the_nearest_is_taken_and_the_verdict_says_so() -> None:
    relative_criteria, trials = with_constraint(mean=["sums", "french"], at_least=0.999)
    best = finalists(trials, [SUMS])
    off = [violation_of(t.excesses) for t in best]
    assert off == sorted(off)
    assert off[0] > 0
    winner = choose_winner(trials, [SUMS], on("select", best), relative_criteria=relative_criteria)
    report = make_report(
        trials=trials,
        winner=winner.number,
        scores=on("report", reported(trials, [SUMS], winner.number)),
        objectives=[SUMS],
        relative_criteria=relative_criteria,
    )
    assert verdict_of(report).line == "Take none: no trial keeps all constraints."
    assert verdict_of(report).kind == "keep"


def test_a_winner_that_breaks_a_constraint_on_report_items_is_not_to_be_taken() -> None:
    relative_criteria, trials = with_constraint(task="french", at_least=0.4)
    winner = finalists(trials, [SUMS])[0]
    told = on("report", reported(trials, [SUMS], winner.number))
    told[winner.number] = score({"sums": 0.95, "french": 0.05}, split="report", number=winner.number)
    report = make_report(
        trials=trials, winner=winner.number, scores=told, objectives=[SUMS], relative_criteria=relative_criteria
    )
    assert [held.answer for held in report.winner.constraints] == ["does not hold"]
    assert "it breaks french at least 0.4" in verdict_of(report).line
    told[winner.number] = score({"sums": 0.95, "french": 0.4}, split="report", number=winner.number)
    report = make_report(
        trials=trials, winner=winner.number, scores=told, objectives=[SUMS], relative_criteria=relative_criteria
    )
    assert [held.answer for held in report.winner.constraints] == ["cannot be told"]


def relative(**config: object) -> Criteria:
    return Criteria(objectives=build_objectives([ObjectiveConfig.model_validate(config)], MINIMIZED))


def test_nothing_is_judged_before_its_baselines_are_known() -> None:
    """Whatever the order in which they are told."""
    trials = search(0)
    criteria = relative(mean=["sums", "french"], relative_to="experts")
    for missing in (0, 1, 2):
        relative_criteria, found = judged([t for t in trials if t.number != missing], criteria)
        known = {t.number for t in found if t.objectives is not None}
        assert (known == set()) is (missing == 0 or relative_criteria.criteria is None)
    relative_criteria, found = judged(trials, criteria)
    assert relative_criteria.criteria is not None
    values = {str(t.candidate.proposed_by): t.objectives for t in found}
    assert values["baseline:base"] == (0.0,)
    assert max(v[0] for v in values.values() if v) > 0.5


def test_a_baseline_that_failed_leaves_nothing_to_judge_by() -> None:
    trials: list[Trial] = [failed(0, "baseline:base"), *search(0)[1:]]
    relative_criteria, found = judged(trials, relative(task="sums", relative_to="base"))
    assert relative_criteria.criteria is None
    assert all(t.objectives is None for t in found)
    assert isinstance(relative_criteria.missing(), MachineError)


def test_a_task_at_which_no_expert_is_better_than_the_base_is_named() -> None:
    by: Mapping[str, tuple[float, float]] = {
        "baseline:base": (0.5, 0.99),
        "baseline:expert:sums": (0.9, 0.2),
        "baseline:expert:french": (0.5, 0.6),
        "baseline:uniform": (0.5, 0.5),
    }
    trials = [trial(i, origin, *means) for i, (origin, means) in enumerate(by.items())]
    relative_criteria, _ = judged(trials, relative(mean=["sums", "french"], relative_to="experts"))
    with pytest.raises(InputError, match="at task `french` no expert is better than the base"):
        raise relative_criteria.missing()
