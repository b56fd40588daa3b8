"""Inputs of the operators that solve a regression, and what they make of them."""

from dataclasses import replace
from pathlib import Path

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from merges import UP, inputs_of_tensors

from crossbreed.kernels import ARITHMETIC
from crossbreed.kernels.artifacts.input_grams import InputGrams, InputGramSums
from crossbreed.kernels.executors import execute
from crossbreed.kernels.reference import REFERENCES
from crossbreed.kernels.reference.tensor import Tensor
from crossbreed.kernels.tensors import TensorInputs
from crossbreed.sources import LowRank
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


def inputs_with(tmp_path: Path, *, num_tokens: int = 200, seed: int = 0) -> TensorInputs:
    """Two full experts and what each gets as inputs: other directions matter to one than to the other."""
    experts = {"one": noise(12, 16, seed=seed + 1), "other": noise(12, 16, seed=seed + 2)}
    inputs, sums = inputs_of_tensors(noise(12, 16), experts), InputGramSums()
    for i, name in enumerate(experts):
        sums.add(name, UP, noise(num_tokens, 16, seed=seed + 3 + i) * torch.linspace(0.1, 2, 16).roll(5 * i))
    return replace(inputs, grams=sums.write(tmp_path / "grams.safetensors"))


def reference(inputs: TensorInputs, operator: str, **params: ParamValue) -> torch.Tensor:
    """The merged delta in fp64."""
    tensor = Tensor.of(inputs)
    return REFERENCES[operator](tensor, Rule(match=".*", operator=operator, params=params)) - tensor.base


def fast(inputs: TensorInputs, operator: str, **params: ParamValue) -> torch.Tensor:
    program = ARITHMETIC[operator](inputs, Rule(match=".*", operator=operator, params=params))
    return execute(program, inputs.base, torch.float32)


def with_grams(recipe: Recipe, grams: InputGrams) -> Recipe:
    return replace(recipe, artifacts={"grams": grams.hash})
