r"""Patterns that a person can read for sets of tensors: `model\.layers\.(0|1)\.mlp\..*` and not the names of all."""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence

from crossbreed.sources.naming import place_of


def patterns_of(parts: Sequence[Collection[str]]) -> list[tuple[int, str]]:
    r"""Returns a pattern for each part of a model's tensors, with the part's number, in the order of a recipe's rules.

    The first pattern that matches a name is its part's; the last, for the largest part, matches every name.

    >>> patterns_of([["model.layers.0.mlp.up.weight", "model.layers.1.mlp.up.weight"], ["lm_head.weight"]])
    [(1, 'lm_head\\.weight'), (0, '.*')]
    """
    largest = max(range(len(parts)), key=lambda number: len(parts[number]), default=0)
    whole = [name for part in parts for name in part]
    rest = [(number, _pattern(set(part), whole)) for number, part in enumerate(parts) if number != largest]
    return [*rest, (largest, ".*")] if parts else []


def _pattern(part: Collection[str], whole: Iterable[str]) -> str:
    """Returns a pattern that matches `part` and nothing else of `whole`."""
    layers: dict[tuple[str, int], dict[str, bool]] = {}
    alternatives = []
    for name in sorted(whole):
        place = place_of(name)
        if place.stack is not None and place.layer is not None:
            layers.setdefault((place.stack, place.layer), {})[place.within] = name in part
        elif name in part:
            alternatives.append(re.escape(name))
    alike: dict[tuple[str, str], list[int]] = {}
    for (stack, layer), members in sorted(layers.items()):
        if any(members.values()):
            alike.setdefault((stack, _any(_inside(members))), []).append(layer)
    for (stack, inside), numbers in alike.items():
        every = numbers == sorted(layer for other, layer in layers if other == stack)
        which = r"\d+" if every else _any(map(str, numbers))
        alternatives.append(rf"{re.escape(stack)}\.{which}\.{inside}")
    return "|".join(alternatives)


def _inside(members: dict[str, bool]) -> Iterator[str]:
    """Yields patterns for the tensors in a layer that are members: all, whole modules, or single names."""
    if all(members.values()):
        yield ".*"
        return
    modules: dict[str, list[str]] = {}
    for name in members:
        modules.setdefault(name.partition(".")[0], []).append(name)
    for module, names in modules.items():
        if all(members[name] for name in names) and len(names) > 1:
            yield rf"{re.escape(module)}\..*"
        else:
            yield from (re.escape(name) for name in names if members[name])


def _any(alternatives: Iterable[str]) -> str:
    distinct = list(dict.fromkeys(alternatives))
    return distinct[0] if len(distinct) == 1 else f"({'|'.join(distinct)})"
