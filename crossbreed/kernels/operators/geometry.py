"""Paths between weights, or between deltas, on a sphere: scalars from inner products, then a sum."""

from collections.abc import Mapping

from crossbreed.kernels.programs import Operator

OPERATORS: Mapping[str, Operator] = {}
