"""Laws of RegMean, spectral WUDI and Bayesian regression: symmetries, lost values, and the Grams that they read."""

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest
import torch
from merges import UP, inputs_of_tensors, opened, recipe_of
from regressions import (
    EXPERTS,
    adapter,
    fast,
    noise,
    reference,
    with_grams,
)

from crossbreed.errors import InputError, InvalidWeights
from crossbreed.kernels import SourceCache, materialize
from crossbreed.kernels.artifacts.input_grams import InputGrams, InputGramSums
from crossbreed.kernels.linalg import least_squares
from crossbreed.kernels.linalg.decompositions import eigh
from crossbreed.kernels.operators import regression
from crossbreed.kernels.prepared import regression_problem
from crossbreed.sources import LowRank, Sources
from crossbreed.types import ParamValue

# What holds for every operator.

SETTINGS = [
    ("regmean", {}),
    ("swudi", {"time": 100.0}),
    ("bmm", {"anchor": "ties", "density": {"a": 0.3, "q": 0.8}, "lambda": 0.1}),
    ("bmm", {"anchor": "tsv_m", "grams": "mixed"}),
]


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize(("operator", "params"), SETTINGS)
def test_permuting_experts_changes_no_bit(
    models: dict[str, Path], grams: InputGrams, operator: str, params: dict, data: bool
) -> None:
    params = params | {"weight": {"a": 0.31, "b": 0.17, "mlp": 0.9, "p": 0.55, "q": 0.23}}
    if operator == "bmm":
        params["grams"] = "data" if data else "deltas"
    seen = []
    for names in list(permutations(EXPERTS))[::50]:
        called = dict(zip(EXPERTS, names, strict=True))
        sources = opened(models, {called[key]: key for key in reversed(names)})
        moved = {
            name: {called[key]: number for key, number in value.items()} if isinstance(value, dict) else value
            for name, value in params.items()
        }
        recipe = recipe_of(sources, operator, **moved)
        seen.append(dict(materialize(with_grams(recipe, grams) if data else recipe, sources, artifacts=[grams])))
    assert all(torch.equal(other[name], seen[0][name]) for other in seen[1:] for name in other)


@pytest.mark.parametrize("operator", ["regmean", "swudi"])
def test_copies_vote_together(models: dict[str, Path], operator: str) -> None:
    twice, once = opened(models, {"x": "a", "y": "a", "b": "b"}), opened(models, {"x": "a", "b": "b"})
    split = dict(materialize(recipe_of(twice, operator, match=UP, weight={"x": 0.25, "y": 0.5, "b": 0.2}), twice))
    whole = dict(materialize(recipe_of(once, operator, match=UP, weight={"x": 0.75, "b": 0.2}), once))
    assert torch.equal(split[UP], whole[UP])


@pytest.mark.parametrize("weight", [0.0, {"q": 0.5}])
@pytest.mark.parametrize(("operator", "params"), [*SETTINGS[:3], ("swudi", {"filter": "tikhonov"})])
def test_no_weight_is_the_base(sources: Sources, operator: str, params: dict, weight: ParamValue) -> None:
    """Where nobody who has a weight changes a tensor, as `q`, an adapter, no embedding."""
    params = {name: value for name, value in params.items() if name != "density"}
    merged = dict(materialize(recipe_of(sources, operator, weight=weight, **params), sources))
    same = {name for name, tensor in merged.items() if torch.equal(tensor, sources.base.tensor(name))}
    assert same == {name for name in merged if weight == 0.0 or name not in sources.experts["q"].touched}


@pytest.mark.parametrize("key", ["a", "p"])
@pytest.mark.parametrize("params", [("regmean", {}), ("swudi", {}), ("bmm", {}), ("bmm", {"anchor": "tsv_m"})])
def test_one_expert_is_that_expert(models: dict[str, Path], key: str, params: tuple[str, dict]) -> None:
    sources = opened(models, {"x": key})
    ours = dict(materialize(recipe_of(sources, params[0], dtype="float32", weight=1.0, **params[1]), sources))
    theirs = dict(materialize(recipe_of(sources, "task_arithmetic", dtype="float32", weight=1.0), sources))
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)


def test_a_second_lambda_looks_the_system_up(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, params = SourceCache(), {"weight": 0.4, "anchor": "swudi", "match": UP, "dtype": "float32"}
    first = recipe_of(sources, "bmm", **params, **{"lambda": 0.1})
    second = recipe_of(sources, "bmm", **params, scale=0.7, **{"lambda": 5.0})
    expected = dict(materialize(second, sources))[UP]
    dict(materialize(first, sources, cache))
    monkeypatch.setattr(regression_problem, "solve", lambda *_: pytest.fail("solved again"))
    monkeypatch.setattr(regression, "execute", lambda *_: pytest.fail("made the anchor again"))
    assert torch.equal(dict(materialize(second, sources, cache))[UP], expected)


@pytest.mark.parametrize(("operator", "params"), [("bmm", {"grams": "data"}), ("regmean", {})])
def test_matrices_with_the_same_inputs_share_eigenvectors(
    tmp_path: Path, sources: Sources, monkeypatch: pytest.MonkeyPatch, operator: str, params: dict
) -> None:
    """To the bits that each would find for itself."""
    together, apart = InputGramSums(), InputGramSums()
    names = [f"model.layers.0.self_attn.{one}_proj.weight" for one in "qkv"]
    for seed, expert in enumerate(sorted(expert.hash for expert in sources.experts.values())):
        inputs = noise(300, 128, seed=seed)
        for name in names:
            together.add(expert, name, inputs)
            apart.add(expert, name, inputs.clone())
    recipe, decomposed, others = (
        recipe_of(sources, operator, match=".*[qkv]_proj.weight", weight=0.4, **params),
        [],
        None,
    )
    monkeypatch.setattr(least_squares, "eigh", lambda c_NN: decomposed.append(c_NN) or eigh(c_NN))
    for sums, number in ((together, 1), (apart, 3)):
        decomposed.clear()
        grams = sums.write(tmp_path / f"{number}.safetensors")
        found = dict(materialize(with_grams(recipe, grams), sources, SourceCache(), artifacts=[grams]))
        assert len(decomposed) == number
        assert others is None or all(torch.equal(found[name], others[name]) for name in names)
        others = found


def test_an_expert_that_leaves_a_tensor_votes_for_the_base_on_its_inputs(sources: Sources, grams: InputGrams) -> None:
    """`mlp` leaves attention alone; its inputs are still to come out as they did."""
    name = "model.layers.0.self_attn.q_proj.weight"
    few = recipe_of(sources, "regmean", dtype="float32", weight={"a": 1.0, "mlp": 50.0}, alpha=0.5)
    merged = dict(materialize(with_grams(few, grams), sources, artifacts=[grams]))[name]
    base, alone = sources.base.tensor(name).float(), sources.experts["a"].tensor(name).float()
    assert (merged - base).norm() < 0.2 * (alone - base).norm()


@pytest.mark.parametrize(
    ("operator", "expected"),
    [("regmean", (0.8 * 1 + 0.2 * 2) / 1), ("swudi", (0.8 + 0.2 * 2) / 2), ("bmm", 0.8 + 0.2 * 2)],
)
@pytest.mark.parametrize(
    ("shape", "name"),
    [((30,), "model.norm.weight"), ((20, 8), "model.embed_tokens.weight"), ((20, 8), "lm_head.weight")],
)
def test_what_is_no_projection(operator: str, expected: float, shape: tuple[int, ...], name: str) -> None:
    """RegMean: the weighted mean. SWUDI: the mean of the weighted deltas. BMM: its anchor."""
    base = torch.zeros(shape)
    experts = {"one": torch.ones(shape), "other": 2 * torch.ones(shape)}
    inputs = inputs_of_tensors(base, experts, name=name)
    merged = fast(inputs, operator, weight={"one": 0.8, "other": 0.2})
    assert torch.allclose(merged, torch.full(shape, expected))
    assert torch.allclose(merged.double(), reference(inputs, operator, weight={"one": 0.8, "other": 0.2}))


def test_a_zero_delta_has_no_gram() -> None:
    nothing = LowRank(a_RN=torch.zeros(2, 8), b_MR=noise(10, 2), scale=1.0)
    inputs = inputs_of_tensors(torch.zeros(10, 8), {"one": noise(10, 8), "nothing": nothing})
    for operator in ("regmean", "swudi", "bmm"):
        assert fast(inputs, operator, weight=1.0).isfinite().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("shape", [(5000,), (50, 100)])
@pytest.mark.parametrize(
    ("operator", "params"), [*SETTINGS[:2], ("bmm", {}), ("bmm", {"anchor": "ties", "density": 0.01, "lambda": 1e3})]
)
def test_nan_and_inf_never_vanish(operator: str, params: dict, value: float, shape: tuple[int, ...]) -> None:
    base, good, bad = noise(3, *shape)
    bad.view(-1)[[3, 7]] = value
    inputs = inputs_of_tensors(base, {"good": good, "bad": bad})
    with pytest.raises(InvalidWeights, match="NaN or Inf"):
        fast(inputs, operator, weight=0.3, **params)


def test_nan_in_an_adapter_never_vanishes() -> None:
    low = adapter(20, 30, 2, seed=0)
    low.a_RN[0, 0] = float("nan")
    inputs = inputs_of_tensors(torch.zeros(20, 30), {"low": low, "other": adapter(20, 30, 3, seed=4)})
    for operator in ("regmean", "swudi", "bmm"):
        with pytest.raises(InvalidWeights, match="NaN or Inf"):
            fast(inputs, operator, weight=0.3)


# Grams.


def test_grams_are_the_mean_outer_product_whatever_the_batches(tmp_path: Path) -> None:
    inputs, sums = noise(7, 5, 6).bfloat16(), InputGramSums()
    sums.add("x", "t", inputs[:2])
    sums.add("x", "t", inputs[2:])
    held = sums.write(tmp_path / "g.safetensors")
    rows = inputs.reshape(-1, 6).double()
    assert torch.allclose(held.of("x", "t", 6).double(), rows.T @ rows / 35, atol=1e-6)
    assert [file.name for file in tmp_path.iterdir()] == ["g.safetensors"]
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes((tmp_path / "g.safetensors").read_bytes())
    assert InputGrams.open(copy).hash == held.hash
    sums.add("x", "t", inputs)
    sums.add("x", "t", inputs[:1])
    assert sums.write(tmp_path / "h.safetensors").hash != held.hash


def test_a_recipe_finds_its_grams_by_hash(sources: Sources, grams: InputGrams, tmp_path: Path) -> None:
    recipe = with_grams(recipe_of(sources, "regmean", weight=0.5), grams)
    others = InputGramSums()
    others.add("x", "t", noise(3, 4))
    other = others.write(tmp_path / "other.safetensors")
    merged = dict(materialize(recipe, sources, artifacts=[other, grams]))
    without = dict(materialize(replace(recipe, artifacts={}), sources, artifacts=[grams]))
    assert not torch.equal(merged[UP], without[UP])
    for opened_ones in ([], [other]):
        with pytest.raises(InputError, match="artifact `grams` is not among"):
            materialize(recipe, sources, artifacts=opened_ones)


def test_grams_that_lack_a_tensor_or_have_another_size_are_refused(sources: Sources, tmp_path: Path) -> None:
    some = InputGramSums()
    for expert in sources.experts.values():
        some.add(expert.hash, UP, noise(3, 128))
    held = some.write(tmp_path / "some.safetensors")
    recipe = with_grams(recipe_of(sources, "regmean", weight=0.5, match=".*proj.*"), held)
    with pytest.raises(InputError, match=r"the Grams have none for `model\.layers\.0\.mlp\.down_proj"):
        dict(materialize(recipe, sources, artifacts=[held]))
    dict(materialize(replace(recipe, rules=(replace(recipe.rules[0], match=UP),)), sources, artifacts=[held]))
    with pytest.raises(InputError, match=r"got:.*\[128, 128\]"):
        held.of(next(iter(sources.experts.values())).hash, UP, 64)


def test_no_file_of_grams(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file of Grams"):
        InputGrams.open(tmp_path / "grams.safetensors")


@pytest.mark.parametrize("kind", ["data", "mixed"])
def test_bmm_on_data_wants_grams(sources: Sources, kind: str) -> None:
    with pytest.raises(InputError, match="an artifact `grams`"):
        dict(materialize(recipe_of(sources, "bmm", weight=0.5, grams=kind), sources))


def test_a_matrix_that_is_too_wide_is_refused(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regression_problem, "MOST_COLUMNS", 150)
    sources = opened(models, {"a": "a", "b": "b"})
    with pytest.raises(InputError, match=r"down_proj.*too many inputs"):
        dict(materialize(recipe_of(sources, "swudi", weight=0.5), sources))
