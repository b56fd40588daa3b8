"""TPE by Optuna: two densities, of the better trials and of all others, and the point where their ratio is largest.

For one objective or several, some tens to a thousand trials, and coordinates that are integers or alternatives, which
it models as such. An ask takes milliseconds; two hundred coordinates are no burden, though `cma_es` follows dependent
ones better.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from optuna.samplers import BaseSampler, TPESampler
from pydantic import Field, model_validator

from crossbreed.optimizer.build import OptimizerConfig, OptimizerPart
from crossbreed.optimizer.genetic import near
from crossbreed.optimizer.modelled import Modelled, open_coordinates
from crossbreed.optimizer.options import Options
from crossbreed.optimizer.optuna_study import Axes, as_told
from crossbreed.optimizer.protocol import SearchInputs
from crossbreed.optimizer.unit_cube import to_unit
from crossbreed.types import Box, Levels, Outcome


class TpeOptions(Options):
    """Options of `tpe`."""

    startup: Annotated[int, Field(ge=2)] = 10
    """Number of values before the densities are used: until then the start and draws around it are asked, or, without a
    start, uniform ones."""
    spread: Annotated[float, Field(gt=0, le=1)] = 0.15
    """Standard deviation of these draws, as a fraction of each range; of a coordinate of alternatives, the chance that
    it is another than the start's."""
    candidates: Annotated[int, Field(ge=1)] = 24
    """Points that are drawn from the density of the better trials, of which the best is asked."""
    multivariate: bool | None = None
    """Whether the densities are over all coordinates together; default, as Optuna's: for one objective."""
    group: bool = False
    """Whether, with `multivariate`, coordinates that no trial has together are modelled apart. Trials here have all of
    them, so it changes nothing but the order in which they are drawn."""

    @model_validator(mode="after")
    def _groups_are_multivariate(self) -> "TpeOptions":
        if self.group and not self.multivariate:
            raise ValueError("`group: true` groups the coordinates of `multivariate: true`: set both")
        return self


class TpeConfig(OptimizerConfig):
    """Tree-structured Parzen estimators, for one objective or several, and for alternatives among the coordinates."""

    kind: Literal["tpe"] = "tpe"
    options: TpeOptions = TpeOptions()

    @property
    def reads_violations(self) -> bool:
        """True: Optuna puts what breaks constraints after all that keeps them."""
        return True


class Tpe(Modelled):
    """The point of the largest ratio of densities, of some that are drawn.

    Candidates in flight count among the worse (Optuna's constant liar). INVALID and STOPPED break a constraint of their
    own, more than any other is broken.
    """

    def __init__(self, inputs: SearchInputs, options: TpeOptions | None = None) -> None:
        """Lays out the first points."""
        self._options = options or TpeOptions()
        self._num_objectives, self._num_constraints = inputs.num_objectives, inputs.num_constraints
        free, levels = open_coordinates(inputs), inputs.box.levels
        super().__init__(
            inputs,
            axes=Axes(inputs.box.dim, levels=levels, of=free),
            num_first=self._options.startup,
            seed=int(inputs.rng.integers(2**32)),
            sequence=_Draws(inputs, self._options.spread, levels),
        )

    def _sampler(self, seed: int) -> BaseSampler:
        options = self._options
        return TPESampler(
            seed=seed,
            n_startup_trials=self._num_first,
            n_ei_candidates=options.candidates,
            multivariate=options.multivariate,
            group=options.group,
        )

    def _as_told(self, outcome: Outcome) -> tuple[Sequence[float], Sequence[float]]:
        return as_told(outcome, num_objectives=self._num_objectives, num_constraints=self._num_constraints)


class _Draws:
    """The start, if there is one, then draws around it; else uniform ones."""

    def __init__(self, inputs: SearchInputs, spread: float, levels: Mapping[int, Levels]) -> None:
        self._start = None if inputs.start is None else to_unit(inputs.box, inputs.start)
        self._rng, self._spread, self._levels, self._dim = inputs.rng, spread, levels, inputs.box.dim
        self._next = None if self._start is None else self._at_levels(self._start)

    def peek(self) -> NDArray[np.float64]:
        """Returns the next point, which stays the next."""
        if self._next is None:
            if self._start is None:
                drawn = self._rng.random(self._dim)
            else:
                drawn = near(self._start, self._spread, self._levels, self._rng)
            self._next = self._at_levels(drawn)
        return self._next

    def next(self) -> NDArray[np.float64]:
        """Returns the next point."""
        point, self._next = self.peek(), None
        return point

    def _at_levels(self, unit: NDArray[np.float64]) -> NDArray[np.float64]:
        """Moves each coordinate that is no number to the middle of its interval, as the sampler has it."""
        moved = unit.copy()
        for index, levels in self._levels.items():
            moved[index] = levels.middle(levels.at(float(unit[index])))
        return moved


PART = OptimizerPart(
    config=TpeConfig,
    make=lambda inputs, config: Tpe(inputs, config.options),
    searches=Box,
    paper="arXiv 2304.11127",
)
