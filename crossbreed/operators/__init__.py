"""What the merge operators are called and what they are told: names, parameters, ranges. No tensors, no torch.

On the ground floor because three packages must agree on it and may not import one another: a search space builds its
box from these declarations, a recipe is checked against them, and `crossbreed.kernels` maps the names to arithmetic.
A family of operators is a module here and one of the same name in `crossbreed.kernels.operators`.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from crossbreed.operators import columns, geometry, linear, regression, selection, sparse, spectral
from crossbreed.operators.spec import DEPTH_PROFILE, Limit, OperatorSpec, ParamKind, ParamSpec

__all__ = ["DEPTH_PROFILE", "OPERATOR_SPECS", "Limit", "OperatorSpec", "ParamKind", "ParamSpec"]

OPERATOR_SPECS: Mapping[str, OperatorSpec] = MappingProxyType(
    {
        spec.name: replace(spec, params=(*spec.params, *DEPTH_PROFILE))
        for family in (linear, sparse, selection, geometry, columns, spectral, regression)
        for spec in family.SPECS
    }
)
"""Operator name -> declaration; `crossbreed.kernels.OPERATORS` has the arithmetic under the same names."""
