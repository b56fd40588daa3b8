"""What an operator is told: parameters, who has them, what is valid, where to search."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from crossbreed.types import ParamValue, Rule

DENSITY_GRID = 1024
"""A search steps densities in parts of this: on the grid a density costs a lookup."""


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
    CHOICE = "choice"
    """One of a few words, for the rule."""
    NAME = "name"
    """The name of a source, for the rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """An upper bound (exclusive) that another parameter of the same source sets."""

    by: str
    """The other parameter."""
    of: Callable[[float], float]
    """Its value -> the bound."""
    about: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamSpec:
    """A parameter of an operator."""

    name: str
    kind: ParamKind
    default: float | bool | str
    """Where the rule has no such parameter, and for the sources that a mapping leaves out."""
    required: bool = False
    """A rule must give it."""
    search: tuple[float, float] | None = None
    """Usual bounds of a search, which a spec may change; None: not searched."""
    by_ratio: bool = False
    """Searched by its logarithm: from 0.1 to 0.2 is as far as from 0.5 to 1."""
    at_least: float = -math.inf
    """Valid values: bounds that are allowed themselves..."""
    at_most: float = math.inf
    above: float = -math.inf
    """...and bounds that are not."""
    below: float = math.inf
    limit: Limit | None = None
    """A bound that depends on another parameter; a search steps in fractions of it."""
    grid: int | None = None
    """A search steps in parts of 1/grid."""
    when: tuple[str, str] | None = None
    """(a CHOICE of the operator, its option) that it needs: with another option nothing reads it."""
    integer: bool = False
    options: tuple[str, ...] = ()
    """Of a CHOICE."""
    about: str

    @property
    def of_each(self) -> bool:
        """Whether sources have values of their own."""
        return self.kind in (ParamKind.EXPERT, ParamKind.SOURCE)

    def fault(self, value: object) -> str | None:
        """Returns what a single value should have been, or None when it is valid."""
        match self.kind:
            case ParamKind.FLAG:
                return None if isinstance(value, bool) else "true or false"
            case ParamKind.CHOICE:
                return None if value in self.options else f"one of {', '.join(self.options)}"
            case ParamKind.NAME:
                return None if isinstance(value, str) else "the name of a source"
        if isinstance(value, int | float) and not isinstance(value, bool) and self._allows(value):
            return None
        bounds = {
            "greater than": self.above,
            "at least": self.at_least,
            "less than": self.below,
            "at most": self.at_most,
        }
        said = [f" {word} {bound:g}" for word, bound in bounds.items() if math.isfinite(bound)]
        return ("a whole number" if self.integer else "a finite number") + " and".join(said)

    def _allows(self, value: float) -> bool:
        if not math.isfinite(value) or (self.integer and value != int(value)):
            return False
        return self.at_least <= value <= self.at_most and self.above < value < self.below


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSpec:
    """A way to merge the tensors of one rule.

    >>> spec = OperatorSpec(name="sum", formula="W0 + sum(wi di)", params=(weight(ParamKind.EXPERT, about="Share."),))
    >>> spec.per_source(Rule(match=".*", operator="sum", params={"weight": {"a": 0.5}}), "weight", ("a", "b"))
    {'a': 0.5, 'b': 0.0}
    """

    name: str
    params: tuple[ParamSpec, ...]
    formula: str
    """With W0 the base, Wi an expert, di = Wi - W0."""
    plain: bool = False
    """W is a weighted sum of the sources, and nothing but their weights decides it."""
    sums_deltas: bool = False
    """W - W0 is scale sum(wi di), or what is kept of it element by element: a weight steps along an expert's delta."""
    degree: Literal[0, 1] | None = 1
    """Of the merged delta in `weight`, where no flag normalises it. 1: twice the weights are twice the delta, so that
    a `scale` says nothing that they do not. 0: only the ratios of the weights count. None: neither."""
    num_experts: tuple[int, int | None] = (0, None)
    """How many experts a recipe must have at least, and at most."""

    def fault(self, num_experts: int) -> str | None:
        """Returns how many experts the operator needs, or None where that is how many there are."""
        low, high = self.num_experts
        if low <= num_experts and (high is None or num_experts <= high):
            return None
        return f"at least {low}" if high is None else f"{low}" if low == high else f"from {low} to {high}"

    def param(self, name: str) -> ParamSpec | None:
        """Returns the parameter called `name`."""
        for param in self.params:  # half the time of a generator: kernels ask for every tensor
            if param.name == name:
                return param
        return None

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

    def word(self, rule: Rule, name: str) -> str:
        """Returns the word (or the source) that a rule chose, or the default."""
        given = rule.params.get(name, self._default(name))
        assert isinstance(given, str), "parse_recipe lets nothing else through"
        return given

    def depth_factor(self, rule: Rule, depth: float | None) -> float:
        """Returns what a depth profile (LiNeS) multiplies a tensor's merged delta by.

        Args:
            rule: With `lines_alpha` and `lines_beta`.
            depth: Where the tensor's layer is, from 0 (first) to 1 (last); None outside the layers.
        """
        return self.scalar(rule, "lines_alpha") + self.scalar(rule, "lines_beta") * (depth or 0.0)

    def _default(self, name: str) -> float | bool | str:
        param = self.param(name)
        assert param is not None, f"{self.name} has no parameter {name}"
        return param.default


def weight(kind: ParamKind, about: str) -> ParamSpec:
    """How much of each source."""
    return ParamSpec(name="weight", kind=kind, default=0.0, required=True, search=(-0.5, 1.5), about=about)


def scale(about: str) -> ParamSpec:
    """A factor on what is added to the base."""
    return ParamSpec(name="scale", kind=ParamKind.SCALAR, default=1.0, search=(0.3, 2.0), about=about)


def density(about: str, *, default: float = 1.0) -> ParamSpec:
    """The part of each delta that is kept."""
    return ParamSpec(
        name="density",
        kind=ParamKind.EXPERT,
        default=default,
        search=(0.1, 1.0),
        by_ratio=True,
        grid=DENSITY_GRID,
        above=0.0,
        at_most=1.0,
        about=about,
    )


def normalize(*, default: bool) -> ParamSpec:
    """Whether weights are divided by their sum."""
    return ParamSpec(
        name="normalize", kind=ParamKind.FLAG, default=default, about="Divide by the sum of the weights that count."
    )


DEPTH_PROFILE = (
    ParamSpec(
        name="lines_alpha",
        kind=ParamKind.SCALAR,
        default=1.0,
        about="Factor on the merged delta of the first layer, and of all that is in no layer.",
    ),
    ParamSpec(
        name="lines_beta",
        kind=ParamKind.SCALAR,
        default=0.0,
        about="What the factor grows by from the first layer to the last.",
    ),
)
"""LiNeS (arXiv 2410.17146): what is merged is scaled by lines_alpha + lines_beta depth. Every operator has it; no
search varies it by default, for weights of their own for each band of layers say the same and more."""
