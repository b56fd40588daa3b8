"""Deltas that are thinned out before they are added, and may have to agree on a sign.

Conventions that decide exact results are mergekit's: trimming is per tensor (or, for `ties`, of the whole model as in
its paper) and keeps max(1, int(density n)) elements; a vote of 0 elects plus; where none agrees the divisor is 1.
Of equal magnitudes at a threshold, those with the lowest flat index are kept. What a random mask keeps is divided by
the probability of keeping it, as in the papers.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from crossbreed.kernels.executors import executor_of
from crossbreed.kernels.masks import Band, Keep, RandomMask, Threshold
from crossbreed.kernels.prepared.random_masks import philox_key, row_ranks, stored_random_u16
from crossbreed.kernels.prepared.thresholds import model_threshold_of, threshold_of
from crossbreed.kernels.programs import Affine, Consensus, Election, Pick, Voter
from crossbreed.kernels.tensors import ExpertTensor, TensorInputs
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.types import Rule

Thin: TypeAlias = Callable[[TensorInputs, Rule], Callable[[ExpertTensor, float], Keep | None]]
"""(tensor, rule) -> (expert, density) -> what is kept of the expert's delta; None: all."""


def ties(inputs: TensorInputs, rule: Rule) -> Election | Affine:
    """Keep the largest, elect, merge those that agree (arXiv 2306.01708)."""
    spec = OPERATOR_SPECS["ties"]
    voters = _voters(inputs, rule, _largest)
    scale, normalize = spec.scalar(rule, "scale"), bool(spec.scalar(rule, "normalize"))
    pick = Pick.MEAN if normalize else Pick.SUM
    if spec.word(rule, "pick") == "largest":
        pick = Pick.MAX
    if len(voters) == 1 and voters[0].keep is None:  # none to disagree with, nothing to trim
        (voter,) = voters
        return Affine(shares=((scale * (1.0 if pick is Pick.MEAN else voter.weight), voter.expert),))
    return Election(voters=voters, scale=scale, consensus=Consensus(spec.word(rule, "consensus")), pick=pick)


def dare_linear(inputs: TensorInputs, rule: Rule) -> Election:
    """Drop at random, rescale, add (arXiv 2311.03099)."""
    return _summed(inputs, rule, _at_random)


def dare_ties(inputs: TensorInputs, rule: Rule) -> Election:
    """Drop at random, rescale, elect, merge those that agree."""
    return _elected(inputs, rule, _at_random)


def della_linear(inputs: TensorInputs, rule: Rule) -> Election:
    """Drop at random, the small ones of each row more often, rescale, add (arXiv 2406.11617)."""
    return _summed(inputs, rule, _by_rank)


def della(inputs: TensorInputs, rule: Rule) -> Election:
    """Drop at random, the small ones of each row more often, rescale, elect, merge those that agree."""
    return _elected(inputs, rule, _by_rank)


def breadcrumbs(inputs: TensorInputs, rule: Rule) -> Election:
    """Drop the outliers and the smallest, add (arXiv 2312.06795)."""
    return _summed(inputs, rule, _between)


def breadcrumbs_ties(inputs: TensorInputs, rule: Rule) -> Election:
    """Drop the outliers and the smallest, elect, merge those that agree."""
    return _elected(inputs, rule, _between)


def _summed(inputs: TensorInputs, rule: Rule, thin: Thin) -> Election:
    spec = OPERATOR_SPECS[rule.operator]
    scale = spec.scalar(rule, "scale")
    if spec.scalar(rule, "normalize"):
        total = math.fsum(spec.per_source(rule, "weight", inputs.expert_names).values())
        scale /= total if abs(total) >= 1e-8 else 1.0
    return Election(voters=_voters(inputs, rule, thin), scale=scale, consensus=Consensus.NONE, pick=Pick.SUM)


def _elected(inputs: TensorInputs, rule: Rule, thin: Thin) -> Election:
    spec = OPERATOR_SPECS[rule.operator]
    return Election(
        voters=_voters(inputs, rule, thin),
        scale=spec.scalar(rule, "scale"),
        consensus=Consensus.SUM,
        pick=Pick.MEAN if spec.scalar(rule, "normalize") else Pick.SUM,
    )


def _voters(inputs: TensorInputs, rule: Rule, thin: Thin) -> tuple[Voter, ...]:
    """The experts with a weight, in an order that only content, weight and density decide."""
    spec = OPERATOR_SPECS[rule.operator]
    weights = spec.per_source(rule, "weight", inputs.expert_names)
    densities = spec.per_source(rule, "density", inputs.expert_names)
    thinned = thin(inputs, rule)
    taking = [expert for expert in inputs.experts if weights[expert.name] != 0]
    taking.sort(key=lambda expert: (expert.hash, weights[expert.name], densities[expert.name]))
    return tuple(
        Voter(
            expert=expert,
            weight=weights[expert.name],
            keep=None if densities[expert.name] >= 1 else thinned(expert, densities[expert.name]),
        )
        for expert in taking
    )


def _largest(inputs: TensorInputs, rule: Rule) -> Callable[[ExpertTensor, float], Keep | None]:
    find = model_threshold_of if OPERATOR_SPECS[rule.operator].word(rule, "trim") == "model" else threshold_of

    def keep(expert: ExpertTensor, density: float) -> Keep | None:
        threshold = find(inputs, expert, density)
        return None if threshold is None else Band(low=threshold)

    return keep


def _between(inputs: TensorInputs, rule: Rule) -> Callable[[ExpertTensor, float], Keep | None]:
    """Keeps what is inside the threshold at density + gamma and outside the one at gamma, if that drops anything."""
    gammas = OPERATOR_SPECS[rule.operator].per_source(rule, "gamma", inputs.expert_names)

    def keep(expert: ExpertTensor, density: float) -> Keep | None:
        gamma = min(gammas[expert.name], 1 - density)
        low = threshold_of(inputs, expert, density + gamma)
        high = threshold_of(inputs, expert, gamma) if gamma * inputs.base.numel() >= 1 else None
        if low is None and high is None:
            return None
        return Band(low=low or Threshold(0.0, inputs.base.numel()), high=high)

    return keep


def _at_random(inputs: TensorInputs, rule: Rule) -> Callable[[ExpertTensor, float], RandomMask]:
    spec = OPERATOR_SPECS[rule.operator]
    seed, rescale = int(spec.scalar(rule, "seed")), bool(spec.scalar(rule, "rescale"))
    executor = executor_of(inputs.base)

    def keep(expert: ExpertTensor, density: float) -> RandomMask:
        key = philox_key(seed, inputs.name, expert.hash)
        stored = stored_random_u16(inputs, expert, key, executor)
        return RandomMask(key=key, density=density, rescale=rescale, random_u16=stored)

    return keep


def _by_rank(inputs: TensorInputs, rule: Rule) -> Callable[[ExpertTensor, float], Keep]:
    at_random = _at_random(inputs, rule)
    spreads = OPERATOR_SPECS[rule.operator].per_source(rule, "epsilon", inputs.expert_names)

    def keep(expert: ExpertTensor, density: float) -> Keep:
        ranks = row_ranks(inputs, expert)
        return replace(at_random(expert, density), ranks=ranks, spread=spreads[expert.name])

    return keep
