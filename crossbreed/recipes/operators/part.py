"""The registration of an operator: its declaration, and the locations of its arithmetic and its reference."""

from dataclasses import dataclass

from crossbreed.recipes.operators.spec import OperatorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorPart:
    """An operator. Functions that need torch are given as `module:attribute` and imported on first use."""

    spec: OperatorSpec
    arithmetic: str
    """A `crossbreed.kernels.Operator`: (inputs of a tensor, rule) -> program."""
    reference: str
    """A `crossbreed.kernels.reference.tensor.Reference`: (tensor, rule) -> merged tensor, in fp64; slow and simple."""
    check: str | None = None
    """(inputs, rule) -> None: raises InputError if a tensor cannot be merged, before any weight is read."""


def family(module: str, *specs: OperatorSpec, check: str | None = None) -> tuple[OperatorPart, ...]:
    """Returns parts of this package, whose functions have the names of their operators.

    Args:
        module: The name of their modules in `crossbreed.kernels.operators` and `crossbreed.kernels.reference`.
        specs: Their declarations.
        check: The name of a function in the first of these modules.
    """
    arithmetic, reference = (f"crossbreed.kernels.{room}.{module}" for room in ("operators", "reference"))
    return tuple(
        OperatorPart(
            spec=spec,
            arithmetic=f"{arithmetic}:{spec.name}",
            reference=f"{reference}:{spec.name}",
            check=check and f"{arithmetic}:{check}",
        )
        for spec in specs
    )
