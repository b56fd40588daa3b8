"""Frank-Wolfe over the convex hull of the experts (FW-Merging, arXiv 2503.12649).

An iteration needs one slope for each expert and weight block: the derivative of a calibration loss along its
coefficient. It steps towards the vertex (an expert, alone) with the smallest slope, by a length that shrinks as
2/(t + 2). It never steps towards experts that do not help, so their number costs nothing.

Slopes come from a gradient, which an engine computes at every candidate; or, without such an engine, from *differences*
of scores, two candidates for each slope.

Differences from the paper, and why:

- Vertices are base + `vertex_scale` x delta. The hull of the experts as they are (coefficients with sum 1) does not
  hold the best merges; one global factor, which the baselines tune, moves it there. The base is a vertex as well, so
  that a block can use no expert at all, and the factor is twice the tuned one: the tuned merge then lies halfway
  between base and experts, and a block can grow as well as shrink.
- The step is taken in coefficients, and the space's operator merges once. The public code repeatedly merges a vertex
  into the merged model; with task arithmetic that is equivalent.
- The published oracle is the cosine with the experts' weights, `weight_cosine`. Most of it is due to the base, which
  they all share, and it does not show whether a vertex lies downhill. The default is Frank-Wolfe's own, the inner
  product with the deltas.
- A block with no vertex downhill stays in place. With `weight_cosine` it steps to the smallest regardless, as in the
  public code for vision models; the code for language models steps towards zero weights there.
- The public code adds its starting merge as one more vertex.
- `soft` mixes the best vertices by one projection of their slopes; the paper trains the mixture.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from crossbreed.errors import InputError
from crossbreed.optimizer.build import OptimizerConfig, OptimizerPart
from crossbreed.optimizer.feasible import off
from crossbreed.optimizer.generation import Generation, Generational, measured
from crossbreed.optimizer.options import Options
from crossbreed.optimizer.polytope import Floats, blocks_of, probes_of
from crossbreed.optimizer.protocol import SearchInputs, check_one_objective
from crossbreed.types import Box, Outcome, Point, SlopeKind, Status, WeightBlock

_REPEATS = 4
"""Consecutive retries of points that all FAILED, before they count as a step that cannot be measured."""
_HALVINGS = 4
"""How often a step that could not be measured is halved before another direction is tried."""
_LARGEST_SCALE = 3.0
"""The largest default vertex scale: the largest tuned scalar, which is best where most experts contribute nothing."""
_SMALLEST = 2.0**-10
"""The factor on the steps below which a restart resets the factor to 1."""


class FrankWolfeOptions(Options):
    """Options of `frank_wolfe`."""

    slopes: Literal["gradient", "differences"] = "gradient"
    """`gradient`: computed by a transformers engine, see `fitness.slopes`. `differences`: from the scores of two
    candidates per slope, with any engine; an iteration costs 2 x coordinates + 1 trials (`layer`) or 2 x experts + 1
    (`task`)."""
    oracle: SlopeKind = "inner"
    """The quantity that is smallest at the best vertex: the gradient's inner product with the delta, its cosine with
    the delta, or its cosine with the expert's weights (as published)."""
    variant: Literal["hard", "soft"] = "hard"
    """`hard`: step towards one vertex. `soft`: step towards a mixture of the best."""
    top_k: Annotated[int, Field(ge=2)] = 3
    """Maximum number of vertices that `soft` mixes."""
    granularity: Literal["layer", "task"] = "layer"
    """`layer`: one vertex per group. `task`: one expert for the whole model."""
    step_size: Annotated[float, Field(gt=0, le=1)] = 0.3
    """The step is this times 2/(t + 2). 0.3 is the published schedule: 1, times the factor 0.3 on a task vector."""
    steps: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (1.0,)
    """Multiples of that step, all of which are tried; the best by score is kept. More than one is a line search."""
    vertex_scale: Annotated[float, Field(gt=0)] | None = None
    """A vertex is the base plus this times an expert's delta. Default: the best tuned scalar, or twice that, at most 3,
    if the base is a vertex too. The paper uses 1."""
    base_vertex: bool = True
    """Whether the base is a vertex too, so that a block can use no expert at all. In the paper it is not; with
    `weight_cosine` it never is."""
    radius: Annotated[float, Field(gt=0)] = 0.1
    """For `differences`: the distance to either side, as a fraction of `vertex_scale`."""

    @property
    def slope_kind(self) -> SlopeKind | None:
        """The oracle's kind; None if slopes are differences of scores."""
        return self.oracle if self.slopes == "gradient" else None

    @property
    def has_base(self) -> bool:
        """Whether the base is a vertex: the published oracle covers experts only."""
        return self.base_vertex and self.oracle != "weight_cosine"

    @model_validator(mode="after")
    def _differences_are_inner_products(self) -> "FrankWolfeOptions":
        if self.slopes == "differences" and self.oracle != "inner":
            raise ValueError(f"differences of scores are inner products: `oracle: {self.oracle}` needs a gradient")
        return self


class FrankWolfeConfig(OptimizerConfig):
    """Frank-Wolfe, for one objective and weights of experts."""

    kind: Literal["frank_wolfe"] = "frank_wolfe"
    options: FrankWolfeOptions = FrankWolfeOptions()

    @property
    def reads_violations(self) -> bool:
        """True: slopes are of the values as they are, and a step out of the constraints is halved."""
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A measured point."""

    point: Floats
    value: float
    slopes: Floats
    violation: float

    @property
    def rank(self) -> tuple[float, float]:
        """What is larger for the place that comes first: one that keeps the constraints, then the better one."""
        return -self.violation, self.value


class FrankWolfe(Generational):
    """One walk. When no vertex lies downhill, it restarts at the best point with steps half as long.

    FAILED carries no information about the direction: if all points of a step FAILED, the same points are asked again,
    a few times, since a machine may be down for a while. A step to a point that is INVALID or STOPPED, or that was
    scored but has no slopes, is halved; so is one out of the constraints, once a point is known that keeps them.

    It steps towards a random mixture only as a last resort: if a step cannot be measured even at a sixteenth of its
    length, if the best point itself has no vertex downhill, or if its slopes are missing.
    """

    def __init__(self, inputs: SearchInputs, options: FrankWolfeOptions | None = None) -> None:
        """Asks for the start.

        Raises:
            InputError: there are several objectives, or coordinates that are not weights of experts.
        """
        self._options = options = options or FrankWolfeOptions()
        box, weight_blocks = inputs.box, _weight_blocks(inputs)
        self._low, self._high, self._rng = np.array(box.low), np.array(box.high), inputs.rng
        scale = _scale(inputs, options)
        self._blocks = blocks_of(
            weight_blocks, box, scale=scale, granularity=options.granularity, base=options.has_base
        )
        self._probes, self._radius = list(probes_of(weight_blocks, options.granularity)), options.radius * scale
        start = np.array(inputs.start) if inputs.start is not None else self._middle()
        self._best: _Place | None = None
        self._time, self._shrink, self._num_lost, self._num_failed = 0, 1.0, 0, 0
        self._from, self._direction = start, np.zeros_like(start)
        self._probing: _Place | None = None
        """The place whose slopes are being measured."""
        self._ask_points([start])

    def _learn(self, outcomes: Sequence[Outcome]) -> None:
        is_out = all(outcome.status is Status.FAILED for outcome in outcomes)
        self._num_failed = self._num_failed + 1 if is_out else 0
        if is_out and self._num_failed <= _REPEATS:
            self._ask_points(self._points)
            return
        if self._probing is not None:
            place, self._probing = replace(self._probing, slopes=self._differences(self._probing, outcomes)), None
            self._go_on(place)
            return
        places = [place for place in map(self._place, self._points, outcomes) if place is not None]
        if not places:
            self._retreat()
            return
        place = max(places, key=lambda place: place.rank)
        if place.violation and self._best is not None and not self._best.violation:
            self._retreat()  # the step leads out of the constraints
            return
        self._num_lost = 0
        if self._options.slopes == "gradient":
            self._go_on(place)
        else:
            self._probing = place
            self._ask_points([point for pair in self._pairs(place.point) for point in pair])

    def _take(self, index: int, recorded: Point) -> None:
        self._points[index] = np.array(recorded)

    def _place(self, point: Floats, outcome: Outcome) -> _Place | None:
        """Returns the measurement at a point; None if the score or the slopes are missing."""
        values, slopes = measured(outcome), outcome.slopes
        if self._options.slopes == "differences":
            slopes = (0.0,) * len(point)  # to be found
        if values is None or slopes is None or not np.isfinite(slopes).all():
            return None
        return _Place(point=point, value=values[0], slopes=np.array(slopes), violation=off(outcome))

    def _go_on(self, place: _Place) -> None:
        """Takes the next step of the walk, or restarts if no step leads downhill."""
        if self._best is None or place.rank > self._best.rank:
            self._best = place
        direction = self._downhill(place)
        if direction.any():
            self._time += 1
            self._step(place.point, direction)
            return
        self._time, self._shrink = 1, self._shrink / 2
        direction = self._downhill(self._best)
        if self._shrink < _SMALLEST or not direction.any():
            direction = self._anywhere(self._best.point)
        if self._shrink < _SMALLEST:
            self._shrink = 1.0
        self._step(self._best.point, direction)

    def _retreat(self) -> None:
        """Halves a step of which no point could be measured; after a few halvings, changes its direction."""
        self._num_lost += 1
        if self._num_lost > _HALVINGS or not self._direction.any():
            self._num_lost, self._direction = 0, self._anywhere(self._from)
        self._step(self._from, self._direction)

    def _step(self, start: Floats, direction: Floats) -> None:
        self._from, self._direction = start, direction
        # 2 / (t + 2), where t is 0 at the first step
        length = self._shrink * 2.0**-self._num_lost * self._options.step_size * 2 / (max(self._time, 1) + 1)
        self._ask_points([start + min(1.0, multiple * length) * direction for multiple in self._options.steps])

    def _ask_points(self, points: Sequence[Floats]) -> None:
        self._points = [point.clip(self._low, self._high) for point in points]
        self._generation = Generation([tuple(map(float, point)) for point in self._points])

    def _downhill(self, place: _Place) -> Floats:
        direction = np.zeros_like(place.point)
        for block in self._blocks:
            direction[block.coordinates] = block.direction(
                place.point[block.coordinates],
                place.slopes[block.coordinates],
                towards=self._options.top_k if self._options.variant == "soft" else 1,
                kind=self._options.oracle,
            )
        return direction

    def _anywhere(self, point: Floats) -> Floats:
        """Returns the direction to a random mixture of each block's vertices."""
        mixture = point.copy()
        for block in self._blocks:
            mixture[block.coordinates] = block.mixture(self._rng.dirichlet(np.ones(len(block.vertices))))
        return mixture - point

    def _middle(self) -> Floats:
        """Returns the point with equal shares of all experts, like a uniform merge."""
        middle = self._low.copy()
        for block in self._blocks:
            is_expert = block.vertices.any(axis=1)
            middle[block.coordinates] = block.mixture(is_expert / is_expert.sum())
        return middle

    def _pairs(self, point: Floats) -> list[tuple[Floats, Floats]]:
        """Returns two points for each slope, one to either side, clipped to the box."""
        ways = [self._radius * np.isin(np.arange(len(point)), probe) for probe in self._probes]
        return [((point - way).clip(self._low, self._high), (point + way).clip(self._low, self._high)) for way in ways]

    def _differences(self, place: _Place, outcomes: Sequence[Outcome]) -> Floats:
        """Returns the slopes of the negative score.

        If one of a pair FAILED, the place itself replaces it. INVALID counts as the worst measured value.
        """
        values = [None if (found := measured(outcome)) is None else found[0] for outcome in outcomes]
        worst = min([place.value, *(value for value in values if value is not None)])
        slopes = np.zeros_like(place.point)
        for index, (probe, pair) in enumerate(zip(self._probes, self._pairs(place.point), strict=True)):
            where, scores = list(pair), [0.0, 0.0]
            for side, outcome in enumerate(outcomes[2 * index : 2 * index + 2]):
                value = values[2 * index + side]
                scores[side] = worst if value is None else value
                if outcome.status is Status.FAILED:
                    where[side], scores[side] = place.point, place.value
            if width := float(np.sum(where[1][probe] - where[0][probe])):
                slopes[probe] = (scores[0] - scores[1]) / width
        return slopes


def _scale(inputs: SearchInputs, options: FrankWolfeOptions) -> float:
    scale = inputs.expert_scale(options.vertex_scale)
    if options.vertex_scale is not None or inputs.tuned_scalar is None or not options.has_base:
        return scale
    return min(2 * scale, _LARGEST_SCALE)


def _weight_blocks(inputs: SearchInputs) -> tuple[WeightBlock, ...]:
    check_one_objective(inputs, "frank_wolfe")
    box = inputs.box
    if box.weight_blocks is None:
        raise InputError(
            "optimizer `frank_wolfe` mixes experts: its coordinates must be weights of their deltas and nothing else",
            expected="one operator that sums weighted deltas, all but `weight` fixed, and no factor on all weights",
            got=box.why_no_weight_blocks or f"a space of {box.dim} coordinates",
            where="space",
            fix="use task_arithmetic, ties or dare_linear, do not search its factors, allow weights above 0, and fix "
            "its other parameters: `params: {density: 0.5}`",
        )
    return box.weight_blocks


PART = OptimizerPart(
    config=FrankWolfeConfig,
    make=lambda inputs, config: FrankWolfe(inputs, config.options),
    searches=Box,
    paper="arXiv 2503.12649",
)
