"""Random masks that depend on nothing but their key: the seed, the tensor's name, the expert's content and the element.

The stream is Philox 4x64-10 (Salmon et al. 2011), numpy's on CPU and Triton's on CUDA. An element's 16 random bits stay
the same when the density changes, so masks are nested: what a density keeps, every larger one keeps too.
"""

from hashlib import sha256

import numpy as np
import torch

from crossbreed.kernels import native
from crossbreed.kernels.tensors import Parent, Parents, row_blocks


def philox_key(seed: int, tensor: str, expert: str) -> tuple[int, int]:
    """Returns the two 64-bit words that key a mask's stream."""
    digest = sha256(f"{seed} {tensor} {expert}".encode()).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")


def random_codes(parents: Parents, parent: Parent, seed: int) -> torch.Tensor:
    """Returns uint16 [n]: each element's random number below 65,536."""
    return parents.fact_of(parent, "codes", lambda: _codes(philox_key(seed, parents.name, parent.hash), parents), seed)


def _codes(key: tuple[int, int], parents: Parents) -> torch.Tensor:
    """Part by part on all threads: a counter is where its part of the stream begins."""
    size = parents.base.numel()
    codes = np.empty((size + 15) // 16 * 16, dtype="<u2")

    def fill(first: int, last: int) -> None:
        stream = np.random.Philox(key=np.array(key, dtype=np.uint64), counter=first)
        codes[16 * first : 16 * last] = stream.random_raw(4 * (last - first)).astype("<u8").view("<u2")

    native.in_parallel(fill, len(codes) // 16, size)
    return torch.from_numpy(codes[:size])


def row_ranks(parents: Parents, parent: Parent) -> torch.Tensor:
    """Returns uint8 [n]: where each magnitude stands in its row, 0 the smallest, 255 the largest. A vector is a row."""
    return parents.fact_of(parent, "row ranks", lambda: _row_ranks(parent.whole_delta(parents.base)))


def _row_ranks(delta: torch.Tensor) -> torch.Tensor:
    rows = delta.abs().reshape(-1, delta.shape[-1]) if delta.ndim > 1 else delta.abs().reshape(1, -1)
    width = rows.shape[1]
    if width == 1:
        return torch.full((delta.numel(),), 128, dtype=torch.uint8, device=delta.device)
    ranks = torch.empty(rows.shape, dtype=torch.uint8, device=delta.device)
    codes = (torch.arange(width, device=delta.device) * 255 // (width - 1)).to(torch.uint8)
    for block in row_blocks(rows, 1 << 24):  # an index of 8 bytes for each element
        order = rows[block].argsort(dim=1, stable=True)
        ranks[block].scatter_(1, order, codes.expand(order.shape))
    return ranks.reshape(-1)
