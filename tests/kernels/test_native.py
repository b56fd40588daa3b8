"""Compiled kernels and torch make the same bits, whatever is merged, in which dtypes, by how many threads."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from merges import inputs_of_tensors

from crossbreed.errors import InvalidWeights
from crossbreed.kernels import native
from crossbreed.kernels.executors import execute, start_programs
from crossbreed.kernels.executors.torch_blocks import draw_random_u16
from crossbreed.kernels.masks import Band, Keep, RandomMask, Threshold
from crossbreed.kernels.native.compiling import library
from crossbreed.kernels.prepared.random_masks import row_ranks
from crossbreed.kernels.programs import Affine, Consensus, Dense, Election, Pick, Program, Voter
from crossbreed.kernels.tensors import ExpertTensor, TensorInputs
from crossbreed.sources import LowRank

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler")
ROWS, COLUMNS = 301, 217
"""Neither a multiple of a vector nor of a tile."""
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def tensors(dtype: torch.dtype) -> TensorInputs:
    generator = torch.Generator().manual_seed(0)
    base = 0.02 * torch.randn(ROWS, COLUMNS, generator=generator)
    full = {name: (base + 0.002 * torch.randn(base.shape, generator=generator)).to(dtype) for name in "abc"}
    low = LowRank(
        a_RN=0.01 * torch.randn(8, COLUMNS, generator=generator),
        b_MR=0.1 * torch.randn(ROWS, 8, generator=generator),
        scale=2.0,
    )
    return inputs_of_tensors(base.to(dtype), {**full, "p": low})


def check(program: Program, inputs: TensorInputs, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    number = torch.get_num_threads()
    torch.set_num_threads(2)
    compiled = execute(program, inputs.base, dtype)
    torch.set_num_threads(1)
    alone = execute(program, inputs.base, dtype)
    torch.set_num_threads(number)
    monkeypatch.setenv("CROSSBREED_COMPILER", "")
    assert native.compiler() is None
    by_torch = execute(program, inputs.base, dtype)
    assert torch.equal(compiled, alone)
    assert torch.equal(compiled, by_torch)
    assert not torch.equal(compiled, inputs.base.to(dtype))


@pytest.mark.parametrize("names", ["a", "abc", "p", "abcp"])
def test_sums(names: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = tensors(dtype)
    shares = tuple((0.3 + 0.1 * i, expert) for i, expert in enumerate(inputs.experts) if expert.name in names)
    check(Affine(shares=shares, of_base=0.9), inputs, dtype, monkeypatch)


def test_sums_by_rows_and_columns(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = tensors(dtype)
    by_row, by_column = torch.rand(ROWS, 1), torch.rand(1, COLUMNS)
    coefficients = (by_row, by_column, 0.5, by_row)
    check(Affine(shares=tuple(zip(coefficients, inputs.experts, strict=True))), inputs, dtype, monkeypatch)


def test_a_vector_by_a_coefficient_of_one_row_and_column(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    base = torch.randn(ROWS, generator=torch.Generator().manual_seed(0)).to(dtype)
    inputs = inputs_of_tensors(base, {"a": base * 1.5})
    check(Affine(shares=((torch.full((1, 1), 0.3), inputs.experts[0]),)), inputs, dtype, monkeypatch)


def test_a_delta_that_is_ready(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = tensors(dtype)
    check(Dense(delta=torch.rand(ROWS, COLUMNS), factor=0.3), inputs, dtype, monkeypatch)


KEEPS: dict[str, Callable[[TensorInputs, ExpertTensor], Keep | None]] = {
    "all": lambda inputs, expert: None,
    "low": lambda inputs, expert: Band(low=Threshold(_median(inputs, expert), ROWS * COLUMNS // 2)),
    "band": lambda inputs, expert: Band(low=Threshold(_median(inputs, expert), 77), high=Threshold(0.004, 5)),
    "random": lambda inputs, expert: _random(inputs, expert, rescale=True),
    "random, numbers kept": lambda inputs, expert: replace(
        _random(inputs, expert, rescale=True), random_u16=draw_random_u16((1, 2), 0, ROWS * COLUMNS)
    ),
    "random, not rescaled": lambda inputs, expert: _random(inputs, expert, rescale=False),
    "ranked": lambda inputs, expert: _random(inputs, expert, rescale=False, ranks=True),
    "ranked, rescaled": lambda inputs, expert: _random(inputs, expert, rescale=True, ranks=True),
}


def _median(inputs: TensorInputs, expert: ExpertTensor) -> float:
    return float(expert.whole_delta(inputs.base).abs().median())


def _random(inputs: TensorInputs, expert: ExpertTensor, *, rescale: bool, ranks: bool = False) -> RandomMask:
    return RandomMask(
        key=(1, 2),
        density=0.6,
        rescale=rescale,
        ranks=row_ranks(inputs, expert) if ranks else None,
        spread=0.1 if ranks else 0.0,
    )


def check_election(keep: str, consensus: Consensus, pick: Pick, dtype: torch.dtype, patch: pytest.MonkeyPatch) -> None:
    inputs = tensors(dtype)
    voters = tuple(
        Voter(expert=expert, weight=0.7 - 0.5 * i, keep=KEEPS[keep](inputs, expert))
        for i, expert in enumerate(inputs.experts)
    )
    check(Election(voters=voters, scale=1.3, consensus=consensus, pick=pick), inputs, dtype, patch)


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("consensus", Consensus)
def test_elections(keep: str, consensus: Consensus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every mask with every consensus; how the agreeing are merged and the dtype go round, each with each."""
    i, k = list(KEEPS).index(keep), list(Consensus).index(consensus)
    check_election(keep, consensus, list(Pick)[(i + k) % 3], DTYPES[(i + 2 * k) % 3], monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("consensus", Consensus)
@pytest.mark.parametrize("pick", Pick)
def test_every_election(
    keep: str, consensus: Consensus, pick: Pick, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_election(keep, consensus, pick, dtype, monkeypatch)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("compiler", ["g++", ""])
def test_nan_and_infinity_are_seen(
    value: float, compiler: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSBREED_COMPILER", compiler)
    inputs = tensors(dtype)
    inputs.experts[0].value[100, 7] = value
    with pytest.raises(InvalidWeights, match="NaN or Inf"):
        execute(Affine(shares=tuple((0.0001, expert) for expert in inputs.experts)), inputs.base, torch.bfloat16)


@pytest.mark.parametrize("compiler", ["g++", ""])
@pytest.mark.parametrize("pick", Pick)
@pytest.mark.parametrize("first", [0, 1])
def test_nan_wins_every_election(compiler: str, pick: Pick, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSBREED_COMPILER", compiler)
    votes = [torch.full((2, 2), float("nan")), torch.full((2, 2), 5.0)]
    inputs = inputs_of_tensors(torch.zeros(2, 2), {"a": votes[first], "b": votes[1 - first]})
    voters = tuple(Voter(expert=expert, weight=1.0) for expert in inputs.experts)
    with pytest.raises(InvalidWeights):
        execute(Election(voters=voters, scale=1.0, consensus=Consensus.SUM, pick=pick), inputs.base, torch.float32)


@pytest.mark.parametrize("compiler", ["g++", ""])
def test_several_merges_in_one_pass_are_what_each_is_alone(compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSBREED_COMPILER", compiler)
    inputs = tensors(torch.bfloat16)
    programs = [
        Election(
            voters=tuple(
                Voter(expert=expert, weight=0.2 + 0.1 * k, keep=Band(low=Threshold(0.001 * (k + 1), 1000 * k)))
                for expert in inputs.experts
            ),
            scale=1.0,
            consensus=Consensus.SUM,
            pick=Pick.MEAN,
        )
        for k in range(3)
    ]
    alone = [execute(program, inputs.base, torch.bfloat16) for program in programs]
    together = [waiting() for waiting in start_programs(programs, inputs.base, torch.bfloat16)]
    assert all(map(torch.equal, alone, together))
    assert not torch.equal(alone[0], alone[1])


def test_a_compiler_that_fails_is_told_of_and_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = tensors(torch.float32)
    program = Affine(shares=tuple((0.25, expert) for expert in inputs.experts))
    wanted = execute(program, inputs.base, torch.float32)
    monkeypatch.setenv("CROSSBREED_COMPILER", "false")
    with pytest.warns(UserWarning, match="no kernel could be compiled"):
        assert torch.equal(execute(program, inputs.base, torch.float32), wanted)


def test_a_forked_child_merges_without_the_parent_s_threads() -> None:
    inputs = tensors(torch.bfloat16)
    program = Affine(shares=tuple((0.25, expert) for expert in inputs.experts))
    wanted = execute(program, inputs.base, torch.bfloat16)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        os.write(writer, b"1" if torch.equal(execute(program, inputs.base, torch.bfloat16), wanted) else b"0")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 1) == b"1"


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("CROSSBREED_CACHE", str(tmp_path / "file"))
    loaded = library(native.compiler(), 'extern "C" int answer() { return 42; }')
    assert loaded.answer() == 42


def test_a_library_that_was_cut_short_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSBREED_CACHE", str(tmp_path))
    source = 'extern "C" int answer() { return 43; }'
    assert library(native.compiler(), source).answer() == 43
    (made,) = (tmp_path / "kernels").glob("*.so")
    whole = made.read_bytes()
    place = whole.index((43).to_bytes(4, "little"))
    for damaged in (b"half", b"", whole[: len(whole) // 2], whole[:place] + b"\x2a" + whole[place + 1 :]):
        made.unlink()
        made.write_bytes(damaged)
        assert library(native.compiler(), source).answer() == 43, "half of a library ends the process that loads it"
