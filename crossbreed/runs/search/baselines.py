"""The recipes that every run scores first: the merges that need no search."""

from collections.abc import Iterator, Mapping
from functools import partial

from crossbreed.recipes.named import weighted_deltas
from crossbreed.types import BASE, ProposedBy, Recipe

TUNED_SCALARS = (0.5, 1.0, 1.5, 2.0, 3.0)
"""The global factors s of W0 + (s/N) sum of deltas; s = 1 is `uniform`."""


def baselines(hashes: Mapping[str, str], *, dtype: str) -> Iterator[tuple[ProposedBy, Recipe]]:
    """Yields origin and recipe of the base, each expert, uniform and the tuned scalars, whatever the space's operator.

    Args:
        hashes: Source name -> content hash; `base` and the experts.
        dtype: The dtype to which merged tensors are rounded.
    """
    experts = [name for name in hashes if name != BASE]
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
