import pytest
from simulated import MEAN, failed, score, scores_on, search, trial

from crossbreed.errors import MachineError
from crossbreed.runs.results.winner import (
    choose_winner,
    finalists,
    named_baselines,
    reported,
    search_scalar,
    tuned_scalar_trial,
)
from crossbreed.runs.search.baselines import best_tuned_scalar
from crossbreed.runs.spec.objectives import Objective
from crossbreed.types import ProposedBy, Score, Status

SUMS = Objective(kind="task", tasks=("sums",))
FRENCH = Objective(kind="task", tasks=("french",))
BOTH = (SUMS, FRENCH)


def numbers(trials: list) -> list[int]:
    return [t.number for t in trials]


def test_finalists_are_the_best_by_search_without_duplicates_or_failures() -> None:
    trials = search()
    best = finalists(trials, [MEAN])
    values = [t.objectives[0] for t in best]
    assert len(best) == 8
    assert values == sorted(values, reverse=True)
    assert values == sorted((t.objectives[0] for t in trials), reverse=True)[:8]
    again = trial(90, "cma_es", 0.9, 0.88)
    twin = type(again)(candidate=best[0].candidate, score=best[0].score, objectives=best[0].objectives)
    assert numbers(finalists([*trials, twin, failed(91, "cma_es")], [MEAN])) == numbers(best)


def test_minimised_objective_prefers_less() -> None:
    less = Objective(kind="task", tasks=("sums",), minimize=True)
    best = finalists(search(objectives=(less,)), [less])[0].candidate.proposed_by
    assert str(best) in ("baseline:base", "baseline:expert:french")


def test_the_winner_is_best_on_search_and_selection_items_together() -> None:
    lucky, steady = trial(0, "cma_es", 0.9, 0.9), trial(1, "cma_es", 0.85, 0.85)
    selection = {
        0: score({"sums": 0.3, "french": 0.3}, split="select", number=0),
        1: score({"sums": 0.85, "french": 0.85}, split="select", number=1),
    }
    assert numbers(finalists([lucky, steady], [MEAN])) == [0, 1]
    assert choose_winner([lucky, steady], [MEAN], selection).number == 1


def test_a_baseline_wins_when_nothing_bred_beats_it() -> None:
    trials = [trial(0, "baseline:uniform", 0.8, 0.8), trial(1, "cma_es", 0.2, 0.2)]
    winner = choose_winner(trials, [MEAN], scores_on("select", trials))
    assert str(winner.candidate.proposed_by) == "baseline:uniform"


def test_a_finalist_that_could_not_be_measured_does_not_win() -> None:
    trials = search()
    best = finalists(trials, [MEAN])
    selection = scores_on("select", best) | {best[0].number: Score(status=Status.FAILED, error="died")}
    assert choose_winner(trials, [MEAN], selection).number != best[0].number
    with pytest.raises(MachineError, match="no finalist"):
        choose_winner(trials, [MEAN], {n: Score(status=Status.FAILED) for n in selection})


def test_knee_of_a_front_and_the_front_before_what_it_dominates() -> None:
    points = [(0.95, 0.05), (0.8, 0.75), (0.05, 0.95), (0.5, 0.5), (0.3, 0.3)]
    trials = [trial(i, "nsga2", *point, BOTH) for i, point in enumerate(points)]
    best = finalists(trials, BOTH, top=4)
    assert best[0].number == 1
    assert set(numbers(best[:3])) == {0, 1, 2}
    assert best[3].number == 3
    assert choose_winner(trials, BOTH, scores_on("select", trials)).number == 1


def test_knee_does_not_depend_on_the_units_of_an_objective() -> None:
    class Scaled(Objective):
        def over(self, means, base=None):  # type: ignore[no-untyped-def]
            return 1000 * super().over(means)

    other = (SUMS, Scaled(kind="task", tasks=("french",)))
    points = [(0.95, 0.05), (0.8, 0.75), (0.05, 0.95), (0.6, 0.85)]
    order = [
        numbers(finalists([trial(i, "nsga2", *p, objectives) for i, p in enumerate(points)], objectives))
        for objectives in (BOTH, other)
    ]
    assert order[0] == order[1]


def test_tuned_scalar_is_best_on_search_and_uniform_is_its_s_1() -> None:
    trials = search()
    tuned = tuned_scalar_trial(trials, [MEAN])
    assert tuned is not None
    assert str(tuned.candidate.proposed_by) == "baseline:tuned_scalar:1.5"
    tuned = tuned_scalar_trial([t for t in trials if t is not tuned], [MEAN])
    assert tuned is not None
    assert str(tuned.candidate.proposed_by) == "baseline:uniform"


def test_the_search_and_the_report_have_one_tuned_scalar_also_with_several_objectives() -> None:
    trials = search(objectives=BOTH)
    scalar = search_scalar(trials, BOTH)
    tuned = [t for t in trials if t.candidate.proposed_by.global_scalar is not None]
    assert tuned_scalar_trial(trials, BOTH) is max(tuned, key=lambda t: scalar.utility(scalar.of(t.score.tasks)))


def test_a_broken_merge_does_not_decide_which_scalar_is_the_best() -> None:
    """Scaled to the range of the scalars themselves, the perplexities of the others would count for nothing."""
    found = {
        "base": (0.2, -10.0),
        "uniform": (0.3, -8.0),
        "tuned_scalar:0.5": (0.32, -8.5),
        "tuned_scalar:3": (0, -1e3),
    }
    told = {number: (ProposedBy.parse(f"baseline:{name}"), found[name]) for number, name in enumerate(found)}
    assert best_tuned_scalar(told) == 1
    assert best_tuned_scalar({number: told[number] for number in (2, 3)}) == 2
    assert best_tuned_scalar({0: told[0]}) is None


def test_the_best_scalar_keeps_the_constraints_if_one_does() -> None:
    found = {"base": 0.2, "uniform": 0.3, "tuned_scalar:0.5": 0.25, "tuned_scalar:2": 0.9}
    told = {number: (ProposedBy.parse(f"baseline:{name}"), (found[name],)) for number, name in enumerate(found)}
    assert best_tuned_scalar(told, off={3: 0.1}) == 1
    assert best_tuned_scalar(told, off={1: 0.3, 2: 0.2, 3: 0.1}) == 3


def test_an_expert_s_name_is_its_own() -> None:
    """Else a report had two rows of one name, and its verdict took one for the other."""
    names = ("sums", "uniform", "tuned_scalar", "winner", "12", "expert:12")
    trials = [trial(i, f"baseline:expert:{name}", 0.5, 0.5) for i, name in enumerate(names)]
    uniform = trial(6, "baseline:uniform", 0.5, 0.5)
    found = [baseline.name for baseline in named_baselines([*trials, uniform], [MEAN])]
    assert found[:2] == ["sums", "expert:uniform"]
    assert len(set(found)) == 8, "uniform is the best tuned scalar, too"
    assert not {"winner", "12"} & set(found)


def test_reported_are_the_baselines_and_the_winner() -> None:
    trials = [*search(), failed(99, "baseline:expert:roman")]
    assert [b.name for b in named_baselines(trials, [MEAN])] == ["base", "sums", "french", "uniform", "tuned_scalar"]
    assert numbers(reported(trials, [MEAN], winner=25)) == [0, 1, 2, 3, 5, 25]
