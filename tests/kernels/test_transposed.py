"""A matrix that is stored as (inputs, outputs) is merged as the same matrix stored as (outputs, inputs)."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from merges import merged

from crossbreed.errors import InputError
from crossbreed.kernels import check_recipe, materialize
from crossbreed.kernels.artifacts.input_grams import InputGramSums
from crossbreed.kernels.operators.walked import check
from crossbreed.kernels.reference import merged_fp64
from crossbreed.kernels.reference.tensor import Tensor
from crossbreed.kernels.tensors import TensorInputs
from crossbreed.kernels.transposed import turned
from crossbreed.recipes.operators import OPERATOR_SPECS, ParamKind
from crossbreed.sources import LowRank, Sources, open_sources
from crossbreed.testing.tiny_models import make_model
from crossbreed.testing.toy_merges import MATRIX, ToyMerge
from crossbreed.testing.toys import make_expert
from crossbreed.types import ParamValue, Recipe, Rule

BY_INPUTS = [name for name, spec in OPERATOR_SPECS.items() if spec.by_inputs]
BY_PLACE = {"arcee_fusion"} | {name for name, spec in OPERATOR_SPECS.items() if spec.param("density")}
"""What they choose of a matrix depends on the rows that are stored, as in mergekit, or on the first of equals."""
OTHERS = [name for name in OPERATOR_SPECS if name not in {*BY_INPUTS, *BY_PLACE}]
CASES: list[tuple[str, dict[str, ParamValue]]] = [
    *((name, {}) for name in BY_INPUTS),
    ("bmm", {"grams": "data", "lambda": 0.1}),
    ("bmm", {"anchor": "ties", "density": 0.5}),
    ("bmm", {"anchor": "ties", "weight": 0.0}),
    ("bmm", {"anchor": "tsv_m"}),
    ("swudi", {"weight": 0.0}),
]


def rule_of(operator: str, **params: ParamValue) -> Rule:
    needed = {
        param.name: "a" if param.kind is ParamKind.NAME else 0.5
        for param in OPERATOR_SPECS[operator].params
        if param.required
    }
    return Rule(match=".*", operator=operator, params={**needed, **params})


@pytest.fixture(autouse=True)
def _nothing_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled kernels make the same bits (test_native.py)."""
    monkeypatch.setenv("CROSSBREED_COMPILER", "")


@pytest.fixture
def inputs(tmp_path: Path) -> TensorInputs:
    merge = ToyMerge.make(["a", "p", "b"]).with_grams(tmp_path / "grams.safetensors")
    return merge.with_statistics(tmp_path / "statistics.safetensors").inputs(MATRIX)


def whole(value: torch.Tensor | LowRank) -> torch.Tensor | LowRank:
    if isinstance(value, LowRank):
        return replace(value, a_RN=value.a_RN.contiguous(), b_MR=value.b_MR.contiguous())
    return value.contiguous()


def stored_transposed(inputs: TensorInputs) -> TensorInputs:
    seen = turned(inputs)
    experts = tuple(replace(expert, value=whole(expert.value)) for expert in seen.experts)
    return replace(seen, base=seen.base.contiguous(), experts=experts, is_stored_transposed=True)


@pytest.mark.parametrize(("operator", "params"), CASES)
def test_inputs_are_columns_however_a_matrix_is_stored(
    operator: str, params: dict[str, ParamValue], inputs: TensorInputs
) -> None:
    rule, other = rule_of(operator, **params), stored_transposed(inputs)
    torch.testing.assert_close(merged(other, rule).T, merged(inputs, rule), rtol=0, atol=1e-6)
    torch.testing.assert_close(merged_fp64(Tensor.of(other), rule).T, merged_fp64(Tensor.of(inputs), rule))


@pytest.mark.parametrize("operator", [name for name in BY_INPUTS if not OPERATOR_SPECS[name].reads_statistics])
def test_it_matters_to_an_operator_that_says_so(operator: str, inputs: TensorInputs) -> None:
    rule, unsaid = rule_of(operator), replace(stored_transposed(inputs), is_stored_transposed=False, grams=None)
    assert not torch.allclose(merged(unsaid, rule).T, merged(replace(inputs, grams=None), rule), atol=1e-3)


def test_statistics_are_of_matrices_as_their_walk_saw_them(inputs: TensorInputs) -> None:
    unsaid = replace(stored_transposed(inputs), is_stored_transposed=False)
    with pytest.raises(InputError, match="are of another base"):
        check(unsaid, rule_of("anchored_regression"))


@pytest.mark.parametrize("operator", OTHERS)
def test_to_other_operators_rows_and_columns_are_alike(operator: str) -> None:
    two = ToyMerge.make(["a", "b"][: OPERATOR_SPECS[operator].num_experts[1]]).inputs(MATRIX)
    rule = rule_of(operator)
    torch.testing.assert_close(merged(stored_transposed(two), rule).T, merged(two, rule), rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    root = tmp_path_factory.mktemp("gpt2")
    base = make_model("gpt2", root / "base")
    experts = {str(seed): str(make_expert(root / str(seed), base=base, seed=seed)) for seed in (1, 2)}
    return open_sources(str(base), experts)


def test_gpt2s_grams_are_those_of_its_inputs(gpt2: Sources, tmp_path: Path) -> None:
    """Of a matrix with 128 inputs and 512 outputs, which the file holds as [128, 512]."""
    name, sums, seed = "transformer.h.0.mlp.c_fc.weight", InputGramSums(), 0
    for seed, expert in enumerate(gpt2.experts.values()):
        sums.add(expert.hash, name, torch.randn(300, 128, generator=torch.Generator().manual_seed(seed)))
    artifact = sums.write(tmp_path / "grams.safetensors")
    rule = Rule(match=re.escape(name), operator="regmean", params={"weight": 0.5, "alpha": 1.0})
    recipe = Recipe(base="base", sources=gpt2.structure.hashes, rules=(rule,), dtype="float32")
    recipe = replace(recipe, artifacts={"grams": artifact.hash})
    check_recipe(recipe, gpt2, [artifact])
    made = dict(materialize(recipe, gpt2, artifacts=[artifact]))[name].double()
    grams = [artifact.of(expert.hash, name, 128).double() for expert in gpt2.experts.values()]
    outputs = [gram @ expert.tensor(name).double() for gram, expert in zip(grams, gpt2.experts.values(), strict=True)]
    torch.testing.assert_close(made, torch.linalg.solve(sum(grams), sum(outputs)), rtol=1e-4, atol=1e-5)
