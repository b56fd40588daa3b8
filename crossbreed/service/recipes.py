"""A stranger's recipe, held to the provider's limits before anything is made of it.

Sources are known names with their own hashes, never places. Sizes are checked on the raw value, before it is parsed;
patterns are of a dialect that matches in linear time (`crossbreed.patterns`), and here also compiles in linear memory.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from crossbreed.errors import InputError
from crossbreed.fitness import wire
from crossbreed.parsing import any_of, shown
from crossbreed.recipes import parse_recipe
from crossbreed.recipes.operators import OPERATOR_SPECS, OPERATORS, OperatorSpec
from crossbreed.runs.spec.serve import RecipeLimits
from crossbreed.service.refusals import Refusal
from crossbreed.sources import Structure
from crossbreed.types import BASE, ParamValue, Recipe

_GROWS = re.compile(r"\{|\(\?(?!:)|\\[wWDSpPbB]")
"""A few characters of a pattern that stand for thousands of states: counts, flags, classes of all of Unicode."""
_WIDE = re.compile(r"\\[ds]|\[:?\^|\.|[^\x00-\x7f]")
_MOST_WIDE, _MOST_WIDE_TOGETHER = 64, 8000
"""Of parts that stand for many states, in one pattern and in a recipe: compiling that many takes half a second."""


_SEED = "seed"
"""A parameter of which any number is as good as any other."""
_LARGEST_COEFFICIENT = 10.0
"""Parameters that an operator's own default or search takes beyond it are no coefficients, but steps or times."""


def own_range(spec: OperatorSpec, name: str) -> tuple[float, float] | None:
    """Returns the smallest and largest value of a parameter that is no coefficient; None of all others.

    >>> own_range(OPERATOR_SPECS["swudi"], "time"), own_range(OPERATOR_SPECS["swudi"], "scale")
    ((10.0, 10000.0), None)
    """
    param = spec.param(name)
    if param is None or isinstance(param.default, bool | str):
        return None
    if name == _SEED:
        return param.at_least, param.at_most
    low, high = param.search or (param.default, param.default)
    low, high = min(low, param.default), max(high, param.default)
    return (low, high) if max(-low, high) > _LARGEST_COEFFICIENT else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeRules:
    """What recipes of a service may be."""

    limits: RecipeLimits
    hashes: Mapping[str, str]
    """Source name -> content hash."""

    @property
    def operators(self) -> tuple[str, ...]:
        """The operators that rules may name."""
        return tuple(OPERATORS) if self.limits.operators is None else self.limits.operators

    @property
    def told(self) -> wire.Limits:
        """The limits, as clients are told."""
        named = ((OPERATOR_SPECS[operator], operator) for operator in self.operators)
        own = {f"{name}.{param.name}": own_range(spec, param.name) for spec, name in named for param in spec.params}
        return wire.Limits(
            operators=self.operators,
            coefficients=self.limits.coefficients,
            rules=self.limits.rules,
            ranges={name: found for name, found in own.items() if found is not None},
        )

    def parse(self, raw: Mapping[str, Any]) -> Recipe:
        """Returns a stranger's recipe.

        Raises:
            Refusal: it is none, or beyond the limits.
        """
        self._check_size(raw)
        self._check_sources(raw)
        try:
            recipe = parse_recipe(raw)
        except InputError as error:
            raise _refused("; ".join(line.strip() for line in str(error).splitlines())) from None
        operators = self.operators
        for index, rule in enumerate(recipe.rules):
            where = f"rules[{index}]"
            if rule.operator not in operators:
                raise _refused(
                    f"{where}: this service does not merge with `{rule.operator}`; it has {any_of(operators)}"
                )
            if needed := OPERATOR_SPECS[rule.operator].needs(rule.params):
                raise _refused(
                    f"{where}: with these parameters `{rule.operator}` needs {needed}, and this service has none"
                )
            for name, value in rule.params.items():
                self._check_numbers(OPERATOR_SPECS[rule.operator], name, value, where)
        return recipe

    def _check_numbers(self, spec: OperatorSpec, param: str, value: ParamValue, where: str) -> None:
        low, high = own_range(spec, param) or self.limits.coefficients
        for name, number in _numbers(param, value):
            if not low <= number <= high:
                raise _refused(f"{where}: `{name}` must be from {low:g} to {high:g} here, got {number:g}")

    def _check_size(self, raw: Mapping[str, Any]) -> None:
        rules, sources, artifacts = raw.get("rules"), raw.get("sources"), raw.get("artifacts")
        if isinstance(rules, list):
            if len(rules) > self.limits.rules:
                raise _refused(f"a recipe has at most {self.limits.rules} rules here, got {len(rules)}")
            patterns = [
                rule["match"] for rule in rules if isinstance(rule, dict) and isinstance(rule.get("match"), str)
            ]
            if (total := sum(map(len, patterns))) > self.limits.pattern_characters:
                raise _refused(
                    f"a recipe's patterns have at most {self.limits.pattern_characters} characters here, got {total}"
                )
            if sum(map(_check_pattern, dict.fromkeys(patterns))) > _MOST_WIDE_TOGETHER:
                raise _refused(f"a recipe's patterns have more than {_MOST_WIDE_TOGETHER} of {_WIDE_NAMES}")
        if isinstance(sources, dict) and len(sources) > len(self.hashes):
            raise _refused(f"this service has {len(self.hashes)} sources, got {len(sources)}")
        if artifacts:
            raise _refused("this service has no artifacts: leave out `artifacts`")
        if raw.get("layers"):
            raise _refused("this service merges the base's own layers in their order: leave out `layers`")

    def _check_sources(self, raw: Mapping[str, Any]) -> None:
        base, sources = raw.get("base"), raw.get("sources")
        if base is not None and base != BASE:
            raise _refused(f"the base is called `{BASE}` here, got {shown(base)}")
        for name, content in sources.items() if isinstance(sources, dict) else ():
            if name not in self.hashes:
                raise _refused(f"there is no source {shown(name)}; there are {any_of(self.hashes)}")
            if content != self.hashes[name]:
                expected = f"expected {self.hashes[name]}, got {shown(content)}"
                raise _refused(f"`{name}` is not the model that the recipe was made for: {expected}")


def rules_of(limits: RecipeLimits, structure: Structure) -> RecipeRules:
    """Returns what recipes of these sources may be."""
    return RecipeRules(limits=limits, hashes=structure.hashes)


def _check_pattern(pattern: str) -> int:
    """Returns how many parts of a pattern stand for many states; raises Refusal for one that is beyond limits."""
    if found := _GROWS.search(pattern):
        raise _refused(
            f"a pattern has `{found[0]}`, which this service does not compile: write `+` or `*` for counts, and "
            "classes such as [a-z_0-9]"
        )
    if (num_wide := len(_WIDE.findall(pattern))) > _MOST_WIDE:
        raise _refused(f"a pattern has more than {_MOST_WIDE} of {_WIDE_NAMES}")
    return num_wide


_WIDE_NAMES = "`.`, `\\d`, `\\s`, `[^...]` and characters beyond ASCII"


def _numbers(name: str, value: ParamValue) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for source, found in value.items():
            yield from ((f"{name}.{source}", one) for one in (found if isinstance(found, tuple) else (found,)))
    elif not isinstance(value, bool | str):
        yield name, value


def _refused(message: str) -> Refusal:
    return Refusal(400, message, code=wire.RECIPE_REFUSED, param="recipe")
