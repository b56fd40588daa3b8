"""The slopes of a candidate's loss, for Frank-Wolfe, from an engine that computes gradients.

That is usually a second engine beside the one that scores, with its own copy of the weights. The loss is that of the
correct answers to a fixed part of the search items, so report items stay unused as in every other search.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crossbreed.errors import EngineError
from crossbreed.fitness import (
    AnyItems,
    Differentiable,
    Loglikelihood,
    Task,
    WeightEngine,
    build_engine,
    reference_config,
)
from crossbreed.runs.calibration.questions import calibrated
from crossbreed.runs.plan import Plan
from crossbreed.runs.spec.objectives import Objective
from crossbreed.search_spaces import require_slopes
from crossbreed.types import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The definition of the loss."""

    requests: tuple[Loglikelihood, ...]
    weights: tuple[float, ...]
    """The weight of each request's loss. Negative if the objective is to be bad at the task."""


def calibration_of(
    tasks: Sequence[Task], items: Mapping[str, AnyItems], objective: Objective, *, num_items: int
) -> Calibration:
    """Returns the first items of each task of the objective, with the task's weight in it.

    Which of several tasks is the worst depends on the candidate, so all tasks of a `worst` count equally.
    """
    requests, weights = [], []
    for task, share in calibrated(tasks, objective):
        chosen = items[task.name].items[:num_items]
        requests += [task.calibration(item) for item in chosen]
        weights += [share / len(chosen) for _ in chosen]
    return Calibration(requests=tuple(requests), weights=tuple(weights))


class Slopes:
    """An engine that computes gradients, and their calibration."""

    def __init__(self, plan: Plan, scoring: WeightEngine) -> None:
        """Starts an engine, unless the one that scores can be used.

        Args:
            plan: The run's plan.
            scoring: The worker's engine.
        """
        assert plan.weights is not None, "gradients need weights"
        fitness, self._plan, self._weights = plan.spec.fitness, plan, plan.weights
        self._wanted = {
            stage.number: (require_slopes(stage.space), kind)
            for stage in plan.stages
            if (kind := plan.slope_kind(stage.number)) is not None
        }
        """Stage -> its space and the kind of slopes that its optimizer needs."""
        config = reference_config(
            dtype=fitness.slopes.dtype,
            device=fitness.slopes.device,
            context_tokens=fitness.max_model_len,
        )
        [objective] = plan.objectives
        self._calibration = calibration_of(plan.tasks, plan.items["search"], objective, num_items=fitness.slopes.items)
        self._is_shared = fitness.engine == config and self._weights.depth is None
        engine = scoring if self._is_shared else build_engine(config, self._weights.host)
        assert isinstance(engine, Differentiable)
        self._engine = engine

    @property
    def num_items(self) -> int:
        """The number of items per gradient."""
        return len(self._calibration.requests)

    def at(self, recipe: Recipe, stage: int) -> tuple[float, ...]:
        """Returns a slope for each coordinate, at the candidate of a search that the worker's engine has adopted.

        Raises:
            EngineError: the gradient could not be computed, or is not finite.
            InvalidWeights: the loss is NaN or infinite.
            MachineError: there is not enough memory.
        """
        plan = self._plan
        if not self._is_shared:
            self._engine.adopt(recipe, self._weights.materialize(recipe))
        calibration = self._calibration
        gradient = self._engine.gradient(
            calibration.requests, calibration.weights, tokens=plan.spec.fitness.slopes.tokens
        )
        space, kind = self._wanted[stage]
        found = space.slopes(self._weights.slopes(gradient, kind))
        if not all(map(math.isfinite, found)):
            raise EngineError(f"the gradient of recipe {recipe.id} is NaN or infinite, although its loss is finite")
        return found

    def close(self) -> None:
        """Frees the engine that it started."""
        if not self._is_shared:
            self._engine.close()
