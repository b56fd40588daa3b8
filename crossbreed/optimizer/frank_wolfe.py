"""Frank-Wolfe over the hull of the experts (FW-Merging, arXiv 2503.12649): step towards the expert that lies downhill.

All that an iteration needs is one slope for each expert and group of tensors: the derivative of a calibration loss
along its coefficient. It goes from where it is towards the vertex (an expert, alone) with the least slope, by a step
that shrinks as 2/(t + 2). Experts that do not help are never stepped towards, so their number costs nothing.

Slopes come from a gradient, which an engine takes at every candidate; or, where nobody can take one, from *differences*
of scores, two candidates for each slope.

What differs from the paper, and why:

- Vertices are base + `vertex_scale` x delta. The hull of the experts as they are (coefficients with sum 1) does not
  hold the best merges; one global factor, which the baselines tune, moves it to where they are. The base is a vertex
  as well, so that a block need not take part, and the hull is twice as large as what was tuned: that lies halfway
  between base and experts then, and a block can grow as well as shrink.
- The step is taken in coefficients, and the space's operator merges once. The public code merges a vertex into the
  merged model, again and again; with task arithmetic that is the same.
- The published oracle is the cosine with the experts' weights, `weight_cosine`: most of it is the base's, which all
  have in common, and whether a vertex lies downhill it does not say. The default is Frank-Wolfe's own, the inner
  product with the deltas.
- A block with no vertex downhill stays where it is. By `weight_cosine` it steps to the least all the same, as in the
  public code for vision models; that for language models steps towards zero weights there.
- The public code has the merge that it starts from as one more vertex.
- `soft` mixes the best vertices by one projection of their slopes; the paper trains the mixture.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from crossbreed.config import Config
from crossbreed.errors import InputError
from crossbreed.optimizer.budget import BudgetConfig
from crossbreed.optimizer.generation import Generation, Generational, measured
from crossbreed.optimizer.options import Options
from crossbreed.optimizer.polytope import Floats, blocks_of, probes_of
from crossbreed.optimizer.protocol import Setting, check_one_objective
from crossbreed.types import Outcome, SlopeKind, Status

_REPEATS = 4
"""How often in a row points that all FAILED are asked again, before they count as a step that cannot be measured."""
_HALVINGS = 4
"""How often a step that could not be measured is tried at half its length, before another direction is."""
_LARGEST_SCALE = 3.0
"""Of vertices unless told: of tuned scalars the largest, which is best where most experts know nothing."""
_SMALLEST = 2.0**-10
"""Factor on the steps below which beginning again means beginning anew."""


class FrankWolfeOptions(Options):
    """Options of `frank_wolfe`."""

    slopes: Literal["gradient", "differences"] = "gradient"
    """`gradient`: by a transformers engine, see `fitness.slopes`. `differences`: of the scores of two candidates for
    each slope, with any engine; an iteration costs 2 x coordinates + 1 trials (`layer`) or 2 x experts + 1 (`task`)."""
    oracle: SlopeKind = "inner"
    """What is least at the best vertex: the gradient's inner product with the delta, or its cosine with the delta, or
    with the expert's weights (as published)."""
    variant: Literal["hard", "soft"] = "hard"
    """`hard`: towards one vertex. `soft`: towards a mixture of the best."""
    top_k: Annotated[int, Field(ge=2)] = 3
    """How many vertices `soft` mixes at most."""
    granularity: Literal["layer", "task"] = "layer"
    """`layer`: every group chooses a vertex of its own. `task`: one expert for the whole model."""
    step_size: Annotated[float, Field(gt=0, le=1)] = 0.3
    """The step is this times 2/(t + 2). 0.3 is the published schedule: 1, times the factor 0.3 on a task vector."""
    steps: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (1.0,)
    """Multiples of that step which are all tried; the best by score is kept. More than one is a line search."""
    vertex_scale: Annotated[float, Field(gt=0)] | None = None
    """A vertex is the base plus this times an expert's delta. Unless given: the best tuned scalar, and twice that, at
    most 3, where the base is a vertex too. The paper's is 1."""
    base_vertex: bool = True
    """Whether the base is a vertex too, so that a block may do without experts. The paper's is not, and by
    `weight_cosine` it never is."""
    radius: Annotated[float, Field(gt=0)] = 0.1
    """For `differences`: how far to go either way, as a part of `vertex_scale`."""

    @property
    def slope_kind(self) -> SlopeKind | None:
        """The oracle's, unless slopes are differences of scores."""
        return self.oracle if self.slopes == "gradient" else None

    @property
    def has_base(self) -> bool:
        """Whether the base is a vertex: the published oracle knows experts only."""
        return self.base_vertex and self.oracle != "weight_cosine"

    @model_validator(mode="after")
    def _differences_are_inner_products(self) -> "FrankWolfeOptions":
        if self.slopes == "differences" and self.oracle != "inner":
            raise ValueError(f"differences of scores are inner products: `oracle: {self.oracle}` needs a gradient")
        return self


class FrankWolfeConfig(Config):
    """Frank-Wolfe, for one objective and weights of experts."""

    kind: Literal["frank_wolfe"] = "frank_wolfe"
    budget: BudgetConfig
    options: FrankWolfeOptions = FrankWolfeOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A point that was measured."""

    point: Floats
    value: float
    slopes: Floats


class FrankWolfe(Generational):
    """One walk. When no vertex lies downhill it begins again at the best point, with steps half as long.

    FAILED says nothing of the way: where nothing else comes back, the same points are asked again, a few times, for a
    machine may be out for a while. A step to what is INVALID or STOPPED, or was scored but has no slopes, is halved.

    Nothing is drawn unless nothing is known: where a step cannot be measured even at a sixteenth of its length, where
    the best point itself has no vertex downhill, or where its slopes never came, it goes towards a random mixture.
    """

    def __init__(self, setting: Setting, options: FrankWolfeOptions | None = None) -> None:
        """Asks for the start.

        Raises:
            InputError: there are several objectives, or coordinates that are no weights of experts.
        """
        _check(setting)
        assert setting.hulls is not None
        self._options = options = options or FrankWolfeOptions()
        self._low, self._high, self._rng = np.array(setting.box.low), np.array(setting.box.high), setting.rng
        scale = _scale(setting, options)
        self._blocks = blocks_of(
            setting.hulls, setting.box, scale=scale, granularity=options.granularity, base=options.has_base
        )
        self._probes, self._radius = list(probes_of(setting.hulls, options.granularity)), options.radius * scale
        start = np.array(setting.start) if setting.start is not None else self._middle()
        self._best: _Place | None = None
        self._time, self._shrink, self._num_lost, self._num_failed = 0, 1.0, 0, 0
        self._from, self._direction = start, np.zeros_like(start)
        self._probing: _Place | None = None
        """Whose slopes are being asked for."""
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
        self._num_lost = 0
        place = max(places, key=lambda place: place.value)
        if self._options.slopes == "gradient":
            self._go_on(place)
        else:
            self._probing = place
            self._ask_points([point for pair in self._pairs(place.point) for point in pair])

    def _place(self, point: Floats, outcome: Outcome) -> _Place | None:
        """What was learnt at a point; nothing where the score or the slopes are missing."""
        values, slopes = measured(outcome), outcome.slopes
        if self._options.slopes == "differences":
            slopes = (0.0,) * len(point)  # to be found
        if values is None or slopes is None or not np.isfinite(slopes).all():
            return None
        return _Place(point=point, value=values[0], slopes=np.array(slopes))

    def _go_on(self, place: _Place) -> None:
        """Takes the next step of the walk, or begins again where no step leads downhill."""
        if self._best is None or place.value > self._best.value:
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
        """Nothing was learnt, and is not going to be: takes half the step, and in the end another direction."""
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
        """The way to a random mixture of each block's vertices."""
        mixture = point.copy()
        for block in self._blocks:
            mixture[block.coordinates] = block.mixture(self._rng.dirichlet(np.ones(len(block.vertices))))
        return mixture - point

    def _middle(self) -> Floats:
        """As much of every expert, as a uniform merge has."""
        middle = self._low.copy()
        for block in self._blocks:
            is_expert = block.vertices.any(axis=1)
            middle[block.coordinates] = block.mixture(is_expert / is_expert.sum())
        return middle

    def _pairs(self, point: Floats) -> list[tuple[Floats, Floats]]:
        """Two points for each slope, on either side as far as the box allows."""
        ways = [self._radius * np.isin(np.arange(len(point)), probe) for probe in self._probes]
        return [((point - way).clip(self._low, self._high), (point + way).clip(self._low, self._high)) for way in ways]

    def _differences(self, place: _Place, outcomes: Sequence[Outcome]) -> Floats:
        """The slopes of minus the score.

        Where one of a pair FAILED, the place itself stands in for it. INVALID is as bad as the worst that was measured.
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


def _scale(setting: Setting, options: FrankWolfeOptions) -> float:
    scale = setting.vertex_scale(options.vertex_scale)
    if options.vertex_scale is not None or setting.tuned_scalar is None or not options.has_base:
        return scale
    return min(2 * scale, _LARGEST_SCALE)


def _check(setting: Setting) -> None:
    check_one_objective(setting, "frank_wolfe")
    if setting.hulls is None:
        raise InputError(
            "optimizer `frank_wolfe` walks between experts: its coordinates must be weights of their deltas alone",
            expected="one operator that adds weighted deltas up, all but `weight` fixed, and no factor on all weights",
            got=setting.why_no_hulls or f"a space of {setting.box.dim} coordinates",
            where="space",
            fix="choose one of task_arithmetic, ties and dare_linear, leave its factors out, let weights be above 0, "
            "and fix what else it has: `params: {density: 0.5}`",
        )
