"""Where births become genomes. Kept are those that may yet be crossed or evaluated: births make any of them again."""

from collections.abc import Collection

from crossbreed.randomness import spawn
from crossbreed.search_spaces import Genome, GenomeSpace
from crossbreed.types import Birth, Recipe, Seed


class Nursery:
    """The genomes of a run, by candidate number."""

    def __init__(self, space: GenomeSpace, *, seed: int) -> None:
        """Holds none.

        Args:
            space: Knows how to cross.
            seed: The Spec's; the noise of each child is spawned from it by number, so that it depends on nothing else.
        """
        self._space, self._seed = space, seed
        self._genomes: dict[int, Genome] = {}

    def bear(self, number: int, birth: Birth) -> Recipe | None:
        """Makes and keeps the genome of a candidate, and returns its recipe, if it has one."""
        if isinstance(birth, Seed):
            genome = self._space.seed(birth.index, birth.scale)
        else:
            a, b = (self.genome(parent) for parent in birth.parents)
            genome = self._space.cross(a, b, birth.splits, birth.weights)
            if birth.noise:
                genome = self._space.perturb(genome, birth.noise, spawn(self._seed, "noise", str(number)))
        self._genomes[number] = genome
        return self._space.decode(genome)

    def genome(self, number: int) -> Genome:
        """Returns the genome of a candidate that has not been let go."""
        assert number in self._genomes, f"the genome of candidate {number} was let go, or never made"
        return self._genomes[number]

    def keep(self, numbers: Collection[int]) -> None:
        """Lets all others go."""
        for number in self._genomes.keys() - numbers:
            del self._genomes[number]
