"""The common base of spaces searched by births: genomes are crossed, perturbed, and decoded into recipes.

The journal records births, not genomes; replaying a birth restores its genome.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection

import numpy as np

from crossbreed.randomness import spawn
from crossbreed.search_spaces.protocol import Decoder, Genome
from crossbreed.types import Genomes, Point, Proposal, Recipe, Seed


class GenomeSpace(ABC):
    """A search space over genomes. Its methods are pure: equal arguments give equal genomes."""

    @property
    @abstractmethod
    def num_seeds(self) -> int:
        """The number of genomes to start from."""

    @property
    @abstractmethod
    def chromosomes(self) -> tuple[str, ...]:
        """A readable name for each part of a genome that is split and mixed separately."""

    @abstractmethod
    def seed(self, index: int, scale: float) -> Genome:
        """Returns a genome to start from; `scale` is a factor on its delta, if there is a base."""

    @abstractmethod
    def cross(self, a: Genome, b: Genome, splits: tuple[float, ...], weights: tuple[float, ...]) -> Genome:
        """Returns the child: SLERP from `a` to `b` at w before each chromosome's split, at 1 - w after it."""

    @abstractmethod
    def perturb(self, genome: Genome, std: float, rng: np.random.Generator) -> Genome:
        """Returns the genome with added normal noise."""

    @abstractmethod
    def decode(self, genome: Genome) -> Recipe | None:
        """Returns the recipe of a genome; None if the genome itself is evaluated."""

    @property
    def domain(self) -> Genomes:
        """The number of seeds and chromosomes."""
        return Genomes(num_seeds=self.num_seeds, num_chromosomes=len(self.chromosomes))

    @property
    def names(self) -> tuple[str, ...]:
        """Empty: a birth has no coordinates."""
        return ()

    @property
    def examples(self) -> tuple[Recipe, ...]:
        """The first seed, if it has a recipe."""
        recipe = self.decode(self.seed(0, 1.0))
        return () if recipe is None else (recipe,)

    def describe(self) -> str:
        """Returns the names of the chromosomes."""
        return f"chromosomes: {', '.join(self.chromosomes)}"

    def decoder(self, *, seed: int) -> Decoder:
        """Returns an empty store."""
        return GenomeStore(self, seed=seed)

    def encode(self, recipe: Recipe) -> Point | None:
        """Returns None: there are no points."""
        return None


class GenomeStore:
    """The genomes of a run by candidate number: those that may still be crossed or evaluated."""

    def __init__(self, space: GenomeSpace, *, seed: int) -> None:
        """Starts empty.

        Args:
            space: The space that crosses, perturbs and decodes.
            seed: The run's seed. Each child's noise is spawned from it by number, and so depends on nothing else.
        """
        self._space, self._seed = space, seed
        self._genomes: dict[int, Genome] = {}

    def create(self, number: int, proposal: Proposal) -> Recipe | None:
        """Makes and stores the genome of a candidate, and returns its recipe, if it has one."""
        assert not isinstance(proposal, tuple), "genomes are searched by births"
        if isinstance(proposal, Seed):
            genome = self._space.seed(proposal.index, proposal.scale)
        else:
            a, b = (self.genome(parent) for parent in proposal.parents)
            genome = self._space.cross(a, b, proposal.splits, proposal.weights)
            if proposal.noise:
                genome = self._space.perturb(genome, proposal.noise, spawn(self._seed, "noise", str(number)))
        self._genomes[number] = genome
        return self._space.decode(genome)

    def genome(self, number: int) -> Genome:
        """Returns the genome of a candidate that was created and not freed."""
        assert number in self._genomes, f"the genome of candidate {number} was freed, or never made"
        return self._genomes[number]

    def retain(self, numbers: Collection[int]) -> None:
        """Frees all other genomes."""
        for number in self._genomes.keys() - numbers:
            del self._genomes[number]
