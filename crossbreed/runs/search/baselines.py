"""The recipes that every run scores first: the merges that need no search."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType

from crossbreed.recipes.named import weighted_deltas
from crossbreed.types import BASE, ProposedBy, Recipe

TUNED_SCALARS = (0.5, 1.0, 1.5, 2.0, 3.0)
"""The global factors s of W0 + (s/N) sum of deltas; s = 1 is `uniform`."""


def baselines(
    hashes: Mapping[str, str], *, dtype: str, experts: Sequence[str] | None = None
) -> Iterator[tuple[ProposedBy, Recipe]]:
    """Yields origin and recipe of the base, each expert, uniform and the tuned scalars, whatever the space's operator.

    Args:
        hashes: Source name -> content hash; `base` and the experts.
        dtype: The dtype to which merged tensors are rounded.
        experts: The experts that are merged; default: all.
    """
    experts = experts or [name for name in hashes if name != BASE]
    scaled = partial(weighted_deltas, hashes=hashes, dtype=dtype)
    yield ProposedBy(kind="base"), scaled({})
    if len(experts) > 1:  # with one expert, uniform is the expert
        for name in experts:
            yield ProposedBy(kind="expert", name=name), scaled({name: 1.0})
    yield ProposedBy(kind="uniform"), scaled({name: 1.0 / len(experts) for name in experts})
    for scalar in TUNED_SCALARS:
        if scalar != 1.0:
            weights = {name: scalar / len(experts) for name in experts}
            yield ProposedBy(kind="tuned_scalar", scalar=scalar), scaled(weights)


def num_reported(num_experts: int) -> int:
    """Returns how many models a report has at most: base, experts, uniform, the best tuned scalar, the winner."""
    return num_experts + (4 if num_experts > 1 else 3)  # with one expert, uniform is the expert


def best_tuned_scalar(
    measured: Mapping[int, tuple[ProposedBy, tuple[float, ...]]], *, off: Mapping[int, float] = MappingProxyType({})
) -> int | None:
    """Returns the number of the best tuned scalar, `uniform` (s = 1) among them; of equals the first; None without any.

    Several objectives count as in the report: each scaled between the worst and the best of base, experts and uniform.
    One that is less far off the constraints comes before one that is farther off.

    Args:
        measured: Candidate number -> its origin and its objectives, of which more is better.
        off: Candidate number -> how far off the constraints it is, all together; if it is not there, it keeps them.
    """
    plain = [values for by, values in measured.values() if by.is_untuned]
    ranges = [(min(column), max(column) - min(column) or 1.0) for column in zip(*plain, strict=True)]

    def scaled(number: int) -> tuple[float, float]:
        values = measured[number][1]
        if ranges:
            values = tuple((value - low) / span for value, (low, span) in zip(values, ranges, strict=True))
        return -off.get(number, 0.0), math.fsum(values)

    tuned = sorted(number for number, (by, _) in measured.items() if by.global_scalar is not None)
    return max(tuned, key=scaled, default=None)
