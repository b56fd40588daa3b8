"""Texts written together are those written one after the other."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from crossbreed.fitness import Generate, Prompt, TransformersConfig, Writing, build_engine
from crossbreed.sources import open_sources
from crossbreed.testing.tiny_models import ARCHITECTURES
from crossbreed.testing.toys import byte_tokenizer
from crossbreed.types import BASE, Recipe

PROMPTS = ["34 + 12 =", "The capital of France is", "7", "The capital of Italy is"]


@pytest.mark.parametrize(
    "kind", ["llama", "bloom", *(pytest.param(k, marks=pytest.mark.slow) for k in ("gpt2", "mamba"))]
)
def test_they_are_the_same(kind: str, tmp_path: Path) -> None:
    """Padded in front, in groups of one length, and without a cache."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # noqa: TID251 - transformers initialises from the global generator, restored after
        config = ARCHITECTURES[kind](initializer_range=0.2)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    base = open_sources(str(tmp_path), {}).base
    engine = build_engine(TransformersConfig(kind="transformers", dtype="float32", max_model_len=64), tmp_path)
    assert isinstance(engine, Writing)
    recipe = Recipe(base=BASE, sources={BASE: base.hash}, rules=(), dtype="float32")
    handle = engine.adopt(recipe, ((name, base.tensor(name)) for name in base.tensors))
    requests = [
        Generate(prompt=Prompt(text=text), max_tokens=6, temperature=temperature, seed=3)
        for temperature in (0.0, 1.0)
        for text in PROMPTS
    ]
    alone, together = handle.answer(requests), engine.write(requests)
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]
    assert [one.ended for one in together] == [one.ended for one in alone]
    stop = alone[0].text[1]
    [stopped] = engine.write([Generate(prompt=Prompt(text=PROMPTS[0]), max_tokens=6, stop=(stop,))])
    assert stopped.text.endswith(stop)
    assert stopped.ended == "stop"
