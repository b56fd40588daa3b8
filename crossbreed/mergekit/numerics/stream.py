"""Merges a plan of open models tensor by tensor, in the dtypes of mergekit 0.1.5.

Tensors are cast to the configuration's `dtype`, else promoted to the widest of their own; merged in that; cast to
`out_dtype` if there is one.
"""

from collections.abc import Mapping
from functools import reduce

import torch

from crossbreed.errors import InputError, InvalidWeights
from crossbreed.mergekit import MergePlan, ModelReference, OutputTensor, Vocabulary
from crossbreed.mergekit.numerics.arithmetic import merge_tensor, merged_dtype
from crossbreed.mergekit.numerics.inputs import Input
from crossbreed.mergekit.numerics.models import OpenModel
from crossbreed.mergekit.numerics.rows import align
from crossbreed.randomness import spawn
from crossbreed.sources import TensorInfo
from crossbreed.sources.pages import MappedPages
from crossbreed.types import WeightStream


def merged_tensors(
    plan: MergePlan, models: Mapping[ModelReference, OpenModel], vocabulary: Vocabulary | None
) -> dict[str, TensorInfo]:
    """Returns the tensors that `merge` yields, in its order."""
    return {tensor.name: _info(tensor, plan, models, vocabulary) for tensor in plan.tensors}


def merge(plan: MergePlan, models: Mapping[ModelReference, OpenModel], vocabulary: Vocabulary | None) -> WeightStream:
    """Yields the merged tensors, each made on demand, and releases the pages of its sources.

    Random masks (DARE, DELLA) are drawn by the tensor's name from one fixed seed: no two tensors share them, and the
    same configuration gives the same weights. mergekit's are those of its process.

    Args:
        plan: The plan of the merge.
        models: All models that it names.
        vocabulary: The vocabulary of the merge; None: that of its models.

    Raises:
        InputError: on reaching a buffer that differs between the models.
        InvalidWeights: on reaching a tensor that comes out with NaN or Inf.
    """
    pages = MappedPages(file.path for model in models.values() for file in model.checkpoint.shards)
    for tensor in plan.tensors:
        merged = _merge_one(tensor, plan, models, vocabulary)
        if merged.is_floating_point() and not merged.isfinite().all():
            raise InvalidWeights(f"`{tensor.name}` holds NaN or Inf")
        yield tensor.name, merged
        for one in tensor.inputs:
            pages.let_go(models[one.model].checkpoint.tensor(one.tensor))


def _info(
    tensor: OutputTensor,
    plan: MergePlan,
    models: Mapping[ModelReference, OpenModel],
    vocabulary: Vocabulary | None,
) -> TensorInfo:
    first = tensor.inputs[0]
    shape = models[first.model].structure.tensors[first.tensor].shape
    if tensor.has_token_rows and vocabulary is not None:
        shape = (vocabulary.num_rows, *shape[1:])
    dtype = _merge_dtype(tensor, plan, models)
    if dtype.is_floating_point:
        dtype = merged_dtype(plan.config.method.name, dtype, num_models=len(tensor.inputs))
        if plan.config.out_dtype:
            dtype = getattr(torch, plan.config.out_dtype)
    return TensorInfo(shape=shape, dtype=str(dtype).removeprefix("torch."))


def _merge_dtype(tensor: OutputTensor, plan: MergePlan, models: Mapping[ModelReference, OpenModel]) -> torch.dtype:
    own: list[torch.dtype] = [
        getattr(torch, models[one.model].structure.tensors[one.tensor].dtype) for one in tensor.inputs
    ]
    if plan.config.dtype and all(dtype.is_floating_point for dtype in own):
        wanted: torch.dtype = getattr(torch, plan.config.dtype)
        return wanted
    return reduce(torch.promote_types, own)


def _merge_one(
    tensor: OutputTensor,
    plan: MergePlan,
    models: Mapping[ModelReference, OpenModel],
    vocabulary: Vocabulary | None,
) -> torch.Tensor:
    dtype = _merge_dtype(tensor, plan, models)
    values = {one.model: models[one.model].tensor(one.tensor).to(dtype) for one in tensor.inputs}
    if not dtype.is_floating_point:
        return _the_same(tensor, values)
    if tensor.has_token_rows and vocabulary is not None:
        values = align(vocabulary, values, plan.config.base)
    merged = merge_tensor(
        plan.config.method.name,
        [
            Input(tensor=values[one.model], is_base=one.model == tensor.base, parameters=one.parameters)
            for one in tensor.inputs
        ],
        tensor.parameters,
        generator=torch.Generator().manual_seed(int(spawn(0, tensor.name).integers(2**63))),
    )
    return merged.to(getattr(torch, plan.config.out_dtype)) if plan.config.out_dtype else merged


def _the_same(tensor: OutputTensor, values: Mapping[ModelReference, torch.Tensor]) -> torch.Tensor:
    """Returns a tensor that is no weight (a mask, position ids), which must be equal in all models."""
    first, *others = values.values()
    for model, other in zip(tuple(values)[1:], others, strict=True):
        if not torch.equal(first, other):
            raise InputError(f"`{tensor.name}` is no weight, and differs between the models", got=str(model))
    return first
