"""Writes checkpoints with chosen values, opens them under chosen names, and asks for recipes over them."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from crossbreed.kernels import Facts
from crossbreed.kernels.tensors import Parent, Parents
from crossbreed.sources import LowRank, Sources, open_sources
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


def parents_of_tensors(
    base: torch.Tensor, experts: Mapping[str, torch.Tensor | LowRank], *, name: str = UP, depth: float | None = 0.0
) -> Parents:
    """A tensor of a merge from values at hand; an expert's name is its hash."""
    parents = Parents(
        name=name,
        depth=depth,
        base_name="base",
        base=base,
        base_hash="base",
        experts=tuple(Parent(name=key, hash=key, value=experts[key]) for key in sorted(experts)),
        expert_names=tuple(sorted(experts)),
        expert_hashes=tuple(sorted(experts)),
        facts=Facts(),
        model=lambda: iter([parents]),
    )
    return parents
