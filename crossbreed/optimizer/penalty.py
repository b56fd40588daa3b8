"""Prices of large coefficients, as papers on adapters put on their losses."""

import math
from collections.abc import Sequence
from dataclasses import replace

from crossbreed.optimizer.generation import measured
from crossbreed.types import Box, Outcome


def coordinates_of(box: Box, param: str) -> tuple[int, ...]:
    """Returns the coordinates that are a parameter of an expert; of a box of weights that does not say more, all.

    >>> coordinates_of(Box(low=(0.0,), high=(1.0,), weight_blocks=({"french": 0},)), "weight")
    (0,)
    """
    if box.coordinates:
        return tuple(index for index, coordinate in enumerate(box.coordinates) if coordinate.param == param)
    return tuple(range(box.dim)) if param == "weight" and box.weight_blocks is not None else ()


def penalised(outcome: Outcome, part: Sequence[float], penalty: float) -> Outcome:
    """Returns an outcome whose one value is less by the penalty times the mean magnitude of some coordinates.

    >>> from crossbreed.types import Status
    >>> penalised(Outcome(number=3, status=Status.OK, values=(0.5,)), (0.5, -1.5), 0.05).values
    (0.45,)
    """
    found = measured(outcome)
    if found is None or not part:
        return outcome
    return replace(outcome, values=(found[0] - penalty * math.fsum(map(abs, part)) / len(part),))
