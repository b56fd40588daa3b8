"""A recipe held to the limits that a service tells, before the first is sent: the service has the last word."""

from collections.abc import Iterator, Mapping

from crossbreed.errors import InputError
from crossbreed.fitness import wire
from crossbreed.parsing import any_of
from crossbreed.types import ParamValue, Recipe


def require_within(recipe: Recipe, limits: wire.Limits, *, where: str) -> None:
    """Raises InputError for the first operator or number of a recipe that the service would refuse.

    Args:
        recipe: A recipe that a run would send.
        limits: What the service says.
        where: Its address.
    """
    if len(recipe.rules) > limits.rules:
        raise _beyond(f"{limits.rules} rules", f"{len(recipe.rules)} rules", "make fewer groups: `space.groups`", where)
    for rule in recipe.rules:
        if rule.operator not in limits.operators:
            fix = "search with one of those, or ask the provider for it (`serve.limits.operators`)"
            raise _beyond(f"the operator {any_of(limits.operators)}", f"`{rule.operator}`", fix, where)
        for param, value in rule.params.items():
            low, high = limits.ranges.get(f"{rule.operator}.{param}", limits.coefficients)
            for number in _numbers(value):
                if not low <= number <= high:
                    fix = f"search `{param}` within these, or ask the provider for more (`serve.limits.coefficients`)"
                    raise _beyond(f"`{param}` from {low:g} to {high:g}", f"{number:g}", fix, where)


def _numbers(value: ParamValue) -> Iterator[float]:
    if isinstance(value, Mapping):
        for found in value.values():
            yield from found if isinstance(found, tuple) else (found,)
    elif not isinstance(value, bool | str):
        yield value


def _beyond(expected: str, got: str, fix: str, where: str) -> InputError:
    return InputError("the service does not take recipes of this run", expected=expected, got=got, where=where, fix=fix)
