"""The growth of a Pareto front, and the trial of it that suits a preference."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from in_process import exit_code_of
from simulated import MEAN, failed, search, trial

from crossbreed.errors import InputError
from crossbreed.recipes import parse_recipe
from crossbreed.runs.results.choice import Preference, choose
from crossbreed.runs.results.front import front_progress
from crossbreed.runs.results.show import Run, open_run, show_json, show_text
from crossbreed.runs.spec.objectives import Objective
from crossbreed.types import Trial

GOLDEN = Path(__file__).parents[1] / "golden/runs/v0.1.0"
SUMS, FRENCH = (Objective(kind="task", tasks=(task,)) for task in ("sums", "french"))
BOTH = (SUMS, FRENCH)


def at(*points: tuple[float, float]) -> list[Trial]:
    """Trials of a search with these values."""
    return [replace(trial(i, "nsga2", 0.5, 0.5, BOTH), objectives=values) for i, values in enumerate(points)]


def test_hypervolume_is_the_share_of_the_box_that_the_front_dominates() -> None:
    trials = at((0.0, 1.0), (1.0, 0.0), (0.5, 0.5), (0.75, 0.75))
    found = front_progress(trials, BOTH)
    assert found is not None
    assert [mark.num_trials for mark in found.marks] == [1, 2, 3, 4]
    assert [mark.hypervolume for mark in found.marks] == pytest.approx([0, 0, 0.25, 0.5625])
    assert [mark.epsilon for mark in found.marks] == pytest.approx([1, 0.75, 0.25, 0])
    assert (found.size, found.last) == (3, 3)


def test_it_does_not_depend_on_scales_or_directions() -> None:
    values = np.random.default_rng(0).random((30, 2))
    less = (SUMS, replace(FRENCH, minimize=True))
    found = front_progress(at(*map(tuple, values)), BOTH)
    other = front_progress(at(*((a * 7 + 3, 5 - b) for a, b in values)), less)
    assert found is not None
    assert other is not None
    assert [mark.hypervolume for mark in other.marks] == pytest.approx([mark.hypervolume for mark in found.marks])


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=30))
def test_a_front_only_grows(points: list[tuple[int, int]]) -> None:
    found = front_progress(at(*points), BOTH)
    if found is None:
        assert len(set(points)) == 1
        return
    volumes, missing = ([getattr(m, key) for m in found.marks] for key in ("hypervolume", "epsilon"))
    assert volumes == sorted(volumes)
    assert missing == sorted(missing, reverse=True)
    assert missing[-1] == 0
    assert volumes[-1] <= 1


def test_there_is_none_of_one_objective_or_of_trials_that_were_not_measured() -> None:
    assert front_progress(search(), [MEAN]) is None
    assert front_progress([failed(0, "nsga2"), failed(1, "nsga2")], BOTH) is None
    baselines_first = front_progress(search(num_bred=8, objectives=BOTH), BOTH)
    assert baselines_first is not None
    assert [mark.num_trials for mark in baselines_first.marks] == [6, 8, 10, 12, 14]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of nsga2, of version 0.1.0."""
    folder = Path(shutil.copytree(GOLDEN / "nsga2/finished", tmp_path_factory.mktemp("front") / "run"))
    spec = folder / "spec.yaml"
    spec.write_text(spec.read_text().replace("@sources@", str(GOLDEN.parent / "sources")))
    return folder


def tasks_of(run: Run, number: int) -> dict[str, float]:
    return {name: found.mean for name, found in run.history.trials[number].score.tasks.items()}


def test_show_tells_the_growth(run: Path) -> None:
    assert "hypervolume: " in show_text(run)
    front = show_json(run)["front"]
    assert front["size"] == len(show_json(run)["archive"])
    assert front["marks"][-1]["epsilon"] == 0


def test_a_preference_for_one_task_takes_its_best_trial_and_one_for_all_the_knee(run: Path) -> None:
    opened = open_run(run)
    names = list(tasks_of(opened, 0))
    for name in names:
        sign = -1 if opened.minimized[name] else 1
        best = choose(opened, Preference.parse([f"{name}=1", *(f"{other}=0" for other in names if other != name)], []))
        top = max(sign * tasks_of(opened, t.number)[name] for t in opened.history.ok_trials)
        assert sign * tasks_of(opened, best.trial.number)[name] == top
        assert name in best.why
    knee = choose(opened, Preference())
    assert knee.trial.number in show_json(run)["archive"]


def test_bounds_are_kept(run: Path) -> None:
    opened = open_run(run)
    first = next(iter(tasks_of(opened, 0)))
    values = sorted(tasks_of(opened, t.number)[first] for t in opened.history.ok_trials)
    middle = values[len(values) // 2]
    for side, kept in ((">=", lambda v: v >= middle), ("<=", lambda v: v <= middle)):
        found = choose(opened, Preference(bounds=(f"{first}{side}{middle!r}",)))
        assert kept(tasks_of(opened, found.trial.number)[first])
        assert "that keep the bounds" in found.why
    base = tasks_of(opened, next(t.number for t in opened.trials if str(t.candidate.proposed_by) == "baseline:base"))
    over = choose(opened, Preference(bounds=(f"{first} >= base - 0.01",)))
    assert tasks_of(opened, over.trial.number)[first] >= base[first] - 0.01 - 1e-12


@pytest.mark.parametrize(
    ("weights", "bounds", "said"),
    [
        (["sum=1"], [], "no task or objective `sum`"),
        (["sums"], [], "a preference is a task with its weight"),
        (["sums=-1"], [], "a preference is a task with its weight"),
        (["sums=nan"], [], "a preference is a task with its weight"),
        (["sums=0"], [], "no weight is above 0"),
        (["sums=1", "sums=2"], [], "preferred twice"),
        ([], ["sums"], "a constraint is a task, >= or <=, and a bound"),
        ([], ["sum>=0.5"], "no task `sum`"),
        ([], ["TASK>=much"], "a bound is not understood"),
        ([], ["TASK>=1e9"], "no trial of the run keeps this"),
    ],
)
def test_what_cannot_be_preferred_is_said(run: Path, weights: list[str], bounds: list[str], said: str) -> None:
    opened = open_run(run)
    task = next(iter(tasks_of(opened, 0)))
    with pytest.raises(InputError) as found:
        choose(opened, Preference.parse(weights, [bound.replace("TASK", task) for bound in bounds]))
    assert said in str(found.value)


def test_an_advice_names_the_trial_that_comes_nearest(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = next(iter(tasks_of(open_run(run), 0)))
    assert exit_code_of("publish", run, "--out", tmp_path / "x", "--constraint", f"{task}>=1e9") == 2
    assert "--trial" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("flags", [("--trial", "3", "--knee"), ("--knee", "--prefer", "a=1")])
def test_one_way_of_naming_a_trial_is_enough(
    run: Path, tmp_path: Path, flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of("publish", run, "--out", tmp_path / "x", *flags) == 2
    assert "named twice" in capsys.readouterr().err


def test_the_trial_that_is_preferred_is_published(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = next(iter(tasks_of(open_run(run), 0)))
    wanted = choose(open_run(run), Preference.parse([f"{task}=1"], [])).trial
    plain = ("--no-report", "--licence", "mit")
    assert exit_code_of("publish", run, "--out", tmp_path / "x", "--prefer", f"{task}=1", *plain) == 0
    assert f"published trial {wanted.number}" in capsys.readouterr().out
    recipe = parse_recipe(yaml.safe_load((tmp_path / "x/recipe.yaml").read_text()))
    assert recipe.rules == wanted.recipe.rules
