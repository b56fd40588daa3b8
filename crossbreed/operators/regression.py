"""Least squares on what the experts do to their inputs."""

from crossbreed.operators.spec import OperatorSpec

SPECS: tuple[OperatorSpec, ...] = ()
