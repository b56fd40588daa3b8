"""RegMean, spectral WUDI and Bayesian regression: their limits in fp64, and the fast forms against those."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from merges import UP, inputs_of_tensors, opened, recipe_of
from regressions import (
    FILTERS,
    adapter,
    fast,
    inputs_with,
    noise,
    per_expert,
    quick,
    reference,
    votes,
    with_grams,
)

from crossbreed.kernels import materialize
from crossbreed.kernels.artifacts.input_grams import InputGrams, InputGramSums
from crossbreed.kernels.prepared import regression_problem
from crossbreed.kernels.reference import materialize_fp64
from crossbreed.kernels.reference.regression import system
from crossbreed.kernels.reference.tensor import Tensor
from crossbreed.sources import Sources
from crossbreed.types import ParamValue, Recipe

# Limits, in fp64.


def test_regmean_of_equal_grams_is_the_mean(tmp_path: Path) -> None:
    inputs, sums = inputs_with(tmp_path), InputGramSums()
    for name in ("one", "other"):
        sums.add(name, UP, noise(6, 16, seed=7))  # of rank 6: where no input goes, that is the mean too
    inputs = replace(inputs, grams=sums.write(tmp_path / "equal.safetensors"))
    deltas = Tensor.of(inputs).deltas
    mean = 0.25 * deltas["one"] + 0.75 * deltas["other"]
    for alpha in (1.0, 0.5):
        found = reference(inputs, "regmean", weight={"one": 0.2, "other": 0.6}, alpha=alpha)
        assert torch.allclose(found, mean, atol=1e-9)


def test_regmean_does_to_an_expert_s_inputs_what_the_expert_does_where_nobody_else_has_inputs(tmp_path: Path) -> None:
    inputs, sums = inputs_with(tmp_path), InputGramSums()
    halves = torch.cat([noise(30, 8, seed=5), torch.zeros(30, 8)], 1)
    sums.add("one", UP, halves)
    sums.add("other", UP, halves.roll(8, 1))
    inputs = replace(inputs, grams=sums.write(tmp_path / "halves.safetensors"))
    deltas, found = Tensor.of(inputs).deltas, reference(inputs, "regmean", weight=1.0, alpha=1.0)
    assert torch.allclose(found[:, :8], deltas["one"][:, :8], atol=1e-9)
    assert torch.allclose(found[:, 8:], deltas["other"][:, 8:], atol=1e-9)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    anchor=st.sampled_from(["task_arithmetic", "ties", "tsv_m", "swudi"]),
    weight=st.fixed_dictionaries(dict.fromkeys(("one", "other"), st.floats(0.1, 1.5).map(lambda w: round(w, 3)))),
    scale=st.floats(0.3, 2),
    seed=st.integers(0, 99),
)
def test_bmm_runs_from_its_anchor_to_regmean(
    tmp_path: Path, anchor: str, weight: dict[str, float], scale: float, seed: int
) -> None:
    """Times its scale: as lambda grows without end, the anchor; as it vanishes, RegMean, whatever the anchor."""
    inputs = inputs_with(tmp_path, seed=seed)
    said: dict[str, ParamValue] = {"density": 0.5} if anchor == "ties" else {}
    alone, regmean = (
        reference(inputs, anchor, weight=weight, **said),
        reference(inputs, "regmean", weight=weight, alpha=1.0),
    )
    said |= {"weight": weight, "anchor": anchor, "grams": "data", "scale": scale}
    assert torch.allclose(reference(inputs, "bmm", **said, **{"lambda": 1e12}), scale * alone, atol=1e-8)
    for near_zero in (1e-10, 0.0):
        found = reference(inputs, "bmm", **said, **{"lambda": near_zero})
        assert torch.allclose(found, scale * regmean, atol=1e-5)
        merged = fast(inputs, "bmm", **said, **{"lambda": near_zero}) - inputs.base
        assert torch.allclose(merged.double(), scale * regmean, atol=1e-4)
    merged = fast(inputs, "bmm", **said, **{"lambda": 1e12}) - inputs.base
    assert torch.allclose(merged.double(), scale * alone, atol=1e-5)


def nearest(deltas: dict[str, torch.Tensor], inputs: dict[str, torch.Tensor], anchor: torch.Tensor) -> torch.Tensor:
    """RegMean's minimiser nearest to an anchor, from the inputs themselves: no Gram is made, and none is rounded."""
    x_TN = torch.cat([inputs[name].double() for name in deltas])
    y_TM = torch.cat([inputs[name].double() @ (delta.double() - anchor).T for name, delta in deltas.items()])
    return anchor + (torch.linalg.pinv(x_TN, rtol=1e-12) @ y_TM).T


@pytest.mark.parametrize("largest", [1.0, 1000.0])
def test_fewer_tokens_than_columns_leave_the_rest_to_the_anchor(tmp_path: Path, largest: float) -> None:
    """What fp32 rounds into a Gram is no direction; what few x_of say is one, however large the others are."""
    deltas = {name: noise(4, 256, seed=seed) / 16 for seed, name in enumerate(("one", "other"), start=1)}
    x_of = {name: noise(100, 256, seed=seed) for seed, name in enumerate(deltas, start=5)}
    inputs, sums = inputs_of_tensors(torch.zeros(4, 256), deltas), InputGramSums()
    for name, x_TN in x_of.items():
        x_TN[:, 3] *= largest
        sums.add(name, UP, x_TN)
    inputs = replace(inputs, grams=sums.write(tmp_path / "few.safetensors"))
    total = deltas["one"].double() + deltas["other"].double()
    for operator, params, anchor in [
        ("regmean", {"alpha": 1.0}, total / 2),
        ("bmm", {"grams": "data", "lambda": 0.0}, total),
    ]:
        expected = nearest(deltas, x_of, anchor)
        for make in (fast, reference):
            found = make(inputs, operator, weight=1.0, **params).double()
            assert (found - expected).norm() < 1e-3 * expected.norm(), (operator, make)


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.norm.weight"])
def test_what_is_no_projection_keeps_the_anchor(name: str) -> None:
    """Times its scale: no Gram is asked for."""
    shape = (12, 16) if "embed" in name else (16,)
    experts = {"one": noise(*shape, seed=1), "other": noise(*shape, seed=2)}
    inputs = inputs_of_tensors(noise(*shape), experts, name=name, depth=None)
    for make in (reference, lambda *args, **params: fast(*args, **params) - inputs.base):
        found = make(inputs, "bmm", weight=0.4, anchor="ties", density=0.5, grams="data", scale=0.7)
        anchor = make(inputs, "ties", weight=0.4, density=0.5)
        assert torch.allclose(found, 0.7 * anchor, atol=1e-5)


def test_without_data_bmm_runs_to_wudi_s_minimiser_nearest_to_the_anchor() -> None:
    inputs = inputs_of_tensors(noise(5, 16), {"one": noise(5, 16, seed=1), "other": adapter(5, 16, 2, seed=2)})
    weight = {"one": 0.4, "other": 0.9}
    c, d = system(Tensor.of(inputs), weight, "deltas")
    found = reference(inputs, "bmm", weight=weight, anchor="ties", density=0.5, **{"lambda": 0.0})
    assert torch.allclose(found @ c, d, atol=1e-9)
    away = torch.eye(16) - torch.linalg.pinv(c, hermitian=True, rtol=1e-10) @ c
    anchor = reference(inputs, "ties", weight=weight, density=0.5)
    assert anchor.norm() > 0.1 < (anchor @ away).norm()  # the anchor leaves the row space, and stays there
    assert torch.allclose(found @ away, anchor @ away, atol=1e-9)
    almost = reference(inputs, "bmm", weight=weight, anchor="ties", density=0.5, **{"lambda": 1e-8})
    assert torch.allclose(almost, found, atol=1e-5)
    merged = fast(inputs, "bmm", weight=weight, anchor="ties", density=0.5, **{"lambda": 0.0})
    assert torch.allclose(merged - inputs.base, found.float(), atol=1e-5)


def test_swudi_runs_from_the_sum_of_deltas_to_wudi_s_minimiser() -> None:
    inputs = inputs_of_tensors(noise(12, 16), {"one": noise(12, 16, seed=1), "other": noise(12, 16, seed=2)})
    weight = {"one": 0.4, "other": 0.9}
    deltas = Tensor.of(inputs).deltas
    for name in ("exponential", "landweber", "top_k"):
        found = reference(inputs, "swudi", weight=weight, filter=name, **{FILTERS[name]: 0.0})
        assert torch.allclose(found, 0.4 * deltas["one"] + 0.9 * deltas["other"], atol=1e-9)
    c, d = system(Tensor.of(inputs), weight, "deltas")
    for name, number in [("exponential", 1e9), ("tikhonov", 0.0), ("landweber", 1e9), ("top_k", 1.0)]:
        found = reference(inputs, "swudi", weight=weight, filter=name, **{FILTERS[name]: number})
        assert torch.allclose(found @ c, d, atol=1e-9), name


def test_mixed_grams_run_from_one_kind_to_the_other(tmp_path: Path) -> None:
    """To deltas at eta = 0; at eta = 1 to data in which every expert's inputs are as large."""
    inputs, params = inputs_with(tmp_path), {"weight": {"one": 0.4, "other": 0.9}, "lambda": 0.1}
    of_deltas = reference(inputs, "bmm", grams="deltas", **params)
    assert torch.allclose(reference(inputs, "bmm", grams="mixed", eta=0.0, **params), of_deltas, atol=1e-9)
    held, alike = inputs.grams, InputGramSums()
    for name in ("one", "other"):
        gram = held.of(name, UP, 16).double()
        alike.add(name, UP, torch.linalg.cholesky(gram / gram.trace()).T * 4)
    inputs = replace(inputs, grams=alike.write(tmp_path / "alike.safetensors"))
    of_data = reference(inputs, "bmm", grams="data", **params)
    assert torch.allclose(reference(inputs, "bmm", grams="mixed", eta=1.0, **params), of_data, atol=1e-5)
    assert not torch.allclose(of_data, of_deltas, atol=0.1)


def test_one_range_of_lambda_fits_every_module(tmp_path: Path) -> None:
    """Inputs ten times as large change nothing: lambda counts in mean eigenvalues."""
    inputs, sums = inputs_with(tmp_path), InputGramSums()
    for name in ("one", "other"):
        root = torch.linalg.cholesky(inputs.grams.of(name, UP, 16).double()).T
        sums.add(name, UP, 10 * root)
    larger = replace(inputs, grams=sums.write(tmp_path / "larger.safetensors"))
    one, other = (reference(p, "bmm", weight=1.0, grams="data", **{"lambda": 0.3}) for p in (inputs, larger))
    assert torch.allclose(one, other, atol=1e-4)


# The fast forms against fp64.


def assert_close(sources: Sources, recipe: Recipe, grams: InputGrams | None = None, *, tolerance: float = 1e-4) -> None:
    """Within a tolerance of the root mean square of the merged delta, on average; and an ulp of the result."""
    artifacts = () if grams is None else (grams,)
    merged = dict(materialize(recipe, sources, artifacts=artifacts))
    for name, expected in materialize_fp64(recipe, sources, artifacts):
        size = (expected - sources.base.tensor(name).double()).norm()
        off = (merged[name].double() - expected).norm()
        assert off <= tolerance * size + 2**-23 * expected.norm(), (name, off / size)


@quick
@given(weight=per_expert, alpha=st.floats(0, 1), with_data=st.booleans())
def test_regmean_is_close_to_fp64(
    sources: Sources, grams: InputGrams, weight: dict, alpha: float, with_data: bool
) -> None:
    recipe = recipe_of(sources, "regmean", dtype="float32", weight=weight, alpha=round(alpha, 3))
    if with_data:
        assert_close(sources, with_grams(recipe, grams), grams)
    else:
        assert_close(sources, recipe)


@quick
@given(weight=per_expert, name=st.sampled_from(sorted(FILTERS)), number=st.floats(0, 1), scale=st.floats(0.1, 2))
def test_swudi_is_close_to_fp64(sources: Sources, weight: dict, name: str, number: float, scale: float) -> None:
    """A hard filter cuts between eigenvalues; the others are smooth."""
    number = round({"exponential": 1000, "tikhonov": 0.1, "landweber": 300, "top_k": 1}[name] * number, 4)
    params = {"filter": name, FILTERS[name]: number, "scale": scale}
    assert_close(sources, recipe_of(sources, "swudi", dtype="float32", weight=weight, **params))


@quick
@given(
    weight=st.fixed_dictionaries(dict.fromkeys(("a", "b", "mlp"), votes)),
    anchor=st.sampled_from(["task_arithmetic", "ties", "tsv_m", "swudi"]),
    kind=st.sampled_from(["deltas", "data", "mixed"]),
    log_lambda=st.floats(-3, 3),
    eta=st.floats(0, 1),
    scale=st.floats(0.1, 2),
)
def test_bmm_is_close_to_fp64(
    models: dict[str, Path],
    grams: InputGrams,
    weight: dict,
    anchor: str,
    kind: str,
    log_lambda: float,
    eta: float,
    scale: float,
) -> None:
    full = opened(models, {name: name for name in ("a", "b", "mlp")})
    params = {"anchor": anchor, "grams": kind, "lambda": 10**log_lambda, "eta": eta, "scale": scale, "density": 0.5}
    recipe = with_grams(recipe_of(full, "bmm", dtype="float32", weight=weight, **params), grams)
    assert_close(full, recipe, grams)


@pytest.mark.parametrize(
    ("operator", "params"), [("swudi", {}), ("swudi", {"filter": "top_k", "ratio": 0.05}), ("bmm", {})]
)
def test_in_the_adapters_span_it_is_as_in_all_columns(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, operator: str, params: dict
) -> None:
    """Exact for adapters, and the only form in which a matrix of any width can be regressed on."""
    sources = opened(models, {"p": "p", "q": "q"})
    recipe = recipe_of(sources, operator, dtype="float32", weight={"p": 0.4, "q": 0.9}, **params)
    assert_close(sources, recipe, tolerance=1e-5)
    monkeypatch.setattr(regression_problem, "MOST_COLUMNS", 10)
    dict(materialize(recipe, sources))


@pytest.mark.parametrize(
    ("operator", "params"),
    [
        ("regmean", {"alpha": 1.0}),
        ("regmean", {"alpha": 0.5}),
        ("swudi", {}),
        ("bmm", {"anchor": "tsv_m"}),
        ("bmm", {"anchor": "swudi", "lambda": 0.01}),
    ],
)
def test_adapters_merge_within_their_stacked_rank(operator: str, params: dict) -> None:
    experts = {"p": adapter(60, 50, 4, seed=0), "q": adapter(60, 50, 6, seed=2)}
    merged = fast(inputs_of_tensors(torch.zeros(60, 50), experts), operator, weight=0.7, **params)
    assert int((torch.linalg.svdvals(merged) > 1e-5 * merged.norm()).sum()) == 10
