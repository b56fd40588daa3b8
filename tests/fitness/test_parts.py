"""A candidate of which only a part is sent answers as one that is sent whole. (vLLM: test_vllm_engine.py.)"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from crossbreed.errors import InvalidWeights
from crossbreed.fitness import (
    FakeConfig,
    Generate,
    Loglikelihood,
    Prompt,
    TransformersConfig,
    WeightEngine,
    build_engine,
)
from crossbreed.types import Recipe

RECIPE = Recipe(base="base", sources={"base": "hash"}, rules=())
REQUESTS = [
    *(Generate(prompt=Prompt(text=f"sums|{i} + {i}|{2 * i}"), max_tokens=4) for i in range(4)),
    Loglikelihood(prompt=Prompt(text="sums|2 + 2|4"), continuation="4"),
]


@pytest.fixture(params=[FakeConfig(kind="fake"), TransformersConfig(kind="transformers")], ids=lambda c: c.kind)
def engine(request: pytest.FixtureRequest, toy_base: Path) -> WeightEngine:
    return build_engine(request.param, toy_base)


@pytest.fixture
def old(toy_base: Path) -> dict[str, torch.Tensor]:
    return dict(sorted(load_file(toy_base / "model.safetensors").items()))


@pytest.fixture
def new(old: dict[str, torch.Tensor], toy_experts: dict[str, Path]) -> dict[str, torch.Tensor]:
    """Other keys in one layer, and other embeddings."""
    expert = load_file(toy_experts["everything"] / "model.safetensors")
    changed = {"model.embed_tokens.weight", "model.layers.2.self_attn.k_proj.weight"}
    return {name: expert[name] if name in changed else tensor for name, tensor in old.items()}


def test_a_part_on_top_of_what_is_held_is_the_whole(
    engine: WeightEngine, old: dict[str, torch.Tensor], new: dict[str, torch.Tensor]
) -> None:
    unchanged = {name for name in old if old[name] is new[name] or torch.equal(old[name], new[name])}
    before = engine.adopt(RECIPE, iter(old.items())).answer(REQUESTS)
    kept = engine.keeps(unchanged)
    assert kept == unchanged
    by_part = engine.adopt(RECIPE, iter([(n, t) for n, t in new.items() if n not in kept]), kept=kept).answer(REQUESTS)
    assert engine.keeps(old) == old.keys()
    assert engine.adopt(RECIPE, iter(new.items())).answer(REQUESTS) == by_part != before


def test_nothing_is_kept_at_first_and_after_a_stream_that_broke(
    engine: WeightEngine, old: dict[str, torch.Tensor]
) -> None:
    def torn() -> Iterator[tuple[str, torch.Tensor]]:
        yield next(iter(old.items()))
        raise InvalidWeights("NaN in layer 1")

    assert engine.keeps(old) == frozenset()
    engine.adopt(RECIPE, iter(old.items()))
    kept = engine.keeps(set(old) - {min(old)})
    with pytest.raises(InvalidWeights):
        engine.adopt(RECIPE, torn(), kept=kept)
    assert engine.keeps(old) == frozenset()
