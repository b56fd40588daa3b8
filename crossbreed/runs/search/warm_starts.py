"""Warm starts: recipes given by the user, read and checked for whether this run can merge them."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from crossbreed.errors import InputError
from crossbreed.recipes import load_recipe, require_matches
from crossbreed.sources.structure import Structure
from crossbreed.types import ProposedBy, Recipe

if TYPE_CHECKING:
    from crossbreed.runs.weights import Weights


def warm_starts(paths: Iterable[str], structure: Structure) -> Iterator[tuple[ProposedBy, Recipe]]:
    """Yields the recipes in some files, each with its origin.

    Raises:
        InputError: one is not a recipe, merges other sources, or has a rule that matches no tensor.
    """
    for index, path in enumerate(paths):
        recipe = load_recipe(Path(path))
        require_sources(recipe, structure, what="a warm start", where=path)
        yield ProposedBy(kind="warm_start", index=index), recipe


def require_sources(recipe: Recipe, structure: Structure, *, what: str, where: str) -> None:
    """Refuses a recipe that a spec's sources cannot answer for.

    Args:
        recipe: The recipe.
        structure: Of the sources.
        what: What the recipe is called in the message.
        where: Its file, or the argument that it comes by.

    Raises:
        InputError: it merges other sources, or has a rule that fits no tensor.
    """
    if dict(recipe.sources) != dict(structure.hashes):
        raise InputError(
            f"{what} merges other sources than this spec",
            expected=_listed(structure.hashes),
            got=_listed(recipe.sources),
            where=where,
        )
    require_matches(recipe, structure.tensors, where=where)


def check_warm_starts(recipes: Mapping[str, Recipe], weights: "Weights | None", *, are_complete: bool) -> None:
    """Checks early, not after the baselines, that the workers of this run can merge the recipes.

    Args:
        recipes: File -> recipe.
        weights: The run's weights, if its engine takes weights.
        are_complete: Whether the spec's artifacts have been made, so that their hashes are known.

    Raises:
        InputError: a recipe has artifacts that the run does not have, or cannot be merged.
    """
    ours = weights.artifact_hashes if weights else {}
    for path, recipe in recipes.items():
        if recipe.artifacts and not are_complete:
            continue
        if not recipe.artifacts.items() <= ours.items():
            raise InputError(
                "a warm start needs artifacts that this run does not have",
                expected=_listed(ours),
                got=_listed(recipe.artifacts),
                where=path,
                fix="use the `artifacts`, tasks, items and seed of the run that bred the recipe, or remove it",
            )
        if weights:
            weights.check(recipe)


def _listed(hashes: Mapping[str, str]) -> str:
    """Returns whole hashes as a recipe's YAML has them, ready to paste; of many, the first."""
    return "{" + ", ".join(f"{json.dumps(name)}: {hash_}" for name, hash_ in [*hashes.items()][:6]) + "}"
