"""The common base of spaces searched by points: each point is a recipe, independent of earlier proposals."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection

from crossbreed.search_spaces.protocol import Decoder, Genome
from crossbreed.types import Box, Point, Proposal, Recipe


class BoxSpace(ABC):
    """A search space over a box. `decode(encode(r)) == r` for recipes in the space's range."""

    @property
    @abstractmethod
    def domain(self) -> Box:
        """The box."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """A readable name for each coordinate."""

    @abstractmethod
    def decode(self, point: Point) -> Recipe:
        """Returns the recipe of a point; every point of the box has one."""

    @abstractmethod
    def encode(self, recipe: Recipe) -> Point | None:
        """Returns the nearest point of the box; None if the space cannot express the recipe."""

    @property
    def examples(self) -> tuple[Recipe, ...]:
        """The recipe in the middle of the box."""
        middle = tuple((low + high) / 2 for low, high in zip(self.domain.low, self.domain.high, strict=True))
        return (self.decode(middle),)

    def describe(self) -> str:
        """Returns the number of coordinates."""
        return f"{self.domain.dim} coordinate{'s' * (self.domain.dim != 1)}"

    def decoder(self, *, seed: int) -> Decoder:
        """Returns a decoder, which is deterministic: the seed is not used."""
        return PointDecoder(self.decode)


class PointDecoder:
    """A stateless decoder: a point determines its recipe."""

    def __init__(self, decode: Callable[[Point], Recipe]) -> None:
        self._decode = decode

    def create(self, number: int, proposal: Proposal) -> Recipe:
        """See Decoder."""
        assert isinstance(proposal, tuple), "a box is searched by points"
        return self._decode(proposal)

    def genome(self, number: int) -> Genome:
        """Always raises: the candidate of a point has a recipe."""
        raise AssertionError(f"candidate {number} is a point, and has a recipe")

    def retain(self, numbers: Collection[int]) -> None:
        """Does nothing: no state is kept."""
