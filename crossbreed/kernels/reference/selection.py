"""Elements that are selected by what the experts, or one of them, say there."""

from collections.abc import Mapping

from crossbreed.kernels.reference.tensor import Reference

REFERENCES: Mapping[str, Reference] = {}
