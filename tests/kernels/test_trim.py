"""Thresholds: exact counts, stated order among equals, whatever the values."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from merges import inputs_of_tensors

from crossbreed.kernels import native, tensors
from crossbreed.kernels.executors import execute
from crossbreed.kernels.linalg.order_statistics import find_threshold, select
from crossbreed.kernels.masks import Band
from crossbreed.kernels.prepared.thresholds import num_kept, threshold_of
from crossbreed.kernels.programs import Consensus, Election, Pick, Voter
from crossbreed.kernels.reference.sparse import trim
from crossbreed.kernels.tensors import ExpertTensor


def trimmed(delta: torch.Tensor, density: float) -> torch.Tensor:
    """What is left of a delta from a base of zeros."""
    keep = Band(low=find_threshold(delta, num_kept(density, delta.numel())))
    voter = Voter(expert=ExpertTensor(name="a", hash="a", value=delta), weight=1.0, keep=keep)
    election = Election(voters=(voter,), scale=1.0, consensus=Consensus.NONE, pick=Pick.SUM)
    return execute(election, torch.zeros_like(delta), torch.float32)


@settings(max_examples=200, deadline=None)
@given(values=st.lists(st.integers(-3, 3), min_size=1, max_size=60), density=st.floats(0.001, 0.999))
def test_equal_magnitudes_are_kept_from_the_front(values: list[int], density: float) -> None:
    delta = torch.tensor(values, dtype=torch.float32).reshape(1, -1)
    assert torch.equal(trimmed(delta, density).double(), trim(delta.double(), density))


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.integers(-3, 3), min_size=4, max_size=60), density=st.floats(0.01, 0.99))
def test_blocks_are_cut_as_the_whole_is(values: list[int], density: float) -> None:
    delta = torch.tensor(values, dtype=torch.float32).reshape(-1, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensors, "BLOCK", 3)
        assert torch.equal(trimmed(delta, density).double(), trim(delta.double(), density))


@pytest.mark.parametrize("kind", ["random", "rising", "falling", "constant", "two values", "periodic"])
@pytest.mark.parametrize("rank", [0, 1, 255, 9_999, 19_744, 19_999])
def test_selection_is_exact_whatever_the_sample_says(kind: str, rank: int) -> None:
    rng, size = np.random.default_rng(0), 20_000
    values = {
        "random": rng.integers(0, 2**31 - 1, size),
        "rising": np.arange(size),
        "falling": np.arange(size)[::-1],
        "constant": np.full(size, 7),
        "two values": rng.integers(0, 2, size),
        "periodic": np.tile([0, 2**30], size // 2),
    }[kind].astype(np.int32)
    assert select(values, rank) == np.sort(values)[rank]


@pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("shape", [(7,), (301, 217), (1100, 2000)])
@pytest.mark.parametrize("density", [0.0001, 0.3, 0.999])
def test_the_compiled_search_finds_the_same_threshold(
    dtype: torch.dtype, shape: tuple[int, ...], density: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(shape, generator=generator).to(dtype)
    expert = (base + 0.01 * torch.randn(shape, generator=generator)).to(dtype)
    inputs = inputs_of_tensors(base, {"a": expert})
    delta, keep = expert.float() - base.float(), num_kept(density, base.numel())
    assert threshold_of(inputs, inputs.experts[0], density) == find_threshold(delta, keep)
