"""Paths of layers in the real vLLM: idle layers change no answer, and what is published answers as in the search."""

from pathlib import Path

import pytest
from vllm_process import REQUESTS, fresh, gap, in_its_own_process, through_paths

from crossbreed.fitness import VllmConfig
from crossbreed.kernels import materialize
from crossbreed.runs.publishing.checkpoint import Merge, write_checkpoint
from crossbreed.sources import open_sources
from crossbreed.types import BASE, LayerStep, Recipe

pytestmark = [pytest.mark.engine, pytest.mark.slow]

PATHS: list[tuple[LayerStep, ...]] = [
    ((BASE, 0, 1.0), ("everything", 1, 0.8), ("everything", 1, 1.3), (BASE, 2, 1.0), (BASE, 3, 1.1)),
    ((BASE, 0, 1.0), ("attention", 2, 1.2), (BASE, 3, 1.0)),
]


def test_a_path_answers_as_its_published_model(toy_base: Path, toy_experts: dict[str, Path], tmp_path: Path) -> None:
    sources = open_sources(str(toy_base), {name: str(path) for name, path in toy_experts.items()})
    recipes = [Recipe(base=BASE, sources=sources.structure.hashes, rules=(), layers=path) for path in PATHS]
    config = VllmConfig(kind="vllm", dtype="bfloat16", kv_cache_gb=0.05, max_model_len=256)
    found, notes = in_its_own_process(through_paths, config, toy_base, toy_experts, [*recipes, recipes[0]], 8)
    assert not [note for note in notes if "transformers" in note], "the deeper model was compared with the truth"
    assert gap(found[0], found[2]) == 0
    for number, recipe in enumerate(recipes):
        out = tmp_path / str(number)
        write_checkpoint(
            Merge(recipe=recipe, sources=sources, stream_factory=lambda r=recipe: materialize(r, sources)), out
        )
        assert gap(found[number], in_its_own_process(fresh, config, out, REQUESTS)) < 1e-3
