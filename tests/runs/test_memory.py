"""What is read once to be written to disk does not stay mapped: a merge holds a few tensors, whatever the model."""

import json
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from crossbreed.kernels import inner_products, materialize, materialize_many
from crossbreed.kernels.artifacts.input_grams import InputGramSums
from crossbreed.mergekit import parse_config, plan_merge
from crossbreed.mergekit.numerics import merge, open_models
from crossbreed.sources import Sources, open_sources
from crossbreed.types import Recipe, Rule, WeightStream

NUM_LAYERS, SIDE = 24, 1024
TENSOR = 4 * SIDE * SIDE
"""Bytes; a model has 96 MiB, and there are three."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("models")
    made = [model(root / name, seed) for seed, name in enumerate(("base", "a", "b"))]
    opened(made)  # hashes are known from here on: opening maps nothing
    return made


def model(folder: Path, seed: int) -> Path:
    chance = torch.Generator().manual_seed(seed)
    folder.mkdir()
    names = (f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(NUM_LAYERS))
    save_file({name: torch.randn(SIDE, SIDE, generator=chance) for name in names}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "tie_word_embeddings": True}))
    return folder


@pytest.fixture
def sources(folders: list[Path]) -> Sources:
    return opened(folders)


def opened(folders: list[Path]) -> Sources:
    base, *experts = map(str, folders)
    return open_sources(base, dict(zip("ab", experts, strict=True)))


def mapped_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(("RssFile", "RssShmem")))


def most_mapped(stream: Iterator[tuple[str, object]]) -> int:
    """The most that a stream's consumer sees mapped, beyond what was before."""
    before = mapped_bytes()
    return max(mapped_bytes() - before for _ in stream)


def of(operator: str, sources: Sources, **params: float | str) -> Recipe:
    rule = Rule(match=".*", operator=operator, params=params)
    return Recipe(base="base", sources=sources.structure.hashes, rules=(rule,))


@pytest.mark.parametrize(
    ("operator", "params"),
    [("ties", {"weight": 1.0, "density": 0.5, "trim": "model"}), ("pcb", {"weight": 1.0, "scope": "model"})],
)
def test_what_asks_about_the_whole_model_lets_go_of_it(
    operator: str, params: dict[str, float | str], sources: Sources
) -> None:
    _, *others = sources.base.tensors
    stream = materialize(of(operator, sources, **params), sources, without=others, once=True)
    assert most_mapped(stream) < 6 * TENSOR  # a tensor of each source, and one to come


def test_so_do_several_merges_in_one_pass(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("crossbreed.kernels.materialize"), "_AHEAD_BYTES", 2 * TENSOR)
    recipes = [of("task_arithmetic", sources, weight=weight) for weight in (0.3, 0.7)]
    assert most_mapped(materialize_many(recipes, sources, once=True)) < 12 * TENSOR


def test_so_do_inner_products(sources: Sources) -> None:
    before = mapped_bytes()
    inner_products(sorted(sources.base.tensors), sources)
    assert mapped_bytes() - before < 6 * TENSOR


@pytest.mark.parametrize("once", [True, False])
def test_a_gram_is_let_go_when_it_has_been_read(sources: Sources, tmp_path: Path, once: bool) -> None:
    """Also in a search: what it needs of it is a fact from then on."""
    sums, (first, second, *others) = InputGramSums(), sources.base.tensors
    for expert in sources.experts.values():
        for name in (first, second):
            sums.add(expert.hash, name, torch.randn(8, SIDE, generator=torch.Generator().manual_seed(0)))
    grams = sums.write(tmp_path / "grams.safetensors")
    rule = Rule(match=f"{first}|{second}", operator="regmean", params={"weight": 1.0})
    recipe = replace(of("regmean", sources), rules=(rule,), artifacts={"grams": grams.hash})
    merged = dict(materialize(recipe, sources, without=others, artifacts=[grams], once=once))
    assert len(merged) == 2
    assert mapped_of(*(file.path for file in grams.shards)) < TENSOR


def mapped_of(file: Path) -> int:
    """Bytes of a file that are in this process's memory."""
    resident, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if not line.split()[0].endswith(":"):
            inside = line.endswith(str(file.resolve()))
        elif inside and line.startswith("Rss:"):
            resident += 1024 * int(line.split()[1])
    return resident


@pytest.mark.slow
def test_so_does_mergekits_arithmetic(folders: list[Path]) -> None:
    def stream() -> WeightStream:
        return merge(plan_merge(config, {model: one.structure for model, one in models.items()}), models, None)

    base, *experts = map(str, folders)
    config = parse_config(
        {
            "merge_method": "ties",
            "base_model": base,
            "models": [{"model": expert} for expert in experts],
            "parameters": {"weight": 1, "density": 0.5},
        }
    )
    models = open_models(config.models)
    assert most_mapped(stream()) < 6 * TENSOR
