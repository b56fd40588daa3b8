"""Spherical linear interpolation (SLERP) of two vectors: the share of each, as a function of the angle between them."""

import math

STRAIGHT = 1e-6
"""If the sine of the angle is at most this, interpolation is linear (as in the public code of arXiv 2508.16204)."""


def slerp_shares(angle: float, at: float) -> tuple[float, float]:
    """Returns the shares of both vectors in the point at the fraction `at` (0 to 1) of the way from one to the other.

    >>> slerp_shares(math.pi / 2, 1.0), slerp_shares(0.0, 0.25)
    ((0.0, 1.0), (0.75, 0.25))
    """
    sine = math.sin(angle)
    if sine <= STRAIGHT:
        return 1.0 - at, at
    return math.sin((1.0 - at) * angle) / sine, math.sin(at * angle) / sine
