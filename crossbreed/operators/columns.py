"""A number for each of a matrix's columns (its inputs), or for each layer."""

from crossbreed.operators.spec import OperatorSpec

SPECS: tuple[OperatorSpec, ...] = ()
