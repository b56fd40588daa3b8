"""What a score's record tells of a task beside the values of its items."""

from dataclasses import dataclass
from typing import Annotated, TypeAlias

from pydantic import ConfigDict, Field

from crossbreed.figures import Figure

STRICT = ConfigDict(strict=True, allow_inf_nan=False)
Number: TypeAlias = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeansRecord:
    """What is known of values that are means of several items each."""

    __pydantic_config__ = STRICT
    counts: tuple[Number, ...]
    """Number of items of each."""
    errors: tuple[float | None, ...]
    """Standard error of each, as who asked the items says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedRecord:
    """What is known of the verdicts on a task's answers."""

    __pydantic_config__ = STRICT
    abstained: tuple[Number, ...] = ()
    """Places of the items without a verdict, whose values are the mean of the others."""
    agreement: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of items on which repeated questions were answered alike; null if nothing was asked twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureRecord:
    """What only all items of a task together have, like BLEU."""

    __pydantic_config__ = STRICT
    mean: float | None
    low: float | None
    high: float | None
    n: Number
    error: str = ""
    """Why there is no value."""

    @classmethod
    def of(cls, figure: Figure) -> "FigureRecord":
        """Returns the record of a figure."""
        return cls(mean=figure.value, low=figure.low, high=figure.high, n=figure.num_items, error=figure.error)

    @property
    def figure(self) -> Figure:
        """The figure."""
        return Figure(value=self.mean, low=self.low, high=self.high, num_items=self.n, error=self.error)
