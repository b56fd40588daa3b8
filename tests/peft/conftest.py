"""Tiny bases for adapters that PEFT makes: without tokenizers, for nothing is asked of them but logits."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, PretrainedConfig

_LLAMA = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "initializer_range": 0.2,
}
_GPT2 = {"vocab_size": 48, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.2}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "head_dim": 8}
_CONFIGS: dict[str, PretrainedConfig] = {
    "tied": transformers.LlamaConfig(tie_word_embeddings=True, **_LLAMA),
    "untied": transformers.LlamaConfig(tie_word_embeddings=False, **_LLAMA),
    "gpt2": transformers.GPT2Config(**_GPT2),
    "gpt2-untied": transformers.GPT2Config(tie_word_embeddings=False, **_GPT2),
    "neox": transformers.GPTNeoXConfig(**_LLAMA),
    "bloom": transformers.BloomConfig(vocab_size=48, hidden_size=16, n_layer=2, n_head=2, initializer_range=0.2),
    "moe": transformers.Qwen3MoeConfig(**_LLAMA, **_EXPERTS),
    "phi3": transformers.Phi3Config(pad_token_id=0, **_LLAMA),
}


@pytest.fixture(scope="package")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each architecture, in float32. Never write to them."""
    root = tmp_path_factory.mktemp("bases")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # noqa: TID251 - transformers initialises from the global generator, restored after
        for name, config in _CONFIGS.items():
            AutoModelForCausalLM.from_config(config).save_pretrained(root / name)
    return {name: root / name for name in _CONFIGS}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """PEFT has something to say on most of these adapters."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
