"""A recipe as a table, for plots and model cards: a row per group of tensors, columns for its parameters."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from crossbreed.recipes.grammar import rule_matcher
from crossbreed.recipes.layers import layers_text
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.sources.naming import layer_of, module_of
from crossbreed.sources.structure import Structure
from crossbreed.types import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class CoefficientMap:
    """The parameters of a recipe's rules."""

    groups: tuple[str, ...]
    """A readable name for each rule."""
    operators: tuple[str, ...]
    """The operator of each rule."""
    sources: tuple[str, ...]
    values: Mapping[str, tuple[tuple[float | None, ...], ...]]
    """Per-source parameter -> (groups, sources); None where an operator does not have the parameter or the source."""
    settings: Mapping[str, tuple[float | bool | str | None, ...]]
    """Any other parameter -> groups; None where a rule does not set it."""
    layers: str = ""
    """The path of a recipe that has one, in words; empty: the base's layers."""


def coefficient_map(recipe: Recipe, structure: Structure | None) -> CoefficientMap:
    """Returns the coefficients of the rules that match a tensor which some expert changes.

    Without a structure it is those of all rules, named by their patterns.
    """
    if structure is None:
        rules = [(rule, rule.match.replace("\\", "")) for rule in recipe.rules]
    else:
        names = _names_by_rule(recipe, structure.touched_by_any)
        rules = [(rule, describe(names[i])) for i, rule in enumerate(recipe.rules) if names[i]]
    sources = tuple(recipe.sources)
    values: dict[str, list[tuple[float | None, ...]]] = {}
    settings: dict[str, list[float | bool | str | None]] = {}
    for row, (rule, _) in enumerate(rules):
        spec = OPERATOR_SPECS[rule.operator]
        for param in spec.params:
            said = rule.params.get(param.name)
            if not param.is_per_source and said is not None and not isinstance(said, Mapping):
                settings.setdefault(param.name, [None] * len(rules))[row] = said
            if param.is_per_source:
                filled = values.setdefault(param.name, [(None,) * len(sources)] * len(rules))
                known = spec.per_source(rule, param.name, sources)
                filled[row] = tuple(
                    None if source == recipe.base and param.kind != "source" else known[source] for source in sources
                )
    shown = [i for i, _ in enumerate(sources) if any(row[i] is not None for rows in values.values() for row in rows)]
    return CoefficientMap(
        groups=tuple(label for _, label in rules),
        operators=tuple(rule.operator for rule, _ in rules),
        sources=tuple(sources[i] for i in shown),
        values={name: tuple(tuple(row[i] for i in shown) for row in rows) for name, rows in values.items()},
        settings={name: tuple(column) for name, column in settings.items()},
        layers=layers_text(recipe.layers),
    )


def setting_text(value: float | bool | str | None) -> str:
    """Returns the text of a setting in a table.

    >>> [setting_text(value) for value in (1.5, 1e-5, False, "count", None)]
    ['1.500', '1.00e-05', 'false', 'count', '']
    """
    if value is None or isinstance(value, bool | str):
        return "" if value is None else str(value).lower() if isinstance(value, bool) else value
    return f"{value:.3f}" if value == 0 or 0.01 <= abs(value) < 1000 else f"{value:.2e}"


def describe(names: Iterable[str]) -> str:
    """Returns a short description of a group of tensors.

    >>> describe(["model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"])
    'layers 0-1 · mlp'
    >>> describe(["lm_head.weight"])
    'embedding'
    """
    names = list(names)
    layers = sorted({layer for name in names if (layer := layer_of(name)) is not None})
    modules = list(dict.fromkeys(sorted(module_of(name).value for name in names)))
    kinds = ", ".join(modules) if len(modules) < 3 else f"{len(modules)} kinds of module"
    return f"{_ranges(layers)} · {kinds}" if layers else kinds


def _names_by_rule(recipe: Recipe, names: Iterable[str]) -> dict[int, list[str]]:
    patterns = [rule_matcher(rule) for rule in recipe.rules]
    found: dict[int, list[str]] = {i: [] for i in range(len(patterns))}
    for name in sorted(names):
        first = next((i for i, pattern in enumerate(patterns) if pattern(name)), None)
        if first is not None:
            found[first].append(name)
    return found


def _ranges(layers: Sequence[int]) -> str:
    """Returns the numbers as ranges: `layers 0-3, 7`."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    spans = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return f"layer{'s' if len(layers) > 1 else ''} {spans}"
