"""How far a search has come: which trial, the best, and the time that is left of what a trial takes."""

import pytest
from simulated import MEAN, failed, search

from crossbreed.runs.events import TrialDone
from crossbreed.runs.record.history import History
from crossbreed.runs.results.progress import Progress
from crossbreed.runs.search.pace import Budget, Limits, Pace
from crossbreed.runs.spec.objectives import Objective
from crossbreed.types import Trial


def after(trials: list[Trial], *, elapsed_s: float, budget: Limits) -> TrialDone:
    history = History(item_ids={})
    history.trials.update({trial.number: trial for trial in trials})
    history.elapsed_s = elapsed_s
    return Progress(Pace(budget, 4), (MEAN,)).after(trials[-1], history)


def test_a_trial_is_called_by_its_number_and_counted_apart() -> None:
    done = after(search()[:5], elapsed_s=50, budget=Limits.of(trials=11, seconds=None))
    assert (done.trial.number, done.num_done, done.num_wanted) == (4, 5, 15)
    assert str(done).startswith("[5 of 15]  trial 4  ")


@pytest.mark.parametrize(
    ("budget", "left_s"),
    [
        (Limits.of(trials=11, seconds=None), 100),
        (Limits.of(trials=None, seconds=70), 20),
        (Limits.of(trials=11, seconds=70), 20),
        (Limits.of(trials=11, seconds=700), 100),
    ],
)
def test_what_ends_first_says_how_long_it_takes(budget: Limits, left_s: float) -> None:
    """Ten trials of ten seconds, whatever the engine took to start."""
    assert after(search()[:5], elapsed_s=50, budget=budget).left_s == left_s


def stages(*own: tuple[int | None, float | None]) -> Limits:
    budgets = {stage: Budget(trials=trials, seconds=seconds) for stage, (trials, seconds) in enumerate(own)}
    return Limits(whole=Budget(), own=budgets, most={stage: one.trials for stage, one in budgets.items()})


@pytest.mark.parametrize(
    ("limits", "stage", "left_s", "wanted"),
    [
        (stages((40, 100), (6, None)), 0, 90 + 60, 50),
        (stages((None, 100), (6, None)), 0, 90 + 60, None),
        (stages((40, 10), (6, None)), 1, 50, 10),
        (stages((40, 10), (None, None)), 1, None, None),
        (stages((40, 10), (None, 45)), 1, 35, None),
    ],
)
def test_the_minutes_of_single_stages_count_too(
    limits: Limits, stage: int, left_s: float | None, wanted: int | None
) -> None:
    """After four baselines and one trial of ten seconds each; a stage that a clock has ended had no trial."""
    history = History(item_ids={})
    trials = search()[:5]
    history.trials.update({trial.number: trial for trial in trials})
    history.elapsed_s, history.stage = 50, stage
    history.num_asked[stage] = history.num_told[stage] = 1
    history.began_s[stage] = 40
    done = Progress(Pace(limits, 4), (MEAN,)).after(trials[-1], history)
    assert (done.left_s, done.num_wanted) == (left_s, wanted)


def test_a_stage_of_slow_trials_takes_as_long_as_they_do() -> None:
    """Four baselines of a second each; then two trials of 30 s, of ten: what is left is not 8 times ten seconds."""
    history = History(item_ids={})
    trials = search()[:6]
    history.trials.update({trial.number: trial for trial in trials})
    history.elapsed_s, history.stage, history.began_s[0] = 64, 0, 4
    history.num_asked[0] = history.num_told[0] = 2
    for limits in (stages((10, None)), Limits.of(trials=10, seconds=None)):
        left_s = Progress(Pace(limits, 4), (MEAN,)).after(trials[-1], history).left_s
        assert left_s == pytest.approx(8 * (60 + 64 / 6) / 3)


def test_a_search_that_is_over_its_time_has_none_left() -> None:
    assert after(search()[:5], elapsed_s=50, budget=Limits.of(trials=None, seconds=49)).left_s == 0


def test_a_trial_that_failed_is_made_up_for() -> None:
    history = History(item_ids={})
    trials = [*search()[:17], failed(17, "optimizer:random")]
    history.trials.update({trial.number: trial for trial in trials})
    history.failed.update({2, 17})
    progress = Progress(Pace(Limits.of(trials=14, seconds=None), 4), (MEAN,))
    assert str(progress.after(trials[-1], history)).startswith("[18 of 19]  ")


def test_the_time_left_is_shown_in_minutes() -> None:
    assert str(after(search()[:5], elapsed_s=50, budget=Limits.of(trials=11, seconds=None))).endswith("about 1:40 left")


def test_a_search_without_a_number_of_trials_names_none() -> None:
    assert str(after(search()[:5], elapsed_s=1, budget=Limits.of(trials=None, seconds=9))).startswith("[5]  ")


def test_the_best_so_far_is_named() -> None:
    done = after(search()[:5], elapsed_s=1, budget=Limits.of(trials=11, seconds=None))
    assert done.best is not None
    assert done.best.objectives == max(trial.objectives or () for trial in search()[:5])
    assert f"best {done.best.objectives[0]:.4f} (trial {done.best.number})" in str(done)


def test_a_failure_shows_its_reason_and_is_no_best() -> None:
    done = after([failed(0, "baseline:base")], elapsed_s=1, budget=Limits.of(trials=11, seconds=None))
    assert done.best is None
    assert "FAILED: the engine died  nothing measured yet" in str(done)


@pytest.mark.parametrize("num_trials", [50, 100])
def test_a_trial_is_compared_with_the_best_alone_however_many_there_were(
    num_trials: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared, utility = list[float](), Objective.utility
    monkeypatch.setattr(Objective, "utility", lambda self, value: compared.append(value) or utility(self, value))
    trials, history = search(num_trials), History(item_ids={})
    progress = Progress(Pace(Limits.of(trials=None, seconds=9), 4), (MEAN,))
    for number, trial in enumerate(trials, start=1):
        history.trials[trial.number] = trial
        best = progress.after(trial, history).best
        assert best is not None
        assert best.objectives == max(known.objectives or () for known in trials[:number])
    assert len(compared) <= 2 * len(trials)
