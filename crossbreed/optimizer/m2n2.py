"""M2N2 (arXiv 2508.16204): genomes compete for items, mate by what they lack, and split where evolution found it good.

An archive of genomes; one child at a time. Items are resources: whoever is right where few are gets more of them, so
that a specialist lives beside generalists with better means. A parent's mate is the one that is right where the parent
is wrong. Every child is evaluated on all items, and then the least fit of the archive and the child is dropped.

The genomes themselves are elsewhere: this is written over births, and does the same for arrays and for recipes.

Shapes: K members of the archive, I items.
"""

from collections import deque
from collections.abc import Collection
from typing import Annotated, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from crossbreed.config import Config
from crossbreed.errors import InputError
from crossbreed.optimizer.budget import BudgetConfig
from crossbreed.optimizer.generation import measured
from crossbreed.optimizer.options import Options
from crossbreed.optimizer.protocol import Setting
from crossbreed.types import Birth, Cross, Outcome, Seed, Status

Floats: TypeAlias = NDArray[np.float64]

EPSILON = 1e-9
"""Keeps an item that nobody has any of from dividing by zero."""
ALIKE: Floats = np.ones(1)
"""The weight of every item, where all count alike."""
SEED_RETRIES = 3
"""How often a seed that FAILED is asked again between children: what never answers must not take half of the budget."""


class M2n2Options(Options):
    """Options of `m2n2`. The switches turn off one idea each, for ablations."""

    archive: Annotated[int, Field(ge=2)] = 15
    """Members at most. A larger one is slower at first and better in the end."""
    alpha: Annotated[float, Field(ge=0)] = 1.0
    """How hard members compete for items: 0 is an ordinary genetic algorithm, above 1 favours the rare skill more."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Children of two random seeds before fitness and attraction choose parents; the paper has up to 50."""
    mutation: Annotated[float, Field(ge=0)] = 0.0
    """Standard deviation of the noise on every child: 0.01 in the paper from scratch, none for trained models."""
    vertex_scale: Annotated[float, Field(gt=0)] | None = None
    """Factor on the seeds' deltas: 1 is the paper's. None: the best tuned scalar's, for plain experts are dominated."""
    crossover: bool = True
    """False: a child is its first parent, mutated."""
    attraction: bool = True
    """False: mates are chosen by fitness too, and are never their own: in the public code they may be, and such a child
    is a copy, mutated."""
    split: bool = True
    """False: one share of both parents along the whole chromosome."""


class M2n2Config(Config):
    """M2N2: an archive of complementary merges, for a space of genomes. The first trials are its seeds, the experts.

    Members compete for items, each of which counts as much as it does in the objectives; a `worst` counts all its tasks
    alike.
    """

    kind: Literal["m2n2"] = "m2n2"
    budget: BudgetConfig
    options: M2n2Options = M2n2Options()


class M2n2:
    """Steady state: parents are of whatever archive stands when a child is asked, so no worker ever waits.

    Only what was measured enters the archive. A seed that FAILED is asked again: as often as it takes while fewer than
    two members are known, then between children, `SEED_RETRIES` times at most. Where all were measured and two never
    come, nothing can be crossed and nothing more is asked.
    """

    in_order: ClassVar[bool] = False

    def __init__(self, setting: Setting, options: M2n2Options | None = None) -> None:
        """Starts with an empty archive.

        Raises:
            InputError: there is nothing to cross.
        """
        assert setting.genomes is not None, "build_optimizer lets no box through"
        self._options, self._rng = options or M2n2Options(), setting.rng
        if self._options.crossover and setting.genomes.num_seeds < 2:
            raise InputError(
                "optimizer `m2n2` crosses two models at least",
                expected="two experts or more",
                got=f"{setting.genomes.num_seeds}",
                where="sources.experts",
                fix="add an expert, or use `kind: cma_es` with a space of coefficients",
            )
        self._num_chromosomes = setting.genomes.num_chromosomes
        self._scale = setting.vertex_scale(self._options.vertex_scale)
        self._seeds = deque(range(setting.genomes.num_seeds))
        """Yet to be measured and not out: new ones, then those that FAILED."""
        self._num_new_seeds = len(self._seeds)
        self._retries_left = [SEED_RETRIES] * len(self._seeds)
        self._is_childs_turn = False
        self._seed_of: dict[int, int] = {}
        """Candidate number -> which seed it is."""
        self._measured_seeds: list[int] = []
        """Candidate numbers; parents of the warm-up, members of the archive or not."""
        self._numbers: list[int] = []
        self._scores_KI: Floats = np.empty((0, 0))
        """Row by row of `_numbers`; one row more than the archive has members, for the child."""
        self._num_crossed = 0
        self._weights_I: Floats = np.array(setting.item_weights) if setting.item_weights else ALIKE

    def ask(self, number: int) -> Birth | None:
        """Returns a seed while there are new ones, then children; None while fewer than two members are known."""
        if self._seeds and (self._num_new_seeds or self._too_few or not self._is_childs_turn):
            self._num_new_seeds = max(0, self._num_new_seeds - 1)
            self._is_childs_turn = True
            self._seed_of[number] = self._seeds.popleft()
            return Seed(index=self._seed_of[number], scale=self._scale)
        if self._too_few:
            return None
        self._is_childs_turn = False
        return self._cross()

    def tell(self, outcome: Outcome) -> None:
        """Lets a measured child into the archive, and drops the least fit when that is full."""
        assert outcome.items or outcome.status is not Status.OK
        if measured(outcome) is not None and np.isfinite(scores_I := np.array(outcome.items)).all():
            self._admit(outcome.number, scores_I)
            if outcome.number in self._seed_of:
                self._measured_seeds.append(outcome.number)
        elif outcome.status is Status.FAILED and outcome.number in self._seed_of:
            self._retry(self._seed_of[outcome.number])

    @property
    def parents(self) -> Collection[int]:
        """The members of the archive, and the seeds until a child is asked for that is not of the warm-up."""
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

    def _admit(self, number: int, scores_I: Floats) -> None:
        if not self._numbers:
            self._scores_KI = np.empty((self._options.archive + 1, len(scores_I)))
        self._scores_KI[len(self._numbers)] = scores_I
        self._numbers.append(number)
        if len(self._numbers) > self._options.archive:
            dropped = int(competition_fitness(self._scores_KI, self._options.alpha, self._weights_I).argmin())
            self._scores_KI[dropped] = scores_I
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
        """Two candidates: the first by fitness, its mate by attraction; in the warm-up two seeds."""
        scores_KI = self._scores_KI[: len(self._numbers)]
        if is_warmup := self._num_crossed < self._options.warmup:
            numbers, chances_K = self._measured_seeds, np.ones(len(self._measured_seeds))
        else:
            numbers, chances_K = self._numbers, competition_fitness(scores_KI, self._options.alpha, self._weights_I)
        first = self._draw(chances_K)
        if not self._options.crossover:
            return numbers[first], numbers[first]
        if self._options.attraction and not is_warmup:
            attraction_K = attraction(scores_KI, first, self._weights_I)
            chances_K = attraction_K if attraction_K.any() else chances_K
        return numbers[first], numbers[self._draw(chances_K, other_than=first)]

    def _draw(self, weights_K: Floats, other_than: int | None = None) -> int:
        """A place with a probability in proportion to its weight, or any where all weights are 0."""
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

    The capacity c_j of an item is what the archive's best has of it: 1 for right and wrong, as in the paper; an item of
    which nobody has anything feeds nobody. The weight w_j is how much the item counts in the objectives.

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
    """Scores as parts of a resource: where one is negative (less is better), from the archive's worst up.

    The paper's third experiment subtracts each item's minimum too.
    """
    worst_I = scores_KI.min(axis=0)
    return np.asarray(scores_KI - np.minimum(worst_I, 0.0)) if (worst_I < 0).any() else scores_KI
