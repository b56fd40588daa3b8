"""Paths between weights, or between deltas, on a sphere: scalars from inner products, then a sum."""

from collections.abc import Mapping

from crossbreed.kernels.reference.tensor import Reference

REFERENCES: Mapping[str, Reference] = {}
