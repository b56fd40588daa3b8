"""What a space of genomes asks of the weights: inner products of base and deltas, once, of many tensors together."""

from collections.abc import Iterable

import numpy as np

from crossbreed.kernels.materialize import expert_tensors, releasing_pages
from crossbreed.kernels.prepared.inner_products import Along, InnerProducts, inner_products_with_base
from crossbreed.sources import Sources


def inner_products(names: Iterable[str], sources: Sources) -> InnerProducts:
    """Returns [V, V], summed over the named tensors: the base's weights first, then each expert's delta.

    In fp64, tensor after tensor in the order given, so that no number of threads changes a bit: a run that is resumed
    on more cores must find the same angles. At most one tensor of each source stays mapped.
    """
    places = {name: place for place, name in enumerate(sources.experts, start=1)}
    total_VV = np.zeros((1 + len(places), 1 + len(places)))
    walk = ((name, sources.base.tensor(name)) for name in names)
    for name, base in releasing_pages(walk, sources.base, sources.experts):
        if base.is_floating_point() and base.numel():
            parts = list(expert_tensors(name, sources.experts))
            at = [0, *(places[part.name] for part in parts)]
            total_VV[np.ix_(at, at)] += inner_products_with_base(base, parts, Along.TENSOR)
    return total_VV
