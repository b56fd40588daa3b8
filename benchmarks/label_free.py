"""Do goals without right answers rank merges as labels do? `python -m benchmarks.label_free RUN [--kind entropy]`.

Takes recorded candidates of a run (at most 60, spread over its trials), asks the experts of each `generate` task for
their own answers to its search items, and prints Spearman's correlation of the labelled objective, as the run has
recorded it, with the mean over experts of what the candidates score on tasks of kind `agreement` (or `entropy`), less
being better: 1 where both rank alike. Intervals are 95 % bootstraps over candidates. Values are kept in --out, and not
asked again.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from crossbreed.durable import write_atomically
from crossbreed.fitness import (
    GenerateTask,
    SearchItems,
    Task,
    TransformersConfig,
    evaluate_tasks,
    own_kind,
)
from crossbreed.fitness.tasks import AgreementTask, EntropyTask
from crossbreed.runs import build_plan, load_spec
from crossbreed.runs.calibration.questions import experts_of
from crossbreed.runs.plan import Plan
from crossbreed.runs.record.folder import RunFolder
from crossbreed.runs.record.history import fold
from crossbreed.runs.record.journal import read
from crossbreed.runs.teachers.answers import ask_teachers
from crossbreed.runs.teachers.checks import teacher_recipe
from crossbreed.runs.workers.candidate_engine import start_candidate_engine
from crossbreed.runs.workers.start import prepare_artifacts
from crossbreed.types import Trial

NUM_CANDIDATES = 60
_RESAMPLES = 10_000
Kind: TypeAlias = Literal["agreement", "entropy"]
_ASKED = ("items", "prompt", "messages", "system", "few_shot", "chat_template", "answer", "max_tokens", "stop", "chunk")
"""What a task without right answers asks as the labelled one does."""


def label_free(task: Task, kind: Kind, teacher: str, *, items: int) -> Task:
    """Returns a task as the labelled one, but for what is compared; of its first search items."""
    labelled = own_kind(task)
    assert isinstance(labelled, GenerateTask), "others are left out"
    asked = {name: getattr(labelled, name) for name in _ASKED}
    made = {"agreement": AgreementTask, "entropy": EntropyTask}[kind]
    settings = made.model_validate({**asked, "name": f"{task.name} by {teacher}", "kind": kind, "teacher": teacher})
    return Task(kind=settings, items=task.items[:items])


def chosen(trials: list[Trial], number: int) -> list[Trial]:
    """Returns trials with recipes, spread over all."""
    known = [trial for trial in trials if trial.candidate.recipe is not None]
    places = np.unique(np.linspace(0, len(known) - 1, min(number, len(known))).round().astype(int))
    return [known[place] for place in places]


def measure(run: Path, kind: Kind, out: Path, *, items: int, number: int, engine: str) -> dict[str, list[float]]:
    """Returns the labelled objective, and each label-free task's values, of the chosen candidates."""
    folder = RunFolder(run).existing()
    plan = prepare_artifacts(
        build_plan(load_spec(folder.spec), searches=False), begun=folder.begun(), kept=folder.artifacts
    )
    trials = chosen(list(fold(read(folder.journal)).ok_trials), number)
    written = [task for task in plan.tasks if isinstance(own_kind(task), GenerateTask)]
    if len(plan.objectives) != 1 or plan.objectives[0].relative_to or not written:
        raise SystemExit("the run needs one objective, not relative to others, and a task of kind `generate`")
    searched = [Task(kind=task.kind, items=plan.items["search"][task.name].items) for task in written]
    inputs = plan.calibration_inputs
    tasks = [label_free(task, kind, expert, items=items) for task in searched for expert in experts_of(task, inputs)]
    offered = {task.name: SearchItems(task.items) for task in tasks}
    held: dict[str, dict[str, float]] = json.loads(out.read_text()) if out.exists() else {}
    if missing := [trial for trial in trials if str(trial.number) not in held]:
        candidates = start_candidate_engine(_engine(plan, engine), plan.weights)
        try:
            teacher_answers = ask_teachers(
                tasks,
                offered,
                lambda teacher: teacher_recipe(teacher, plan.structure.hashes, dtype=plan.dtype),
                lambda recipe: candidates.adopt(recipe).handle,
            )
            for trial in missing:
                found = evaluate_tasks(candidates.adopt(trial.recipe).handle, tasks, offered, teacher_answers).tasks
                candidates.confirm()
                held[str(trial.number)] = {name: scores.mean for name, scores in found.items()}
                write_atomically(out, json.dumps(held, indent=1).encode())
                print(f"{len(held)} of {len(trials)} candidates", flush=True)
        finally:
            candidates.close()
    [objective] = plan.objectives
    columns = {task.name: [held[str(trial.number)][task.name] for trial in trials] for task in tasks}
    return {"labelled": [objective.of(trial.score.tasks) for trial in trials], **columns}


def correlation(some: NDArray[np.float64], others: NDArray[np.float64], *, seed: int = 0) -> tuple[float, float, float]:
    """Returns Spearman's correlation with the bounds of its bootstrap interval.

    >>> correlation(np.arange(9.0), np.arange(9.0) ** 3)
    (1.0, 1.0, 1.0)
    """
    whole = np.arange(len(some))[None]
    drawn = np.random.default_rng(seed).integers(len(some), size=(_RESAMPLES, len(some)))
    [value] = _spearman(some[whole], others[whole])
    low, high = np.nanquantile(_spearman(some[drawn], others[drawn]), [0.025, 0.975])
    return float(value), float(low), float(high)


def _spearman(some: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    ranks = [rankdata(one, axis=1) for one in (some, others)]
    a, b = (one - one.mean(1, keepdims=True) for one in ranks)
    with np.errstate(invalid="ignore"):  # all alike in a draw
        found: NDArray[np.float64] = (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return np.round(found, 12)


def table(values: Mapping[str, list[float]]) -> str:
    """Returns the correlations as lines."""
    labelled = np.array(values["labelled"])
    free = {name: -np.array(column) for name, column in values.items() if name != "labelled"}
    rows = {"mean of all": np.mean([*free.values()], axis=0), **free}
    lines = [f"{len(labelled)} candidates; labelled objective from {labelled.min():.3f} to {labelled.max():.3f}"]
    for name, column in rows.items():
        value, low, high = correlation(labelled, column)
        lines.append(f"{name:28} Spearman {value:+.3f} [{low:+.3f}, {high:+.3f}]")
    return "\n".join(lines)


def _engine(plan: Plan, name: str) -> Any:  # settings of any engine
    """Returns the run's own engine, or transformers in its dtype: quicker than vLLM on a CPU, see docs/tasks.md."""
    own = plan.spec.fitness.engine
    if name == "own":
        return own
    dtype = getattr(own, "dtype", "float32")
    return TransformersConfig(kind="transformers", dtype=dtype, max_model_len=own.context_tokens)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--kind", choices=["agreement", "entropy"], default="agreement")
    parser.add_argument("--out", type=Path, help="default: label_free-KIND.json in the current folder")
    parser.add_argument("--items", type=int, default=24, help="search items of each task that experts answer")
    parser.add_argument("--number", type=int, default=NUM_CANDIDATES)
    parser.add_argument("--engine", choices=["transformers", "own"], default="transformers")
    given = parser.parse_args()
    kept = given.out or Path(f"label_free-{given.kind}.json")
    print(table(measure(given.run, given.kind, kept, items=given.items, number=given.number, engine=given.engine)))
