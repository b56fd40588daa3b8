"""A number for each of a matrix's columns (its inputs), or for each layer."""

from collections.abc import Mapping

from crossbreed.kernels.reference.tensor import Reference

REFERENCES: Mapping[str, Reference] = {}
