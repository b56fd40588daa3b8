"""Random masks that depend on nothing but their key: the seed, the tensor's name, the expert's content and the element.

The stream is Philox 4x64-10 (Salmon et al. 2011), numpy's on CPU and Triton's on CUDA. An element's 16 random bits stay
the same when the density changes, so masks are nested: what a density keeps, every larger one keeps too.
"""

from hashlib import sha256

import torch

from crossbreed.kernels.executors import Executor, executor_of
from crossbreed.kernels.tensors import ExpertTensor, TensorInputs


def philox_key(seed: int, tensor: str, expert: str) -> tuple[int, int]:
    """Returns the two 64-bit words that key a mask's stream."""
    digest = sha256(f"{seed} {tensor} {expert}".encode()).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")


def stored_random_u16(
    inputs: TensorInputs, expert: ExpertTensor, key: tuple[int, int], executor: Executor
) -> torch.Tensor | None:
    """Returns uint16 [n]: each element's random number below 65,536. None where they are not worth their memory.

    A merge that is made once draws them as it goes, as every merge on CUDA does.
    """
    size = inputs.base.numel()
    if not executor.stores_random_u16:
        return None
    name = ("random u16", inputs.name, inputs.base_hash, expert.hash, key)
    return inputs.cache.get_repeated(name, 2 * size, lambda: executor.random_u16(key, size))


def row_ranks(inputs: TensorInputs, expert: ExpertTensor) -> torch.Tensor:
    """Returns uint8 [n]: where each magnitude stands in its row, 0 the smallest, 255 the largest. A vector is a row."""
    base = inputs.base
    return inputs.cached_for(expert, "row ranks", lambda: executor_of(base).rank_rows(expert, base))
