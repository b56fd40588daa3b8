"""Evo-Merging's search (arXiv 2509.12951): CMA-ES over the experts' densities, then CMA-ES over their weights.

The first stage, which the paper calls denoising, has all weights at 1/N; the second has the best densities of the
first. Each stage minimises a loss with a penalty of its own, so that the best of one says nothing in the other: the
record of the best starts anew.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from crossbreed.errors import InputError
from crossbreed.optimizer.build import OptimizerConfig, OptimizerPart
from crossbreed.optimizer.cma_es import CmaEs, CmaEsOptions
from crossbreed.optimizer.feasible import ordered
from crossbreed.optimizer.generation import measured
from crossbreed.optimizer.options import Options
from crossbreed.optimizer.penalty import coordinates_of, penalised
from crossbreed.optimizer.protocol import SearchInputs, check_one_objective
from crossbreed.types import Box, Outcome, Point, Proposal

_DENOISE_SHARE = 400 / (400 + 800)
"""The first stage's share of the trials; the paper spends 400 and 800."""


class EvoMergingOptions(Options):
    """Options of `evo_merging`; the defaults are the paper's."""

    population: Annotated[int, Field(ge=4)] = 20
    """Candidates per generation. The first stage has a third of the trials, rounded to whole generations."""
    sigma0: Annotated[float, Field(gt=0)] = 0.05
    """Initial step of densities and of weights, in their own units."""
    density_penalty: Annotated[float, Field(ge=0)] = 0.05
    """Taken from the objective in the first stage: this times the mean density."""
    weight_penalty: Annotated[float, Field(ge=0)] = 0.05
    """Taken from the objective in the second stage: this times the mean magnitude of the weights."""


class EvoMergingConfig(OptimizerConfig):
    """Evo-Merging: CMA-ES over densities with equal weights, then over weights; for one objective."""

    kind: Literal["evo_merging"] = "evo_merging"
    options: EvoMergingOptions = EvoMergingOptions()

    @property
    def reads_budget(self) -> bool:
        """True: the stages share the trials."""
        return True

    @property
    def reads_violations(self) -> bool:
        """True: its penalties are on the values as they are."""
        return True

    @model_validator(mode="after")
    def _counts_trials(self) -> "EvoMergingConfig":
        if self.budget.trials is None:
            raise ValueError("`evo_merging` divides its trials between two stages: give `budget: {trials: ...}`")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """What is searched while all else stays as it is."""

    coordinates: tuple[int, ...]
    penalty: float
    trials: int
    """After so many it ends; the last goes on."""


class EvoMerging:
    """Two searches by `cma_es`, one after the other, on one box of densities and weights.

    It starts where the paper does, at densities of 1 and weights of 1/N: not at the best merge among the baselines,
    which is a candidate anyway. On a box of weights alone, the second search is all there is.
    """

    in_order: ClassVar[bool] = True

    def __init__(self, inputs: SearchInputs, options: EvoMergingOptions | None = None, *, trials: int = 1200) -> None:
        """Samples the first generation.

        Args:
            inputs: One objective, and a box whose every coordinate is a density or a weight.
            options: The defaults are the paper's.
            trials: The budget.

        Raises:
            InputError: the inputs are others, or the budget is less than a generation for each stage.
        """
        check_one_objective(inputs, "evo_merging")
        self._inputs, self._options = inputs, options or EvoMergingOptions()
        densities, weights = (coordinates_of(inputs.box, param) for param in ("density", "weight"))
        _check_coordinates(inputs.box, densities, weights)
        self._stages = _stages(densities, weights, self._options, trials)
        even = 1 / _num_experts(inputs.box, weights)
        self._point = tuple(
            min(max(even if index in weights else 1.0, low), high)
            for index, (low, high) in enumerate(zip(inputs.box.low, inputs.box.high, strict=True))
        )
        """Where everything is that the stage does not search."""
        self._best: tuple[float, Point] | None = None
        """Penalised value and coordinates of the best of the stage."""
        self._begin()

    def ask(self, number: int) -> Point | None:
        """Returns the next point of the stage, or None while outcomes are outstanding."""
        if (inner := self._current()) is None or (part := inner.ask(number)) is None:
            return None
        return self._asked(number, part, part)

    def replay(self, number: int, recorded: Proposal) -> Point | None:
        """See `Replayable`."""
        assert isinstance(recorded, tuple), "a box is searched by points"
        if (inner := self._current()) is None:
            return None
        taken = tuple(recorded[index] for index in self._stages[0].coordinates)
        own = inner.replay(number, taken)
        return None if own is None else self._asked(number, own, taken)

    def tell(self, outcome: Outcome) -> None:
        """Passes on the penalised value, and keeps the best of the stage."""
        part = self._out.pop(outcome.number)
        told = ordered(penalised(outcome, part, self._stages[0].penalty))
        if (found := measured(told)) is not None and (self._best is None or found[0] > self._best[0]):
            self._best = found[0], part
        self._inner.tell(told)

    @property
    def _is_over(self) -> bool:
        """Whether the stage has had its trials, and another follows."""
        return len(self._stages) > 1 and self._num_asked >= self._stages[0].trials

    def _current(self) -> CmaEs | None:
        """Returns the search that is asked next; None while the last outcomes of a stage are outstanding."""
        if self._is_over:
            if self._out:
                return None
            if self._best is not None:
                self._point = self._with(self._best[1])
            self._stages = self._stages[1:]
            self._begin()
        return self._inner

    def _begin(self) -> None:
        chosen, box = self._stages[0].coordinates, self._inputs.box
        low, high, start = (tuple(of[index] for index in chosen) for of in (box.low, box.high, self._point))
        width = max(top - bottom for bottom, top in zip(low, high, strict=True))
        options = CmaEsOptions(
            sigma0=min(1.0, self._options.sigma0 / width) if width else 1.0, popsize=self._options.population
        )
        inputs = SearchInputs(domain=Box(low=low, high=high), num_objectives=1, start=start, rng=self._inputs.rng)
        self._inner, self._num_asked = CmaEs(inputs, options), 0
        self._out: dict[int, Point] = {}
        """Candidate that is out -> its coordinates of the stage, as the journal has them."""
        self._best = None

    def _asked(self, number: int, part: Point, taken: Point) -> Point:
        self._num_asked += 1
        self._out[number] = taken
        return self._with(part)

    def _with(self, part: Point) -> Point:
        """Returns the point with the stage's coordinates at these values."""
        values = dict(zip(self._stages[0].coordinates, part, strict=True))
        return tuple(values.get(index, value) for index, value in enumerate(self._point))


def _stages(
    densities: tuple[int, ...], weights: tuple[int, ...], options: EvoMergingOptions, trials: int
) -> tuple[_Stage, ...]:
    """Returns the stages that have anything to search."""
    if not (densities and weights):
        alone = options.density_penalty if densities else options.weight_penalty
        return (_Stage(coordinates=densities or weights, penalty=alone, trials=trials),)
    if trials < 2 * options.population:
        raise InputError(
            "the budget is less than a generation for each of the two stages of `evo_merging`",
            expected=f"at least {2 * options.population} trials: two generations of {options.population}",
            got=f"{trials}",
            where="optimizer.budget.trials",
            fix="give more trials, or a smaller `optimizer.options.population` (4 at least)",
        )
    first = options.population * max(1, round(trials * _DENOISE_SHARE / options.population))
    return (
        _Stage(coordinates=densities, penalty=options.density_penalty, trials=first),
        _Stage(coordinates=weights, penalty=options.weight_penalty, trials=trials - first),
    )


def _num_experts(box: Box, weights: tuple[int, ...]) -> int:
    owners = {box.coordinates[index].owner for index in weights} if box.coordinates else None
    if owners is None:
        owners = {expert for block in box.weight_blocks or () for expert in block}
    return max(1, len(owners))


def _check_coordinates(box: Box, densities: tuple[int, ...], weights: tuple[int, ...]) -> None:
    others = sorted({*range(box.dim)} - {*densities, *weights})
    if others:
        found = box.coordinates[others[0]].param if box.coordinates else "a coordinate that is neither"
        raise InputError(
            "optimizer `evo_merging` searches densities, then weights, and this space has other coordinates",
            expected="`density` and `weight` alone, neither on a log scale nor as shares of a whole",
            got=f"`{found}`",
            where="space",
            fix="use `space: {kind: coefficients, operator: lora_factors}`, or another optimizer, such as `cma_es`",
        )


PART = OptimizerPart(
    config=EvoMergingConfig,
    make=lambda inputs, config: EvoMerging(inputs, config.options, trials=config.budget.trials or 0),
    searches=Box,
    paper="arXiv 2509.12951",
)
