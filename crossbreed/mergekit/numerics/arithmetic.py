"""mergekit's own arithmetic, for people who must get the tensors that mergekit 0.1.5 gave them.

Not how one would compute a merge: deltas, weights and sums are rounded to the tensor's dtype op by op, ties are broken
by an unstable sort and random masks come from the device's generator, in the order of the models. All of that is kept,
because in bfloat16 one element in twenty would differ otherwise. `crossbreed.mergekit.METHODS` says what a method is
told.
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
        inputs: Tensors of one dtype and shape, in the order of the configuration; a base that it does not list last.
        parameters: Values of the GLOBAL parameters for this tensor; those left out have the method's default.
        generator: Where random masks come from; None: torch's global generator, as in mergekit.

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
    """Returns the dtype of a tensor merged from `num_models` inputs of `dtype`: theirs, but for two methods.

    mergekit takes the mask of `arcee_fusion` and the factors of `ramplus_tl` in float32, and the sum follows.
    """
    widens = method == "arcee_fusion" or (method == "ramplus_tl" and num_models > 1)
    return torch.promote_types(dtype, torch.float32) if widens else dtype
