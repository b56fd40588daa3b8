"""A number for each of a matrix's columns (its inputs), or for each layer."""

from collections.abc import Mapping

from crossbreed.kernels.programs import Operator

OPERATORS: Mapping[str, Operator] = {}
