"""mergekit-evolve's genomes as a box: for people who come from it, the same coordinates and the same merges.

A genotype has the shape [layer groups, models, parameter sets, parameters]; its merge configuration is the one that
mergekit 0.1.5 makes of it, and its recipe what `crossbreed.mergekit` makes of any configuration. A coordinate exists
only where a tensor reads it: not for a filter that matches nothing in a group, and not for a base among the models.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from crossbreed.errors import InputError
from crossbreed.mergekit.config import ModelReference
from crossbreed.mergekit.patterns import patterns_of
from crossbreed.mergekit.plan import plan_merge
from crossbreed.mergekit.reading import parse_config
from crossbreed.parsing import any_of
from crossbreed.recipes import parse_recipe, rule_finder
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.search_spaces.axes import six_decimals
from crossbreed.search_spaces.boxes import BoxSpace
from crossbreed.search_spaces.build import SpacePart
from crossbreed.search_spaces.coefficients_config import Range
from crossbreed.search_spaces.settings import SpaceConfig, SpaceInputs
from crossbreed.sources.naming import is_before_layers, layer_of
from crossbreed.sources.structure import Structure
from crossbreed.types import BASE, RECIPE_SCHEMA, Box, Coordinate, Point, Recipe

_PARAMS: Mapping[str, tuple[str, ...]] = {
    "linear": ("weight",),
    "task_arithmetic": ("weight",),
    "ties": ("weight", "density"),
    "dare_ties": ("weight", "density"),
    "slerp": ("t",),
}
_NORMALIZED = frozenset({"ties", "dare_ties", "linear"})
"""The methods that divide by the sum of weights where a genome does not say."""
_MOST_WEIGHT = 1.5
_LEAST_SHARE = 1e-3
"""Of a mean of whole weights: with all of them 0 it is none."""
_LEAST_DENSITY = 1e-3
"""No operator keeps nothing of a delta; a gene below it counts as this."""
_MOST_PREFERENCE = 3.0
"""Of slerp's values, of which the difference alone matters: t is from 0.0025 to 0.9975."""


class MergekitEvolveConfig(SpaceConfig):
    """The genome of mergekit-evolve, as `crossbreed import` writes it."""

    kind: Literal["mergekit_evolve"] = "mergekit_evolve"
    method: Literal["linear", "task_arithmetic", "ties", "dare_ties", "slerp"]
    """Its `merge_method`."""
    models: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of sources, in its order; `base` where the base is one of its models."""
    layer_granularity: int = 0
    """Layers of a group, which must divide the base's; 0 or less: one group."""
    normalize: bool | None = None
    """Whether weights are divided by their sum. Default: of ties, dare_ties and linear."""
    allow_negative_weights: bool = False
    """Whether weights may be negative; otherwise their signs are dropped, and the box has positive ones only."""
    filters: tuple[str, ...] = ()
    """Parts of tensors' names: the first that a name contains decides its parameters; names with none share others."""
    smooth: bool = False
    """Whether the groups' values are interpolated over depth; tensors outside the layers have the first."""
    weight: Range | None = None
    """Range of the weights. Default: [0, 1.5], or [-1.5, 1.5] where negative ones are allowed."""

    @property
    def operators(self) -> tuple[str, ...]:
        """Its one method, which the operator is named after."""
        return (self.method,)

    @property
    def divides(self) -> bool:
        """Whether weights are divided by their sum."""
        return self.method in _NORMALIZED if self.normalize is None else self.normalize

    @model_validator(mode="after")
    def _fits_together(self) -> "MergekitEvolveConfig":
        if len(set(self.models)) < len(self.models):
            raise ValueError(f"`models` must be distinct, got {list(self.models)}")
        if self.method == "slerp" and (self.filters or self.smooth or len(self.models) != 2):
            raise ValueError(
                "`slerp` takes two models, without `filters` and `smooth`: of more, mergekit-evolve merges "
                "another pair in each group, which a recipe with one base cannot say"
            )
        return self

    def bounds(self, param: str) -> tuple[float, float]:
        """Returns the range of a parameter's coordinates."""
        if param == "density":
            return _LEAST_DENSITY, 1.0
        if param == "t":
            return -_MOST_PREFERENCE, _MOST_PREFERENCE
        if self.weight is not None:
            return self.weight
        least = _LEAST_SHARE if self.method == "linear" and self.divides else 0.0
        return (-_MOST_WEIGHT if self.allow_negative_weights else least), _MOST_WEIGHT


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gene:
    """A coordinate's place in the genotype."""

    group: int
    model: int
    set: int
    param: int


class MergekitEvolveSpace(BoxSpace):
    """The live part of a genotype, flattened as mergekit-evolve does."""

    def __init__(self, config: MergekitEvolveConfig, inputs: SpaceInputs) -> None:
        """Lays out the genes.

        Raises:
            InputError: the genome does not fit the sources, or a filter matches no tensor.
        """
        self._config, self._structure, self._dtype = config, inputs.structure, inputs.dtype
        _check_sources(config, inputs.structure)
        self._params, self._num_groups = _PARAMS[config.method], _num_groups(config, inputs.structure)
        self._parts = self._divided()
        self._refs = tuple(BASE if name == BASE else f"m{i}" for i, name in enumerate(config.models))
        self._genes = tuple(self._live())
        bounds = [config.bounds(self._params[gene.param]) for gene in self._genes]
        self._domain = Box(
            low=tuple(low for low, _ in bounds),
            high=tuple(high for _, high in bounds),
            why_no_weight_blocks="the genes of mergekit-evolve are no plain weights of deltas",
            coordinates=tuple(
                Coordinate(param=self._params[gene.param], owner=config.models[gene.model]) for gene in self._genes
            ),
        )

    @property
    def domain(self) -> Box:
        """The box of the live genes."""
        return self._domain

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """That of the genotype: layer groups, models, parameter sets, parameters."""
        return self._num_groups, len(self._config.models), len(self._config.filters) + 1, len(self._params)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the coordinates, for example `group 0 / self_attn / french: weight`."""
        sets = (*self._config.filters, "rest") if self._config.filters else ("",)
        places = ["anchor" if self._config.smooth else "group"] * self._num_groups
        return tuple(
            " / ".join(
                part
                for part in (
                    f"{places[g.group]} {g.group}" * (self._num_groups > 1),
                    sets[g.set],
                    self._config.models[g.model],
                )
                if part
            )
            + f": {self._params[g.param]}"
            for g in self._genes
        )

    @property
    def examples(self) -> tuple[Recipe, ...]:
        """The genome at which mergekit-evolve starts."""
        return (self.decode(self.start),)

    @property
    def start(self) -> Point:
        """Where mergekit-evolve starts: equal weights, whole densities."""
        first = 1 / len(self._config.models)
        return self._clipped([first if gene.param == 0 else 1.0 for gene in self._genes])

    def point(self, genotype: NDArray[np.float64]) -> Point:
        """Returns the live genes of a genotype of mergekit-evolve, flat or of `shape`; what is dead has no effect."""
        whole = np.asarray(genotype, dtype=np.float64).reshape(self.shape)
        return tuple(float(whole[g.group, g.model, g.set, g.param]) for g in self._genes)

    def decode(self, point: Point) -> Recipe:
        """Returns the recipe of mergekit's configuration for the genotype, rounded to six decimals."""
        from crossbreed.mergekit.recipe import rule_params  # opens sources, for which it needs torch

        whole = np.zeros(self.shape)
        for gene, value in zip(self._genes, point, strict=True):
            whole[gene.group, gene.model, gene.set, gene.param] = six_decimals(value)
        references = tuple(map(_reference, self._refs))
        config = parse_config(self.configuration(whole), where="the genome")
        plan = plan_merge(config, dict.fromkeys((_reference(BASE), *references), self._few))
        names = {_reference(BASE): BASE, **dict(zip(references, self._config.models, strict=True))}
        made = {tensor.name: tensor for tensor in plan.tensors}
        spec = OPERATOR_SPECS[self._config.method]
        params = {key: rule_params(made[few[0]], plan, names, spec) for key, few in self._parts.items()}
        return parse_recipe(
            {
                "schema": RECIPE_SCHEMA,
                "base": BASE,
                "sources": dict(self._structure.hashes),
                "rules": [
                    {"match": match, "operator": self._config.method, "params": params[key]}
                    for key, match in self._matches
                ],
                "dtype": self._dtype,
            },
            where="the recipe of the genome",
        )

    def encode(self, recipe: Recipe) -> Point | None:
        """Returns the nearest point: exact for recipes of this space; equal weights for other sums of deltas."""
        if dict(recipe.sources) != dict(self._structure.hashes) or recipe.artifacts:
            return None
        find, found = rule_finder(recipe), dict[tuple[int, int], Mapping[str, Any]]()
        for key, names in self._parts.items():
            rule = find(names[0])
            if rule is None or rule.operator not in (self._config.method, "task_arithmetic"):
                return None
            found[key] = rule.params
        if self._config.method == "slerp":
            return self._preferences(found)
        values = [self._value(gene, found) for gene in self._genes]
        return None if None in values else self._clipped([value for value in values if value is not None])

    def configuration(self, genotype: NDArray[np.float64]) -> dict[str, Any]:
        """Returns mergekit's configuration for a genotype, by the names that models have in plans of this space."""
        config = self._config
        raw: dict[str, Any] = {"merge_method": config.method, "dtype": "bfloat16"}
        if config.method == "slerp":
            return raw | {"base_model": BASE, "slices": list(self._slerp_slices(genotype))}
        raw["parameters"] = {"normalize": config.divides}
        if config.method != "linear":
            raw["base_model"] = BASE
        needs_base = config.method != "linear" and BASE not in self._refs
        if config.smooth:
            models: list[dict[str, Any]] = [
                {"model": ref, "parameters": self._parameters(genotype[:, i])} for i, ref in enumerate(self._refs)
            ]
            return raw | {"models": models + [{"model": BASE}] * needs_base}
        slices = []
        for group, layers in enumerate(self._ranges()):
            sources: list[dict[str, Any]] = [
                {"model": ref, "layer_range": layers, "parameters": self._parameters(genotype[group : group + 1, i])}
                for i, ref in enumerate(self._refs)
            ]
            slices.append({"sources": sources + [{"model": BASE, "layer_range": layers}] * needs_base})
        return raw | {"slices": slices}

    def _parameters(self, values: NDArray[np.float64]) -> dict[str, Any]:
        """Returns a model's parameters; values: [anchors, parameter sets, parameters]."""
        found = dict[str, Any]()
        for index, param in enumerate(self._params):
            meant = (
                np.clip(np.abs(values[:, :, index]), _LEAST_DENSITY, 1) if param == "density" else values[:, :, index]
            )
            if param == "weight" and not self._config.allow_negative_weights:
                meant = np.abs(meant)
            anchors = [column.tolist() if len(column) > 1 else float(column[0]) for column in meant.T]
            filters = (*self._config.filters, None)
            pairs = zip(filters, anchors, strict=True)
            found[param] = [{"filter": f, "value": v} for f, v in pairs] if len(anchors) > 1 else anchors[0]
        return found

    def _slerp_slices(self, genotype: NDArray[np.float64]) -> Iterator[dict[str, Any]]:
        """Yields slices from the base to the other: mergekit-evolve goes from the larger value, the same way."""
        (other,) = (ref for ref in self._refs if ref != BASE)
        base = self._refs.index(BASE)
        for group, layers in enumerate(self._ranges()):
            ahead = genotype[group, base, 0, 0] - genotype[group, 1 - base, 0, 0]
            t = six_decimals(1 / (1 + math.exp(ahead)))
            sources = [{"model": BASE, "layer_range": layers}, {"model": other, "layer_range": layers}]
            yield {"sources": sources, "parameters": {"t": t}}

    def _preferences(self, found: Mapping[tuple[int, int], Mapping[str, Any]]) -> Point | None:
        base, values = self._refs.index(BASE), list[float]()
        for gene in self._genes:
            t = found[self._key_of(gene)].get("t")
            if not isinstance(t, int | float) or not 0 < t < 1:
                return None
            ahead = math.log((1 - t) / t)
            values.append(ahead / 2 if gene.model == base else -ahead / 2)
        return self._clipped(values)

    def _value(self, gene: _Gene, found: Mapping[tuple[int, int], Mapping[str, Any]]) -> float | None:
        """Returns a gene's value in the rules of a recipe; None if they have none."""
        source, param = self._config.models[gene.model], self._params[gene.param]

        def at(key: tuple[int, int]) -> float:
            value = found[key].get(param, 1.0 if param == "density" else None)
            number = value.get(source) if isinstance(value, Mapping) else value
            if number is None and source == BASE:  # of a sum of deltas: what the experts leave
                number = 1 - math.fsum(value.values()) if isinstance(value, Mapping) else None
            return float(number) if isinstance(number, int | float) else math.nan

        if self._config.smooth and self._num_groups > 1:
            keys = [key for key in found if key[1] == gene.set]
            solved = np.linalg.lstsq(
                self._hats([key[0] for key in keys]), np.array([at(key) for key in keys]), rcond=None
            )
            value = float(solved[0][gene.group])
        else:
            value = at(self._key_of(gene))
        return value if math.isfinite(value) else None

    def _key_of(self, gene: _Gene) -> tuple[int, int]:
        return (0 if self._config.smooth else gene.group), gene.set

    def _hats(self, layers: Sequence[int]) -> NDArray[np.float64]:
        """Returns how much each anchor counts at each layer; -1: outside the layers."""
        depth = np.array([self._depth(layer) for layer in layers]) * (self._num_groups - 1)
        hats: NDArray[np.float64] = np.clip(1 - np.abs(depth[:, None] - np.arange(self._num_groups)), 0, 1)
        return hats

    def _depth(self, layer: int) -> float:
        last = self._structure.num_layers - 1
        return 0.0 if layer < 0 else layer / last if last else 1.0

    def _clipped(self, values: Sequence[float]) -> Point:
        pairs = zip(self._domain.low, values, self._domain.high, strict=True)
        return tuple(min(max(six_decimals(value), low), high) for low, value, high in pairs)

    def _ranges(self) -> list[list[int]]:
        step = self._structure.num_layers // self._num_groups
        return [[group * step, (group + 1) * step] for group in range(self._num_groups)]

    def _divided(self) -> dict[tuple[int, int], list[str]]:
        """Returns the tensors that have the same parameters, by group (smooth: layer, -1 outside) and parameter set."""
        parts = dict[tuple[int, int], list[str]]()
        step = self._structure.num_layers // self._num_groups
        for name in self._structure.tensors:
            layer = layer_of(name)
            if self._config.smooth and self._num_groups > 1:
                place = -1 if layer is None else layer
            elif layer is None:
                place = 0 if is_before_layers(name) else self._num_groups - 1
            else:
                place = layer // step
            which = next((i for i, part in enumerate(self._config.filters) if part in name), len(self._config.filters))
            parts.setdefault((place, which), []).append(name)
        for which, part in enumerate(self._config.filters):
            if not any(key[1] == which for key in parts):
                raise InputError(
                    f"the filter `{part}` matches no tensor that an earlier one leaves",
                    expected="a part of a tensor's name, such as self_attn or mlp",
                    got=part,
                    where="space.filters",
                    fix="correct it, or remove it",
                )
        return parts

    @cached_property
    def _matches(self) -> list[tuple[tuple[int, int], str]]:
        keys = list(self._parts)
        return [(keys[number], match) for number, match in patterns_of([self._parts[key] for key in keys])]

    @cached_property
    def _few(self) -> Structure:
        """One tensor of each part, and one of the last layer: all that a plan of parameters needs."""
        last = next(n for n in self._structure.tensors if layer_of(n) == self._structure.num_layers - 1)
        names = sorted({last, *(names[0] for names in self._parts.values())})
        return Structure(
            tensors={name: self._structure.tensors[name] for name in names},
            touched={},
            hashes=self._structure.hashes,
            tied=self._structure.tied,
        )

    def _live(self) -> Iterator[_Gene]:
        """Yields the genes that some tensor reads, in the genotype's order."""
        groups, models, sets, params = map(range, self.shape)
        is_dead_base = self._config.method not in ("linear", "slerp")
        read = {which for _, which in self._parts} if self._config.smooth and self._num_groups > 1 else None
        for group, model, which, param in product(groups, models, sets, params):
            if is_dead_base and self._config.models[model] == BASE:
                continue
            if which in read if read is not None else (group, which) in self._parts:
                yield _Gene(group=group, model=model, set=which, param=param)


def _reference(name: str) -> ModelReference:
    return ModelReference(model=name)


def _num_groups(config: MergekitEvolveConfig, structure: Structure) -> int:
    if config.layer_granularity <= 0:
        return 1
    if structure.num_layers == 0 or structure.num_layers % config.layer_granularity:
        divisors = [n for n in range(1, structure.num_layers + 1) if structure.num_layers % n == 0]
        raise InputError(
            "`layer_granularity` does not divide the base's layers",
            expected=any_of(divisors) or "0: no layers are found",
            got=str(config.layer_granularity),
            where="space.layer_granularity",
        )
    return structure.num_layers // config.layer_granularity


def _check_sources(config: MergekitEvolveConfig, structure: Structure) -> None:
    known = (BASE, *structure.experts)
    if strays := [name for name in config.models if name not in known]:
        raise InputError(
            f"the genome names a model that is no source: {any_of(strays)}",
            expected=any_of(known),
            got=any_of(config.models),
            where="space.models",
        )
    if idle := [name for name in structure.experts if name not in config.models]:
        raise InputError(
            f"the genome leaves experts out: {any_of(idle)}",
            expected=any_of(structure.experts),
            got=any_of(config.models),
            where="space.models",
            fix="remove them from `sources.experts`",
        )
    if config.method == "slerp" and BASE not in config.models:
        raise InputError(
            "`slerp` goes from the base to an expert",
            expected=f"`{BASE}` and one expert as `models`",
            got=any_of(config.models),
            where="space.models",
            fix="make one of the two models the base",
        )


PART = SpacePart(config=MergekitEvolveConfig, make=MergekitEvolveSpace)
