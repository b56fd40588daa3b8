"""The arithmetic of operators: each looks at one tensor's inputs and its rule, and chooses a program.

A module for each family; what operators share is in `prepared`. Names are looked up in the registry, so that operators
of other packages are found as ours are.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar, cast

from crossbreed.errors import InputError
from crossbreed.kernels.programs import Operator
from crossbreed.kernels.tensors import TensorInputs
from crossbreed.recipes import operators as declared
from crossbreed.recipes.operators import OperatorPart
from crossbreed.registry import resolve
from crossbreed.types import Rule

T = TypeVar("T")


class Resolved(Mapping[str, T]):
    """Operator name -> what its part refers to, imported when it is first looked up."""

    def __init__(self, reference_of: Callable[[OperatorPart], str | None]) -> None:
        """Imports nothing.

        Args:
            reference_of: Returns a `module:attribute`; None: the operator has none.
        """
        self._reference_of = reference_of
        self._held: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        """Returns what the part refers to.

        Raises:
            KeyError: there is no such operator, or it refers to nothing.
            InputError: what it refers to cannot be imported.
        """
        reference = self._reference_of(declared.OPERATORS[name])
        if reference is None:
            raise KeyError(name)
        if reference not in self._held:
            self._held[reference] = cast(T, _import(name, reference))
        return self._held[reference]

    def __contains__(self, name: object) -> bool:
        part = declared.OPERATORS[name] if isinstance(name, str) and name in declared.OPERATORS else None
        return part is not None and self._reference_of(part) is not None

    def __iter__(self) -> Iterator[str]:
        return (name for name in declared.OPERATORS if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _import(name: str, reference: str) -> object:
    try:
        return resolve(reference)
    except Exception as error:  # whatever another package's module raises
        raise InputError(
            f"a function of the operator `{name}` cannot be imported: {type(error).__name__}: {error}",
            expected="module:attribute",
            got=reference,
            where=f"the operator, which {declared.OPERATORS.package_of(name)} brings",
            fix="repair or uninstall that package; docs/plugins.md shows what an operator consists of",
        ) from error


ARITHMETIC: Mapping[str, Operator] = Resolved(lambda part: part.arithmetic)
"""Operator name -> arithmetic."""
CHECKS: Mapping[str, Callable[[TensorInputs, Rule], None]] = Resolved(lambda part: part.check)
"""Operator name -> what raises InputError where a tensor could not be merged, before any weight is read."""
