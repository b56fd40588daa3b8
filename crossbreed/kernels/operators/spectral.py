"""Singular directions of the deltas."""

from collections.abc import Mapping

from crossbreed.kernels.programs import Operator

OPERATORS: Mapping[str, Operator] = {}
