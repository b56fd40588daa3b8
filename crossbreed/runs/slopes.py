"""Where a candidate's loss falls: the slopes that Frank-Wolfe walks by, from an engine that takes gradients.

Often it stands beside the one that scores, with weights of its own. The loss is that of the right answers to a fixed
part of the search items, so report items are as unseen as in every other search.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from crossbreed.errors import EngineError
from crossbreed.fitness import (
    AnyItems,
    Differentiable,
    Engine,
    Loglikelihood,
    Task,
    TransformersConfig,
    build_engine,
)
from crossbreed.kernels import Facts, materialize, slopes
from crossbreed.runs.objectives import Objective
from crossbreed.runs.plan import Plan
from crossbreed.search_spaces import LineageSpace
from crossbreed.types import Recipe, SlopeKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What the loss is taken of."""

    requests: tuple[Loglikelihood, ...]
    weights: tuple[float, ...]
    """Of the requests' losses in the whole one. Negative where the objective wants a task done badly."""


def calibration_of(
    tasks: Sequence[Task], items: Mapping[str, AnyItems], objective: Objective, *, num_items: int
) -> Calibration:
    """Returns the first items of each task that the objective names, each task with its weight there.

    The worst of several tasks depends on the candidate: all of them count alike.
    """
    shares = objective.shares
    requests, weights = [], []
    for task in tasks:
        asked = items[task.name].items[:num_items] if shares.get(task.name) else ()
        sign = -1 if objective.minimize is task.higher_is_better else 1
        requests += [task.calibration(item) for item in asked]
        weights += [sign * shares[task.name] / len(asked) for _ in asked]
    return Calibration(requests=tuple(requests), weights=tuple(weights))


class Slopes:
    """An engine that takes gradients, and what it takes them of."""

    def __init__(self, plan: Plan, kind: SlopeKind, scoring: Engine, facts: Facts) -> None:
        """Starts an engine, unless the one that scores is such a one.

        Args:
            plan: Of the run.
            kind: What the optimizer compares experts by.
            scoring: The worker's engine.
            facts: The worker's.
        """
        fitness, self._plan, self._kind, self._facts = plan.spec.fitness, plan, kind, facts
        config = TransformersConfig(
            kind="transformers",
            dtype=fitness.slopes.dtype,
            device=fitness.slopes.device,
            max_model_len=fitness.max_model_len,
        )
        self._is_shared = fitness.engine == config
        engine = scoring if self._is_shared else build_engine(config, plan.sources.base.path)
        assert isinstance(engine, Differentiable)
        self._engine = engine
        [objective] = plan.objectives
        self._calibration = calibration_of(plan.tasks, plan.items["search"], objective, num_items=fitness.slopes.items)

    @property
    def num_items(self) -> int:
        """How many items a gradient answers."""
        return len(self._calibration.requests)

    def at(self, recipe: Recipe) -> tuple[float, ...]:
        """Returns a slope for each coordinate, at the candidate that the worker's engine has adopted.

        Raises:
            EngineError: the gradient could not be taken, or is not finite.
            InvalidWeights: the loss is NaN or infinite.
        """
        try:
            return self._at(recipe)
        except RuntimeError as error:  # the CPU's allocator has no type of error of its own
            if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
                raise
            raise EngineError("out of memory in the gradient; fewer `fitness.slopes.tokens` take less") from error

    def _at(self, recipe: Recipe) -> tuple[float, ...]:
        plan = self._plan
        assert not isinstance(plan.space, LineageSpace), "what asks for slopes moves in a box"
        if not self._is_shared:
            self._engine.adopt(recipe, materialize(recipe, plan.sources, self._facts, artifacts=plan.artifacts))
        asked = self._calibration
        gradient = self._engine.gradient(asked.requests, asked.weights, tokens=plan.spec.fitness.slopes.tokens)
        found = plan.space.slopes(slopes(gradient, plan.sources, self._kind, self._facts))
        if not all(map(math.isfinite, found)):
            raise EngineError(f"the gradient of recipe {recipe.id} is NaN or infinite, its loss is not")
        return found

    def close(self) -> None:
        """Frees the engine that it started."""
        if not self._is_shared:
            self._engine.close()
