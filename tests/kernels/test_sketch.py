"""Sketched Grams: exact while they are small, within the bound that is stated, and what a regression makes of them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from merges import UP, inputs_of_tensors

from crossbreed.errors import InputError, InvalidWeights
from crossbreed.kernels import ARITHMETIC
from crossbreed.kernels.artifacts.input_grams import InputGrams, InputGramSums
from crossbreed.kernels.executors import execute
from crossbreed.kernels.linalg.least_squares import SketchedTerm, Term, solve, solve_sketched
from crossbreed.kernels.linalg.sketch import FrequentDirections, Sketch
from crossbreed.kernels.prepared import regression_problem
from crossbreed.kernels.tensors import TensorInputs
from crossbreed.types import ParamValue, Rule

GATE = "model.layers.0.mlp.gate_proj.weight"


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def spread(num_tokens: int, num_columns: int, *, decay: float, seed: int = 0) -> torch.Tensor:
    """Inputs whose singular values fall off."""
    scales = torch.exp(-decay * torch.arange(num_columns) / num_columns)
    return (noise(num_tokens, num_columns, seed=seed) * scales) @ torch.linalg.qr(noise(num_columns, num_columns)).Q


def sketched(inputs: torch.Tensor, rank: int, *, parts: int = 3) -> Sketch:
    sketcher = FrequentDirections(num_columns=inputs.shape[1], rank=rank)
    for part in inputs.chunk(parts):
        sketcher.add(part)
    return sketcher.sketch()


@settings(max_examples=25, deadline=None)
@given(
    num_tokens=st.integers(1, 120),
    rank=st.integers(1, 20),
    decay=st.floats(0, 12),
    parts=st.integers(1, 6),
    seed=st.integers(0, 9),
)
def test_a_sketch_is_within_its_bound(num_tokens: int, rank: int, decay: float, parts: int, seed: int) -> None:
    inputs = spread(num_tokens, 24, decay=decay, seed=seed).double()
    gram, found = inputs.T @ inputs, sketched(inputs.float(), rank, parts=parts)
    assert len(found.rows_KN) <= rank
    values = torch.linalg.eigvalsh(gram).clamp_min(0).flip(0)
    bound = min(float(values[k:].sum()) / (rank - k) for k in range(rank))
    size = float(values[0])
    whole = found.whole().double()
    assert float(torch.linalg.matrix_norm(gram - whole, ord=2)) <= bound + 1e-5 * size
    assert torch.allclose(found.diagonal().double(), gram.diagonal(), atol=1e-5 * size)
    assert float(torch.linalg.eigvalsh(whole).min()) >= -1e-5 * size
    if num_tokens <= rank:
        assert torch.allclose(whole, gram, atol=1e-5 * size)


def test_sums_sketch_what_is_wide_and_share_what_is_the_same(tmp_path: Path) -> None:
    sums = InputGramSums(max_columns=16, rank=8)
    narrow, wide = noise(40, 16), noise(40, 17, seed=1)
    sums.add("one", UP, narrow)
    sums.add("one", GATE, narrow)
    sums.add("one", "model.layers.0.mlp.down_proj.weight", wide)
    sums.add("other", UP, narrow)
    grams = sums.write(tmp_path / "grams.safetensors")
    names = sorted(name for held in grams.shards.values() for name in held)
    assert names == [
        "one/model.layers.0.mlp.down_proj.weight/diagonal",
        "one/model.layers.0.mlp.down_proj.weight/rows",
        f"one/{GATE},{UP}",
        f"other/{UP}",
    ]
    assert torch.equal(grams.of("one", UP, 16), grams.of("one", GATE, 16))
    assert torch.allclose(grams.of("one", UP, 16), narrow.T @ narrow / 40, atol=1e-6)
    found = grams.of("one", "model.layers.0.mlp.down_proj.weight", 17)
    assert isinstance(found, Sketch)
    assert torch.allclose(found.diagonal(), wide.square().mean(0), atol=1e-6)
    with pytest.raises(InputError, match="none for"):
        grams.of("two", UP, 16)
    with pytest.raises(InputError, match=r"got:.*\[17, 17\]"):
        grams.of("one", "model.layers.0.mlp.down_proj.weight", 16)


def test_several_files_are_one_artifact(tmp_path: Path) -> None:
    both, parts = InputGramSums(), []
    for seed, expert in enumerate(("one", "other")):
        alone = InputGramSums()
        for sums in (both, alone):
            sums.add(expert, UP, noise(40, 16, seed=seed))
        alone.write(tmp_path / f"{expert}.safetensors")
        parts.append(tmp_path / f"{expert}.safetensors")
    together = both.write(tmp_path / "both.safetensors")
    assert InputGrams.open(*parts).hash == InputGrams.open(*reversed(parts)).hash == together.hash
    assert torch.equal(InputGrams.open(*parts).of("other", UP, 16), together.of("other", UP, 16))


def test_inputs_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InvalidWeights, match="up_proj"):
        InputGramSums().add("one", UP, torch.tensor([[1.0, torch.nan]]))


@settings(max_examples=15, deadline=None)
@given(log_ridge=st.floats(-4, 4), rank=st.integers(1, 12), seed=st.integers(0, 9))
def test_woodbury_solves_the_same_system(log_ridge: float, rank: int, seed: int) -> None:
    anchor, terms, whole = noise(6, 16, seed=seed), [], []
    for number, weight in enumerate((0.4, 0.9)):
        delta = noise(6, 16, seed=seed + 10 + number).double()
        sketch = Sketch(*(part.double() for part in sketched(spread(60, 16, decay=6, seed=seed + number), rank)))
        terms.append(SketchedTerm(weight, delta, sketch))
        whole.append(Term(weight, delta, sketch.whole()))
    fast, slow = solve_sketched(terms), solve(whole)
    assert fast.mean_eigenvalue == pytest.approx(slow.mean_eigenvalue)
    ridge = 10**log_ridge * slow.mean_eigenvalue
    expected = slow.regularised(slow.anchored(anchor), ridge)
    assert torch.allclose(fast.regularised(fast.anchored(anchor), ridge), expected, atol=1e-3)


def inputs_with(folder: Path, **settings: int) -> TensorInputs:
    """Two experts, and Grams of more tokens than columns."""
    sums = InputGramSums(**settings)
    for seed, name in enumerate(("one", "other")):
        sums.add(name, UP, spread(200, 16, decay=5, seed=seed))
    experts = {"one": noise(12, 16, seed=1), "other": noise(12, 16, seed=2)}
    return replace(inputs_of_tensors(noise(12, 16), experts), grams=sums.write(folder / "grams.safetensors"))


def merged(inputs: TensorInputs, operator: str, **params: ParamValue) -> torch.Tensor:
    program = ARITHMETIC[operator](inputs, Rule(match=".*", operator=operator, params=params))
    return execute(program, inputs.base, torch.float32) - inputs.base


@pytest.mark.parametrize(
    ("operator", "params"),
    [
        ("bmm", {"grams": "data", "lambda": 0.1, "scale": 0.7}),
        ("bmm", {"grams": "data", "lambda": 10.0, "anchor": "tsv_m"}),
        ("regmean", {"alpha": 0.8}),
    ],
)
def test_a_merge_with_sketches_comes_near_the_one_with_whole_grams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operator: str, params: dict
) -> None:
    """And makes no matrix of the size that they are there to avoid."""
    exact = merged(inputs_with(tmp_path), operator, weight=0.5, **params)
    monkeypatch.setattr(regression_problem, "MOST_COLUMNS", 10)
    distances = [
        float((merged(inputs_with(tmp_path, max_columns=8, rank=rank), operator, weight=0.5, **params) - exact).norm())
        for rank in (2, 8, 14)
    ]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.05 * float(exact.norm())


def test_what_is_wide_is_refused_where_its_gram_is_needed_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = inputs_with(tmp_path, max_columns=8)
    mixed = merged(inputs, "bmm", weight=0.5, grams="mixed")
    assert mixed.isfinite().all()
    monkeypatch.setattr(regression_problem, "MOST_COLUMNS", 10)
    with pytest.raises(InputError, match="too many inputs"):
        merged(inputs_with(tmp_path, max_columns=8), "bmm", weight=0.5, grams="mixed")
