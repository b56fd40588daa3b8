"""What of an operator is searched: built from its declaration and from what the spec says of its parameters.

Every coordinate has an effect (a dead one costs a rank-based search as much as a live one), so weights are not always
searched as they are:

- Where only their ratios count (the operator normalises them, or its `degree` is 0), and where the base is one of the
  sources, they are *shares of a whole*. A coordinate is the part that a source takes of what those before it have left,
  so that every point is a mixture and every mixture a point.
- A flag that normalises is off unless the spec says otherwise. Then a `scale` would say nothing that the weights do
  not, and is not searched either.
- Nor is a parameter that belongs to another option of a choice than the one that is used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from crossbreed.operators import DEPTH_PROFILE, OPERATOR_SPECS, OperatorSpec, ParamKind, ParamSpec
from crossbreed.search_spaces.axes import Axis, Key, Setting, limited, six_decimals
from crossbreed.search_spaces.mix import Mix
from crossbreed.types import ParamValue

BASE = "base"
"""What the base is called in the recipes of a space."""
SHARE = "share of what is left"
_FACTORS = ("scale", *(param.name for param in DEPTH_PROFILE))
"""Parameters that multiply all that is merged."""
Fixed: TypeAlias = bool | float | str | Mapping[str, float]
"""What every rule says of a parameter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """An operator's coordinates, and how they become its parameters.

    >>> layout = Layout.of("ties", {"density": (0.25, 1.0)})
    >>> point = {key: low for key, (low, high) in layout.ranges(["french"]).items()}
    >>> layout.params(point, ["french"])
    {'normalize': False, 'weight': {'french': -0.5}, 'density': {'french': 0.25}}
    """

    spec: OperatorSpec
    fixed: Mapping[str, Fixed]
    """Parameter -> what every rule says."""
    axes: Mapping[str, Axis]
    """Parameter -> how it is searched, but for shares."""
    by_shares: bool
    """Whether the weights are shares of a whole."""

    @classmethod
    def of(cls, operator: str, settings: Mapping[str, Setting]) -> "Layout":
        """Lays an operator out. Settings that it does not have, or cannot search, are left alone: see `why_idle`."""
        spec = OPERATOR_SPECS[operator]
        fixed: dict[str, Fixed] = {
            name: value for name, value in settings.items() if spec.param(name) and not isinstance(value, tuple)
        }
        searched = {
            param.name: bounds
            for param in spec.params
            if isinstance(bounds := settings.get(param.name, param.search), tuple)
        }
        weight = spec.param("weight") if "weight" in searched else None
        if weight is not None and weight.kind is ParamKind.SOURCE:
            fixed.pop("normalize", None)  # shares of all sources have the sum 1
        by_shares = weight is not None and _takes_shares(weight, spec, fixed)
        if by_shares:
            del searched["weight"]
        elif weight is not None:
            if (normalize := spec.param("normalize")) is not None and normalize.default:
                fixed["normalize"] = False
            if spec.degree == 1:
                searched.pop("scale", None)
        axes = {
            param.name: Axis(param=param, low=searched[param.name][0], high=searched[param.name][1])
            for param in spec.params
            if param.name in searched and _is_used(param, spec, fixed)
        }
        return cls(spec=spec, fixed=fixed, axes=axes, by_shares=by_shares)

    @property
    def free(self) -> frozenset[str]:
        """Parameters that need not agree with what every rule says."""
        shares = {"weight"} if self.by_shares else set[str]()
        return frozenset(self.axes) | shares | ({"scale"} if self._absorbs_scale else set[str]())

    def why_idle(self, name: str) -> str | None:
        """Returns why a setting of this parameter has no effect, or None: it has one."""
        operator, param = self.spec.name, self.spec.param(name)
        if param is None:
            return f"{operator} does not read it"
        if param.when is not None and not _is_used(param, self.spec, self.fixed):
            return f"{operator} reads it only with `{param.when[0]}: {param.when[1]}`"
        if name in self.fixed or name in self.axes:
            return None
        shares = f"{operator} is searched by shares of a whole"
        return shares if self.by_shares else "the weights, which are searched, say it already"

    @property
    def why_no_hull(self) -> str | None:
        """Returns why a coordinate is not how much of an expert's delta is added, or None: all are."""
        name, others = self.spec.name, [param for param in self.axes if param != "weight"]
        if not self.spec.sums_deltas:
            return f"`{name}` does not add weighted deltas up"
        if self.by_shares:
            return f"`{name}` is searched by shares of a whole"
        if others:
            return f"`{others[0]}` of `{name}` is searched"
        for param in self.spec.params:
            if param.name in _FACTORS and (factor := self._constant(param.name, None)) != param.default:
                return f"`{param.name}: {factor:g}` multiplies the weights"
        return None

    @property
    def missing(self) -> tuple[str, ...]:
        """Parameters that a rule must give and that nothing gives: the spec has to."""
        given = {*self.fixed, *self.axes, *(("weight",) if self.by_shares else ())}
        return tuple(
            param.name
            for param in self.spec.params
            if (param.required or (param.kind is ParamKind.NAME and not param.default)) and param.name not in given
        )

    def ranges(self, experts: Sequence[str]) -> dict[Key, tuple[float, float]]:
        """Returns the coordinates of a group, with their bounds.

        Args:
            experts: Those that change some tensor of the group.
        """
        shares = self._takers("weight", experts)[:-1] if self.by_shares else ()
        return {Key(SHARE, taker): (0.0, 1.0) for taker in shares} | {
            Key(axis.label, taker): axis.range
            for name, axis in self.axes.items()
            for taker in self._takers(name, experts)
        }

    def params(self, point: Mapping[Key, float], experts: Sequence[str]) -> dict[str, ParamValue]:
        """Returns the parameters of the rule of a group.

        Args:
            point: Its coordinates; those that are not in `ranges(experts)` are ignored.
            experts: Those that change some tensor of the group.
        """
        numbers = self._mixture(point, experts) if self.by_shares else {}
        words: dict[str, ParamValue] = {name: v for name, v in self.fixed.items() if isinstance(v, bool | str)}
        said = [
            param for param in self.spec.params if param.name in {**self.axes, **self.fixed} and param.name not in words
        ]
        for param in sorted(said, key=lambda param: param.limit is not None):
            for taker in self._takers(param.name, experts):
                limit = _limit(param, self.spec, taker, numbers)
                if axis := self.axes.get(param.name):
                    number = axis.value(point[Key(axis.label, taker)], limit=limit)
                else:
                    fixed = self._constant(param.name, taker)
                    number = fixed if limit is None else limited(param, fixed, limit)
                numbers[Key(param.name, taker)] = number
        params = words
        for name in dict.fromkeys(key.name for key in numbers):
            values = {key.taker: number for key, number in numbers.items() if key.name == name}
            params[name] = values[None] if None in values else {str(taker): v for taker, v in values.items()}
        return params

    def locate(self, mix: Mix, experts: Sequence[str], depth: float) -> dict[Key, float] | None:
        """Returns the coordinates nearest to a mix, of this operator or another; None: no source has a share.

        Args:
            mix: What a recipe does to a group.
            experts: Those that change some tensor of the group.
            depth: Where the group is on average, from 0 (first layer) to 1 (last).
        """
        numbers = self._in_own_terms(mix, experts, depth)
        point: dict[Key, float] = {}
        if self.by_shares:
            takers = self._takers("weight", experts)
            weights = [max(0.0, numbers.get(Key("weight", taker), 0.0)) for taker in takers]
            if (whole := sum(weights)) == 0:
                return None
            left = 1.0
            for taker, weight in zip(takers, weights, strict=True):
                point[Key(SHARE, taker)] = min(1.0, weight / whole / left) if left > 0 else 0.0
                left = max(0.0, left - weight / whole)
        for name, axis in self.axes.items():
            for taker in self._takers(name, experts):
                value = numbers.get(Key(name, taker), float(axis.param.default))
                limit = _limit(axis.param, self.spec, taker, numbers)
                point[Key(axis.label, taker)] = axis.coordinate(value, limit=limit)
        return point

    def _in_own_terms(self, mix: Mix, experts: Sequence[str], depth: float) -> dict[Key, float]:
        """The mix's numbers, with its weights, its scale and its depth profile told apart as they are here."""
        numbers, scale = dict(mix.numbers), Key("scale", None)
        deeper = self._deeper(mix, depth) if mix.plain else 1.0
        weights = {Key("weight", expert): deeper * numbers.get(Key("weight", expert), 0.0) for expert in experts}
        if mix.plain:
            numbers |= weights
        if self._absorbs_scale:
            factor = numbers.get(scale, 1.0) / (self._constant("scale", None) or 1.0)
            numbers |= {key: factor * value for key, value in weights.items()}
        elif mix.plain and self.by_shares:
            total = sum(max(0.0, value) for value in weights.values())
            numbers |= {scale: total, Key("weight", BASE): max(0.0, 1 - total)}
        elif mix.plain and (own := sum(self._constant("weight", expert) for expert in experts)):
            numbers[scale] = sum(weights.values()) / own
        return numbers

    def _deeper(self, mix: Mix, depth: float) -> float:
        """How many times a mix's depth profile is the profile here, at a depth; 1 where there is nothing here."""
        theirs, ours = [], []
        for param in DEPTH_PROFILE:
            said = mix.numbers.get(Key(param.name, None), float(param.default))
            axis = self.axes.get(param.name)
            theirs.append(said)
            ours.append(axis.value(axis.coordinate(said)) if axis else self._constant(param.name, None))
        (their_alpha, their_beta), (alpha, beta) = theirs, ours
        factor = alpha + beta * depth
        return (their_alpha + their_beta * depth) / factor if theirs != ours and factor else 1.0

    def _mixture(self, point: Mapping[Key, float], experts: Sequence[str]) -> dict[Key, float]:
        """Shares as weights: the last source, which is the base where it is one of them, takes what is left."""
        *sharing, last = self._takers("weight", experts)
        left, weights = 1.0, {}
        for taker in sharing:
            weight = weights[Key("weight", taker)] = six_decimals(point[Key(SHARE, taker)] * left)
            left = max(0.0, left - weight)
        return {**weights, Key("weight", last): six_decimals(left)}

    def _takers(self, name: str, experts: Sequence[str]) -> tuple[str | None, ...]:
        """Who has a value of a parameter of its own."""
        param = self.spec.param(name)
        assert param is not None, f"{self.spec.name} has no parameter {name}"
        match param.kind:
            case ParamKind.SOURCE:
                return (*experts, BASE)
            case ParamKind.EXPERT:
                return tuple(experts)
        return (None,)

    def _constant(self, name: str, taker: str | None) -> float:
        """A number that every rule says, or leaves to its default; 0 where the operator has none."""
        param = self.spec.param(name)
        default = param.default if param else 0.0
        value = self.fixed.get(name, default)
        return float(value.get(str(taker), default) if isinstance(value, Mapping) else value)

    @property
    def _absorbs_scale(self) -> bool:
        """Whether a factor on the merged delta is a factor on the weights."""
        return "weight" in self.axes and self.spec.degree == 1


def _takes_shares(weight: ParamSpec, spec: OperatorSpec, fixed: Mapping[str, Fixed]) -> bool:
    """Whether the weights that are searched count by their ratios alone, or are the base's too."""
    if weight.kind is ParamKind.SOURCE:
        return True
    return bool(fixed.get("normalize", False)) if spec.param("normalize") else spec.degree == 0


def _is_used(param: ParamSpec, spec: OperatorSpec, fixed: Mapping[str, Fixed]) -> bool:
    """Whether the operator reads a parameter, given what is chosen."""
    if param.when is None:
        return True
    choice, option = param.when
    other = spec.param(choice)
    assert other is not None, f"{spec.name} has no choice {choice}"
    return fixed.get(choice, other.default) == option


def _limit(param: ParamSpec, spec: OperatorSpec, taker: str | None, numbers: Mapping[Key, float]) -> float | None:
    """The bound that another parameter of the same expert sets."""
    if param.limit is None:
        return None
    other = spec.param(param.limit.by)
    assert other is not None, f"{spec.name} has no parameter {param.limit.by}"
    return param.limit.of(numbers.get(Key(other.name, taker), float(other.default)))
