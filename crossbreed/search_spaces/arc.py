"""Points on the arc between two vectors (SLERP): how much of each, from the angle between them alone."""

import math

STRAIGHT = 1e-6
"""Where the sine of the angle is no more than this, the arc is the line (as in the public code of arXiv 2508.16204)."""


def arc_shares(angle: float, at: float) -> tuple[float, float]:
    """Returns how much of both ends the point has that is `at` (0 to 1) of the way along an arc.

    >>> arc_shares(math.pi / 2, 1.0), arc_shares(0.0, 0.25)
    ((0.0, 1.0), (0.75, 0.25))
    """
    sine = math.sin(angle)
    if sine <= STRAIGHT:
        return 1.0 - at, at
    return math.sin((1.0 - at) * angle) / sine, math.sin(at * angle) / sine
