"""MAP: a quadratic of the coefficients for each objective, its whole Pareto front, and the chosen points for real.

One set of trials serves all objectives and every preference between them. For few coordinates: a quadratic of n has
(n+1)(n+2)/2 unknowns, and the first design has twice as many points, as in the paper. Where this differs from it:

- the design is the start, a step along each axis and a Latin hypercube in a cube around the start (the paper: one-hot,
  equal and grid points of [0, 1]^n), and the front is sought in the same cube (the paper: in [-3, 3]^n, where the
  quadratic is extrapolated);
- the quadratic is fitted by weighted ridge regression under its link, in closed form (the paper: by curve fitting), and
  its R2 on left-out points is told; the link is chosen by the same measure, unless it is given;
- points of the predicted front are measured, and the quadratics are fitted again with them, until the budget ends;
- constraints have quadratics too, and the front is that of the points that are predicted to keep them.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from crossbreed.errors import InputError
from crossbreed.optimizer.build import OptimizerConfig, OptimizerPart
from crossbreed.optimizer.generation import Generation, Generational, measured
from crossbreed.optimizer.options import Options
from crossbreed.optimizer.protocol import SearchInputs
from crossbreed.optimizer.quadratic import LinkName, Quadratic, fit, num_coefficients
from crossbreed.optimizer.surrogate_front import front_of
from crossbreed.optimizer.unit_cube import from_unit, to_unit
from crossbreed.types import Box, Outcome, Point, Status

Array = NDArray[np.float64]
_NEAR = 1e-3
"""A point within this share of the cube's side of one that was asked is not asked again."""


class MapOptions(Options):
    """Options of `map`."""

    samples: Annotated[int, Field(ge=4)] | None = None
    """Points that are measured before the first fit; default, for n coordinates: (n+1)(n+2), twice the unknowns."""
    spread: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Side of the cube around the start, inside the box, in which points are measured and the front is sought: a
    fraction of each range. Without a start, it is the whole box."""
    infill: Annotated[int, Field(ge=1)] = 8
    """Points of the predicted front that are measured between two fits."""
    link: Literal["auto", "identity", "logit", "softplus"] = "auto"
    """What a quadratic goes through to become an objective: `logit` for shares, `softplus` for losses; `auto`: for each
    objective the one that predicts left-out points best."""


class MapConfig(OptimizerConfig):
    """Quadratic surrogates of several objectives and their front, for few coordinates."""

    kind: Literal["map"] = "map"
    options: MapOptions = MapOptions()

    @property
    def reads_violations(self) -> bool:
        """True: it models them."""
        return True


class Map(Generational):
    """A design, then rounds of points from the predicted front.

    INVALID and STOPPED count as the worst measured value of each objective, and FAILED as nothing; neither is asked
    again. Where too little is measured for a fit, further points of the design are asked.
    """

    in_order: ClassVar[bool] = True

    def __init__(self, inputs: SearchInputs, options: MapOptions | None = None, *, trials: int | None = None) -> None:
        """Lays out the design.

        Raises:
            InputError: some coordinates have alternatives, or the budget ends before the first fit.
        """
        self._options, self._box, self._rng = options or MapOptions(), inputs.box, inputs.rng
        self._free = [i for i, (low, high) in enumerate(zip(self._box.low, self._box.high, strict=True)) if low < high]
        dim = len(self._free)
        self._num_samples = self._options.samples or 2 * num_coefficients(dim)
        _check(self._box, self._num_samples, trials)
        self._start = to_unit(self._box, inputs.start) if inputs.start else np.full(self._box.dim, 0.5)
        self._side = self._options.spread if inputs.start else 1.0
        self._low = np.clip(self._start - self._side / 2, 0.0, 1 - self._side)[self._free]
        self._points: list[Array] = []
        """In the cube, of what has values."""
        self._values: list[tuple[float, ...]] = []
        self._excesses: list[tuple[float, ...]] = []
        self._lost: list[Array] = []
        """The points of what was INVALID or STOPPED."""
        self._asked: list[Array] = []
        self._expected: Array | None = None
        """The predicted values of this round; None in the design."""
        self.remarks: list[str] = []
        """See Remarking."""
        self._set(self._design())

    def _set(self, chosen: Array) -> None:
        """Asks some points of the cube."""
        self._round = [*chosen]
        self._asked += self._round
        units = np.tile(self._start, (len(chosen), 1))
        units[:, self._free] = self._low + self._side * chosen
        self._generation = Generation([from_unit(self._box, unit) for unit in units])

    def _design(self) -> Array:
        """Returns the start, a step along each axis towards the further side, and a Latin hypercube."""
        dim = len(self._free)
        start = (self._start[self._free] - self._low) / self._side
        axes = np.tile(start, (dim + 1, 1))
        for index in range(dim):
            axes[index + 1, index] = 0.5 * (start[index] + (start[index] < 0.5))
        return np.vstack([axes, self._hypercube(max(1, self._num_samples - dim - 1))])[: max(1, self._num_samples)]

    def _hypercube(self, count: int) -> Array:
        """Returns points of which each coordinate has one value in each of `count` equal intervals."""
        columns = [(self._rng.permutation(count) + self._rng.random(count)) / count for _ in self._free]
        return np.array(columns).T.reshape(count, len(self._free))

    def _take(self, index: int, recorded: Point) -> None:
        self._round[index] = (to_unit(self._box, recorded)[self._free] - self._low) / self._side

    def _learn(self, outcomes: Sequence[Outcome]) -> None:
        self._remark_on(outcomes)
        for point, outcome in zip(self._round, outcomes, strict=True):
            if (values := measured(outcome)) is not None:
                self._points.append(point)
                self._values.append(values)
                self._excesses.append(outcome.excesses or ())
            elif outcome.status is not Status.FAILED:
                self._lost.append(point)
        if self._free and len(self._points) > len(self._free) + 1:
            self._set(self._front())
        else:
            self._expected = None
            self._set(self._hypercube(self._options.infill))

    def _front(self) -> Array:
        """Fits, and returns the points of the predicted front to be measured."""
        objectives, constraints = self._fitted()

        def predict(points: Array) -> tuple[Array, Array]:
            centred = 2 * points - 1
            values = np.column_stack([one.predict(centred) for one in objectives])
            off = [np.clip(one.predict(centred), 0, None) for one in constraints]
            return values, np.sum(off, axis=0) if off else np.zeros(len(points))

        inside = np.clip(self._points, 0.0, 1.0)
        found = front_of(predict, inside[-40:], rng=self._rng)
        chosen = self._spread_out(found, predict(found)[0])
        self._expected = predict(chosen)[0]
        return chosen

    def _fitted(self) -> tuple[list[Quadratic], list[Quadratic]]:
        values = np.array(self._values)
        points = 2 * np.array([*self._points, *self._lost]) - 1
        worst = np.tile(values.min(axis=0), (len(self._lost), 1))
        links: Sequence[LinkName] = get_args(LinkName) if self._options.link == "auto" else [self._options.link]
        objectives = [fit(points, column, links=links) for column in np.vstack([values, worst]).T]
        excesses = np.array(self._excesses).reshape(len(values), -1)
        constraints = [fit(points[: len(values)], column, links=["identity"]) for column in excesses.T]
        said = ", ".join(f"{one.r2:.2f} ({one.link})" for one in objectives)
        self.remarks.append(
            f"map: quadratics of {len(self._free)} coordinates, fitted to {len(points)} trials; "
            f"R2 on left-out trials: {said}"
        )
        return objectives, constraints

    def _remark_on(self, outcomes: Sequence[Outcome]) -> None:
        """Says how far the points of the predicted front are from what was predicted."""
        if self._expected is None:
            return
        pairs = [(found, said) for o, said in zip(outcomes, self._expected, strict=True) if (found := measured(o))]
        if pairs:
            errors = np.array([np.subtract(found, said) for found, said in pairs])
            said = ", ".join(
                f"{mean:+.3g} ({rms:.3g})"
                for mean, rms in zip(errors.mean(axis=0), np.sqrt((errors**2).mean(axis=0)), strict=True)
            )
            self.remarks.append(f"map: {len(pairs)} points of its front, measured less predicted: mean (RMS) {said}")

    def _spread_out(self, found: Array, values: Array) -> Array:
        """Returns the first, then again and again the one that is furthest from all chosen, by its predicted values.

        Points that were asked are left out. Where the front has too few others, uniform ones take their places.
        """
        spans = np.ptp(values, axis=0)
        scaled = values / np.where(spans > 0, spans, 1.0)
        asked = np.array(self._asked)
        is_new = np.array([np.abs(asked - point).max(axis=1).min() > _NEAR for point in found])
        chosen, left = list[int](), [*np.flatnonzero(is_new)]
        while left and len(chosen) < self._options.infill:
            gaps = [min((float(np.abs(scaled[i] - scaled[j]).max()) for j in chosen), default=1.0) for i in left]
            if max(gaps) <= 0:
                break
            chosen.append(left.pop(int(np.argmax(gaps))))
        return np.vstack([found[chosen], self._rng.random((self._options.infill - len(chosen), len(self._free)))])


def _check(box: Box, samples: int, trials: int | None) -> None:
    if any(not levels.is_ordered and levels.count > 2 for levels in box.levels.values()):
        raise InputError(
            "`map` models numbers, and this space has coordinates of alternatives",
            expected="a space of numbers, integers and pairs",
            got="coordinates of three alternatives or more",
            where="optimizer.kind and space",
            fix="give one `space.operator`, or use `kind: tpe` or `kind: cat_cma`",
        )
    if trials is not None and 0 < trials <= samples:
        raise InputError(
            "the budget of `map` ends before its first fit",
            expected=f"more than {samples} trials, for {box.dim} coordinates",
            got=f"budget.trials: {trials}",
            where="optimizer.budget.trials",
            fix=f"set `trials: {samples + 40}` or more, or search fewer coordinates (`space.groups`)",
        )


PART = OptimizerPart(
    config=MapConfig,
    make=lambda inputs, config: Map(inputs, config.options, trials=config.budget.trials),
    searches=Box,
    paper="arXiv 2406.07529",
)
