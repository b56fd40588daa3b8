"""The recipes that every run answers first: what a user could have had without a search."""

from collections.abc import Iterator, Mapping
from functools import partial

from crossbreed.types import Recipe, Rule

TUNED_SCALARS = (0.5, 1.0, 1.5, 2.0, 3.0)
"""Global factors s of W0 + (s/N) sum of deltas; s = 1 is `uniform` itself."""
PREFIX = "baseline:"
WARM_START = "warm_start:"
"""Of the origins of what a user gives to start from."""


def is_lone(origin: str) -> bool:
    """Whether a candidate is a single model, not a merge."""
    return origin == f"{PREFIX}base" or origin.startswith(f"{PREFIX}expert:")


def scalar_of(origin: str) -> float | None:
    """Returns the factor s of `uniform` and of the tuned scalars, None for all other candidates.

    >>> scalar_of("baseline:tuned_scalar:1.5"), scalar_of("baseline:uniform"), scalar_of("cma_es")
    (1.5, 1.0, None)
    """
    if origin == f"{PREFIX}uniform":
        return 1.0
    before, tuned, scalar = origin.partition(f"{PREFIX}tuned_scalar:")
    return float(scalar) if tuned and not before else None


def weighted(weights: Mapping[str, float], *, hashes: Mapping[str, str], dtype: str) -> Recipe:
    """Returns base + the weighted deltas of the experts that are named, the same in every tensor."""
    rules = (Rule(match=".*", operator="task_arithmetic", params={"weight": weights}),) if weights else ()
    return Recipe(base="base", sources=hashes, rules=rules, dtype=dtype)


def baselines(hashes: Mapping[str, str], *, dtype: str) -> Iterator[tuple[str, Recipe]]:
    """Yields (origin, recipe): base, each expert, uniform, tuned_scalar, whatever the space's operator.

    Args:
        hashes: Source name -> content hash; `base` and the experts.
        dtype: What the merged tensors are rounded to.
    """
    experts = [name for name in hashes if name != "base"]
    scaled = partial(weighted, hashes=hashes, dtype=dtype)
    yield f"{PREFIX}base", scaled({})
    if len(experts) > 1:  # with one expert, uniform is the expert
        for name in experts:
            yield f"{PREFIX}expert:{name}", scaled({name: 1.0})
    yield f"{PREFIX}uniform", scaled({name: 1.0 / len(experts) for name in experts})
    for scalar in TUNED_SCALARS:
        if scalar != 1.0:
            yield f"{PREFIX}tuned_scalar:{scalar:g}", scaled({name: scalar / len(experts) for name in experts})
