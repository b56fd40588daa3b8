"""The trial of a finished search that suits a preference: one set of evaluations, any trade-off.

A preference weights tasks or objectives. Each is scaled to its range over the trials that no other beats on all of
them, so that nats and shares can stand together, and the weighted sum decides. With equal weights this is the knee, as
for winners. All by search items: whoever publishes the choice has it answer the report items.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from crossbreed.constraints import violation_of
from crossbreed.errors import InputError
from crossbreed.parsing import any_of, shown, suggestion
from crossbreed.runs.results.show import Run
from crossbreed.runs.spec.constraints import Bound, Constraint, ConstraintConfig, build_constraints
from crossbreed.runs.spec.objectives import LENGTH, Floats
from crossbreed.types import Trial

_BOUND = re.compile(r"(?P<name>.+?)\s*(?P<side>>=|<=)\s*(?P<bound>.+)", re.DOTALL)
_SIDES = {">=": "at_least", "<=": "at_most"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """What is wanted of a front."""

    weights: Mapping[str, float] = field(default_factory=dict)
    """Task, or name of an objective -> how much it counts; empty: the objectives alike."""
    bounds: tuple[str, ...] = ()
    """What is to be kept, as in `safety>=0.8` or `prose<=base + 0.02`."""

    @classmethod
    def parse(cls, weights: Sequence[str], bounds: Sequence[str]) -> Self:
        """Reads `TASK=WEIGHT`, several of them, and bounds.

        Raises:
            InputError: one of the weights is none.
        """
        found = dict[str, float]()
        for text in weights:
            name, _, number = text.rpartition("=")
            weight = _number(number)
            if not name.strip() or not 0 <= weight < math.inf:
                raise InputError(
                    "a preference is a task with its weight",
                    expected="TASK=WEIGHT with a weight of 0 or more, as in sums=2",
                    got=shown(text),
                    where="--prefer",
                    fix="give --prefer once for each task that counts",
                )
            if name.strip() in found:
                raise InputError("a task is preferred twice", got=shown(text), where="--prefer", fix="give it once")
            found[name.strip()] = weight
        if found and not any(found.values()):
            raise InputError("no weight is above 0", expected="one that is", got=shown(weights), where="--prefer")
        return cls(weights=found, bounds=tuple(bounds))


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The trial that suits best."""

    trial: Trial
    why: str
    """What it has of what was asked for, in words."""


def choose(run: Run, preference: Preference) -> Choice:
    """Returns the trial of a run that suits a preference best; of equals the earliest.

    Raises:
        InputError: the run has no such task, or no trial keeps the bounds.
    """
    trials = [t for t in run.history.ok_trials if t.objectives is not None and t.candidate.recipe is not None]
    if not trials:
        raise InputError("no trial of the run has a value yet", where=str(run.folder.path), fix="go on with it first")
    constraints = [_constraint(text, run) for text in preference.bounds]
    kept = _kept(trials, constraints, run)
    wanted = _wanted(run, preference.weights)
    value_TW = np.array([[value(trial) for value, _ in wanted.values()] for trial in kept])
    weight_W = np.array([weight for _, weight in wanted.values()])
    best = int(np.argmax(_scaled(value_TW) @ weight_W))
    said = ", ".join(f"{name} {abs(value):.4g}" for name, value in zip(wanted, value_TW[best], strict=True))
    among = f"of {len(kept)} trials" + (" that keep the bounds" if constraints else "")
    return Choice(trial=kept[best], why=f"trial {kept[best].number}, {among}: {said} (on search items)")


def _number(text: str) -> float:
    """Returns a number; NaN if the text is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _wanted(run: Run, weights: Mapping[str, float]) -> dict[str, tuple[Callable[[Trial], float], float]]:
    """Returns what counts: name -> its value in a trial (more is better), and its weight."""
    objectives = {o.name: i for i, o in enumerate(run.objectives)}

    def by_objective(name: str) -> Callable[[Trial], float]:
        i = objectives[name]
        return lambda trial: run.objectives[i].utility((trial.objectives or ())[i])

    def by_task(name: str) -> Callable[[Trial], float]:
        sign = -1 if name.startswith(LENGTH) or run.minimized.get(name, False) else 1
        return lambda trial: sign * trial.score.tasks[name].mean

    if not weights:
        return {name: (by_objective(name), 1.0) for name in objectives}
    known = [*objectives, *_measured(run)]
    for name in weights:
        if name not in known:
            raise InputError(
                f"the run has no task or objective `{name}`",
                expected=any_of(known),
                got=shown(name),
                where="--prefer",
                fix=suggestion(name, known) or "name one of them",
            )
    return {
        name: ((by_objective if name in objectives else by_task)(name), weight)
        for name, weight in weights.items()
        if weight
    }


def _measured(run: Run) -> list[str]:
    """Returns the tasks that all trials have values of, and lengths."""
    told = [trial.score.tasks.keys() for trial in run.history.ok_trials if trial.objectives is not None]
    return [name for name in told[0] if all(name in tasks for tasks in told)] if told else []


def _scaled(value_TW: Floats) -> Floats:
    """Returns values in units of their range over the rows that no other row beats."""
    import moocore  # takes long to import

    front_FW = value_TW[moocore.is_nondominated(value_TW, maximise=True)] if value_TW.shape[1] > 1 else value_TW
    span_W = np.ptp(front_FW, axis=0)
    span_W = np.where(span_W > 0, span_W, np.ptp(value_TW, axis=0))
    return np.asarray((value_TW - front_FW.min(axis=0)) / np.where(span_W > 0, span_W, 1.0))


def _kept(trials: Sequence[Trial], constraints: Sequence[Constraint], run: Run) -> list[Trial]:
    """Returns the trials that keep the run's constraints and those asked for."""
    base = next((t.score.tasks for t in trials if t.candidate.proposed_by.kind == "base"), None)
    for constraint in constraints:
        if constraint.needs_base and base is None:
            raise InputError(
                "a bound is relative to the base, and the base has no value",
                got=constraint.name,
                where="--constraint",
                fix="give a number",
            )
    own = [t for t in trials if not violation_of(t.excesses)]
    kept = [t for t in own if all(c.excess(t.score.tasks, base) <= 0 for c in constraints)]
    if kept:
        return kept
    names = [*(c.name for c in run.constraints), *(c.name for c in constraints)]
    nearest = min(
        trials,
        key=lambda t: violation_of([*(t.excesses or ()), *(c.excess(t.score.tasks, base) for c in constraints)]),
    )
    raise InputError(
        f"no trial of the run keeps {'all of these' if len(names) > 1 else 'this'}: {'; '.join(names)}",
        expected="a trial that does, on search items",
        got=f"{len(trials)} trials; trial {nearest.number} comes nearest",
        where=str(run.folder.path),
        fix=f"loosen a bound, or take that one: --trial {nearest.number}",
    )


def _constraint(text: str, run: Run) -> Constraint:
    """Reads `TASK>=BOUND` or `length of TASK<=BOUND`."""
    found = _BOUND.fullmatch(text.strip())
    known = _measured(run)
    name = found["name"].strip() if found else ""
    if found is None or name not in known:
        raise InputError(
            f"the run has no task `{name}`" if found else "a constraint is a task, >= or <=, and a bound",
            expected=any_of(known) if found else "as in 'safety>=0.8' or 'prose<=base + 0.02'",
            got=shown(text),
            where="--constraint",
            fix=(suggestion(name, known) if found else "") or "write it in quotes, with a task of the run",
        )
    bound = found["bound"].strip()
    Bound.parse(bound)
    what = {"length": name.removeprefix(LENGTH)} if name.startswith(LENGTH) else {"task": name}
    config = ConstraintConfig.model_validate(what | {_SIDES[found["side"]]: bound})
    minimized = dict.fromkeys((*known, *what.values()), False) | dict(run.minimized)
    return build_constraints([config], minimized, {})[0]
