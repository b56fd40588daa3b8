"""The coordinates of an operator: derived from its declaration and from the spec's settings of its parameters.

Every coordinate has an effect (a dead one costs a rank-based search as much as a live one), so weights are not always
searched directly:

- If only their ratios matter (the operator normalises them, or its `degree` is 0), or if the base is one of the
  sources, they are *shares of a whole*. A coordinate is a source's fraction of what the sources before it have left, so
  that every point is a mixture and every mixture a point.
- A normalising flag is off unless the spec sets it. A `scale` would then be redundant with the weights, and is not
  searched either.
- A parameter that belongs to an unused option of a choice is not searched.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from crossbreed.recipes.operators import DEPTH_PROFILE, OPERATOR_SPECS, OperatorSpec, ParamKind, ParamSpec
from crossbreed.search_spaces.axes import Axis, Key, ParamSetting, limited, six_decimals
from crossbreed.search_spaces.mix import Mix
from crossbreed.types import BASE, ParamValue

SHARE = "share of what is left"
_SCALE = Key("scale", None)
_FACTORS = ("scale", *(param.name for param in DEPTH_PROFILE))
"""Parameters that multiply the whole merged delta."""
Fixed: TypeAlias = bool | float | str | Mapping[str, float]
"""The value of a parameter that is the same in every rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """An operator's coordinates, and their conversion to and from its parameters.

    >>> layout = Layout.of("ties", {"density": (0.25, 1.0)})
    >>> point = {key: low for key, (low, high) in layout.ranges(["french"]).items()}
    >>> layout.params(point, ["french"])
    {'normalize': False, 'weight': {'french': -0.5}, 'density': {'french': 0.25}}
    """

    spec: OperatorSpec
    fixed: Mapping[str, Fixed]
    """Parameter -> its value in every rule."""
    axes: Mapping[str, Axis]
    """Parameter -> its axis; without weights that are searched as shares."""
    by_shares: bool
    """Whether the weights are shares of a whole."""

    @classmethod
    def of(cls, operator: str, settings: Mapping[str, ParamSetting]) -> "Layout":
        """Lays out an operator. Settings that it does not have, or cannot search, are ignored: see `why_unused`."""
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
            fixed.pop("normalize", None)  # shares of all sources sum to 1
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
    def adjustable(self) -> frozenset[str]:
        """Parameters whose values in a recipe need not equal the fixed ones."""
        shares = {"weight"} if self.by_shares else set[str]()
        return frozenset(self.axes) | shares | ({"scale"} if self._absorbs_scale else set[str]())

    def why_unused(self, name: str) -> str | None:
        """Returns why a setting of this parameter has no effect; None if it has one."""
        operator, param = self.spec.name, self.spec.param(name)
        if param is None:
            return f"{operator} does not read it"
        if param.only_if is not None and not _is_used(param, self.spec, self.fixed):
            return f"{operator} reads it only with `{param.only_if[0]}: {param.only_if[1]}`"
        if name in self.fixed or name in self.axes:
            return None
        shares = f"the weights of {operator} are searched as shares of a whole"
        return shares if self.by_shares else "the searched weights already express it"

    @property
    def why_not_weights_alone(self) -> str | None:
        """Returns why some coordinate is not the weight of an expert's delta; None if all are."""
        name, others = self.spec.name, [param for param in self.axes if param != "weight"]
        if not self.spec.sums_deltas:
            return f"`{name}` does not sum weighted deltas"
        if self.by_shares:
            return f"the weights of `{name}` are searched as shares of a whole"
        if others:
            return f"`{others[0]}` of `{name}` is searched"
        for param in self.spec.params:
            if param.name in _FACTORS and (factor := self._constant(param.name, None)) != param.default:
                return f"`{param.name}: {factor:g}` multiplies the weights"
        return None

    @property
    def missing(self) -> tuple[str, ...]:
        """Parameters that a rule needs and that have neither a value nor a range: the spec must give them."""
        given = {*self.fixed, *self.axes, *(("weight",) if self.by_shares else ())}
        return tuple(
            param.name
            for param in self.spec.params
            if (param.required or (param.kind is ParamKind.NAME and not param.default)) and param.name not in given
        )

    def ranges(self, experts: Sequence[str]) -> dict[Key, tuple[float, float]]:
        """Returns the coordinates of a group, with their bounds.

        Args:
            experts: The experts that change some tensor of the group.
        """
        shares = self._owners("weight", experts)[:-1] if self.by_shares else ()
        return {Key(SHARE, owner): (0.0, 1.0) for owner in shares} | {
            Key(axis.label, owner): axis.range
            for name, axis in self.axes.items()
            for owner in self._owners(name, experts)
        }

    def params(self, point: Mapping[Key, float], experts: Sequence[str]) -> dict[str, ParamValue]:
        """Returns the parameters of the rule of a group.

        Args:
            point: Its coordinates; those not in `ranges(experts)` are ignored.
            experts: The experts that change some tensor of the group.
        """
        numbers = self._mixture(point, experts) if self.by_shares else {}
        words: dict[str, ParamValue] = {name: v for name, v in self.fixed.items() if isinstance(v, bool | str)}
        said = [
            param for param in self.spec.params if param.name in {**self.axes, **self.fixed} and param.name not in words
        ]
        for param in sorted(said, key=lambda param: param.limit is not None):
            for owner in self._owners(param.name, experts):
                limit = _limit(param, self.spec, owner, numbers)
                if axis := self.axes.get(param.name):
                    number = axis.value(point[Key(axis.label, owner)], limit=limit)
                else:
                    fixed = self._constant(param.name, owner)
                    number = fixed if limit is None else limited(param, fixed, limit)
                numbers[Key(param.name, owner)] = number
        params = words
        for name in dict.fromkeys(key.name for key in numbers):
            values = {key.owner: number for key, number in numbers.items() if key.name == name}
            params[name] = values[None] if None in values else {str(owner): v for owner, v in values.items()}
        return params

    def locate(self, mix: Mix, experts: Sequence[str], depth: float) -> dict[Key, float] | None:
        """Returns the coordinates nearest to a mix of this operator or another; None if no source has a share.

        Args:
            mix: A recipe's operator and parameters for a group.
            experts: The experts that change some tensor of the group.
            depth: The group's mean depth, from 0 (first layer) to 1 (last).
        """
        numbers = self._in_own_terms(mix, experts, depth)
        point: dict[Key, float] = {}
        if self.by_shares:
            owners = self._owners("weight", experts)
            weights = [max(0.0, numbers.get(Key("weight", owner), 0.0)) for owner in owners]
            if (whole := sum(weights)) == 0:
                return None
            left = 1.0
            for owner, weight in zip(owners, weights, strict=True):
                point[Key(SHARE, owner)] = min(1.0, weight / whole / left) if left > 0 else 0.0
                left = max(0.0, left - weight / whole)
        for name, axis in self.axes.items():
            for owner in self._owners(name, experts):
                value = numbers.get(Key(name, owner), float(axis.param.default))
                limit = _limit(axis.param, self.spec, owner, numbers)
                point[Key(axis.label, owner)] = axis.coordinate(value, limit=limit)
        return point

    def _in_own_terms(self, mix: Mix, experts: Sequence[str], depth: float) -> dict[Key, float]:
        """Returns the mix's numbers, its weights, scale and depth profile converted to those of this layout."""
        numbers, weights = dict(mix.numbers), [Key("weight", expert) for expert in experts]
        if mix.is_weighted_sum:
            deeper = self._depth_ratio(mix, depth)
            numbers |= {weight: deeper * numbers.get(weight, 0.0) for weight in weights}
        if self._absorbs_scale:
            factor = numbers.get(_SCALE, 1.0) / (self._constant("scale", None) or 1.0)
            return numbers | {weight: factor * numbers.get(weight, 0.0) for weight in weights}
        if not mix.is_weighted_sum:
            return numbers
        if self.by_shares:  # the scale is the sum of the weights, and the base has the rest of 1
            total = sum(max(0.0, numbers[weight]) for weight in weights)
            return numbers | {_SCALE: total, Key("weight", BASE): max(0.0, 1 - total)}
        fixed = sum(self._constant("weight", expert) for expert in experts)
        return numbers | {_SCALE: sum(numbers[weight] for weight in weights) / fixed} if fixed else numbers

    def _depth_ratio(self, mix: Mix, depth: float) -> float:
        """Returns the ratio of a mix's depth profile to this layout's at a depth; 1 if this layout's is 0 there."""
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
        """Returns shares as weights: the last source (the base, if it is one of them) takes the rest."""
        *sharing, last = self._owners("weight", experts)
        left, weights = 1.0, {}
        for owner in sharing:
            weight = weights[Key("weight", owner)] = six_decimals(point[Key(SHARE, owner)] * left)
            left = max(0.0, left - weight)
        return {**weights, Key("weight", last): six_decimals(left)}

    def _owners(self, name: str, experts: Sequence[str]) -> tuple[str | None, ...]:
        """Returns the owners that have their own value of a parameter; (None,) for the whole group."""
        param = self.spec.param(name)
        assert param is not None, f"{self.spec.name} has no parameter {name}"
        match param.kind:
            case ParamKind.SOURCE:
                return (*experts, BASE)
            case ParamKind.EXPERT:
                return tuple(experts)
        return (None,)

    def _constant(self, name: str, owner: str | None) -> float:
        """Returns a parameter's fixed value or default; 0 if the operator does not have it."""
        param = self.spec.param(name)
        default = param.default if param else 0.0
        value = self.fixed.get(name, default)
        return float(value.get(str(owner), default) if isinstance(value, Mapping) else value)

    @property
    def _absorbs_scale(self) -> bool:
        """Whether a factor on the merged delta is a factor on the weights."""
        return "weight" in self.axes and self.spec.degree == 1


def _takes_shares(weight: ParamSpec, spec: OperatorSpec, fixed: Mapping[str, Fixed]) -> bool:
    """Returns whether only the ratios of the searched weights matter, or the base has a weight too."""
    if weight.kind is ParamKind.SOURCE:
        return True
    return bool(fixed.get("normalize", False)) if spec.param("normalize") else spec.degree == 0


def _is_used(param: ParamSpec, spec: OperatorSpec, fixed: Mapping[str, Fixed]) -> bool:
    """Returns whether the operator reads a parameter, given the fixed choices."""
    if param.only_if is None:
        return True
    choice, option = param.only_if
    other = spec.param(choice)
    assert other is not None, f"{spec.name} has no choice {choice}"
    return fixed.get(choice, other.default) == option


def _limit(param: ParamSpec, spec: OperatorSpec, owner: str | None, numbers: Mapping[Key, float]) -> float | None:
    """Returns the bound that another parameter of the same owner sets; None if there is none."""
    if param.limit is None:
        return None
    other = spec.param(param.limit.by)
    assert other is not None, f"{spec.name} has no parameter {param.limit.by}"
    return param.limit.of(numbers.get(Key(other.name, owner), float(other.default)))


def common_ranges(layouts: Sequence[Layout], experts: Sequence[str]) -> dict[Key, tuple[float, float]]:
    """Returns the distinct coordinates of a group; if operators share one, the intersection of their ranges."""
    found: dict[Key, tuple[float, float]] = {}
    for layout in layouts:
        for key, (low, high) in layout.ranges(experts).items():
            before = found.get(key, (low, high))
            found[key] = (max(low, before[0]), min(high, before[1]))
    return found
