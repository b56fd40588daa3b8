"""How fast this machine answers: measured by runs and by `check --answer`, kept in the cache, read by `check`.

A rate belongs to an engine's settings, a base, the worker's processors and the machine. It is no part of any result.
"""

import os
import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Self

from pydantic import TypeAdapter, ValidationError

from crossbreed.cache import cache_folder, is_ours
from crossbreed.durable import write_atomically
from crossbreed.runs.plan import Plan
from crossbreed.runs.record.records import SplitName
from crossbreed.types import Status, Trial, canonical_json, content_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """The time of a trial, in two parts."""

    fixed_s: float
    """Seconds of merging, swapping and all else that does not grow with the items."""
    item_s: float
    """Seconds of answering an item."""
    item_tokens: float | None
    """Tokens of an item, prompt and right answer, on average of those measured; None if they are not known."""
    num_trials: int
    """The number of trials of a run that were measured; 0: first answers of the base, by `check --answer`."""

    @classmethod
    def of(cls, trials: Sequence[Trial], plan: Plan) -> Self | None:
        """Returns the median rate of trials of a plan; None if none of them was measured."""
        costs = [trial.score.cost for trial in trials if trial.score.status is Status.OK]
        costs = [cost for cost in costs if "answer" in cost.seconds]
        if not costs:
            return None
        num_items = sum(items.count for items in plan.items["search"].values())
        return cls(
            fixed_s=median(sum(cost.seconds.values()) - cost.seconds["answer"] for cost in costs),
            item_s=median(cost.seconds["answer"] for cost in costs) / num_items,
            item_tokens=item_tokens(plan),
            num_trials=len(costs),
        )

    def trial_s(self, *, items: int, tokens: int | None) -> float:
        """Returns the seconds of a trial with so many items, and tokens of all of them if they are known."""
        longer = tokens / items / self.item_tokens if tokens and self.item_tokens else 1.0
        return self.fixed_s + self.item_s * items * longer


def num_tokens(plan: Plan, split: SplitName) -> int:
    """Returns the tokens of a split's items, answered as briefly as is right; 0 if they are not known."""
    tasks = plan.items[split]
    return sum(lengths.totals[item.id] for name, lengths in plan.lengths.items() for item in tasks[name].items)


def item_tokens(plan: Plan) -> float | None:
    """Returns the tokens of a search item, on average; None if they are not known."""
    num_items = sum(items.count for items in plan.items["search"].values())
    return num_tokens(plan, "search") / num_items if plan.lengths else None


_RATE = TypeAdapter(Rate)


def known_rate(plan: Plan) -> Rate | None:
    """Returns the rate that was last measured on this machine; None if there is none."""
    path = _path(plan)
    with suppress(OSError, ValidationError):
        if is_ours(path):
            return _RATE.validate_json(path.read_bytes())
    return None


def remember_rate(plan: Plan, rate: Rate | None) -> None:
    """Keeps a rate for later checks; one that a run has measured is not replaced by that of a first chunk."""
    if rate is None or plan.spec.workers.address is not None:  # not this machine's
        return
    known = known_rate(plan)
    if known is not None and known.num_trials > 0 and rate.num_trials == 0:
        return
    with suppress(OSError):  # an estimate ends no run
        _path(plan).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(_path(plan), canonical_json(asdict(rate)).encode())


def _path(plan: Plan) -> Path:
    workers = plan.spec.workers
    key = {
        "engine": plan.spec.fitness.engine.identity(),
        "base": plan.structure.hashes["base"],
        "workers": [workers.executor, workers.cpus, workers.gpus],
        "machine": [platform.node(), platform.machine(), os.cpu_count()],
    }
    return cache_folder() / "rates" / f"{content_id(canonical_json(key))}.json"
