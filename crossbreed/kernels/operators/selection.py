"""Elements that are selected by what the experts, or one of them, say there."""

from collections.abc import Mapping

from crossbreed.kernels.programs import Operator

OPERATORS: Mapping[str, Operator] = {}
