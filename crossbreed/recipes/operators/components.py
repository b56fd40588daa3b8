"""The operator on rank components of the experts' deltas: each has a coefficient of its own."""

from collections.abc import Mapping
from dataclasses import replace

from crossbreed.errors import InputError
from crossbreed.recipes.operators.part import family
from crossbreed.recipes.operators.spec import OperatorSpec, ParamKind, ParamSpec, weight

COMPONENTS = "rank_components"
"""The operator's name."""

PARTS = family(
    "components",
    OperatorSpec(
        name=COMPONENTS,
        formula="W = W0 + sum(wi di) + sum(cir bir air); the bir air are components of di: of an adapter its ranks, "
        "scale included; of a full checkpoint the largest singular ones",
        params=(
            replace(weight(ParamKind.EXPERT, "Weight of each expert's whole delta."), search=None),
            ParamSpec(
                name="components",
                kind=ParamKind.NUMBERS,
                default=0.0,
                about="Coefficients of each expert's first components, added to its weight; of those beyond, it is 0. "
                "Components are in the order of an adapter's ranks, or of singular values, largest first.",
            ),
        ),
    ),
    check="check",
)


def check_components(tensor: str, given: Mapping[str, int], held: Mapping[str, int]) -> None:
    """Refuses more coefficients than a delta has components.

    Args:
        tensor: The tensor's name.
        given: Expert -> number of coefficients.
        held: Expert that changes the tensor -> number of components that its delta can have.

    Raises:
        InputError: naming the expert.
    """
    for name, number in given.items():
        if number > held.get(name, number):
            raise InputError(
                f"expert `{name}` has fewer components than the recipe has coefficients for them",
                expected=f"at most {held[name]}",
                got=f"{number}",
                where=f"`{tensor}`",
                fix="remove the last ones, or open the expert that the recipe was made for",
            )
