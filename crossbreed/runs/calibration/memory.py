"""What a calibration loss needs of memory, from shapes alone."""

from math import prod

from crossbreed.optimizer import CalibrationNeeds
from crossbreed.runs.plan import Plan
from crossbreed.runs.weights import BYTES
from crossbreed.search_spaces import SearchSpace, require_terms
from crossbreed.sources.naming import is_projection, layer_of

_SAVED = 3
"""What backward keeps of a layer, in outputs of its matrices: attention, activations, norms."""
_LOGITS = 3
"""Copies of the logits: as they are made, their log-probabilities and their gradient."""


def slopes_bytes(plan: Plan, space: SearchSpace, needs: CalibrationNeeds) -> int:
    """Returns about how much the loss takes beside the sources, which are mapped.

    The model; its branches; what backward keeps of one pass; logits at answers, about half of all tokens; and, for
    agreement, what experts predict there.
    """
    slopes, tensors = plan.spec.fitness.slopes, plan.structure.tensors
    width, branches = BYTES[slopes.dtype], 0
    for term in require_terms(space).terms:
        shape = tensors[term.tensor].shape
        rank = plan.structure.ranks.get(term.expert, {}).get(term.tensor)
        thin = sum(shape) * (rank or len(term.coordinates))
        branches += prod(shape) if term.is_whole and rank is None else thin
    outputs = sum(
        min(info.shape[0], 4 * info.shape[1])  # of experts of a mixture, a few are run
        for name, info in tensors.items()
        if layer_of(name) is not None and is_projection(name, info.shape)
    )
    vocabulary = max((info.shape[0] for name, info in tensors.items() if layer_of(name) is None), default=0)
    kept = slopes.tokens * (_SAVED * outputs * width + _LOGITS * vocabulary * 4 // 2)
    predicted = 0
    if needs.compares:
        predicted = (
            2
            * vocabulary
            * sum(
                sum(plan.lengths[task.name].golds[: len(plan.items["search"][task.name].items)]) + 1
                for task in plan.tasks
                if task.name in plan.lengths
            )
        )
    model = sum(prod(info.shape) for info in tensors.values()) * width
    return model + branches * width + kept + predicted


def gradient_bytes(plan: Plan) -> int:
    """Returns about how much the gradient of a candidate's weights takes, for slopes along whole deltas."""
    slopes, tensors = plan.spec.fitness.slopes, plan.structure.tensors
    return 2 * sum(prod(info.shape) for info in tensors.values()) * BYTES[slopes.dtype]
