"""How fast this machine answers: measured by runs and by `check --answer`, kept in the cache, read by `check`.

A rate belongs to an engine's settings, a base, the worker's processors and the machine. It is no part of any result.
"""

import os
import platform
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Self

from pydantic import TypeAdapter, ValidationError

from crossbreed.cache import cache_folder, is_ours
from crossbreed.durable import write_atomically
from crossbreed.fitness import Evaluation
from crossbreed.runs.plan import Plan
from crossbreed.types import Status, Trial, canonical_json, content_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """The time of a trial, in two parts."""

    fixed_s: float
    """Seconds of merging, swapping and all else that does not grow with the items."""
    token_s: float
    """Seconds of answering a token, prompts included."""
    item_s: float
    """Seconds of answering an item."""
    num_trials: int
    """The number of trials of a run that were measured; 0: a first chunk, by `check --answer`."""

    @classmethod
    def of(cls, trials: Sequence[Trial]) -> Self | None:
        """Returns the median rate of trials; None if none of them was measured."""
        costs = [trial.score.cost for trial in trials if trial.score.status is Status.OK]
        costs = [cost for cost in costs if cost.items and cost.tokens and "answer" in cost.seconds]
        if not costs:
            return None
        return cls(
            fixed_s=median(sum(cost.seconds.values()) - cost.seconds["answer"] for cost in costs),
            token_s=median(cost.seconds["answer"] / cost.tokens for cost in costs),
            item_s=median(cost.seconds["answer"] / cost.items for cost in costs),
            num_trials=len(costs),
        )

    @classmethod
    def of_first(cls, found: Collection[Evaluation], *, answer_s: float, fixed_s: float) -> Self | None:
        """Returns the rate of first answers; None if they had no tokens.

        Args:
            found: The answers.
            answer_s: The seconds that they took.
            fixed_s: The seconds of making and adopting the weights.
        """
        tokens, items = (sum(sizes) for sizes in zip(*((one.num_tokens, one.num_items) for one in found), strict=True))
        if not tokens:
            return None
        return cls(fixed_s=fixed_s, token_s=answer_s / tokens, item_s=answer_s / items, num_trials=0)

    def trial_s(self, *, items: int, tokens: int | None) -> float:
        """Returns the seconds of a trial with so many items, and tokens if they are known."""
        return self.fixed_s + (self.item_s * items if tokens is None else self.token_s * tokens)


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
