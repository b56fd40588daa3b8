"""Compiled kernels find of a delta what numpy and torch find, whatever is equal to what.

And on any number of threads: each searches a part of a tensor, and equal elements lie in several.
"""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from crossbreed.kernels import native
from crossbreed.kernels.executors.torch_blocks import draw_random_u16
from crossbreed.kernels.linalg.order_statistics import rank_rows, sort_thresholds

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler")
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
SHAPES = [(7,), (1, 1), (301, 217), (1100, 2000), (2, 150_001), (3, 4, 5), (9, 1)]
KEY = (123_456_789_012_345_678, 987_654_321)


@pytest.fixture(autouse=True, params=[1, 3], ids="{} threads".format)
def num_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Whatever number the environment gives to torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_every_thread_gets_a_part(num_threads: int) -> None:
    parts = native.in_parallel(lambda first, last: (first, last), 100, 1 << 20)
    assert [first for first, _ in parts] == [0, *(last for _, last in parts[:-1])]
    assert len(parts) == num_threads
    assert parts[-1][1] == 100


def sources(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A base, an expert and its delta; of bfloat16 weights many deltas are equal, and many 0."""
    generator = torch.Generator().manual_seed(0)
    base = (0.02 * torch.randn(shape, generator=generator)).to(dtype)
    expert = (base + 0.002 * torch.randn(shape, generator=generator).relu()).to(dtype)
    return base, expert, expert.float() - base.float()


@pytest.mark.parametrize("size", [1, 16, 1000, 3_000_001])
def test_numpy_s_random_numbers(size: int) -> None:
    drawn = native.draw_random_u16(KEY, size)
    words = np.random.Philox(key=np.array(KEY, dtype=np.uint64)).random_raw(4 * (size // 16 + 1))
    assert torch.equal(drawn, torch.from_numpy(words.view(np.uint16)[:size]))
    assert torch.equal(drawn[size // 3 :], draw_random_u16(KEY, size // 3, size))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_ranks_in_rows(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    base, expert, delta = sources(shape, dtype)
    assert torch.equal(native.rank_rows(base, native.Operand(full=expert), shape[-1]), rank_rows(delta))
    assert torch.equal(native.rank_rows(base, native.Operand(delta=delta), shape[-1]), rank_rows(delta))


@pytest.mark.parametrize("kept", [np.zeros(1), np.full(1, 0.05), np.linspace(0, 1, 1024)], ids=["one", "few", "all"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_thresholds(shape: tuple[int, ...], dtype: torch.dtype, kept: np.ndarray) -> None:
    """One threshold finds its few elements in a second pass; many are found digit by digit."""
    base, expert, delta = sources(shape, dtype)
    keeps = (1 + kept * (delta.numel() - 1)).astype(np.int64)
    magnitudes, ends = native.find_thresholds(base, native.Operand(full=expert), keeps)
    sorted_magnitudes, sorted_ends = sort_thresholds(delta, keeps)
    assert (magnitudes == sorted_magnitudes).all()
    assert (ends == sorted_ends).all()
