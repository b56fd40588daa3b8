"""What the merge operators are called and what they are told: names, parameters, ranges. No tensors, no torch.

On the ground floor because three packages must agree on it and may not import one another: a search space builds its
box from these declarations, a recipe is checked against them, and `crossbreed.kernels` maps the names to arithmetic.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from crossbreed.types import ParamValue, Rule


class ParamKind(StrEnum):
    """Who has a value of a parameter."""

    EXPERT = "expert"
    """One number for each expert."""
    SOURCE = "source"
    """One number for each expert, and one for the base."""
    SCALAR = "scalar"
    """One number for the rule."""
    FLAG = "flag"
    """True or false, for the rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamSpec:
    """A parameter of an operator."""

    name: str
    kind: ParamKind
    default: float | bool
    """Where the rule has no such parameter, and for the sources that a mapping leaves out."""
    required: bool = False
    """A rule must give it."""
    low: float = -0.5
    """Usual lower bound of a search; a spec may say otherwise."""
    high: float = 1.5
    """Usual upper bound of a search."""
    above: float = -math.inf
    """Valid values are greater than this..."""
    at_most: float = math.inf
    """...and no greater than this."""
    about: str

    @property
    def of_each(self) -> bool:
        """Whether sources have values of their own."""
        return self.kind in (ParamKind.EXPERT, ParamKind.SOURCE)

    def fault(self, value: object) -> str | None:
        """Returns what a single value should have been, or None when it is valid."""
        if self.kind is ParamKind.FLAG:
            return None if isinstance(value, bool) else "true or false"
        if isinstance(value, int | float) and not isinstance(value, bool) and self._allows(value):
            return None
        low = "" if self.above == -math.inf else f" greater than {self.above:g}"
        high = "" if self.at_most == math.inf else f" at most {self.at_most:g}"
        return "a finite number" + " and".join(part for part in (low, high) if part)

    def _allows(self, value: float) -> bool:
        return math.isfinite(value) and self.above < value <= self.at_most


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSpec:
    """A way to merge the tensors of one rule.

    >>> [param.name for param in OPERATOR_SPECS["ties"].params]
    ['weight', 'density', 'scale', 'normalize']
    """

    name: str
    params: tuple[ParamSpec, ...]
    formula: str
    """With W0 the base, Wi an expert, di = Wi - W0."""

    def param(self, name: str) -> ParamSpec | None:
        """Returns the parameter called `name`."""
        return next((param for param in self.params if param.name == name), None)

    def per_source(self, rule: Rule, name: str, sources: tuple[str, ...]) -> dict[str, float]:
        """Returns a per-source parameter of a rule with its blanks filled in, source by source."""
        given, default = rule.params.get(name), self._default(name)
        if isinstance(given, Mapping):
            return {source: float(given.get(source, default)) for source in sources}
        return dict.fromkeys(sources, float(default if given is None else given))

    def scalar(self, rule: Rule, name: str) -> float:
        """Returns a number (or a flag, as 0 or 1) of a rule, or its default."""
        given: ParamValue = rule.params.get(name, self._default(name))
        assert not isinstance(given, Mapping | str), "parse_recipe lets none through"
        return float(given)

    def _default(self, name: str) -> float | bool:
        param = self.param(name)
        assert param is not None, f"{self.name} has no parameter {name}"
        return param.default


def _weight(kind: ParamKind, about: str) -> ParamSpec:
    return ParamSpec(name="weight", kind=kind, default=0.0, required=True, about=about)


def _scale(about: str) -> ParamSpec:
    return ParamSpec(name="scale", kind=ParamKind.SCALAR, default=1.0, low=0.3, high=2.0, about=about)


def _normalize(default: bool) -> ParamSpec:
    return ParamSpec(
        name="normalize", kind=ParamKind.FLAG, default=default, about="Divide by the sum of the weights that count."
    )


_LINEAR = OperatorSpec(
    name="linear",
    formula="W = sum(wi Wi), divided by sum(wi) if normalize; the base is one of the sources",
    params=(
        _weight(ParamKind.SOURCE, "Share of each source; one number goes to the base too."),
        _normalize(default=True),
    ),
)
_TASK_ARITHMETIC = OperatorSpec(
    name="task_arithmetic",
    formula="W = W0 + scale sum(wi di)",
    params=(
        _weight(ParamKind.EXPERT, "How much of each expert's delta; negative unlearns."),
        _scale("On the sum of deltas; mergekit calls it lambda."),
    ),
)
_TIES = OperatorSpec(
    name="ties",
    formula="W = W0 + scale * (mean or sum of the wi di that were kept and agree with the elected sign)",
    params=(
        _weight(ParamKind.EXPERT, "Votes and share of each expert's delta."),
        ParamSpec(
            name="density",
            kind=ParamKind.EXPERT,
            default=1.0,
            low=0.05,
            high=1.0,
            above=0.0,
            at_most=1.0,
            about="Share of each tensor's largest delta elements that is kept.",
        ),
        _scale("On the merged delta; mergekit calls it lambda."),
        _normalize(default=True),
    ),
)

OPERATOR_SPECS: Mapping[str, OperatorSpec] = MappingProxyType(
    {spec.name: spec for spec in (_LINEAR, _TASK_ARITHMETIC, _TIES)}
)
"""Operator name -> declaration; `crossbreed.kernels.OPERATORS` has the arithmetic under the same names."""
