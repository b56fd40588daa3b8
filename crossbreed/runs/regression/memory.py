"""What a regression needs of memory while it is made, from shapes and the lengths of texts alone."""

from collections import defaultdict
from math import prod

from crossbreed.runs.plan import Plan
from crossbreed.runs.spec.regression import RegressionConfig
from crossbreed.runs.weights import BYTES
from crossbreed.sources.naming import is_projection, is_stored_transposed, layer_of

CACHE_BYTES = 64 << 20
"""Of what merges of the same sources find out, for the next ones: in a walk, each matrix is made once."""
PROCESS_BYTES = 64 << 20
"""Tokenizers, and code that is imported by and by."""
_HELD_BYTES = 96 << 20
"""What malloc keeps between the tensors of one expert and of the next, measured."""
_SUM_BYTES = 8
"""Of a number of the sums, which are fp64."""
_KEPT_BYTES = 4
"""Of a number of the statistics, which are fp32."""


def walk_bytes(plan: Plan, config: RegressionConfig) -> int:
    """Returns the most memory that it takes beside the sources, which are mapped, without the process itself.

    That is the largest of three: the model that experts write with, and a tensor to come, twice; what begins the walk,
    with all tensors that belong to no layer, of the merge and of an expert; or what is made, and one layer.
    """
    assert plan.weights is not None, "a plan with a regression has weights"
    width = BYTES[config.dtype]
    sizes = defaultdict[int, int](int)
    outside = 0
    for name, info in plan.structure.tensors.items():
        if (layer := layer_of(name)) is None:
            outside += prod(info.shape)
        else:
            sizes[layer] += prod(info.shape)
    tensors, touched = plan.structure.tensors, plan.structure.touched_by_any
    every = {name: prod(info.shape) for name, info in tensors.items()}
    writing = width * sum(every.values()) + 2 * 4 * max(every.values(), default=0) + _HELD_BYTES
    is_made = (
        name for name, info in tensors.items() if name in touched or info.dtype != plan.dtype
    )  # else it is mapped
    made = BYTES[plan.dtype] * sum(every[name] for name in is_made)
    tokens, hidden, layers, keeps = num_tokens(plan, config), _hidden(plan), _matrices(plan), plan.spec.keeps_statistics
    is_plain = config.own == 1 and config.off_diagonal == 1 and config.inputs == "merge" and not keeps
    weights = width * max(sizes.values(), default=0) * (2 if is_plain else 1 + len(plan.experts))
    outputs = max((sum(rows for rows, _ in one) for one in layers.values()), default=0)
    batch = min(tokens, config.tokens)
    texts = width * (tokens * (2 * hidden + outputs) + batch * 2 * outputs)  # of all, and of a batch meanwhile
    sums = max((_solving(one, keeps=keeps) + keeps * _kept(one) for one in layers.values()), default=0)
    beginning, walking = 3 * width * outside + weights, made + weights + texts + sums
    return max(writing, CACHE_BYTES + max(beginning, walking)) + PROCESS_BYTES


def statistics_bytes(plan: Plan) -> int:
    """Returns the size of the statistics of the walk, if they are kept; some, where all matrices are not solved."""
    return sum(map(_kept, _matrices(plan).values())) if plan.spec.keeps_statistics else 0


def _matrices(plan: Plan) -> dict[int, list[tuple[int, int]]]:
    """Layer -> shapes of its matrices, as a Linear's."""
    assert plan.weights is not None, "a plan with a regression has weights"
    found, model_type = (
        defaultdict[int, list[tuple[int, int]]](list),
        plan.weights.sources.base.config.get("model_type"),
    )
    for name, info in plan.structure.tensors.items():
        if (layer := layer_of(name)) is not None and is_projection(name, info.shape):
            rows, columns = info.shape[::-1] if is_stored_transposed(name, model_type) else info.shape
            found[layer].append((rows, columns))
    return found


def _solving(matrices: list[tuple[int, int]], *, keeps: bool) -> int:
    """The Gram and its factor, and the cross terms and changes of the matrices that may share them.

    And, if statistics are kept, eigenvectors and their work, the other cross terms, the targets' and the anchor's.
    """
    by_columns = defaultdict[int, int](int)
    for rows, columns in matrices:
        by_columns[columns] = max(by_columns[columns], rows)
    squares, others = (5, 10) if keeps else (2, 4)
    return max(
        _SUM_BYTES * (squares * columns * columns + others * rows * columns) for columns, rows in by_columns.items()
    )


def _kept(matrices: list[tuple[int, int]]) -> int:
    """A layer's statistics: three of each matrix, and the directions of each input: queries, keys and values have one.

    How many matrices share their inputs is not known from shapes: of those of as many columns, as a Llama's do.
    """
    widths = [columns for _, columns in matrices]
    directions = sum(min(widths.count(width), 3) * width * width for width in set(widths))
    return _KEPT_BYTES * (3 * sum(rows * columns for rows, columns in matrices) + directions)


def num_tokens(plan: Plan, config: RegressionConfig) -> int:
    """Tokens of search items with their answers; of prompts and samples nothing is known but their number."""
    total, names = 0, [task.name for task in plan.tasks]
    for expert in plan.experts:
        for task in plan.tasks:
            if task.name in config.tasks_of(expert, names) and task.name in plan.lengths:
                totals = plan.lengths[task.name].totals
                total += sum(totals[item.id] for item in plan.items["search"][task.name].items[: config.items])
        total += 0 if config.samples is None else 2 * config.samples.texts * config.samples.max_tokens
    return total


def _hidden(plan: Plan) -> int:
    """The width of hidden states: of a norm inside the layers."""
    widths = [info.shape[0] for name, info in plan.structure.tensors.items() if len(info.shape) == 1 and "norm" in name]
    return max(widths, default=0)
