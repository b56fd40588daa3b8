"""A recipe as an adapter: PEFT loads it, and the base with it answers as the merged checkpoint does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from making import logits, train
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from crossbreed.errors import InputError
from crossbreed.kernels import Fingerprinted, materialize
from crossbreed.runs.adapter import RecipeAdapter, recipe_adapter
from crossbreed.sources import Sources, open_sources
from crossbreed.types import ParamValue, Recipe, Rule

WIDE = {"target_modules": "all-linear", "r": 4, "lora_alpha": 8}
NARROW = {"target_modules": "all-linear", "r": 2, "lora_alpha": 5, "use_rslora": True, "exclude_modules": ["q_proj"]}
EXACT: dict[str, tuple[str, dict[str, ParamValue]]] = {
    "sum": ("task_arithmetic", {"weight": {"a": 0.7, "b": -0.4}}),
    "depth profile": ("task_arithmetic", {"weight": 0.5, "lines_alpha": 0.3, "lines_beta": 0.6}),
    "average": ("linear", {"weight": {"base": 0.2, "a": 1.0, "b": 0.8}, "normalize": True}),
    "affine": ("linear", {"weight": {"base": 0.3, "a": 0.3, "b": 0.4}, "normalize": False}),
    "geometry of deltas": ("nuslerp", {"weight": {"a": 0.6, "b": 0.4}}),
    "model stock": ("model_stock", {}),
    "a factor for each column": ("widen", {}),
}
CUT: dict[str, tuple[str, dict[str, ParamValue]]] = {
    "election": ("ties", {"weight": 0.7, "density": 0.5}),
    "base share": ("linear", {"weight": {"base": 0.5, "a": 1.0, "b": 0.5}, "normalize": False}),
}


def expert(bases: dict[str, Path], base: str, folder: Path, **options: Any) -> Path:
    train(bases[base], folder, options)
    return folder


@pytest.fixture(scope="module")
def opened(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sources]:
    """Two adapters of different ranks, with matrices that only one of them changes."""
    found = {}
    for base in ("tied", "untied", "gpt2", "phi3", "moe"):
        root = tmp_path_factory.mktemp(base)
        wide = {**WIDE, "target_modules": ["q_proj", "o_proj"]} if base == "moe" else WIDE
        narrow = {**NARROW, "target_modules": ["o_proj"]} if base == "moe" else NARROW
        experts = {
            "a": expert(bases, base, root / "a", **wide),
            "b": expert(bases, base, root / "b", **narrow),
        }
        found[base] = open_sources(str(bases[base]), {name: str(path) for name, path in experts.items()})
    return found


def recipe_of(
    sources: Sources, operator: str, params: dict[str, ParamValue], match: str = r".*_proj\.weight"
) -> Recipe:
    rule = Rule(match=match, operator=operator, params=params)
    return Recipe(base="base", sources=sources.structure.hashes, rules=(rule,), dtype="float32")


def merged_logits(recipe: Recipe, sources: Sources, folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(sources.base.path)
    model.save_pretrained(folder)
    save_file(dict(materialize(recipe, sources)), folder / "model.safetensors", metadata={"format": "pt"})
    return logits(AutoModelForCausalLM.from_pretrained(folder))


def adapted_logits(made: RecipeAdapter, sources: Sources, folder: Path) -> torch.Tensor:
    folder.mkdir()
    made.write(folder)
    made.reopened(folder, sources)
    return logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(sources.base.path), folder))


def fingerprint(recipe: Recipe, sources: Sources) -> str:
    stream = Fingerprinted(materialize(recipe, sources))
    for _ in stream:
        pass
    return stream.value


@pytest.mark.parametrize(
    ("base", "name"),
    [*(("tied", name) for name in EXACT), *(("gpt2", name) for name in ("sum", "a factor for each column"))]
    + [(base, "sum") for base in ("untied", "phi3", "moe")],
)
def test_a_sum_of_adapters_is_an_adapter(name: str, base: str, opened: dict[str, Sources], tmp_path: Path) -> None:
    sources = opened[base]
    recipe = recipe_of(sources, *EXACT[name], match=".*")
    made = recipe_adapter(recipe, sources)
    assert (made.is_exact, made.error, made.errors) == (True, 0, {})
    theirs = merged_logits(recipe, sources, tmp_path / "merged")
    torch.testing.assert_close(adapted_logits(made, sources, tmp_path / "made"), theirs, rtol=0, atol=1e-4)
    again = open_sources(str(sources.base.path), {"made": str(tmp_path / "made")})
    whole = recipe_of(again, "task_arithmetic", {"weight": 1.0}, match=".*")
    assert fingerprint(whole, again) == fingerprint(recipe, sources), "merged again, it has the same bits"


ENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "embedding and head": ("untied", {"target_modules": ["embed_tokens", "lm_head", "q_proj"]}),
    "the one that is both": ("tied", {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True}),
    "positions": ("gpt2", {"target_modules": ["wpe", "c_fc"]}),
}


@pytest.mark.parametrize("name", ENDS)
def test_embeddings_and_heads_are_carried(name: str, bases: dict[str, Path], tmp_path: Path) -> None:
    base, options = ENDS[name]
    experts = {"a": expert(bases, base, tmp_path / "a", r=3, lora_alpha=6, **options)}
    sources = open_sources(str(bases[base]), {name: str(path) for name, path in experts.items()})
    recipe = recipe_of(sources, "task_arithmetic", {"weight": 0.6}, match=".*")
    made = recipe_adapter(recipe, sources)
    theirs = merged_logits(recipe, sources, tmp_path / "merged")
    torch.testing.assert_close(adapted_logits(made, sources, tmp_path / "made"), theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", CUT)
def test_what_is_no_sum_is_cut_to_a_rank_and_says_what_is_lost(
    name: str, opened: dict[str, Sources], tmp_path: Path
) -> None:
    sources = opened["tied"]
    recipe = recipe_of(sources, *CUT[name])
    with pytest.raises(InputError, match="is no sum of adapters"):
        recipe_adapter(recipe, sources)
    whole = recipe_adapter(recipe, sources, rank=16)
    assert not whole.is_exact
    assert whole.error < 1e-5, "no matrix has more ranks than that"
    theirs = merged_logits(recipe, sources, tmp_path / "merged")
    torch.testing.assert_close(adapted_logits(whole, sources, tmp_path / "whole"), theirs, rtol=0, atol=1e-4)

    cut = recipe_adapter(recipe, sources, rank=2)
    assert cut.rank == 2
    norms, lost = [], []
    for tensor, made in materialize(recipe, sources):
        delta = made.double() - sources.base.tensor(tensor).double()
        if tensor in cut.changes:
            low = cut.changes[tensor].low
            norms.append(delta.norm())
            lost.append((delta - low.b_MR.double() @ low.a_RN.double()).norm())
            assert cut.errors[tensor] == pytest.approx(float(lost[-1] / norms[-1]), abs=1e-5)
            tail = torch.linalg.svdvals(delta)[2:].norm()
            assert float(lost[-1]) == pytest.approx(float(tail), abs=1e-5), "there is no nearer one of this rank"
    total = float(torch.stack(lost).norm() / torch.stack(norms).norm())
    assert cut.error == pytest.approx(total, abs=1e-5)
    assert f"lacks {total:.2%} of the change" in cut.summary


def test_a_sum_of_too_many_ranks_is_cut(opened: dict[str, Sources]) -> None:
    sources = opened["tied"]
    recipe = recipe_of(sources, *EXACT["sum"])
    cut, exact = recipe_adapter(recipe, sources, rank=5), recipe_adapter(recipe, sources, rank=6)
    assert (exact.is_exact, exact.rank) == (True, 6)
    assert (cut.is_exact, cut.rank) == (False, 5)
    ranks = {name: change.rank for name, change in cut.changes.items()}
    assert {ranks[name] for name in ranks if "q_proj" in name} == {4}, "one adapter alone changes it"
    name = "model.layers.0.mlp.up_proj.weight"
    low, whole = cut.changes[name].low, exact.changes[name].low
    lost = (low.b_MR @ low.a_RN - whole.b_MR @ whole.a_RN).norm() / (whole.b_MR @ whole.a_RN).norm()
    assert cut.errors[name] == pytest.approx(float(lost), abs=1e-5)


def test_full_experts_are_cut_and_what_no_adapter_carries_is_named(bases: dict[str, Path], tmp_path: Path) -> None:
    weights = load_file(bases["tied"] / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    trained = {name: w + 0.1 * torch.randn(w.shape, generator=generator) for name, w in weights.items()}
    AutoModelForCausalLM.from_pretrained(bases["tied"]).save_pretrained(tmp_path / "full")
    save_file(trained, tmp_path / "full/model.safetensors", metadata={"format": "pt"})
    sources = open_sources(str(bases["tied"]), {"a": str(tmp_path / "full")})
    everything = recipe_of(sources, "task_arithmetic", {"weight": 0.5}, match=".*")
    with pytest.raises(InputError, match=r"cannot change `model.layers.0.input_layernorm.weight`, .* and 2 more"):
        recipe_adapter(everything, sources, rank=64)
    matrices = recipe_of(sources, "task_arithmetic", {"weight": 0.5}, match=r".*(proj|embed_tokens)\.weight")
    made = recipe_adapter(matrices, sources, rank=64)
    theirs = merged_logits(matrices, sources, tmp_path / "merged")
    torch.testing.assert_close(adapted_logits(made, sources, tmp_path / "made"), theirs, rtol=0, atol=1e-4)


def test_a_recipe_that_changes_nothing_is_the_base(opened: dict[str, Sources]) -> None:
    made = recipe_adapter(recipe_of(opened["tied"], "task_arithmetic", {"weight": 0.0}), opened["tied"])
    assert (made.changes, made.tensors) == ({}, {})
