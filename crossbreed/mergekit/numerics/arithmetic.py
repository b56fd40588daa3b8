"""The arithmetic of mergekit 0.1.5, to reproduce its tensors.

It is less exact than `kernels`: every operation rounds deltas, weights and sums to the tensor's dtype, an unstable sort
breaks ties, and random masks come from the device's generator in the order of the models. All of this is reproduced,
because in bfloat16 one element in twenty would differ otherwise. `crossbreed.mergekit.METHODS` lists the parameters of
each method.
"""

from collections.abc import Mapping, Sequence

import torch

from crossbreed.mergekit.methods import METHODS
from crossbreed.mergekit.numerics import selection, sphere, sums
from crossbreed.mergekit.numerics.inputs import Input, Inputs, Merge
from crossbreed.types import ParamValue

_MERGES: Mapping[str, Merge] = {**sums.MERGES, **sphere.MERGES, **selection.MERGES}


def merge_tensor(
    method: str,
    inputs: Sequence[Input],
    parameters: Mapping[str, ParamValue],
    *,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Returns one output tensor, in `merged_dtype`.

    Args:
        method: A name in `METHODS`.
        inputs: Tensors of one dtype and shape, in the order of the configuration; an unlisted base comes last.
        parameters: Values of the GLOBAL parameters for this tensor; missing ones have the method's default.
        generator: The generator of random masks; None: torch's global one, as in mergekit.

    Raises:
        InputError: `della`'s probabilities leave (0, 1), or its rows have one element.
        InvalidWeights: `multislerp` of directions that cancel.

    >>> ones, twos = torch.ones(2), torch.full((2,), 2.0)
    >>> merge_tensor("slerp", [Input(tensor=ones, is_base=True), Input(tensor=twos)], {"t": 0.25})
    tensor([1.2500, 1.2500])
    """
    declared, given = METHODS[method], tuple(inputs)
    fault = declared.why_invalid(num_models=len(given), has_base=any(one.is_base for one in given))
    assert fault is None, f"{method} needs {fault}"
    assert len({(one.tensor.dtype, one.tensor.shape) for one in given}) == 1, "inputs of one dtype and shape"
    return _MERGES[method](Inputs(method=declared, all=given, parameters=parameters, generator=generator))


def merged_dtype(method: str, dtype: torch.dtype, *, num_models: int) -> torch.dtype:
    """Returns the dtype of a tensor merged from `num_models` inputs of `dtype`: `dtype`, except for two methods.

    mergekit takes the mask of `arcee_fusion` and the factors of `ramplus_tl` in float32, and the sum follows.
    """
    widens = method == "arcee_fusion" or (method == "ramplus_tl" and num_models > 1)
    return torch.promote_types(dtype, torch.float32) if widens else dtype
