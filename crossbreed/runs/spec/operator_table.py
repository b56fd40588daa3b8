"""Describes the parameters of an operator: for docs/spec.md and for `crossbreed list`."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from crossbreed.recipes.operators import DEPTH_PROFILE, OPERATOR_SPECS, ParamKind, ParamSpec
from crossbreed.runs.spec.fields import one_line
from crossbreed.search_spaces.layout import Layout

_OF = {
    ParamKind.EXPERT: "each expert",
    ParamKind.SOURCE: "each source",
    ParamKind.SCALAR: "the group",
    ParamKind.FLAG: "the group",
    ParamKind.CHOICE: "the group",
    ParamKind.NAME: "the group",
    ParamKind.NUMBERS: "each expert, several",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """The description of an operator's parameter."""

    name: str
    of: str
    """What has a value of it: each expert, each source, or the group."""
    valid: str
    """The valid values."""
    default: str | None
    """The default as JSON; None if a rule must give a value."""
    searched: str
    """The treatment in a space whose `params` do not name it; empty: it keeps its default."""
    about: str


def parameters(operator: str) -> Iterator[Parameter]:
    """Yields the operator's own parameters, without the depth profile, which all operators share."""
    layout = Layout.of(operator, {})
    for param in OPERATOR_SPECS[operator].params:
        if param not in DEPTH_PROFILE:
            yield Parameter(
                name=param.name,
                of=_OF[param.kind],
                valid=param.why_invalid(None) or "",
                default=None if param.required else json.dumps(param.default),
                searched=_searched(param, layout),
                about=one_line(param.about),
            )


def takes(operator: str) -> str:
    """Returns how many experts the operator needs, in words; empty if it takes any number."""
    spec = OPERATOR_SPECS[operator]
    low, high = spec.num_experts
    if (low, high) == (0, None):
        return ""
    return f"{spec.why_invalid(-1)} expert{'s' * ((high or low) > 1)}"


def _searched(param: ParamSpec, layout: Layout) -> str:
    if param.name in layout.missing:
        return "required in `params`"
    if param.name == "weight" and layout.by_shares:
        return "shares"
    if param.only_if and layout.why_unused(param.name):
        return f"with `{param.only_if[0]}: {param.only_if[1]}`"
    if (axis := layout.axes.get(param.name)) is None:
        fixed = layout.fixed.get(param.name)
        return f"`{json.dumps(fixed)}`" if fixed is not None else "through the weights" if param.search else ""
    ways = ["log scale"] if param.log_scale else []
    ways += [f"in steps of 1/{param.grid}"] if param.grid else []
    ways += [f"as a fraction of its limit ({param.limit.about})"] if param.limit else []
    return ", ".join([f"{axis.low:g} to {axis.high:g}", *ways])
