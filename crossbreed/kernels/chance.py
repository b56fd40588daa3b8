"""Random masks that depend on nothing but their key: the seed, the tensor's name, the expert's content and the element.

The stream is Philox 4x64-10 (Salmon et al. 2011), numpy's on CPU and Triton's on CUDA. An element's 16 random bits stay
the same when the density changes, so masks are nested: what a density keeps, every larger one keeps too.
"""

from hashlib import sha256

import numpy as np
import torch

from crossbreed.kernels import native
from crossbreed.kernels.cuts import operand_of
from crossbreed.kernels.native import PHILOX_BLOCK
from crossbreed.kernels.tensors import Parent, Parents, row_blocks


def philox_key(seed: int, tensor: str, expert: str) -> tuple[int, int]:
    """Returns the two 64-bit words that key a mask's stream."""
    digest = sha256(f"{seed} {tensor} {expert}".encode()).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")


def kept_codes(parents: Parents, parent: Parent, key: tuple[int, int]) -> torch.Tensor | None:
    """Returns uint16 [n]: each element's random number below 65,536. None where they are not worth their memory.

    A merge that is made once draws them as it goes, as every merge on CUDA does.
    """
    size = parents.base.numel()

    def find() -> torch.Tensor:
        codes = native.draw_codes(key, size)
        return draw_codes(key, 0, size) if codes is None else codes

    name = ("codes", parents.name, parents.base_hash, parent.hash, key)
    return None if parents.base.is_cuda else parents.facts.get_repeated(name, 2 * size, find)


def draw_codes(key: tuple[int, int], first: int, last: int) -> torch.Tensor:
    """Returns uint16: the random numbers of the elements from `first` to `last`."""
    start = first // PHILOX_BLOCK
    stream = np.random.Philox(key=np.array(key, dtype=np.uint64), counter=start)
    words = stream.random_raw(4 * (-(-last // PHILOX_BLOCK) - start))
    return torch.from_numpy(words.astype("<u8").view("<u2")[first - start * PHILOX_BLOCK : last - start * PHILOX_BLOCK])


def row_ranks(parents: Parents, parent: Parent) -> torch.Tensor:
    """Returns uint8 [n]: where each magnitude stands in its row, 0 the smallest, 255 the largest. A vector is a row."""
    return parents.fact_of(parent, "row ranks", lambda: _row_ranks(parents, parent))


def _row_ranks(parents: Parents, parent: Parent) -> torch.Tensor:
    base = parents.base
    ranks = (
        None if base.is_cuda else native.rank_rows(base, operand_of(parent, base), base.shape[-1] if base.ndim else 1)
    )
    return rank_rows(parent.whole_delta(base)) if ranks is None else ranks


def rank_rows(delta: torch.Tensor) -> torch.Tensor:
    """The same of a delta, in torch."""
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
