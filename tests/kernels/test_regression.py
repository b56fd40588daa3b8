"""RegMean, spectral WUDI and Bayesian regression: their limits in fp64, and the fast forms against those."""

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from merges import UP, opened, parents_of_tensors, recipe_of

from crossbreed.errors import InputError, InvalidWeights
from crossbreed.kernels import OPERATORS, Facts, linear_solve, materialize
from crossbreed.kernels.artifacts import Grams, GramSums
from crossbreed.kernels.basis_core import eigh
from crossbreed.kernels.execute import execute
from crossbreed.kernels.operators import regression
from crossbreed.kernels.reference import REFERENCES, materialize_fp64
from crossbreed.kernels.reference.regression import system
from crossbreed.kernels.reference.tensor import Tensor
from crossbreed.kernels.tensors import Parents
from crossbreed.sources import LowRank, ModuleType, Sources, module_of
from crossbreed.types import ParamValue, Recipe, Rule

EXPERTS = ("a", "b", "mlp", "p", "q")
FILTERS = {"exponential": "time", "tikhonov": "ridge", "landweber": "steps", "top_k": "ratio"}
votes = st.floats(0, 1.5, allow_subnormal=False).map(lambda w: round(w, 4))
per_expert = st.fixed_dictionaries(dict.fromkeys(EXPERTS, votes))
quick = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def adapter(num_rows: int, num_columns: int, rank: int, seed: int) -> LowRank:
    return LowRank(a_RN=noise(rank, num_columns, seed=seed), b_MR=noise(num_rows, rank, seed=seed + 1), scale=0.1)


def parents_with(tmp_path: Path, *, num_tokens: int = 200, seed: int = 0) -> Parents:
    """Two full experts and what each gets as inputs: other directions matter to one than to the other."""
    experts = {"one": noise(12, 16, seed=seed + 1), "other": noise(12, 16, seed=seed + 2)}
    parents, sums = parents_of_tensors(noise(12, 16), experts), GramSums()
    for i, name in enumerate(experts):
        sums.add(name, UP, noise(num_tokens, 16, seed=seed + 3 + i) * torch.linspace(0.1, 2, 16).roll(5 * i))
    return replace(parents, grams=sums.write(tmp_path / "grams.safetensors"))


def reference(parents: Parents, operator: str, **params: ParamValue) -> torch.Tensor:
    """The merged delta in fp64."""
    tensor = Tensor.of(parents)
    return REFERENCES[operator](tensor, Rule(match=".*", operator=operator, params=params)) - tensor.base


def fast(parents: Parents, operator: str, **params: ParamValue) -> torch.Tensor:
    program = OPERATORS[operator](parents, Rule(match=".*", operator=operator, params=params))
    return execute(program, parents.base, torch.float32)


@pytest.fixture(scope="module")
def grams(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Grams:
    """Of every expert and projection, from inputs that differ between experts; with fewer tokens than columns."""
    sums = GramSums()
    for seed, (_, expert) in enumerate(sorted(sources.experts.items())):
        for name, info in sources.base.tensors.items():
            if len(info.shape) == 2 and module_of(name) is not ModuleType.EMBEDDING:
                for batch in range(2):
                    sums.add(expert.hash, name, noise(2, 40, info.shape[1], seed=10 * seed + batch))
    return sums.write(tmp_path_factory.mktemp("grams") / "grams.safetensors")


def with_grams(recipe: Recipe, grams: Grams) -> Recipe:
    return replace(recipe, artifacts={"grams": grams.hash})


# Limits, in fp64.


def test_regmean_of_equal_grams_is_the_mean(tmp_path: Path) -> None:
    parents, sums = parents_with(tmp_path), GramSums()
    for name in ("one", "other"):
        sums.add(name, UP, noise(6, 16, seed=7))  # of rank 6: where no input goes, that is the mean too
    parents = replace(parents, grams=sums.write(tmp_path / "equal.safetensors"))
    deltas = Tensor.of(parents).deltas
    mean = 0.25 * deltas["one"] + 0.75 * deltas["other"]
    for alpha in (1.0, 0.5):
        found = reference(parents, "regmean", weight={"one": 0.2, "other": 0.6}, alpha=alpha)
        assert torch.allclose(found, mean, atol=1e-9)


def test_regmean_does_to_an_expert_s_inputs_what_the_expert_does_where_nobody_else_has_inputs(tmp_path: Path) -> None:
    parents, sums = parents_with(tmp_path), GramSums()
    halves = torch.cat([noise(30, 8, seed=5), torch.zeros(30, 8)], 1)
    sums.add("one", UP, halves)
    sums.add("other", UP, halves.roll(8, 1))
    parents = replace(parents, grams=sums.write(tmp_path / "halves.safetensors"))
    deltas, found = Tensor.of(parents).deltas, reference(parents, "regmean", weight=1.0, alpha=1.0)
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
    parents = parents_with(tmp_path, seed=seed)
    said: dict[str, ParamValue] = {"density": 0.5} if anchor == "ties" else {}
    alone, regmean = (
        reference(parents, anchor, weight=weight, **said),
        reference(parents, "regmean", weight=weight, alpha=1.0),
    )
    said |= {"weight": weight, "anchor": anchor, "grams": "data", "scale": scale}
    assert torch.allclose(reference(parents, "bmm", **said, **{"lambda": 1e12}), scale * alone, atol=1e-8)
    for near_zero in (1e-10, 0.0):
        found = reference(parents, "bmm", **said, **{"lambda": near_zero})
        assert torch.allclose(found, scale * regmean, atol=1e-5)
        merged = fast(parents, "bmm", **said, **{"lambda": near_zero}) - parents.base
        assert torch.allclose(merged.double(), scale * regmean, atol=1e-4)
    merged = fast(parents, "bmm", **said, **{"lambda": 1e12}) - parents.base
    assert torch.allclose(merged.double(), scale * alone, atol=1e-5)


def nearest(deltas: dict[str, torch.Tensor], inputs: dict[str, torch.Tensor], anchor: torch.Tensor) -> torch.Tensor:
    """RegMean's minimiser nearest to an anchor, from the inputs themselves: no Gram is made, and none is rounded."""
    x_TN = torch.cat([inputs[name].double() for name in deltas])
    y_TM = torch.cat([inputs[name].double() @ (delta.double() - anchor).T for name, delta in deltas.items()])
    return anchor + (torch.linalg.pinv(x_TN, rtol=1e-12) @ y_TM).T


@pytest.mark.parametrize("largest", [1.0, 1000.0])
def test_fewer_tokens_than_columns_leave_the_rest_to_the_anchor(tmp_path: Path, largest: float) -> None:
    """What fp32 rounds into a Gram is no direction; what few inputs say is one, however large the others are."""
    deltas = {name: noise(4, 256, seed=seed) / 16 for seed, name in enumerate(("one", "other"), start=1)}
    inputs = {name: noise(100, 256, seed=seed) for seed, name in enumerate(deltas, start=5)}
    parents, sums = parents_of_tensors(torch.zeros(4, 256), deltas), GramSums()
    for name, x_TN in inputs.items():
        x_TN[:, 3] *= largest
        sums.add(name, UP, x_TN)
    parents = replace(parents, grams=sums.write(tmp_path / "few.safetensors"))
    total = deltas["one"].double() + deltas["other"].double()
    for operator, params, anchor in [
        ("regmean", {"alpha": 1.0}, total / 2),
        ("bmm", {"grams": "data", "lambda": 0.0}, total),
    ]:
        expected = nearest(deltas, inputs, anchor)
        for make in (fast, reference):
            found = make(parents, operator, weight=1.0, **params).double()
            assert (found - expected).norm() < 1e-3 * expected.norm(), (operator, make)


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.norm.weight"])
def test_what_is_no_projection_keeps_the_anchor(name: str) -> None:
    """Times its scale: no Gram is asked for."""
    shape = (12, 16) if "embed" in name else (16,)
    experts = {"one": noise(*shape, seed=1), "other": noise(*shape, seed=2)}
    parents = parents_of_tensors(noise(*shape), experts, name=name, depth=None)
    for make in (reference, lambda *args, **params: fast(*args, **params) - parents.base):
        found = make(parents, "bmm", weight=0.4, anchor="ties", density=0.5, grams="data", scale=0.7)
        anchor = make(parents, "ties", weight=0.4, density=0.5)
        assert torch.allclose(found, 0.7 * anchor, atol=1e-5)


def test_without_data_bmm_runs_to_wudi_s_minimiser_nearest_to_the_anchor() -> None:
    parents = parents_of_tensors(noise(5, 16), {"one": noise(5, 16, seed=1), "other": adapter(5, 16, 2, seed=2)})
    weight = {"one": 0.4, "other": 0.9}
    c, d = system(Tensor.of(parents), weight, "deltas")
    found = reference(parents, "bmm", weight=weight, anchor="ties", density=0.5, **{"lambda": 0.0})
    assert torch.allclose(found @ c, d, atol=1e-9)
    away = torch.eye(16) - torch.linalg.pinv(c, hermitian=True, rtol=1e-10) @ c
    anchor = reference(parents, "ties", weight=weight, density=0.5)
    assert anchor.norm() > 0.1 < (anchor @ away).norm()  # the anchor leaves the row space, and stays there
    assert torch.allclose(found @ away, anchor @ away, atol=1e-9)
    almost = reference(parents, "bmm", weight=weight, anchor="ties", density=0.5, **{"lambda": 1e-8})
    assert torch.allclose(almost, found, atol=1e-5)
    merged = fast(parents, "bmm", weight=weight, anchor="ties", density=0.5, **{"lambda": 0.0})
    assert torch.allclose(merged - parents.base, found.float(), atol=1e-5)


def test_swudi_runs_from_the_sum_of_deltas_to_wudi_s_minimiser() -> None:
    parents = parents_of_tensors(noise(12, 16), {"one": noise(12, 16, seed=1), "other": noise(12, 16, seed=2)})
    weight = {"one": 0.4, "other": 0.9}
    deltas = Tensor.of(parents).deltas
    for name in ("exponential", "landweber", "top_k"):
        found = reference(parents, "swudi", weight=weight, filter=name, **{FILTERS[name]: 0.0})
        assert torch.allclose(found, 0.4 * deltas["one"] + 0.9 * deltas["other"], atol=1e-9)
    c, d = system(Tensor.of(parents), weight, "deltas")
    for name, number in [("exponential", 1e9), ("tikhonov", 0.0), ("landweber", 1e9), ("top_k", 1.0)]:
        found = reference(parents, "swudi", weight=weight, filter=name, **{FILTERS[name]: number})
        assert torch.allclose(found @ c, d, atol=1e-9), name


def test_mixed_grams_run_from_one_kind_to_the_other(tmp_path: Path) -> None:
    """To deltas at eta = 0; at eta = 1 to data in which every expert's inputs are as large."""
    parents, params = parents_with(tmp_path), {"weight": {"one": 0.4, "other": 0.9}, "lambda": 0.1}
    of_deltas = reference(parents, "bmm", grams="deltas", **params)
    assert torch.allclose(reference(parents, "bmm", grams="mixed", eta=0.0, **params), of_deltas, atol=1e-9)
    held, alike = parents.grams, GramSums()
    for name in ("one", "other"):
        gram = held.of(name, UP, 16).double()
        alike.add(name, UP, torch.linalg.cholesky(gram / gram.trace()).T * 4)
    parents = replace(parents, grams=alike.write(tmp_path / "alike.safetensors"))
    of_data = reference(parents, "bmm", grams="data", **params)
    assert torch.allclose(reference(parents, "bmm", grams="mixed", eta=1.0, **params), of_data, atol=1e-5)
    assert not torch.allclose(of_data, of_deltas, atol=0.1)


def test_one_range_of_lambda_fits_every_module(tmp_path: Path) -> None:
    """Inputs ten times as large change nothing: lambda counts in mean eigenvalues."""
    parents, sums = parents_with(tmp_path), GramSums()
    for name in ("one", "other"):
        root = torch.linalg.cholesky(parents.grams.of(name, UP, 16).double()).T
        sums.add(name, UP, 10 * root)
    larger = replace(parents, grams=sums.write(tmp_path / "larger.safetensors"))
    one, other = (reference(p, "bmm", weight=1.0, grams="data", **{"lambda": 0.3}) for p in (parents, larger))
    assert torch.allclose(one, other, atol=1e-4)


# The fast forms against fp64.


def assert_close(sources: Sources, recipe: Recipe, grams: Grams | None = None, *, tolerance: float = 1e-4) -> None:
    """Within a tolerance of the root mean square of the merged delta, on average; and an ulp of the result."""
    artifacts = () if grams is None else (grams,)
    merged = dict(materialize(recipe, sources, artifacts=artifacts))
    for name, expected in materialize_fp64(recipe, sources, artifacts):
        size = (expected - sources.base.tensor(name).double()).norm()
        off = (merged[name].double() - expected).norm()
        assert off <= tolerance * size + 2**-23 * expected.norm(), (name, off / size)


@quick
@given(weight=per_expert, alpha=st.floats(0, 1), with_data=st.booleans())
def test_regmean_is_close_to_fp64(sources: Sources, grams: Grams, weight: dict, alpha: float, with_data: bool) -> None:
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
    grams: Grams,
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
    monkeypatch.setattr(regression, "MOST_COLUMNS", 10)
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
    merged = fast(parents_of_tensors(torch.zeros(60, 50), experts), operator, weight=0.7, **params)
    assert int((torch.linalg.svdvals(merged) > 1e-5 * merged.norm()).sum()) == 10


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
    models: dict[str, Path], grams: Grams, operator: str, params: dict, data: bool
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
    facts, params = Facts(), {"weight": 0.4, "anchor": "swudi", "match": UP, "dtype": "float32"}
    first = recipe_of(sources, "bmm", **params, **{"lambda": 0.1})
    second = recipe_of(sources, "bmm", **params, scale=0.7, **{"lambda": 5.0})
    expected = dict(materialize(second, sources))[UP]
    dict(materialize(first, sources, facts))
    monkeypatch.setattr(regression, "solve", lambda *_: pytest.fail("solved again"))
    monkeypatch.setattr(regression, "execute", lambda *_: pytest.fail("made the anchor again"))
    assert torch.equal(dict(materialize(second, sources, facts))[UP], expected)


@pytest.mark.parametrize(("operator", "params"), [("bmm", {"grams": "data"}), ("regmean", {})])
def test_matrices_with_the_same_inputs_share_eigenvectors(
    tmp_path: Path, sources: Sources, monkeypatch: pytest.MonkeyPatch, operator: str, params: dict
) -> None:
    """To the bits that each would find for itself."""
    together, apart = GramSums(), GramSums()
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
    monkeypatch.setattr(linear_solve, "eigh", lambda c_NN: decomposed.append(c_NN) or eigh(c_NN))
    for sums, number in ((together, 1), (apart, 3)):
        decomposed.clear()
        grams = sums.write(tmp_path / f"{number}.safetensors")
        found = dict(materialize(with_grams(recipe, grams), sources, Facts(), artifacts=[grams]))
        assert len(decomposed) == number
        assert others is None or all(torch.equal(found[name], others[name]) for name in names)
        others = found


def test_an_expert_that_leaves_a_tensor_votes_for_the_base_on_its_inputs(sources: Sources, grams: Grams) -> None:
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
    parents = parents_of_tensors(base, experts, name=name)
    merged = fast(parents, operator, weight={"one": 0.8, "other": 0.2})
    assert torch.allclose(merged, torch.full(shape, expected))
    assert torch.allclose(merged.double(), reference(parents, operator, weight={"one": 0.8, "other": 0.2}))


def test_a_zero_delta_has_no_gram() -> None:
    nothing = LowRank(a_RN=torch.zeros(2, 8), b_MR=noise(10, 2), scale=1.0)
    parents = parents_of_tensors(torch.zeros(10, 8), {"one": noise(10, 8), "nothing": nothing})
    for operator in ("regmean", "swudi", "bmm"):
        assert fast(parents, operator, weight=1.0).isfinite().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("shape", [(5000,), (50, 100)])
@pytest.mark.parametrize(
    ("operator", "params"), [*SETTINGS[:2], ("bmm", {}), ("bmm", {"anchor": "ties", "density": 0.01, "lambda": 1e3})]
)
def test_nan_and_inf_never_vanish(operator: str, params: dict, value: float, shape: tuple[int, ...]) -> None:
    base, good, bad = noise(3, *shape)
    bad.view(-1)[[3, 7]] = value
    parents = parents_of_tensors(base, {"good": good, "bad": bad})
    with pytest.raises(InvalidWeights, match="NaN or Inf"):
        fast(parents, operator, weight=0.3, **params)


def test_nan_in_an_adapter_never_vanishes() -> None:
    low = adapter(20, 30, 2, seed=0)
    low.a_RN[0, 0] = float("nan")
    parents = parents_of_tensors(torch.zeros(20, 30), {"low": low, "other": adapter(20, 30, 3, seed=4)})
    for operator in ("regmean", "swudi", "bmm"):
        with pytest.raises(InvalidWeights, match="NaN or Inf"):
            fast(parents, operator, weight=0.3)


# Grams.


def test_grams_are_the_mean_outer_product_whatever_the_batches(tmp_path: Path) -> None:
    inputs, sums = noise(7, 5, 6).bfloat16(), GramSums()
    sums.add("x", "t", inputs[:2])
    sums.add("x", "t", inputs[2:])
    held = sums.write(tmp_path / "g.safetensors")
    rows = inputs.reshape(-1, 6).double()
    assert torch.allclose(held.of("x", "t", 6).double(), rows.T @ rows / 35, atol=1e-6)
    assert [file.name for file in tmp_path.iterdir()] == ["g.safetensors"]
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes((tmp_path / "g.safetensors").read_bytes())
    assert Grams.open(copy).hash == held.hash
    sums.add("x", "t", inputs)
    sums.add("x", "t", inputs[:1])
    assert sums.write(tmp_path / "h.safetensors").hash != held.hash


def test_a_recipe_finds_its_grams_by_hash(sources: Sources, grams: Grams, tmp_path: Path) -> None:
    recipe = with_grams(recipe_of(sources, "regmean", weight=0.5), grams)
    others = GramSums()
    others.add("x", "t", noise(3, 4))
    other = others.write(tmp_path / "other.safetensors")
    merged = dict(materialize(recipe, sources, artifacts=[other, grams]))
    without = dict(materialize(replace(recipe, artifacts={}), sources, artifacts=[grams]))
    assert not torch.equal(merged[UP], without[UP])
    for opened_ones in ([], [other]):
        with pytest.raises(InputError, match="artifact `grams` is not among"):
            materialize(recipe, sources, artifacts=opened_ones)


def test_grams_that_lack_a_tensor_or_have_another_size_are_refused(sources: Sources, tmp_path: Path) -> None:
    some = GramSums()
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
        Grams.open(tmp_path / "grams.safetensors")


@pytest.mark.parametrize("kind", ["data", "mixed"])
def test_bmm_on_data_wants_grams(sources: Sources, kind: str) -> None:
    with pytest.raises(InputError, match="an artifact `grams`"):
        dict(materialize(recipe_of(sources, "bmm", weight=0.5, grams=kind), sources))


def test_a_matrix_that_is_too_wide_is_refused(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regression, "MOST_COLUMNS", 150)
    sources = opened(models, {"a": "a", "b": "b"})
    with pytest.raises(InputError, match=r"down_proj.*too many inputs"):
        dict(materialize(recipe_of(sources, "swudi", weight=0.5), sources))
