"""The search-space protocol: a box whose every point decodes to a valid recipe. A space knows structure, not scores."""

from typing import Protocol

from crossbreed.types import Point, Recipe


class SearchSpace(Protocol):
    """Point <-> Recipe. `decode(encode(r)) == r` for recipes in the space's range."""

    @property
    def low(self) -> Point:
        """Lower corner of the box."""
        ...

    @property
    def high(self) -> Point:
        """Upper corner of the box."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """One readable name a coordinate, for example `layers 0-9 / mlp / french: weight`."""
        ...

    def decode(self, point: Point) -> Recipe:
        """Returns the recipe of a point; every point of the box has one."""
        ...

    def encode(self, recipe: Recipe) -> Point | None:
        """Returns the nearest point of the box to `recipe`, or None where the space cannot express it."""
        ...
