"""Writes checkpoints with chosen values, opens them under chosen names, and asks for recipes over them."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from crossbreed.kernels.executors import execute
from crossbreed.kernels.materialize import program_of
from crossbreed.kernels.programs import Affine
from crossbreed.kernels.reference import merged_fp64
from crossbreed.kernels.reference.tensor import Tensor
from crossbreed.kernels.tensors import TensorInputs, as_matrix
from crossbreed.sources import LowRank, Sources, open_sources
from crossbreed.testing.toy_merges import inputs_of_tensors as inputs_of_tensors
from crossbreed.types import ParamValue, Recipe, Rule

COUNTER = "model.counter"
UP = "model.layers.0.mlp.up_proj.weight"


def write_weights(folder: Path, *, like: Path, weights: Mapping[str, torch.Tensor]) -> Path:
    """Writes a checkpoint with the configuration and tokenizer of another."""
    folder.mkdir(parents=True)
    for file in like.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    save_file(dict(weights), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def changed(weights: Mapping[str, torch.Tensor], *, seed: int, pattern: str = "") -> dict[str, torch.Tensor]:
    """Adds noise to every floating-point tensor, vectors too, whose name contains `pattern`."""
    generator = torch.Generator().manual_seed(seed)
    result = dict(weights)
    for name in sorted(weights):
        if pattern in name and weights[name].is_floating_point():
            noise = torch.randn(weights[name].shape, generator=generator)
            result[name] = (weights[name].float() + 0.05 * noise).to(weights[name].dtype)
    return result


def opened(models: Mapping[str, Path], experts: Mapping[str, str]) -> Sources:
    """Opens models under the names that are given: name -> key of `models`."""
    return open_sources(str(models["base"]), {name: str(models[key]) for name, key in experts.items()})


def recipe_of(
    sources: Sources, operator: str, *, match: str = ".*", dtype: str = "bfloat16", **params: ParamValue
) -> Recipe:
    """A recipe of one rule over all sources."""
    rule = Rule(match=match, operator=operator, params=params)
    return Recipe(base="base", sources=sources.structure.hashes, rules=(rule,), dtype=dtype)


def merged(inputs: TensorInputs, rule: Rule, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """What a rule makes of one tensor."""
    return execute(program_of(inputs, rule), inputs.base, dtype)


def term_ulps(inputs: TensorInputs, rule: Rule) -> float:
    """How far a sum of sources is from fp64's: in fp32 ulps of the sum of the magnitudes of all terms."""
    program, base_MN = program_of(inputs, rule), as_matrix(inputs.base).double()
    assert isinstance(program, Affine)
    magnitude_MN = abs(program.of_base) * base_MN.abs()
    for c, expert in program.shares:
        low = expert.value
        if isinstance(low, LowRank):
            size_MN = low.scale * low.b_MR.double().abs() @ low.a_RN.double().abs()
        else:
            size_MN = as_matrix(low).double().abs() + base_MN.abs()
        magnitude_MN = magnitude_MN + torch.as_tensor(c).double().abs() * size_MN
    off = (merged(inputs, rule).double() - merged_fp64(Tensor.of(inputs), rule)).abs()
    return float((as_matrix(off) / magnitude_MN).max()) * 2**24
