"""What an election keeps of a delta: its largest elements, a band of them, or elements drawn at random.

Operators ask for a `Band` or a `RandomMask`. `lower` turns either into a `Mask`, the one form that executors know: a
kind, two numbers, and what the kind needs beside them.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, TypeAlias

import torch

RANDOM_LEVELS = 1 << 16
"""Levels of a random number: probabilities differ down to 1 in 65,536."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """Where the largest elements of a delta end: those above `magnitude`, and those equal to it before `end`."""

    magnitude: float
    end: int
    """Flat index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Keeps the elements inside the threshold `low` and, if there is one, outside the (smaller) threshold `high`."""

    low: Threshold
    high: Threshold | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomMask:
    """Keeps each element with a probability, and divides what is kept by it if `rescale`.

    The probability is `density`, or runs from density - spread to density + spread along `ranks`.
    """

    key: tuple[int, int]
    """Of the Philox stream that gives each element a random number below RANDOM_LEVELS."""
    density: float
    rescale: bool
    random_u16: torch.Tensor | None = None
    """Those numbers as uint16 [n]; None: executors draw them where they need them."""
    ranks: torch.Tensor | None = None
    """[n] uint8: where in its row an element's magnitude stands, from 0 to 255."""
    spread: float = 0.0


Keep: TypeAlias = Band | RandomMask


class MaskKind(StrEnum):
    """How an element is tested. The names are those of `Keep` in native/merge.hpp."""

    ALL = "all"
    """Kept."""
    LOW = "low"
    """Kept inside the first threshold."""
    BAND = "band"
    """Kept inside the first threshold and outside the second."""
    RANDOM = "random"
    """Kept where its random number is below the first number, and multiplied by the second."""
    RANKED = "ranked"
    """Kept where its random number is below the first number + rank * the second."""
    RANKED_RESCALED = "ranked_rescaled"
    """The same, and divided by the probability of that."""


class Mask(NamedTuple):
    """A mask as executors take it."""

    kind: MaskKind = MaskKind.ALL
    numbers: tuple[float, float] = (0.0, 0.0)
    """Of a band: the magnitudes of its thresholds. Of a random mask: as its kind says."""
    ends: tuple[int, int] = (0, 0)
    """Of a band: where its thresholds end."""
    key: tuple[int, int] = (0, 0)
    """Of the Philox stream of a random mask."""
    random_u16: torch.Tensor | None = None
    """Numbers of that stream; None: draw them."""
    ranks: torch.Tensor | None = None


def lower(keep: Keep | None) -> Mask:
    """Returns the mask that keeps what is to be kept; None keeps all."""
    match keep:
        case None:
            return Mask()
        case Band(low=low, high=high):
            if high is None:
                return Mask(MaskKind.LOW, (low.magnitude, 0.0), (low.end, 0))
            return Mask(MaskKind.BAND, (low.magnitude, high.magnitude), (low.end, high.end))
        case RandomMask(ranks=ranks):
            if ranks is None:
                numbers = keep.density * RANDOM_LEVELS, 1 / keep.density if keep.rescale else 1.0
                return Mask(MaskKind.RANDOM, numbers, (0, 0), keep.key, keep.random_u16)
            kind = MaskKind.RANKED_RESCALED if keep.rescale else MaskKind.RANKED
            least, slope = (keep.density - keep.spread) * RANDOM_LEVELS, 2 * keep.spread * RANDOM_LEVELS / 255
            return Mask(kind, (least, slope), (0, 0), keep.key, keep.random_u16, ranks)
