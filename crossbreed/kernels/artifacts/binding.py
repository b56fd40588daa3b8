"""Which artifacts a recipe names: found by content hash, and of the kind that the name stands for."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from crossbreed.errors import InputError
from crossbreed.kernels.artifacts.files import Artifact
from crossbreed.kernels.artifacts.input_grams import InputGrams
from crossbreed.kernels.artifacts.walk_statistics import WalkStatistics
from crossbreed.types import Recipe

KINDS: Mapping[str, type[Artifact]] = {kind.name: kind for kind in (InputGrams, WalkStatistics)}
"""What a recipe calls an artifact -> what it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The artifacts of a recipe, opened."""

    grams: InputGrams | None = None
    """Of the experts' inputs; None: the recipe names none."""
    statistics: WalkStatistics | None = None
    """Of a regression's walk; None: the recipe names none."""

    @property
    def key(self) -> tuple[str, ...]:
        """Their content hashes."""
        return tuple("" if held is None else held.hash for held in (self.grams, self.statistics))


def bind_artifacts(recipe: Recipe, artifacts: Collection[Artifact]) -> Bound:
    """Returns the artifacts that a recipe names, found by hash.

    Raises:
        InputError: an artifact of the recipe was not opened.
    """
    opened = {artifact.hash: artifact for artifact in artifacts}
    for name, wanted in recipe.artifacts.items():
        if wanted not in opened:
            raise InputError(
                f"the recipe's artifact `{name}` is not among those that were opened",
                expected=f"content hash {wanted}",
                got=", ".join(f"{artifact.hash} {artifact.where}" for artifact in artifacts) or "none",
                where=f"recipe {recipe.id}",
                fix="open the files that the recipe was made with, unchanged since",
            )
    found = {name: opened[wanted] for name, wanted in recipe.artifacts.items()}
    grams, statistics = found.get(InputGrams.name), found.get(WalkStatistics.name)
    return Bound(
        grams=grams if isinstance(grams, InputGrams) else None,
        statistics=statistics if isinstance(statistics, WalkStatistics) else None,
    )
