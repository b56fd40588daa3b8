"""M2N2 (arXiv 2508.16204): an archive of genomes that compete for items and are crossed by complementary strengths.

One child at a time. Items are resources: a member that is right where few others are gets a larger share of the item,
so that a specialist stays in the archive beside generalists with better means. A parent's mate is a member that is
right where the parent is wrong. Every child is evaluated on all items, and then the least fit of the archive and the
child is dropped.

The genomes are kept elsewhere: this module handles births only, so it searches arrays and recipes alike.

Shapes: K members of the archive, I items.
"""

from collections import deque
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from crossbreed.errors import InputError
from crossbreed.optimizer.build import OptimizerConfig, OptimizerPart
from crossbreed.optimizer.feasible import off
from crossbreed.optimizer.generation import measured
from crossbreed.optimizer.options import Options
from crossbreed.optimizer.protocol import SearchInputs
from crossbreed.types import Birth, Cross, Genomes, Outcome, Proposal, Seed, Status

Floats: TypeAlias = NDArray[np.float64]

EPSILON = 1e-9
"""Avoids a division by zero where no member scores on an item."""
ALIKE: Floats = np.ones(1)
"""The weight of every item if all count equally."""
SEED_RETRIES = 3
"""Retries of a FAILED seed between children: a seed that always fails must not take half the budget."""


class M2n2Options(Options):
    """Options of `m2n2`. Each switch turns off one idea, for ablations."""

    archive: Annotated[int, Field(ge=2)] = 15
    """Maximum number of members. A larger archive is slower at first and better in the end."""
    alpha: Annotated[float, Field(ge=0)] = 1.0
    """Strength of the competition for items: 0 is an ordinary genetic algorithm, above 1 favours rare skills more."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Number of children of two random seeds before fitness and attraction choose parents; the paper uses up to 50."""
    mutation: Annotated[float, Field(ge=0)] = 0.0
    """Standard deviation of the noise on every child: in the paper 0.01 from scratch, 0 for trained models."""
    seed_scale: Annotated[float, Field(gt=0)] | None = None
    """Factor on the seeds' deltas; the paper uses 1. None: the best tuned scalar, since plain experts are dominated."""
    crossover: bool = True
    """False: a child is its first parent, mutated."""
    attraction: bool = True
    """False: mates are chosen by fitness too, but never the parent itself; the public code allows that, and the child
    is then a mutated copy."""
    split: bool = True
    """False: one share of both parents along the whole chromosome."""
    renamed: ClassVar[Mapping[str, str]] = MappingProxyType({"vertex_scale": "seed_scale"})


class M2n2Config(OptimizerConfig):
    """M2N2: an archive of complementary merges, for a space of genomes. The first trials are its seeds, the experts.

    Members compete for items. Each item counts as much as in the objectives; `worst` counts all its tasks equally.
    """

    kind: Literal["m2n2"] = "m2n2"
    options: M2n2Options = M2n2Options()

    @property
    def reads_items(self) -> bool:
        """True: members compete for items."""
        return True

    @property
    def reads_violations(self) -> bool:
        """True: members that break constraints are dropped first, and are mates alone."""
        return True


class M2n2:
    """Steady state: parents come from the archive as it is when a child is asked, so no worker ever waits.

    Only measured candidates enter the archive, of which those that break constraints leave first: a specialist that
    breaks them is a mate until then. A seed that FAILED is asked again: without limit while there are fewer
    than two members, then between children, at most `SEED_RETRIES` times. If all seeds were measured and fewer than two
    are OK, nothing can be crossed and `ask` returns None from then on.
    """

    in_order: ClassVar[bool] = False

    def __init__(self, inputs: SearchInputs, options: M2n2Options | None = None) -> None:
        """Starts with an empty archive.

        Raises:
            InputError: there is nothing to cross.
        """
        genomes = inputs.genomes
        self._options, self._rng = options or M2n2Options(), inputs.rng
        if self._options.crossover and genomes.num_seeds < 2:
            raise InputError(
                "optimizer `m2n2` crosses at least two models",
                expected="two experts or more",
                got=f"{genomes.num_seeds}",
                where="sources.experts",
                fix="add an expert, or use `kind: cma_es` with a space of coefficients",
            )
        self._num_chromosomes = genomes.num_chromosomes
        self._scale = inputs.expert_scale(self._options.seed_scale)
        self._seeds = deque(range(genomes.num_seeds))
        """Seeds to ask: new ones, then those that FAILED."""
        self._num_new_seeds = len(self._seeds)
        self._retries_left = [SEED_RETRIES] * len(self._seeds)
        self._is_turn_of_child = False
        self._seed_of: dict[int, int] = {}
        """Candidate number -> index of the seed."""
        self._measured_seeds: list[int] = []
        """Candidate numbers; the parents of the warm-up, members of the archive or not."""
        self._numbers: list[int] = []
        self._scores_KI: Floats = np.empty((0, 0))
        """One row for each of `_numbers`, and one more for the child."""
        self._off_K: Floats = np.zeros(self._options.archive + 1)
        """How far off the constraints each of `_numbers` is, all together."""
        self._num_crossed = 0
        self._weights_I: Floats = np.array(inputs.item_weights) if inputs.item_weights else ALIKE

    def ask(self, number: int) -> Birth | None:
        """Returns a seed while there are new ones, then children; None while there are fewer than two members."""
        if self._seeds and (self._num_new_seeds or self._too_few or not self._is_turn_of_child):
            self._num_new_seeds = max(0, self._num_new_seeds - 1)
            self._is_turn_of_child = True
            self._seed_of[number] = self._seeds.popleft()
            return Seed(index=self._seed_of[number], scale=self._scale)
        if self._too_few:
            return None
        self._is_turn_of_child = False
        return self._cross()

    def replay(self, number: int, recorded: Proposal) -> Birth | None:
        """Draws the birth again, for the stream, and takes the recorded one: of that, only a seed is remembered."""
        own = self.ask(number)
        if isinstance(own, Seed):
            self._seeds.appendleft(self._seed_of.pop(number))
        if isinstance(recorded, Seed):
            if recorded.index in self._seeds:
                self._seeds.remove(recorded.index)
            self._seed_of[number] = recorded.index
        return own

    def tell(self, outcome: Outcome) -> None:
        """Adds a measured child to the archive, and drops the least fit member of a full one."""
        assert outcome.items or outcome.status is not Status.OK
        if measured(outcome) is not None and np.isfinite(scores_I := np.array(outcome.items)).all():
            self._admit(outcome.number, scores_I, off(outcome))
            if outcome.number in self._seed_of:
                self._measured_seeds.append(outcome.number)
        elif outcome.status is Status.FAILED and outcome.number in self._seed_of:
            self._retry(self._seed_of[outcome.number])

    @property
    def parents(self) -> Collection[int]:
        """The members of the archive; until the warm-up is over, the seeds too."""
        warmup = self._options.warmup
        return {*self._numbers, *self._measured_seeds} if 0 < warmup >= self._num_crossed else tuple(self._numbers)

    @property
    def _too_few(self) -> bool:
        return len(self._numbers) < (2 if self._options.crossover else 1)

    def _retry(self, seed: int) -> None:
        if not self._too_few:
            self._retries_left[seed] -= 1
        if self._retries_left[seed] >= 0:
            self._seeds.append(seed)

    def _admit(self, number: int, scores_I: Floats, off: float) -> None:
        if not self._numbers:
            self._scores_KI = np.empty((self._options.archive + 1, len(scores_I)))
        self._scores_KI[len(self._numbers)] = scores_I
        self._off_K[len(self._numbers)] = off
        self._numbers.append(number)
        if len(self._numbers) > self._options.archive:
            fitness_K = competition_fitness(self._scores_KI, self._options.alpha, self._weights_I)
            dropped = int(self._off_K.argmax() if self._off_K.any() else fitness_K.argmin())
            self._scores_KI[dropped] = scores_I
            self._off_K[dropped] = off
            self._numbers[dropped] = number
            self._numbers.pop()

    def _cross(self) -> Cross:
        parents = self._pair()
        self._num_crossed += 1
        splits = self._rng.random(self._num_chromosomes) if self._options.split else np.zeros(self._num_chromosomes)
        return Cross(
            parents=parents,
            splits=tuple(splits.tolist()),
            weights=tuple(self._rng.random(self._num_chromosomes).tolist()),
            noise=self._options.mutation,
        )

    def _pair(self) -> tuple[int, int]:
        """Returns two candidates: the first by fitness, its mate by attraction; in the warm-up, two seeds."""
        scores_KI = self._scores_KI[: len(self._numbers)]
        if is_warmup := self._num_crossed < self._options.warmup:
            numbers, chances_K = self._measured_seeds, np.ones(len(self._measured_seeds))
        else:
            numbers, chances_K = self._numbers, competition_fitness(scores_KI, self._options.alpha, self._weights_I)
            off_K = self._off_K[: len(numbers)]
            if (off_K == 0).any():  # those that break constraints are mates alone, as long as others are there
                chances_K = np.where(off_K == 0, np.maximum(chances_K, EPSILON), 0.0) if off_K.any() else chances_K
        first = self._draw(chances_K)
        if not self._options.crossover:
            return numbers[first], numbers[first]
        if self._options.attraction and not is_warmup:
            attraction_K = attraction(scores_KI, first, self._weights_I)
            chances_K = attraction_K if attraction_K.any() else chances_K
        return numbers[first], numbers[self._draw(chances_K, other_than=first)]

    def _draw(self, weights_K: Floats, other_than: int | None = None) -> int:
        """Draws an index with probability proportional to its weight, or uniformly if all weights are 0."""
        weights_K = weights_K.copy()
        if other_than is not None:
            weights_K[other_than] = 0.0
        if not weights_K.any():
            weights_K[:] = 1.0
            if other_than is not None:
                weights_K[other_than] = 0.0
        return int(self._rng.choice(len(weights_K), p=weights_K / weights_K.sum()))


def competition_fitness(scores_KI: Floats, alpha: float, weights_I: Floats = ALIKE) -> Floats:
    """Returns f_i = sum_j w_j c_j s_ij / (z_j^alpha + eps), with z_j = sum_i s_ij and c_j = max_i s_ij.

    The capacity c_j of an item is the archive's best score on it: 1 for right and wrong, as in the paper, and 0 where
    no member scores. The weight w_j is how much the item counts in the objectives.

    >>> competition_fitness(np.array([[1.0, 1.0], [1.0, 0.0]]), alpha=1.0).round(3).tolist()
    [1.5, 0.5]
    """
    shares_KI = _shifted(scores_KI)
    worth_I = weights_I * shares_KI.max(axis=0) / (shares_KI.sum(axis=0) ** alpha + EPSILON)
    return np.asarray((shares_KI * worth_I).sum(axis=1))


def attraction(scores_KI: Floats, first: int, weights_I: Floats = ALIKE) -> Floats:
    """Returns g(A, B) = sum_j w_j c_j / (z_j + eps) max(s_Bj - s_Aj, 0) of one member A to every B.

    >>> attraction(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), first=0).round(3).tolist()
    [0.0, 0.0, 1.0]
    """
    shares_KI = _shifted(scores_KI)
    worth_I = weights_I * shares_KI.max(axis=0) / (shares_KI.sum(axis=0) + EPSILON)
    return np.asarray((np.maximum(shares_KI - shares_KI[first], 0.0) * worth_I).sum(axis=1))


def _shifted(scores_KI: Floats) -> Floats:
    """Returns scores as shares of a resource: if one is negative (less is better), counted from the archive's worst.

    The paper's third experiment subtracts each item's minimum too.
    """
    worst_I = scores_KI.min(axis=0)
    return np.asarray(scores_KI - np.minimum(worst_I, 0.0)) if (worst_I < 0).any() else scores_KI


PART = OptimizerPart(
    config=M2n2Config,
    make=lambda inputs, config: M2n2(inputs, config.options),
    searches=Genomes,
    paper="arXiv 2508.16204",
)
