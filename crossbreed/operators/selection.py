"""Elements that are selected by what the experts, or one of them, say there."""

from crossbreed.operators.spec import OperatorSpec

SPECS: tuple[OperatorSpec, ...] = ()
