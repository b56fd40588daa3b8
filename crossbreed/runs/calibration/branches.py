"""What the terms of a space come to in a model: thin branches beside its matrices, and whole deltas."""

from collections import defaultdict
from collections.abc import Iterable

import torch

from crossbreed.fitness.engines.branches import Branch, ThinBranch, WholeBranch
from crossbreed.kernels.prepared.singular_factors import singular_factors
from crossbreed.kernels.tensors import ExpertTensor
from crossbreed.search_spaces import Term
from crossbreed.sources import Adapter, LowRank, Sources


def branches_of(terms: Iterable[Term], sources: Sources) -> dict[str, list[Branch]]:
    """Returns the branches of each tensor; terms of one tensor whose deltas are thin are put side by side."""
    found, thin = defaultdict[str, list[Branch]](list), defaultdict[str, list[ThinBranch]](list)
    for term in terms:
        expert = sources.experts[term.expert]
        value = expert.factors(term.tensor) if isinstance(expert, Adapter) else expert.tensor(term.tensor)
        assert value is not None, f"{term.expert} lists {term.tensor} as changed and has no tensor for it"
        held = ExpertTensor(name=term.expert, hash=expert.hash, value=value)
        base = sources.base.tensor(term.tensor)
        if isinstance(value, LowRank):
            thin[term.tensor].append(_thin(term, value.scale * value.b_MR.float(), value.a_RN.float()))
        elif term.is_whole:
            found[term.tensor].append(WholeBranch(value=held.whole_delta(base), number=term.coordinates[0]))
        else:
            factors = singular_factors(held, base, len(term.coordinates))
            thin[term.tensor].append(_thin(term, factors.left_MR * factors.values_R, factors.right_NR.T))
    for name, parts in thin.items():
        found[name].append(
            ThinBranch(
                b_MR=torch.cat([part.b_MR for part in parts], 1),
                a_RN=torch.cat([part.a_RN for part in parts]),
                numbers_R=torch.cat([part.numbers_R for part in parts]),
            )
        )
    return dict(found)


def _thin(term: Term, b_MR: torch.Tensor, a_RN: torch.Tensor) -> ThinBranch:
    """A delta may have fewer components than coordinates, if singular values are zero; those have no effect."""
    numbers = term.coordinates * len(a_RN) if term.is_whole else term.coordinates[: len(a_RN)]
    return ThinBranch(b_MR=b_MR, a_RN=a_RN, numbers_R=torch.tensor(numbers))
