"""What slopes need of memory, from shapes and the lengths of texts alone: of a descent, and of Frank-Wolfe."""

from collections.abc import Iterable, Sequence
from math import prod

from crossbreed.fitness import reference_config
from crossbreed.fitness.engines.branches import Text, batches
from crossbreed.optimizer import CalibrationNeeds
from crossbreed.runs.calibration.questions import experts_of
from crossbreed.runs.plan import Plan
from crossbreed.runs.regression.memory import PROCESS_BYTES
from crossbreed.runs.weights import BYTES
from crossbreed.search_spaces import SearchSpace, require_terms
from crossbreed.sources.naming import is_projection, layer_of

_SAVED, _SAVED_EXACTLY = 1.5, 3.0
"""What backward keeps of a layer (inputs of matrices, attention, activations, norms) for each output of its matrices:
numbers in the dtype that is computed in, and bytes that are float32's whatever that is. Measured, as the next one."""
_OF_BRANCHES = 0.7
"""The part of it that is kept where no matrix has a gradient of its own."""
_LOGITS = 3
"""Copies of the logits: as they are made, and of their gradient."""


def slopes_bytes(plan: Plan, space: SearchSpace, needs: CalibrationNeeds) -> int:
    """Returns about how much the loss takes beside the sources, which are mapped.

    The model; its branches; what backward keeps of one pass; logits at answers, about half of all tokens; and, where
    experts are compared, what they predict there, and their hidden states.
    """
    slopes, tensors = plan.spec.fitness.slopes, plan.structure.tensors
    width, branches = BYTES[slopes.dtype], 0
    for term in require_terms(space).terms:
        shape = tensors[term.tensor].shape
        rank = plan.structure.ranks.get(term.expert, {}).get(term.tensor)
        thin = sum(shape) * (rank or len(term.coordinates))
        branches += prod(shape) if term.is_whole and rank is None else thin
    tokens, vocabulary = _step_tokens(plan, needs), _vocabulary(plan)
    kept = int(tokens * (_OF_BRANCHES * _saved(plan) + _LOGITS * vocabulary * width / 2))
    predicted = 2 * vocabulary * sum(_answers(plan)) if needs.compares else 0
    if needs.hidden:
        predicted += width * _hidden(plan) * max(1, len(needs.hidden_layers)) * sum(_lengths(plan, None))
    return _model(plan) * width + branches * width + kept + predicted + PROCESS_BYTES


def gradient_bytes(plan: Plan) -> int:
    """Returns about how much the gradient of a candidate's weights takes in a worker, beside its scoring engine.

    A model, unless the scoring engine has it; a gradient of its size, which is there from the first backward pass on;
    what backward keeps of one pass; and one tensor of the gradient in float32.
    """
    fitness = plan.spec.fitness
    slopes, width = fitness.slopes, BYTES[fitness.slopes.dtype]
    own = reference_config(dtype=slopes.dtype, device=slopes.device, context_tokens=fitness.max_model_len)
    gradient, model = _model(plan) * width, 0 if fitness.engine == own else _model(plan) * width
    token = _saved(plan) + _LOGITS * _vocabulary(plan) * width
    first, *later = [int(tokens * token) for tokens in _passes(_lengths(plan, slopes.items), slopes.tokens)] or [0]
    sizes = (prod(info.shape) for info in plan.structure.tensors.values())
    largest = 0 if width == 4 else 4 * max(sizes, default=0)
    return model + max(first, gradient + max([largest, *later])) + PROCESS_BYTES


def _model(plan: Plan) -> int:
    return sum(prod(info.shape) for info in plan.structure.tensors.values())


def _saved(plan: Plan) -> float:
    """Bytes that backward keeps of a token; of experts of a mixture, a few are run."""
    outputs = sum(
        min(info.shape[0], 4 * info.shape[1])
        for name, info in plan.structure.tensors.items()
        if layer_of(name) is not None and is_projection(name, info.shape)
    )
    return outputs * (_SAVED * BYTES[plan.spec.fitness.slopes.dtype] + _SAVED_EXACTLY)


def _vocabulary(plan: Plan) -> int:
    tensors = plan.structure.tensors.items()
    return max((info.shape[0] for name, info in tensors if layer_of(name) is None), default=0)


def _hidden(plan: Plan) -> int:
    tensors = plan.structure.tensors.values()
    return max((info.shape[0] for info in tensors if len(info.shape) == 1), default=0)


def _lengths(plan: Plan, number: int | None) -> list[int]:
    """Tokens of the first search items of each task."""
    return [
        plan.lengths[task.name].totals[item.id]
        for task in plan.tasks
        if task.name in plan.lengths
        for item in plan.items["search"][task.name].items[:number]
    ]


def _answers(plan: Plan) -> Iterable[int]:
    """Tokens of right answers to search items, with their ends."""
    for task in plan.tasks:
        if task.name in plan.lengths:
            yield sum(plan.lengths[task.name].golds[: len(plan.items["search"][task.name].items)]) + 1


def _step_tokens(plan: Plan, needs: CalibrationNeeds) -> int:
    """Tokens of the largest pass of a step over a batch of each task's longest items, for each expert that counts."""
    texts, limit = list[Text](), plan.spec.fitness.slopes.tokens
    for task in plan.tasks:
        if task.name not in plan.lengths or (needs.batch is None and needs.prompts.get(task.name)):
            return limit
        totals, items = plan.lengths[task.name].totals, plan.items["search"][task.name].items[: needs.items]
        longest = sorted((totals[item.id] for item in items), reverse=True)[: needs.batch]
        readers = len(experts_of(task, plan.calibration_inputs)) if needs.compares else 1
        texts += [Text(token_ids=(0,) * length, num_prompt=0, weight=0.0) for length in longest * readers]
    return max(len(some) * len(some[-1].token_ids) for some in batches(texts, limit)) if texts else limit


def _passes(lengths: Iterable[int], tokens: int) -> Sequence[int]:
    """Tokens of each pass, padding included: texts of similar length together, as many as fit."""
    found, number, longest = list[int](), 0, 0
    for length in sorted(lengths):
        if number and (number + 1) * length > tokens:
            found.append(number * longest)
            number = 0
        number, longest = number + 1, length
    return [*found, number * longest] if number else found
