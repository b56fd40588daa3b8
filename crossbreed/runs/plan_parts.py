"""Parts of a plan that services and evaluations need too: what an engine says of its sources, the splits of tasks."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from crossbreed.errors import Collector, InputError, first_line
from crossbreed.fitness import (
    AnyItems,
    RecipeEngineConfig,
    Split,
    SplitConfig,
    Task,
    check_disjoint,
    own_split,
    questions_of,
    split_items,
)
from crossbreed.search_spaces import SearchSpace
from crossbreed.sources import Structure
from crossbreed.types import Box, Recipe, SplitName


def described_sources(engine: RecipeEngineConfig, base: str, experts: Mapping[str, str]) -> Structure:
    """Returns what an engine of recipes says of its sources, held to the rules for a service's JSON.

    Raises:
        InputError: it is no description; the message names what is wrong.
    """
    where = f"engine `{engine.kind}`, describe_sources"
    found: object = engine.describe_sources(base, experts)
    try:
        if isinstance(found, Structure):
            return Structure.from_json(found.to_json(), where=where)
        got = type(found).__name__
    except (AttributeError, KeyError, TypeError) as error:
        got = f"one of which a part is missing or of a wrong type: {type(error).__name__}: {first_line(error)}"
    raise InputError("an engine does not describe its sources", expected="a Structure", got=got, where=where)


def recipes_of(space: SearchSpace) -> Iterator[Recipe]:
    """Yields examples of a space, and the recipes at both ends of its box, with the smallest and largest numbers."""
    yield from space.examples
    if isinstance(domain := space.domain, Box):
        decoder = space.decoder(seed=0)
        found = (decoder.create(number, point) for number, point in enumerate((domain.low, domain.high)))
        yield from (recipe for recipe in found if recipe is not None)


def split_tasks(
    tasks: Sequence[Task], config: SplitConfig, *, seed: int, where: str = "fitness.split"
) -> dict[SplitName, dict[str, AnyItems]]:
    """Splits every task's items, but for those that their provider has split; returns split -> task -> items.

    Args:
        tasks: The tasks.
        config: The items of each split.
        seed: Of the spec.
        where: The key of the split, for messages.
    """
    splits, mistakes = dict[str, Split](), Collector()
    for task in tasks:
        with mistakes.noted():
            splits[task.name] = own_split(task) or split_items(
                task.items, config, seed=seed, task=task.name, stratify=task.kind.stratify, where=where
            )
    with mistakes.noted():
        check_disjoint(splits, {task.name: partial(questions_of, task) for task in tasks})
    mistakes.require_none()
    return {
        "search": {name: split.search for name, split in splits.items()},
        "select": {name: split.select for name, split in splits.items()},
        "report": {name: split.report for name, split in splits.items()},
    }
