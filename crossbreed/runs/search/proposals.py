"""Checks proposals before they are decoded and journalled: a wrong one is a bug of the optimizer."""

import numpy as np

from crossbreed.parsing import type_name
from crossbreed.types import Birth, Box, Cross, Domain, Point, Proposal, Seed

_ROUNDING = 1e-9


def check_proposal(proposal: Proposal, domain: Domain, *, optimizer: str, number: int) -> None:
    """Refuses a proposal that is not in the domain.

    Args:
        proposal: The proposal.
        domain: The domain that the optimizer searches.
        optimizer: The optimizer's kind, for the message.
        number: The candidate's number.

    Raises:
        TypeError: it is not what the domain consists of: a tuple of floats, or a birth.
        ValueError: a point has another dimension, or a coordinate outside the box.
    """
    who = f"optimizer `{optimizer}`, candidate {number}"
    if isinstance(domain, Box):
        _check_point(proposal, domain, who)
    elif not isinstance(proposal, Seed | Cross):
        raise TypeError(f"{who}: asked {type_name(proposal)[:200]}, not a Seed or a Cross")


def is_rounding(one: Proposal, other: Proposal) -> bool:
    """Returns whether two proposals are the same but for the last digits, in which processors differ."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return _are_near(one, other)
    if isinstance(one, Seed) and isinstance(other, Seed):
        return one.index == other.index and _are_near((one.scale,), (other.scale,))
    if isinstance(one, Cross) and isinstance(other, Cross):
        numbers = [(*birth.splits, *birth.weights, birth.noise) for birth in (one, other)]
        return one.parents == other.parents and _are_near(*numbers)
    return False


def _are_near(one: Point, other: Point) -> bool:
    return len(one) == len(other) and bool(np.allclose(one, other, rtol=_ROUNDING, atol=_ROUNDING))


def _check_point(point: Point | Birth, box: Box, who: str) -> None:
    if not isinstance(point, tuple):
        raise TypeError(f"{who}: asked {type_name(point)[:200]}, not a tuple of floats")
    if len(point) != box.dim:
        raise ValueError(f"{who}: asked a point of {len(point)} coordinates, in a box of {box.dim}")
    for index, (value, low, high) in enumerate(zip(point, box.low, box.high, strict=True)):
        if not isinstance(value, float):
            raise TypeError(f"{who}: coordinate {index} is {type_name(value)[:200]}, not a float")
        if not low <= value <= high:  # also of NaN
            raise ValueError(f"{who}: coordinate {index} is {float(value)!r}, not from {low!r} to {high!r}")
