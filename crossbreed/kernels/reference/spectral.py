"""Singular directions of the deltas."""

from collections.abc import Mapping

from crossbreed.kernels.reference.tensor import Reference

REFERENCES: Mapping[str, Reference] = {}
