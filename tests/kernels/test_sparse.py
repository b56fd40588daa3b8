"""What thins out deltas: against fp64, against its own algebra, and the same whatever experts are called."""

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from merges import UP, inputs_of_tensors, merged, opened, recipe_of

from crossbreed.errors import InputError
from crossbreed.kernels import materialize
from crossbreed.kernels.reference import materialize_fp64
from crossbreed.recipes import parse_recipe
from crossbreed.recipes.operators import OPERATOR_SPECS, sparse
from crossbreed.sources import Sources
from crossbreed.types import Rule

OPERATORS = [part.spec.name for part in sparse.PARTS]
RANDOM = [name for name in OPERATORS if name.startswith(("dare", "della"))]
EXPERTS = ("a", "b", "mlp", "p", "q")
quick = settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
weights = st.fixed_dictionaries(dict.fromkeys(EXPERTS, st.floats(0.1, 1.5).map(lambda w: round(w, 4))))


def params_of(operator: str) -> dict[str, Any]:
    return {"epsilon": 0.1} if operator.startswith("della") else {}


@pytest.mark.parametrize("operator", OPERATORS)
@quick
@given(
    weight=weights,
    density=st.floats(0.2, 0.8),
    scale=st.floats(0.1, 2.0),
    normalize=st.booleans(),
    more=st.fixed_dictionaries({"gamma": st.floats(0.0, 0.1), "seed": st.integers(0, 9), "rescale": st.booleans()}),
    choice=st.fixed_dictionaries(
        {
            "consensus": st.sampled_from(["sum", "count"]),
            "pick": st.sampled_from(["all", "largest"]),
            "trim": st.sampled_from(["tensor", "model"]),
        }
    ),
)
def test_it_is_fp64_s_but_for_elements_at_a_threshold(
    sources: Sources,
    operator: str,
    weight: dict,
    density: float,
    scale: float,
    normalize: bool,
    more: dict,
    choice: dict,
) -> None:
    declared = {param.name for param in OPERATOR_SPECS[operator].params}
    given_ = {**params_of(operator), **more, **choice, "scale": scale, "normalize": normalize, "density": density}
    params = {name: value for name, value in given_.items() if name in declared}
    recipe = recipe_of(sources, operator, dtype="float32", weight=weight, **params)
    made, reference = dict(materialize(recipe, sources)), dict(materialize_fp64(recipe, sources))
    off = sum(int(((made[name].double() - expected).abs() > 1e-5).sum()) for name, expected in reference.items())
    assert off <= 3e-4 * sum(tensor.numel() for tensor in reference.values())


@pytest.mark.parametrize("operator", OPERATORS)
def test_permuting_experts_changes_no_bit(models: dict[str, Path], operator: str) -> None:
    weight = {"a": 0.31, "b": 0.17, "mlp": 0.9, "p": 0.55, "q": 0.23}
    seen = []
    for names in list(permutations(EXPERTS))[::41]:
        called = dict(zip(EXPERTS, names, strict=True))
        sources = opened(models, {called[key]: key for key in reversed(names)})
        moved = {called[key]: value for key, value in weight.items()}
        recipe = recipe_of(sources, operator, dtype="float32", weight=moved, density=0.5, **params_of(operator))
        seen.append({name: tensor.clone() for name, tensor in materialize(recipe, sources)})
    assert all(torch.equal(other[name], seen[0][name]) for other in seen[1:] for name in other)


@pytest.mark.parametrize("operator", OPERATORS)
def test_density_one_thins_nothing_out(models: dict[str, Path], operator: str) -> None:
    full = opened(models, {"a": "a", "b": "b"})
    plain = "ties" if operator in ("ties", "dare_ties", "della", "breadcrumbs_ties") else "task_arithmetic"
    whole = {"density": 1.0} if plain == "ties" else {}
    ours = dict(materialize(recipe_of(full, operator, weight=0.4, density=1.0, normalize=False), full))
    theirs = dict(
        materialize(recipe_of(full, plain, weight=0.4, **({**whole, "normalize": False} if whole else {})), full)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("shape", [(7,), (1, 9), (9, 1), (3, 4, 5)])
def test_odd_shapes(operator: str, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(shape, generator=generator)
    inputs = inputs_of_tensors(base, {"a": base + torch.randn(shape, generator=generator), "b": base.clone()})
    rule = Rule(match=".*", operator=operator, params={"weight": 1.0, "density": 0.5, **params_of(operator)})
    made = merged(inputs, rule)
    assert made.shape == base.shape
    assert made.isfinite().all()


@pytest.mark.parametrize("operator", RANDOM)
def test_what_a_density_keeps_every_larger_one_keeps(operator: str) -> None:
    kept = [_kept(operator, density, seed=0) for density in (0.2, 0.5, 0.75)]
    assert (kept[0] <= kept[1]).all()
    assert (kept[1] <= kept[2]).all()


@pytest.mark.parametrize("operator", RANDOM)
@pytest.mark.parametrize("density", [0.2, 0.5, 0.75])
def test_the_part_kept_is_the_density(operator: str, density: float) -> None:
    """Within five standard deviations, of the whole and, for ranks, of each row."""
    kept = _kept(operator, density, seed=1)
    assert abs(kept.mean() - density) < 5 * (density * (1 - density) / kept.numel()) ** 0.5
    rows = kept.mean(dim=1)
    assert ((rows - density).abs() < 6 * (density * (1 - density) / kept.shape[1]) ** 0.5).all()


@pytest.mark.parametrize("operator", RANDOM)
def test_seeds_tensors_and_experts_have_masks_of_their_own(operator: str) -> None:
    masks = [
        _kept(operator, 0.5, seed=0),
        _kept(operator, 0.5, seed=1),
        _kept(operator, 0.5, seed=0, tensor="model.layers.1.mlp.up_proj.weight"),
        _kept(operator, 0.5, seed=0, expert="b"),
    ]
    for i, one in enumerate(masks):
        for other in masks[i + 1 :]:
            assert 0.45 < (one == other).double().mean() < 0.58


@pytest.mark.parametrize("operator", ["dare_linear", "della_linear"])
def test_what_is_kept_makes_up_for_what_is_dropped(operator: str) -> None:
    """The mean over seeds is task arithmetic: E[out] = W0 + sum(wi di)."""
    delta = torch.rand(64, 64, generator=torch.Generator().manual_seed(0)) + 0.5
    inputs = inputs_of_tensors(torch.zeros(64, 64), {"a": delta})
    params = {"weight": 1.0, "density": 0.4, **params_of(operator)}
    total = torch.zeros(64, 64)
    for seed in range(200):
        total += merged(inputs, Rule(match=".*", operator=operator, params={**params, "seed": seed}))
    assert abs((total / 200).mean() / delta.mean() - 1) < 0.01
    assert ((total / 200 - delta).abs() < 6 * delta * (0.7 / 0.3 / 200) ** 0.5).all()


def _kept(operator: str, density: float, *, seed: int, tensor: str = UP, expert: str = "a") -> torch.Tensor:
    """1 where an element of a delta of ones is kept."""
    delta = 1 + 0.1 * torch.rand(100, 400, generator=torch.Generator().manual_seed(5))
    inputs = inputs_of_tensors(torch.zeros(100, 400), {expert: delta}, name=tensor)
    params = {"weight": 1.0, "density": density, "seed": seed, "normalize": False, **params_of(operator)}
    return (merged(inputs, Rule(match=".*", operator=operator, params=params)) != 0).double()


def test_a_drawn_vote_elects_plus() -> None:
    inputs = inputs_of_tensors(torch.zeros(1, 2), {"a": torch.tensor([[1.0, -1.0]]), "b": torch.tensor([[-1.0, 1.0]])})
    for consensus in ("sum", "count"):
        rule = Rule(match=".*", operator="ties", params={"weight": 1.0, "consensus": consensus})
        assert merged(inputs, rule).tolist() == [[1.0, 1.0]]


def test_ties_by_the_whole_model_keeps_the_density_of_it(sources: Sources) -> None:
    """One tensor may lose more than another, as parts of the paper's flattened vector do."""
    weight = dict.fromkeys(EXPERTS, 0.0) | {"a": 1.0}
    params = {"weight": weight, "density": 0.25, "trim": "model", "normalize": False}
    recipe = recipe_of(sources, "ties", dtype="float32", **params)
    kept = {
        name: int((tensor != sources.base.tensor(name).float()).sum())
        for name, tensor in materialize(recipe, sources)
        if tensor.is_floating_point()
    }
    size = sum(sources.base.tensor(name).numel() for name in kept)
    assert sum(kept.values()) == int(0.25 * size)
    shares = {name: count / sources.base.tensor(name).numel() for name, count in kept.items()}
    assert min(shares.values()) < 0.24 < 0.3 < max(shares.values())


def test_breadcrumbs_drop_the_outliers() -> None:
    delta = torch.arange(1.0, 101.0).reshape(10, 10)
    inputs = inputs_of_tensors(torch.zeros(10, 10), {"a": delta})
    params = {"weight": 1.0, "density": 0.5, "gamma": 0.1}
    kept = merged(inputs, Rule(match=".*", operator="breadcrumbs", params=params)).flatten()
    assert kept.nonzero().flatten().tolist() == list(range(40, 90))


@pytest.mark.parametrize(("density", "epsilon"), [(0.5, 0.5), (0.2, 0.3), (0.9, 0.15)])
def test_a_probability_beyond_0_or_1_is_refused(density: float, epsilon: float) -> None:
    rule = {"match": ".*", "operator": "della", "params": {"weight": 1.0, "density": density, "epsilon": epsilon}}
    recipe = {"schema": 1, "base": "base", "sources": {"base": "0", "a": "1"}, "rules": [rule]}
    with pytest.raises(InputError, match="`epsilon` of `a` is too large for its `density`"):
        parse_recipe(recipe)


def test_a_lone_voter_has_its_weight_where_the_largest_is_picked() -> None:
    inputs = inputs_of_tensors(torch.zeros(2, 2), {"a": torch.ones(2, 2)})
    params = {"weight": 0.5, "pick": "largest"}
    for density in (1.0, 0.9999):
        rule = Rule(match=".*", operator="ties", params={**params, "density": density})
        assert merged(inputs, rule).max() == 0.5
