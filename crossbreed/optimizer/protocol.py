"""The optimizer protocol: outcomes in, proposals out, independent of models.

Calls are driven by the journal: replaying its asks and tells on a new optimizer with the same inputs must restore the
same state, exactly on the same processor and versions. So all randomness comes from the generator it was built with,
and nothing depends on the clock.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from crossbreed.errors import InputError
from crossbreed.types import Box, Domain, Genomes, Outcome, Point, Proposal


class CalibrationLoss(Protocol):
    """A loss over the points of a box, with its slopes: what an optimizer by gradient goes down.

    It is of search items alone, a part of which is held out: no slope is computed of them. Every method is a function
    of its arguments, so that calling it again, on the same processor and versions, gives the same bits.
    """

    @property
    def tasks(self) -> Sequence[Sequence[int]]:
        """The items of each task, by the numbers that `slopes` takes; those that are held out are not among them."""
        ...

    def slopes(self, point: Point, items: Sequence[int]) -> tuple[float, NDArray[np.float64]]:
        """Returns the loss at a point and its derivative by each coordinate.

        Args:
            point: A point of the box.
            items: Some items; of each task, the mean over those that are among them counts with the task's weight.

        Raises:
            InvalidWeights: the loss or a slope is NaN or infinite.
        """
        ...

    def held_out(self, point: Point) -> float | None:
        """Returns the loss over the items that are held out; None if there are none.

        Raises:
            InvalidWeights: it is NaN or infinite.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchInputs:
    """Everything that an optimizer is built from, besides its options."""

    domain: Domain
    """The domain to search."""
    num_objectives: int
    start: Point | None
    """The best merge among baselines and warm starts that the space can express (a single model only if no merge was
    measured), encoded; None if there is none, as always for genomes."""
    rng: np.random.Generator
    """The optimizer's own stream, spawned by name from the Spec's seed."""
    tuned_scalar: float | None = None
    """The factor s of the best global coefficient s/N on the search items; None if none was measured."""
    num_constraints: int = 0
    """Number of constraints; where there are any, OK outcomes have `excesses`."""
    item_weights: tuple[float, ...] = ()
    """The weight of each of an outcome's items in the objectives; empty: all equal."""
    calibration: CalibrationLoss | None = None
    """A loss with slopes, for an optimizer whose config asks for one (`OptimizerConfig.calibration`)."""

    @property
    def box(self) -> Box:
        """The domain, for an optimizer that searches a box; raises InputError if it is of another kind."""
        if not isinstance(self.domain, Box):
            raise _of_another_kind("a box of coordinates", "genomes")
        return self.domain

    @property
    def genomes(self) -> Genomes:
        """The domain, for an optimizer that searches genomes; raises InputError if it is of another kind."""
        if not isinstance(self.domain, Genomes):
            raise _of_another_kind("genomes", "a box of coordinates")
        return self.domain

    def expert_scale(self, chosen: float | None) -> float:
        """Returns the factor on a lone expert's delta: the one chosen in the options, or the best of the baselines.

        The papers use 1. A global factor moves the experts' hull to where the best merges are.
        """
        return chosen or self.tuned_scalar or 1.0


class Optimizer(Protocol):
    """Ask and tell. Outcomes may arrive late, in any order, or not OK; none of that may crash an optimizer."""

    in_order: ClassVar[bool]
    """Whether outcomes are told in candidate order and generations asked only once the previous one is complete: the
    trials are then the same with any number of workers."""

    def ask(self, number: int) -> Proposal | None:
        """Returns a proposal for candidate `number`, inside the domain; None: nothing to ask until outcomes arrive."""
        ...

    def tell(self, outcome: Outcome) -> None:
        """Takes the outcome of an asked candidate, once."""
        ...


@runtime_checkable
class Replayable(Optimizer, Protocol):
    """An optimizer that can take what a journal says it asked as its own, whatever it would ask on this machine.

    Linear algebra differs in the last bit between processors and versions, and from there on everything differs. An
    optimizer without this method asks anew, and goes on from its own proposals.
    """

    def replay(self, number: int, recorded: Proposal) -> Proposal | None:
        """Stands for `ask(number)` where the journal has the answer: later calls go on from the recorded proposal.

        Returns:
            What `ask` returns here, or the recorded proposal where that is not computed again. Where they are equal,
            the optimizer is in exactly the state that `ask` leaves, its random streams included. None if there is
            nothing to ask now.
        """
        ...


def replayed(optimizer: Optimizer, number: int, recorded: Proposal) -> Proposal | None:
    """Has an optimizer ask a recorded candidate again; see `Replayable.replay`."""
    if isinstance(optimizer, Replayable):
        return optimizer.replay(number, recorded)
    return optimizer.ask(number)


@runtime_checkable
class Breeder(Optimizer, Protocol):
    """An optimizer that lists the candidates to which later proposals may refer."""

    @property
    def parents(self) -> Collection[int]:
        """The numbers of these candidates; the genomes of all others may be freed."""
        ...


@runtime_checkable
class Remarking(Optimizer, Protocol):
    """An optimizer that says something of its search to people: how well its model predicts, for instance."""

    @property
    def remarks(self) -> Sequence[str]:
        """What it has said so far, one line each; a run tells each once, and writes it to log.txt."""
        ...


def check_one_objective(inputs: SearchInputs, kind: str) -> None:
    """Rejects several objectives, for an optimizer that compares candidates by one number.

    Raises:
        InputError: there are several.
    """
    if inputs.num_objectives != 1:
        raise InputError(
            f"optimizer `{kind}` supports one objective only",
            expected="one entry under `fitness.objectives`",
            got=f"{inputs.num_objectives} objectives",
            where="optimizer.kind",
            fix="use `kind: nsga2` for a Pareto front, or one objective such as `{mean: [TASKS]}`",
        )


def _of_another_kind(wanted: str, got: str) -> InputError:
    return InputError("the optimizer does not search this kind of space", expected=f"a space of {wanted}", got=f"{got}")
