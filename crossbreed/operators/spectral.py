"""Singular directions of the deltas."""

from crossbreed.operators.spec import OperatorSpec

SPECS: tuple[OperatorSpec, ...] = ()
