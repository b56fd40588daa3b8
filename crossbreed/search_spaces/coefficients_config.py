"""The settings of the coefficient space: operators, groups of tensors, and the range of each parameter."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from crossbreed.config import refused
from crossbreed.errors import Collector, InputError
from crossbreed.parsing import hint_at_number, shown, suggestion
from crossbreed.recipes.operators import OPERATOR_SPECS, OPERATORS
from crossbreed.search_spaces.axes import ParamSetting, why_invalid_setting
from crossbreed.search_spaces.groups import GroupsConfig
from crossbreed.search_spaces.layout import Layout, common_ranges
from crossbreed.search_spaces.settings import SpaceConfig

_USUAL: Mapping[str, tuple[float, float]] = {"weight": (-0.5, 1.5), "density": (0.1, 1.0)}
"""Parameters with a key of their own in a spec, and the key's value if no operator has the parameter."""


def _increasing(bounds: tuple[float, float]) -> tuple[float, float]:
    if not bounds[0] < bounds[1]:
        raise ValueError(f"the lower bound must come first: expected low < high, got [{bounds[0]:g}, {bounds[1]:g}]")
    return bounds


def _is_setting(value: object) -> object:
    """Rejects an invalid setting with one message, instead of pydantic's one per member of the union."""
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    numbers = all(isinstance(part, int | float) and not isinstance(part, bool) for part in parts)
    if value is None or not numbers or (isinstance(value, list | tuple) and len(value) != 2):
        raise InputError(
            "a parameter is set to a range, to one value, or to a number for each expert",
            expected="[low, high], a value, or a mapping of experts to numbers",
            got=shown(value),
            fix=hint_at_number(value, is_long=isinstance(value, list | tuple) and len(value) > 2) or "see docs/spec.md",
        )
    return value


Range: TypeAlias = Annotated[tuple[float, float], AfterValidator(_increasing)]
"""Lower and upper bound of a parameter."""


class CoefficientsConfig(SpaceConfig):
    """Bands of layers x module types, each with its own coefficients for every expert that changes it."""

    kind: Literal["coefficients"] = "coefficients"
    operator: Annotated[str | list[str], Field(json_schema_extra={"x-registry": OPERATORS.plural})] = "task_arithmetic"
    """One of the operators below. With a list, the choice of operator is one more coordinate, for the whole model: the
    first trials are the start of the search under each, and the search goes on from the best of them. The coordinates
    of operators that are not chosen have no effect then, and cost a search as many trials as others."""
    groups: GroupsConfig = GroupsConfig()
    """The groups of tensors that share coefficients."""
    weight: Range = Field(default_factory=lambda said: _usual("weight", _listed(said.get("operator", ()))))
    """Range of the weights on deltas; negative weights unlearn. Default: the operators' own, mostly [-0.5, 1.5]."""
    density: Range = Field(default_factory=lambda said: _usual("density", _listed(said.get("operator", ()))))
    """Range of the share of each delta that is kept. Default: the operators' own, mostly [0.1, 1]."""
    params: dict[str, Annotated[ParamSetting, BeforeValidator(_is_setting)]] = Field(default_factory=dict)
    """Any parameter of the operators: a range to search, or a fixed value for all experts or for each; for example
    `{epsilon: [0, 0.5], scale: 1.0, rescale: false}`. Parameters with a limit are given as fractions of it."""

    @property
    def operators(self) -> tuple[str, ...]:
        """The operators, in order and without duplicates."""
        return _listed(self.operator)

    @property
    def operator_params(self) -> Mapping[str, ParamSetting]:
        """The content of `params`."""
        return self.params

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """The layout of each operator's coordinates."""
        return tuple(Layout.of(operator, self._narrowed | self.params) for operator in self.operators)

    @property
    def _beside(self) -> dict[str, ParamSetting]:
        """The parameters with a key of their own, beside `params`."""
        return {"weight": self.weight, "density": self.density}

    @property
    def _narrowed(self) -> dict[str, ParamSetting]:
        """Those of `_beside` whose range is not the operators' own."""
        return {name: bounds for name, bounds in self._beside.items() if bounds != _usual(name, self.operators)}

    @property
    def _named(self) -> dict[str, ParamSetting]:
        """Those of `_beside` that the spec contains; empty if it contains every key, as specs in run folders do."""
        is_dumped = self.model_fields_set == type(self).model_fields.keys()
        named = frozenset[str]() if is_dumped else self.model_fields_set
        return {name: bounds for name, bounds in self._beside.items() if name in named}

    @model_validator(mode="after")
    def _fits_together(self) -> "CoefficientsConfig":
        if not self.operators:
            raise ValueError("`operator` is an empty list: name at least one operator")
        mistakes = Collector()
        for name in self.operators:
            with mistakes.noted():
                OPERATORS.require(name, where="space.operator")
        if not mistakes.errors:
            self._check_params(mistakes)
        if mistakes.errors:
            raise refused(mistakes.errors)
        return self

    def _check_params(self, mistakes: Collector) -> None:
        beside = self._narrowed | self._named
        for name in sorted(beside.keys() & self.params.keys()):
            mistakes.note(InputError(f"`{name}` is given twice: in `params` and beside it", where=f"space.{name}"))
        for name, setting in (beside | self.params).items():
            where = f"space.params.{name}" if name in self.params else f"space.{name}"
            with mistakes.noted():
                _check(name, setting, self.layouts, where=where)
        if mistakes.errors:
            return
        for layout in self.layouts:
            for name in layout.missing:
                problem = f"`{layout.spec.name}` needs `{name}`: give its value or its range in `params`"
                mistakes.note(InputError(problem, where="space"))
        for key, (low, high) in common_ranges(self.layouts, ("a", "b")).items():
            if not low < high:
                problem = f"the operators' own ranges of `{key.name}` do not overlap: give it in `params`"
                mistakes.note(InputError(problem, where="space.operator"))


def _listed(operator: str | Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([operator] if isinstance(operator, str) else operator))


def _usual(name: str, operators: Iterable[str]) -> tuple[float, float]:
    """Returns the range that is valid for all operators that have the parameter."""
    params = [spec.param(name) for operator in operators if (spec := OPERATOR_SPECS.get(operator))]
    bounds = [param.search for param in params if param is not None and param.search is not None] or [_USUAL[name]]
    return max(low for low, _ in bounds), min(high for _, high in bounds)


def _check(name: str, setting: ParamSetting, layouts: Sequence[Layout], *, where: str) -> None:
    """Raises InputError unless a setting is valid for every operator that has the parameter, and used by one."""
    shown = "see " + " and ".join(f"`crossbreed list operators {layout.spec.name}`" for layout in layouts)
    for layout in layouts:
        param = layout.spec.param(name)
        if param is not None and (fault := why_invalid_setting(param, setting)):
            got = f"[{setting[0]:g}, {setting[1]:g}]" if isinstance(setting, tuple) else repr(setting)
            raise InputError(f"`{name}` must {fault}, got {got}", where=where, fix=hint_at_number(setting) or shown)
    unused = [why for layout in layouts if (why := layout.why_unused(name))]
    if len(unused) == len(layouts):
        known = [param.name for layout in layouts for param in layout.spec.params]
        hint = "" if name in known else suggestion(name, known)
        fix = f"{hint or 'remove it'}; {shown}"
        raise InputError(f"`{name}` has no effect: {' and '.join(unused)}", where=where, fix=fix)
