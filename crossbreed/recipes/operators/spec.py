"""The declaration of an operator: its parameters, their owners, valid values and search ranges."""

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from crossbreed.types import Numbers, ParamValue, Rule

DENSITY_GRID = 1024
"""Densities are searched in steps of 1/1024: on this grid, a density's threshold is a lookup."""


class ParamKind(StrEnum):
    """The kind of a parameter: its type, and what has a value of it."""

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
    NUMBERS = "numbers"
    """Several numbers for each expert."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """An upper bound (exclusive) set by another parameter of the same source."""

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
    """The value if the rule does not have the parameter, and for sources missing in a mapping."""
    required: bool = False
    """Whether a rule must give it."""
    search: tuple[float, float] | None = None
    """Default bounds of a search, which a spec may change; None: not searched by default."""
    log_scale: bool = False
    """Whether it is searched on a log scale: from 0.1 to 0.2 is as far as from 0.5 to 1."""
    at_least: float = -math.inf
    """Inclusive lower bound of valid values; `at_most` is the upper one."""
    at_most: float = math.inf
    above: float = -math.inf
    """Exclusive lower bound of valid values; `below` is the upper one."""
    below: float = math.inf
    limit: Limit | None = None
    """A bound that depends on another parameter; a search uses fractions of it."""
    grid: int | None = None
    """A search uses steps of 1/grid."""
    only_if: tuple[str, str] | None = None
    """(CHOICE of the operator, option) without which the parameter is unused."""
    integer: bool = False
    options: tuple[str, ...] = ()
    """The options of a CHOICE."""
    about: str

    @property
    def is_per_source(self) -> bool:
        """Whether each source has its own value."""
        return self.kind in (ParamKind.EXPERT, ParamKind.SOURCE)

    def why_invalid(self, value: object) -> str | None:
        """Returns a description of valid values; None if this single value is valid."""
        match self.kind:
            case ParamKind.FLAG:
                return None if isinstance(value, bool) else "true or false"
            case ParamKind.CHOICE:
                return None if value in self.options else f"one of {', '.join(self.options)}"
            case ParamKind.NAME:
                return None if isinstance(value, str) else "the name of a source"
        if self.kind is ParamKind.NUMBERS:
            return self._why_no_numbers(value)
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

    def _why_no_numbers(self, value: object) -> str | None:
        is_valid = isinstance(value, Mapping) and all(
            isinstance(numbers, list | tuple)
            and all(isinstance(one, int | float) and not isinstance(one, bool) and self._allows(one) for one in numbers)
            for numbers in value.values()
        )
        return None if is_valid else "a mapping of experts to lists of finite numbers"

    def _allows(self, value: float) -> bool:
        if abs(value) > sys.float_info.max or not math.isfinite(value) or (self.integer and value != int(value)):
            return False
        return self.at_least <= value <= self.at_most and self.above < value < self.below


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadsGrams:
    """The conditions under which an operator reads Grams of the experts' inputs, an artifact that a run collects."""

    needed: bool
    """Whether it cannot merge without them; if False, it reads them if the recipe has them."""
    only_if: tuple[str, tuple[str, ...]] | None = None
    """(CHOICE of the operator, options) with which it reads them; None: always."""


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
    """The definition, with W0 the base, Wi an expert, di = Wi - W0."""
    paper: str = ""
    """The paper that describes it, for display."""
    differs: str = ""
    """How it differs from the paper, if it does: a sentence or two."""
    is_weighted_sum: bool = False
    """Whether W is a weighted sum of the sources and depends on nothing but their weights."""
    sums_deltas: bool = False
    """Whether W - W0 is scale sum(wi di), or selected elements of it: a weight then steps along an expert's delta."""
    degree: Literal[0, 1] | None = 1
    """The degree of the merged delta in `weight`, if no flag normalises it. 1: doubling the weights doubles the delta,
    so that a `scale` is redundant. 0: only the ratios of the weights matter. None: neither."""
    divides_by_weights: bool = False
    """Whether it divides by the sum of the weights, unless `normalize` says no: weights that cancel are no merge."""
    by_inputs: bool = False
    """Whether a matrix's columns are a Linear's inputs to it: it is given GPT-2's, which are stored the other way
    round, transposed."""
    mixes_factors: bool = False
    """Whether it reads the factors of LoRA adapters: every expert must be one, of the same rank in each tensor."""
    num_experts: tuple[int, int | None] = (0, None)
    """Minimum and maximum number of experts in a recipe."""
    grams: ReadsGrams | None = None
    """None: it never reads Grams of inputs."""
    reads_statistics: bool = False
    """Whether it cannot merge without the statistics of a regression's walk, an artifact that a run keeps."""

    def why_invalid(self, num_experts: int) -> str | None:
        """Returns how many experts the operator needs; None if this number is valid."""
        low, high = self.num_experts
        if low <= num_experts and (high is None or num_experts <= high):
            return None
        return f"at least {low}" if high is None else f"{low}" if low == high else f"from {low} to {high}"

    def cancelling(self, rule: Rule, experts: tuple[str, ...], base: str) -> dict[str, float] | None:
        """Returns the weights of a rule if they sum to 0 and would be divided by that; None if not."""
        if not self.divides_by_weights or (self.param("normalize") and not self.scalar(rule, "normalize")):
            return None
        of = self.param("weight")
        is_of_experts = of is None or of.kind is ParamKind.EXPERT or rule.params.get("of") == "deltas"
        weights = self.per_source(rule, "weight", experts if is_of_experts else (base, *experts))
        return weights if weights and math.fsum(weights.values()) == 0 else None

    def reads_grams(self, params: Mapping[str, object]) -> Literal["no", "may", "must"]:
        """Returns whether a rule with these parameters reads Grams of inputs."""
        if self.grams is None:
            return "no"
        if self.grams.only_if is not None:
            name, options = self.grams.only_if
            if params.get(name, self._default(name)) not in options:
                return "no"
        return "must" if self.grams.needed else "may"

    def needs(self, params: Mapping[str, object]) -> str | None:
        """Returns what of a run's artifacts a rule with these parameters cannot do without; None if nothing."""
        if self.reads_statistics:
            return "the statistics of a regression"
        return "Grams" if self.reads_grams(params) == "must" else None

    def param(self, name: str) -> ParamSpec | None:
        """Returns the parameter with this name; None if there is none."""
        for param in self.params:  # twice as fast as a generator: kernels call this for every tensor
            if param.name == name:
                return param
        return None

    def per_source(self, rule: Rule, name: str, sources: tuple[str, ...]) -> dict[str, float]:
        """Returns a per-source parameter of a rule: source -> value, with defaults filled in."""
        given, default = rule.params.get(name), self._default(name)
        if isinstance(given, Mapping):
            return {source: _number(given.get(source, default)) for source in sources}
        return dict.fromkeys(sources, float(default if given is None else given))

    def numbers(self, rule: Rule, name: str) -> Numbers:
        """Returns a parameter of several numbers: expert -> numbers, without experts that have none."""
        given = rule.params.get(name, {})
        assert isinstance(given, Mapping), "parse_recipe rejects others"
        return {expert: value for expert, value in given.items() if isinstance(value, tuple) and value}

    def scalar(self, rule: Rule, name: str) -> float:
        """Returns a number (or a flag, as 0 or 1) of a rule, or its default."""
        given: ParamValue = rule.params.get(name, self._default(name))
        assert not isinstance(given, Mapping | str), "parse_recipe rejects others"
        return float(given)

    def word(self, rule: Rule, name: str) -> str:
        """Returns a rule's option (or source), or the default."""
        given = rule.params.get(name, self._default(name))
        assert isinstance(given, str), "parse_recipe rejects others"
        return given

    def depth_factor(self, rule: Rule, depth: float | None) -> float:
        """Returns the factor of the depth profile (LiNeS) on a tensor's merged delta.

        Args:
            rule: The rule, with `lines_alpha` and `lines_beta`.
            depth: The depth of the tensor's layer, from 0 (first) to 1 (last); None outside the layers.
        """
        return self.scalar(rule, "lines_alpha") + self.scalar(rule, "lines_beta") * (depth or 0.0)

    def _default(self, name: str) -> float | bool | str:
        param = self.param(name)
        assert param is not None, f"{self.name} has no parameter {name}"
        return param.default


def _number(value: float | bool | str | tuple[float, ...]) -> float:
    assert not isinstance(value, tuple), "parse_recipe rejects others"
    return float(value)


def weight(kind: ParamKind, about: str) -> ParamSpec:
    """Returns the parameter `weight`, the weight of each source."""
    return ParamSpec(name="weight", kind=kind, default=0.0, required=True, search=(-0.5, 1.5), about=about)


def scale(about: str) -> ParamSpec:
    """Returns the parameter `scale`, a factor on the merged delta."""
    return ParamSpec(name="scale", kind=ParamKind.SCALAR, default=1.0, search=(0.3, 2.0), about=about)


def density(about: str, *, default: float = 1.0) -> ParamSpec:
    """Returns the parameter `density`, the share of each delta that is kept."""
    return ParamSpec(
        name="density",
        kind=ParamKind.EXPERT,
        default=default,
        search=(0.1, 1.0),
        log_scale=True,
        grid=DENSITY_GRID,
        above=0.0,
        at_most=1.0,
        about=about,
    )


def normalize(*, default: bool) -> ParamSpec:
    """Returns the parameter `normalize`, whether weights are divided by their sum."""
    return ParamSpec(
        name="normalize",
        kind=ParamKind.FLAG,
        default=default,
        about="Divide by the sum of the weights that contribute.",
    )


DEPTH_PROFILE = (
    ParamSpec(
        name="lines_alpha",
        kind=ParamKind.SCALAR,
        default=1.0,
        about="Factor on the merged delta of the first layer, and of tensors outside the layers.",
    ),
    ParamSpec(
        name="lines_beta",
        kind=ParamKind.SCALAR,
        default=0.0,
        about="Increase of the factor from the first layer to the last.",
    ),
)
"""LiNeS (arXiv 2410.17146): the merged delta is scaled by lines_alpha + lines_beta depth. Every operator has it; no
search varies it by default, since weights for each band of layers can express it and more."""
