"""What a logger is, and what a run tells it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Protocol

from crossbreed.runs.plan import Plan


class Sink(Protocol):
    """A run of a logger. Each method may raise whatever the logger's package does."""

    @property
    def id(self) -> str:
        """What `About.resumed_id` must be for the same run to be continued."""
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each of these curves."""
        ...

    def summarize(self, values: Mapping[str, float]) -> None:
        """Sets the results of the whole run."""
        ...

    def close(self, *, is_over: bool) -> None:
        """Sends what is left; `is_over`: the run is complete."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """The run, as a logger is told of it."""

    name: str
    settings: Mapping[str, str]
    folder: Path
    """The run folder, for loggers that write files."""
    resumed_id: str | None
    """`Sink.id` of the run to continue; None: a new one."""

    @classmethod
    def of(cls, plan: Plan, folder: Path, resumed_id: str | None) -> "About":
        """Returns what is told: no path, no prompt, no item."""
        spec = plan.spec
        settings = {
            "seed": str(spec.seed),
            "space": "; ".join(f"{stage.settings.space.kind}, {stage.space.describe()}" for stage in plan.stages),
            "operators": ", ".join(dict.fromkeys(name for search in spec.searches for name in search.space.operators)),
            "optimizer": ", ".join(search.optimizer.label for search in spec.searches),
            "engine": spec.fitness.engine.kind,
            "dtype": plan.dtype,
            "experts": ", ".join(spec.sources.experts),
            "tasks": ", ".join(f"{task.name} ({task.metric_name})" for task in spec.fitness.tasks),
            "objectives": "; ".join(objective.name for objective in plan.objectives),
        }
        return cls(name=spec.name, settings=settings, folder=folder, resumed_id=resumed_id)


def plain_names(values: Mapping[str, float]) -> dict[str, float]:
    """Returns the values under names that every logger takes, still distinct.

    >>> plain_names({"objective/mean of a, b": 1.0, "objective/mean of a; b": 2.0})
    {'objective/mean of a_ b': 1.0, 'objective/mean of a_ b 2': 2.0}
    """
    found: dict[str, float] = {}
    for name, value in values.items():
        plain = re.sub(r"[^\w./ -]", "_", name, flags=re.ASCII)
        names = (plain if n == 1 else f"{plain} {n}" for n in count(1))
        found[next(one for one in names if one not in found)] = value
    return found
