"""Deltas that are thinned out before they are added, and may have to agree on a sign.

Conventions that decide exact results are mergekit's: trimming is per tensor (or, for `ties`, of the whole model as in
its paper) and keeps max(1, int(density n)) elements; a vote of 0 elects plus; where nobody agrees the divisor is 1.
Of equal magnitudes at a threshold, those with the lowest flat index are kept. What a random mask keeps is divided by
the probability of keeping it, as in the papers.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeAlias

from crossbreed.kernels.chance import kept_codes, philox_key, row_ranks
from crossbreed.kernels.cuts import cut_of, model_cut_of
from crossbreed.kernels.programs import Affine, Band, Chance, Consensus, Cut, Election, Keep, Operator, Pick, Voter
from crossbreed.kernels.tensors import Parent, Parents
from crossbreed.operators import OPERATOR_SPECS
from crossbreed.types import Rule

Thin: TypeAlias = Callable[[Parents, Rule], Callable[[Parent, float], Keep | None]]
"""(tensor, rule) -> (expert, density) -> what is kept of the expert's delta; None: all."""


def ties(parents: Parents, rule: Rule) -> Election | Affine:
    """Keep the largest, elect, merge those that agree (arXiv 2306.01708)."""
    spec = OPERATOR_SPECS["ties"]
    voters = _voters(parents, rule, _largest)
    scale, normalize = spec.scalar(rule, "scale"), bool(spec.scalar(rule, "normalize"))
    pick = Pick.MEAN if normalize else Pick.SUM
    if spec.word(rule, "pick") == "largest":
        pick = Pick.MAX
    if len(voters) == 1 and voters[0].keep is None:  # nobody to disagree with, nothing to trim
        (voter,) = voters
        return Affine(shares=((scale * (1.0 if pick is Pick.MEAN else voter.weight), voter.parent),))
    return Election(voters=voters, scale=scale, consensus=Consensus(spec.word(rule, "consensus")), pick=pick)


def dare_linear(parents: Parents, rule: Rule) -> Election:
    """Drop at random, rescale, add (arXiv 2311.03099)."""
    return _summed(parents, rule, _by_chance)


def dare_ties(parents: Parents, rule: Rule) -> Election:
    """Drop at random, rescale, elect, merge those that agree."""
    return _elected(parents, rule, _by_chance)


def della_linear(parents: Parents, rule: Rule) -> Election:
    """Drop at random, the small ones of each row more often, rescale, add (arXiv 2406.11617)."""
    return _summed(parents, rule, _by_rank)


def della(parents: Parents, rule: Rule) -> Election:
    """Drop at random, the small ones of each row more often, rescale, elect, merge those that agree."""
    return _elected(parents, rule, _by_rank)


def breadcrumbs(parents: Parents, rule: Rule) -> Election:
    """Drop the outliers and the smallest, add (arXiv 2312.06795)."""
    return _summed(parents, rule, _between)


def breadcrumbs_ties(parents: Parents, rule: Rule) -> Election:
    """Drop the outliers and the smallest, elect, merge those that agree."""
    return _elected(parents, rule, _between)


def _summed(parents: Parents, rule: Rule, thin: Thin) -> Election:
    spec = OPERATOR_SPECS[rule.operator]
    scale = spec.scalar(rule, "scale")
    if spec.scalar(rule, "normalize"):
        total = math.fsum(spec.per_source(rule, "weight", parents.expert_names).values())
        scale /= total if abs(total) >= 1e-8 else 1.0
    return Election(voters=_voters(parents, rule, thin), scale=scale, consensus=Consensus.NONE, pick=Pick.SUM)


def _elected(parents: Parents, rule: Rule, thin: Thin) -> Election:
    spec = OPERATOR_SPECS[rule.operator]
    return Election(
        voters=_voters(parents, rule, thin),
        scale=spec.scalar(rule, "scale"),
        consensus=Consensus.SUM,
        pick=Pick.MEAN if spec.scalar(rule, "normalize") else Pick.SUM,
    )


def _voters(parents: Parents, rule: Rule, thin: Thin) -> tuple[Voter, ...]:
    """The experts with a weight, in an order that only content, weight and density decide."""
    spec = OPERATOR_SPECS[rule.operator]
    weights = spec.per_source(rule, "weight", parents.expert_names)
    densities = spec.per_source(rule, "density", parents.expert_names)
    thinned = thin(parents, rule)
    taking = [parent for parent in parents.experts if weights[parent.name] != 0]
    taking.sort(key=lambda parent: (parent.hash, weights[parent.name], densities[parent.name]))
    return tuple(
        Voter(
            parent=parent,
            weight=weights[parent.name],
            keep=None if densities[parent.name] >= 1 else thinned(parent, densities[parent.name]),
        )
        for parent in taking
    )


def _largest(parents: Parents, rule: Rule) -> Callable[[Parent, float], Keep | None]:
    find = model_cut_of if OPERATOR_SPECS[rule.operator].word(rule, "trim") == "model" else cut_of

    def keep(parent: Parent, density: float) -> Keep | None:
        cut = find(parents, parent, density)
        return None if cut is None else Band(low=cut)

    return keep


def _between(parents: Parents, rule: Rule) -> Callable[[Parent, float], Keep | None]:
    """What is inside the cut at density + gamma and outside the one at gamma, if that drops anything."""
    gammas = OPERATOR_SPECS[rule.operator].per_source(rule, "gamma", parents.expert_names)

    def keep(parent: Parent, density: float) -> Keep | None:
        gamma = min(gammas[parent.name], 1 - density)
        low = cut_of(parents, parent, density + gamma)
        high = cut_of(parents, parent, gamma) if gamma * parents.base.numel() >= 1 else None
        if low is None and high is None:
            return None
        return Band(low=low or Cut(0.0, parents.base.numel()), high=high)

    return keep


def _by_chance(parents: Parents, rule: Rule) -> Callable[[Parent, float], Chance]:
    spec = OPERATOR_SPECS[rule.operator]
    seed, rescale = int(spec.scalar(rule, "seed")), bool(spec.scalar(rule, "rescale"))

    def keep(parent: Parent, density: float) -> Chance:
        key = philox_key(seed, parents.name, parent.hash)
        return Chance(key=key, density=density, rescale=rescale, codes=kept_codes(parents, parent, key))

    return keep


def _by_rank(parents: Parents, rule: Rule) -> Callable[[Parent, float], Keep]:
    by_chance = _by_chance(parents, rule)
    spreads = OPERATOR_SPECS[rule.operator].per_source(rule, "epsilon", parents.expert_names)

    def keep(parent: Parent, density: float) -> Keep:
        ranks = row_ranks(parents, parent)
        return replace(by_chance(parent, density), ranks=ranks, spread=spreads[parent.name])

    return keep


OPERATORS: Mapping[str, Operator] = {
    "ties": ties,
    "dare_linear": dare_linear,
    "dare_ties": dare_ties,
    "della": della,
    "della_linear": della_linear,
    "breadcrumbs": breadcrumbs,
    "breadcrumbs_ties": breadcrumbs_ties,
}
