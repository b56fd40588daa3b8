"""Each operator looks at one tensor's sources, its rule and facts, and chooses a program. A module for each family."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from crossbreed.kernels.operators import columns, geometry, linear, regression, selection, sparse, spectral
from crossbreed.kernels.programs import Operator
from crossbreed.kernels.tensors import Parents
from crossbreed.types import Rule

OPERATORS: Mapping[str, Operator] = MappingProxyType(
    {
        name: operator
        for family in (linear, sparse, selection, geometry, columns, spectral, regression)
        for name, operator in family.OPERATORS.items()
    }
)
"""Operator name -> arithmetic; `crossbreed.operators.OPERATOR_SPECS` declares the parameters under the same names."""
CHECKS: Mapping[str, Callable[[Parents, Rule], None]] = MappingProxyType(
    dict.fromkeys(regression.OPERATORS, regression.check)
)
"""Operator name -> what raises InputError where a tensor could not be merged, before any weight is read."""
