"""No number of threads changes a bit of what is decomposed, solved or multiplied."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from merges import UP, inputs_of_tensors, merged

from crossbreed.kernels import SourceCache
from crossbreed.kernels.artifacts.input_grams import InputGramSums
from crossbreed.kernels.linalg.blas import matmul_by_rows, on_threads
from crossbreed.kernels.linalg.decompositions import eigh, qr
from crossbreed.kernels.prepared.inner_products import Along, Of, inner_products_of
from crossbreed.kernels.tensors import TensorInputs
from crossbreed.sources import LowRank
from crossbreed.testing.toy_merges import MATRIX, ToyMerge
from crossbreed.types import ParamValue, Rule

N = 320
"""Columns: of fewer, LAPACK makes the same bits on one thread and on two."""


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def on_each(make: Callable[[], torch.Tensor]) -> Iterator[torch.Tensor]:
    """What one thread makes, what two make, and what eight do."""
    for number in (1, 2, 8):
        with on_threads(number):
            yield make()


def assert_same_bits(make: Callable[[], torch.Tensor]) -> None:
    first, *others = on_each(make)
    assert all(torch.equal(other, first) for other in others)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((7, 2000, 2000), torch.float32),
        ((40, 2000, 300), torch.float32),
        ((64, 48, 50), torch.float32),
        ((16, 3000, 16), torch.float64),
        ((300, 400, 200), torch.float64),
        ((0, 5, 3), torch.float64),
    ],
)
def test_products(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    """Those of few rows that BLAS rounds otherwise on more threads, and others."""
    num_rows, size, num_columns = shape
    a, b = noise(num_rows, size, dtype=dtype), noise(size, num_columns, seed=1, dtype=dtype)
    assert torch.allclose(matmul_by_rows(a, b), a @ b, rtol=1e-3, atol=1e-3)
    assert_same_bits(lambda: matmul_by_rows(a, b))
    assert_same_bits(lambda: matmul_by_rows(a, a.T))


def test_decompositions() -> None:
    square = noise(N, N, dtype=torch.float64)
    assert_same_bits(lambda: torch.cat([part.reshape(-1) for part in eigh(square @ square.T)]))
    assert_same_bits(lambda: torch.cat(qr(square)))


def test_the_number_of_threads_is_given_back_also_after_a_failure() -> None:
    before = torch.get_num_threads()
    seen = []

    @on_threads(before + 1)
    def fail() -> None:
        seen.append(torch.get_num_threads())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> TensorInputs:
    """Two experts that learned more in some directions than in others; what they get: fewer tokens than columns."""
    sums = InputGramSums()
    for seed, name in enumerate(("one", "other")):
        sums.add(name, UP, noise(200, N, seed=seed))
    spread_N = torch.logspace(-3, 0, N)
    found = inputs_of_tensors(
        torch.zeros(N, N), {"one": noise(N, N, seed=1) * spread_N, "other": noise(N, N, seed=2) * spread_N}
    )
    return replace(found, grams=sums.write(tmp_path_factory.mktemp("grams") / "grams.safetensors"))


@pytest.mark.parametrize(
    ("operator", "params"),
    [
        ("tsv_m", {}),
        ("regmean", {"alpha": 1.0}),
        ("bmm", {"grams": "data", "lambda": 0.01, "anchor": "tsv_m"}),
        ("swudi", {"time": 1e6}),
    ],
)
def test_merges(inputs: TensorInputs, operator: str, params: dict[str, ParamValue]) -> None:
    rule = Rule(match=".*", operator=operator, params={"weight": 0.4, **params})
    assert_same_bits(lambda: merged(inputs_anew(inputs), rule))


@pytest.mark.parametrize(
    ("operator", "params"), [("regmean", {"alpha": 1.0}), ("bmm", {"grams": "data", "lambda": 0.0})]
)
def test_merges_with_sketches(
    tmp_path: Path, inputs: TensorInputs, operator: str, params: dict[str, ParamValue]
) -> None:
    sums = InputGramSums(max_columns=16, rank=150)
    for seed, name in enumerate(("one", "other")):
        sums.add(name, UP, noise(150, N, seed=seed))
    inputs = replace(inputs, grams=sums.write(tmp_path / "sketches.safetensors"))
    rule = Rule(match=".*", operator=operator, params={"weight": 0.4, **params})
    assert_same_bits(lambda: merged(inputs_anew(inputs), rule))


def test_settings_of_a_regression(tmp_path: Path) -> None:
    merge = ToyMerge.make(["a"]).with_statistics(tmp_path / "statistics.safetensors")
    rule = Rule(match=".*", operator="anchored_regression", params={"ridge": 0.3, "own": 0.7, "rest": "a"})
    assert_same_bits(lambda: merged(merge.inputs(MATRIX), rule))


@pytest.mark.parametrize("along", [Along.TENSOR, Along.ROWS])
def test_inner_products_of_adapters(along: Along) -> None:
    """Which decide where on a sphere a merge lies."""
    adapters = {
        name: LowRank(a_RN=noise(8, 300, seed=seed), b_MR=noise(500, 8, seed=seed + 1), scale=0.1)
        for seed, name in enumerate(("p", "q"))
    }
    inputs = inputs_of_tensors(noise(500, 300), adapters)
    assert_same_bits(lambda: torch.from_numpy(inner_products_of(inputs_anew(inputs), Of.DELTAS, along)))


def inputs_anew(inputs: TensorInputs) -> TensorInputs:
    """Without the facts that were found."""
    return replace(inputs, cache=SourceCache())
