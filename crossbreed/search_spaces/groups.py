"""Groups of tensors that share coordinates: bands of layers x module types, and one `rest`.

A group becomes one rule of a recipe, so it also needs a regular expression: exact over the base's tensors, and as
readable as exactness allows.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field

from crossbreed.config import Config
from crossbreed.errors import InputError
from crossbreed.parsing import any_of
from crossbreed.sources.naming import (
    STACKS,
    ModuleType,
    layer_of,
    module_of,
    names_pattern,
    numbered_lists,
    place_of,
)
from crossbreed.sources.structure import Structure


class GroupsConfig(Config):
    """The groups of tensors that share coefficients. Empty: the whole model is one group."""

    layers: Annotated[int, Field(ge=1)] | Literal["each"] | None = None
    """Number of bands of consecutive layers, as equal as possible; `each`: one per layer; None: no bands."""
    modules: tuple[ModuleType, ...] = ()
    """Module types with their own coefficients; all others share one group, `rest`. Empty: no division by module.
    `check` prints the groups; docs/sources.md says what is of which type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Tensors with the same coefficients."""

    label: str
    """A readable name, for example `layers 0-9 / mlp`."""
    match: str
    """Regular expression that is exact over the base's tensors; `.*` for a last group that takes all the rest."""
    tensors: tuple[str, ...]
    """Its tensors that some expert changes."""
    experts: tuple[str, ...]
    """The experts that change some tensor of the group: the others have no coordinate in it."""


def make_groups(config: GroupsConfig, structure: Structure) -> tuple[Group, ...]:
    """Returns the groups that some expert changes, ordered by bands, then modules, `rest` last.

    Raises:
        InputError: there are more bands than layers, a module type that the base does not have, or no delta at all.
    """
    bands = _bands(config.layers, structure)
    members: dict[str, list[str]] = {label: [] for label in _labels(config, bands)}
    for name in structure.tensors:
        members[_label(name, config, bands)].append(name)
    for module in config.modules:
        if not any(module_of(name) is module for name in structure.tensors):
            raise InputError(
                f"the base has no tensor of module type `{module}`",
                expected=", ".join(sorted({module_of(name) for name in structure.tensors})),
                got=str(module),
                where="space.groups.modules",
            )
    touched = structure.touched_by_any
    groups: list[Group] = []
    unclaimed = set(structure.tensors)
    for label, names in members.items():
        if changed := tuple(name for name in names if name in touched):
            match = ".*" if unclaimed <= set(names) else pattern_of(changed, frozenset(names), structure.tensors)
            experts = tuple(e for e, theirs in structure.touched.items() if not theirs.isdisjoint(changed))
            groups.append(Group(label=label, match=match, tensors=changed, experts=experts))
            unclaimed -= set(names)
    if not groups:
        raise InputError(
            "there is nothing to search: no expert differs from the base",
            expected="at least one expert with a non-zero delta",
            got=f"{', '.join(structure.experts)}: equal to the base in every tensor",
            where="sources.experts",
        )
    return tuple(groups)


def _bands(layers: int | str | None, structure: Structure) -> dict[int, str]:
    """Returns layer -> label of its band."""
    if layers is None:
        return {}
    num_layers = structure.num_layers
    num_bands = num_layers if layers == "each" else int(layers)
    if num_layers == 0:
        lists = ", ".join(f"{name} ({length})" for name, length in numbered_lists(structure.tensors).items())
        raise InputError(
            "the base has no layers under a name that is known here",
            expected=f"a list of layers named {any_of(STACKS)}",
            got=f"numbered lists: {lists or 'none'}",
            where="space.groups.layers",
            fix="leave out `layers`",
        )
    if num_bands > num_layers:
        raise InputError(
            "there are more bands than layers",
            expected=f"at most {num_layers}, the layers of the base",
            got=str(layers),
            where="space.groups.layers",
        )
    edges = [band * num_layers // num_bands for band in range(num_bands + 1)]
    return {
        layer: f"layer {low}" if high - low == 1 else f"layers {low}-{high - 1}"
        for low, high in pairwise(edges)
        for layer in range(low, high)
    }


def _labels(config: GroupsConfig, bands: dict[int, str]) -> Iterator[str]:
    """Yields every label that `_label` can return, in the order of the recipe's rules."""
    for band in dict.fromkeys(bands.values()):
        yield from (f"{band} / {module}" for module in config.modules) if config.modules else (band,)
    yield from map(str, config.modules)
    yield "rest" if bands or config.modules else "all"


def _label(name: str, config: GroupsConfig, bands: dict[int, str]) -> str:
    band, module = bands.get(-1 if (layer := layer_of(name)) is None else layer), module_of(name)
    if module in config.modules:
        return f"{band} / {module}" if band else str(module)
    if band and not config.modules:
        return band
    return "rest" if bands or config.modules else "all"


def pattern_of(names: Sequence[str], members: frozenset[str], tensors: Collection[str]) -> str:
    """Returns the most readable pattern that matches all of `names` and nothing outside `members`."""
    candidates = (*_layer_patterns(names, tensors), names_pattern(names))
    return next(p for p in candidates if set(names) <= set(filter(re.compile(p).fullmatch, tensors)) <= members)


def _layer_patterns(names: Sequence[str], tensors: Collection[str]) -> Iterator[str]:
    r"""Yields patterns over blocks, from `model\.layers\.(0|1)\..*` to one that lists the names within a layer."""
    layers = _layers(names)
    places = [place for name in names if (place := place_of(name)).layer is not None]
    outside = [name for name in names if layer_of(name) is None]
    if not places:
        return
    stack = _any(re.escape(place.stack or "") for place in places)
    which = r"\d+" if layers == _layers(tensors) else _any(map(str, layers))
    modules = (r".*", rf"{_any(re.escape(place.within.partition('.')[0]) for place in places)}\..*")
    for inside in (*modules, _any(re.escape(place.within) for place in places)):
        yield "|".join([rf"{stack}\.{which}\.{inside}", *map(re.escape, outside)])


def _layers(names: Collection[str]) -> list[int]:
    return sorted({layer for name in names if (layer := layer_of(name)) is not None})


def _any(alternatives: Iterable[str]) -> str:
    distinct = list(dict.fromkeys(alternatives))
    return distinct[0] if len(distinct) == 1 else f"({'|'.join(distinct)})"
