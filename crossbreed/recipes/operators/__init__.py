"""The merge operators: their names, parameters and ranges, and the location of their arithmetic. No tensors, no torch.

They are declared at the lowest level because three packages depend on them and may not import one another: a search
space builds its box from these declarations, a recipe is checked against them, and `crossbreed.kernels` looks up the
arithmetic. Each family of operators is a module here, in `crossbreed.kernels.operators` and in
`crossbreed.kernels.reference`. Another package adds an operator by an entry point of the group `crossbreed.operators`;
docs/plugins.md shows one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint

from crossbreed.recipes.operators import (
    columns,
    components,
    factors,
    geometry,
    linear,
    pcb,
    regression,
    selection,
    sparse,
    spectral,
    walked,
)
from crossbreed.recipes.operators.part import OperatorPart
from crossbreed.recipes.operators.spec import (
    DEPTH_PROFILE,
    Limit,
    OperatorSpec,
    ParamKind,
    ParamSpec,
    ReadsGrams,
    density,
    normalize,
    scale,
    weight,
)
from crossbreed.registry import Registry

__all__ = [
    "DEPTH_PROFILE",
    "OPERATORS",
    "OPERATOR_SPECS",
    "Limit",
    "OperatorPart",
    "OperatorSpec",
    "ParamKind",
    "ParamSpec",
    "ReadsGrams",
    "density",
    "normalize",
    "scale",
    "weight",
]

_FAMILIES = (linear, sparse, selection, pcb, geometry, columns, spectral, regression, factors, components, walked)
_OURS: dict[str, OperatorPart] = {part.spec.name: part for module in _FAMILIES for part in module.PARTS}


class _Operators(Registry[OperatorPart]):
    """The registry of operators; those of this package are already imported."""

    def _load(self, entry: EntryPoint) -> OperatorPart:
        if entry.name in _OURS:
            return _OURS[entry.name]
        part = super()._load(entry)
        if part.spec.name != entry.name:
            raise self._fault(entry, f"declares the name `{part.spec.name}`", expected="the entry point's name")
        return part


class _Specs(Mapping[str, OperatorSpec]):
    """A view of OPERATORS that adds the depth profile to each declaration."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[OperatorSpec, OperatorSpec]] = {}
        """Name -> the declaration, without and with the depth profile."""

    def __getitem__(self, name: str) -> OperatorSpec:
        declared = OPERATORS[name].spec
        made = self._made.get(name)
        if made is None or made[0] is not declared:
            made = self._made[name] = declared, replace(declared, params=(*declared.params, *DEPTH_PROFILE))
        return made[1]

    def __contains__(self, name: object) -> bool:
        return name in OPERATORS  # imports nothing

    def __iter__(self) -> Iterator[str]:
        return iter(OPERATORS)

    def __len__(self) -> int:
        return len(OPERATORS)


OPERATORS = _Operators("operator", "crossbreed.operators", dict.fromkeys(_OURS, ""), part=OperatorPart)
"""Name -> part."""
OPERATOR_SPECS: Mapping[str, OperatorSpec] = _Specs()
"""Operator name -> declaration, including the depth profile, which every operator has."""
