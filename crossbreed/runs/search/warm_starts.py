"""Warm starts: recipes given by the user, read and checked for whether this run can merge them.

They are recipes of ours, configurations of mergekit, or trials of earlier runs. Sources are recognised by their content
hashes, whatever a recipe calls them.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from crossbreed.errors import InputError, each
from crossbreed.mergekit import read_config
from crossbreed.recipes import load_recipe, require_matches
from crossbreed.recipes.grammar import renamed
from crossbreed.runs.record.past_runs import recipe_of_run
from crossbreed.search_spaces import HasDistance, SearchSpace
from crossbreed.sources.structure import Structure
from crossbreed.types import REGRESSION, Box, ProposedBy, Recipe

if TYPE_CHECKING:
    from crossbreed.runs.weights import Weights

_ROUNDING = 1e-5
"""Recipes hold six decimals."""


def warm_starts(
    paths: Iterable[str], structure: Structure, weights: "Weights | None"
) -> Iterator[tuple[ProposedBy, Recipe]]:
    """Yields the recipes in some files, each with its origin.

    Raises:
        InputError: one is not a recipe, merges other sources, or has a rule that matches no tensor.
    """
    read = partial(recipe_at, structure=structure, weights=weights, what="a warm start")
    for index, recipe in enumerate(each(read, paths)):
        yield ProposedBy(kind="warm_start", index=index), recipe


def recipe_at(path: str, *, structure: Structure, weights: "Weights | None", what: str) -> Recipe:
    """Returns the recipe of a file or of a run, over the spec's own sources; raises as `warm_starts`."""
    recipe = _under_our_names(recipe_of_run(path) or _read(Path(path), weights), structure.hashes)
    require_sources(recipe, structure, what=what, where=path)
    return recipe


def _read(path: Path, weights: "Weights | None") -> Recipe:
    config = read_config(path)
    if config is None:
        return load_recipe(path)
    if weights is None:
        raise InputError(
            "a configuration of mergekit names folders of weights, and the engine of this spec takes recipes",
            expected="a recipe",
            where=str(path),
            fix="write one over the names of the service's sources: docs/recipe.md",
        )
    return weights.recipe_of(config)


def _under_our_names(recipe: Recipe, hashes: Mapping[str, str]) -> Recipe:
    """Returns the recipe with the names that the spec gives to the same sources."""
    ours = {hash_: name for name, hash_ in hashes.items()}
    names = {name: ours.get(hash_, name) for name, hash_ in recipe.sources.items()}
    if len(set(names.values())) < len(names):
        return recipe
    rules = (
        replace(
            rule,
            params={
                key: renamed(value, names) if isinstance(value, Mapping) else value
                for key, value in rule.params.items()
            },
        )
        for rule in recipe.rules
    )
    sources = {names[name]: hash_ for name, hash_ in recipe.sources.items()}
    layers = tuple((names[source], number, scale) for source, number, scale in recipe.layers)
    return replace(recipe, base=names[recipe.base], sources=sources, rules=tuple(rules), layers=layers)


def require_sources(recipe: Recipe, structure: Structure, *, what: str, where: str) -> None:
    """Checks that a recipe merges exactly the spec's sources.

    Args:
        recipe: The recipe.
        structure: The structure of the sources.
        what: The name of the recipe in the message.
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
            fix=_with_made(recipe, structure),
        )
    require_matches(recipe, structure.tensors, where=where)


def _with_made(recipe: Recipe, structure: Structure) -> str:
    """Returns how to merge a recipe that names what another run has made; empty if it names nothing of that kind."""
    made = recipe.sources.get(REGRESSION)
    if made is None or made in structure.hashes.values():
        return ""
    return (
        f"`{REGRESSION}` was made by the run that bred the recipe: add it to `sources.experts` under any other name, "
        f"as the folder artifacts/{REGRESSION}-{made} in that run's folder"
    )


def place_of(recipe: Recipe, space: SearchSpace) -> str:
    """Returns where a warm start lies, seen from a space, in words."""
    if not isinstance(space.domain, Box):
        return "compared only: this search breeds from the experts"
    if space.encode(recipe) is None:
        return "the space has no point near it: it is compared, and the search starts at another merge"
    found = space.distance(recipe) if isinstance(space, HasDistance) else None
    if found is None:
        return "the search may start at the space's nearest point"
    if found < _ROUNDING:
        return "in the space"
    return f"outside of the space: at the nearest point, a weight differs by up to {found:.3g}"


def check_warm_starts(
    recipes: Mapping[str, Recipe], weights: "Weights | None", *, are_complete: bool, most_layers: int | None
) -> None:
    """Checks early, not after the baselines, that the workers of this run can merge the recipes.

    Args:
        recipes: File -> recipe.
        weights: The run's weights, if its engine takes weights.
        are_complete: Whether the spec's artifacts have been made, so that their hashes are known.
        most_layers: The most layers of a candidate; None: all have the base's layers.

    Raises:
        InputError: a recipe has artifacts that the run does not have, too many layers, or cannot be merged.
    """
    ours = weights.artifact_hashes if weights else {}
    for path, recipe in recipes.items():
        if len(recipe.layers) > (most_layers or 0):
            raise InputError(
                "a warm start has layers of its own, and the engine's model has no room for them",
                expected=f"at most {most_layers} layers" if most_layers else "the base's layers, without `layers`",
                got=f"{len(recipe.layers)} layers",
                where=path,
                fix="search a space of such recipes with a larger `max_depth` (docs/layer_paths.md), or remove it",
            )
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
