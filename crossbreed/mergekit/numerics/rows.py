"""Aligns embeddings and heads of models with different vocabularies, row by row, with the merge's vocabulary."""

from collections.abc import Mapping

import torch

from crossbreed.errors import InputError
from crossbreed.mergekit import ModelReference, Vocabulary


def align(
    vocabulary: Vocabulary, tensors: Mapping[ModelReference, torch.Tensor], base: ModelReference | None
) -> dict[ModelReference, torch.Tensor]:
    """Returns each model's rows in the order of the merge's tokens, with substitutes for tokens that it lacks.

    Padding rows are the mean of the others.

    Args:
        vocabulary: The vocabulary of the merge.
        tensors: Embeddings or heads of one dtype, [tokens, ...].
        base: The model whose rows are the first choice for tokens that a model lacks.

    Raises:
        InputError: a tokenizer knows tokens for which its model has no row.
    """
    for model, tensor in tensors.items():
        if (last := max(vocabulary.models[model].values())) >= len(tensor):
            raise InputError(
                f"the tokenizer of `{model}` has more tokens than the model has rows",
                expected=f"token ids below {len(tensor)}",
                got=str(last),
            )
    donors = vocabulary.substitutes(tuple(tensors), base)
    filled = {row: _mean([tensors[model][own] for model, own in rows]) for row, rows in donors.items() if rows}
    num_tokens, num_rows = len(vocabulary.tokens), vocabulary.num_rows
    aligned = {}
    for model, tensor in tensors.items():
        own = vocabulary.own_rows(model)
        rows = tensor.new_zeros((num_rows, *tensor.shape[1:]))
        rows[list(own)] = tensor[list(own.values())]
        for row in filled.keys() - own.keys():
            rows[row] = filled[row]
        rows[num_tokens:] = rows[:num_tokens].mean(dim=0)
        aligned[model] = rows
    return aligned


def _mean(rows: list[torch.Tensor]) -> torch.Tensor:
    """Each addition is rounded, as in mergekit."""
    total = rows[0]
    for row in rows[1:]:
        total = total + row
    return total / len(rows) if len(rows) > 1 else total
