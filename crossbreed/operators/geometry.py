"""Paths between weights, or between deltas, on a sphere: scalars from inner products, then a sum."""

from crossbreed.operators.spec import OperatorSpec

SPECS: tuple[OperatorSpec, ...] = ()
