"""A search of a few minutes."""

from collections.abc import Mapping
from typing import Any

from crossbreed.runs.spec.presets import RawSpec, fill


def first_look(given: Mapping[str, Any]) -> RawSpec:
    """Hill climbing over one weight for each expert, 20 trials: a first look."""
    space = {"kind": "coefficients", "operator": "task_arithmetic"}
    return fill({"space": space, "optimizer": {"kind": "hill_climbing", "budget": {"trials": 20}}}, given)
