"""Tiny models of many architectures, for tests of what is right on every one of them: seconds each, no download."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from crossbreed.testing.toys import byte_tokenizer

Setting: TypeAlias = int | float | str | bool | list[str] | None
"""A value of a model's configuration."""

_SIZE = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 512}
_LLAMA = {**_SIZE, "intermediate_size": 192, "num_key_value_heads": 2, "head_dim": 32}
_OLD = {**_SIZE, "intermediate_size": 256}
_GPT = {"n_embd": 128, "n_layer": 2, "n_head": 4, "n_positions": 512}
_FEW = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
_LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
_DEEPSEEK = {
    **_SIZE,
    "intermediate_size": 192,
    "moe_intermediate_size": 64,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "kv_lora_rank": 512,
    "q_lora_rank": None,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "num_key_value_heads": 4,
}

CONFIGS: Mapping[str, tuple[str, Mapping[str, Setting]]] = MappingProxyType(
    {
        "llama": ("llama", {**_LLAMA, "tie_word_embeddings": True}),
        "llama-untied": ("llama", {**_LLAMA, "tie_word_embeddings": False}),
        "mistral": ("mistral", _LLAMA),
        "qwen2": ("qwen2", _LLAMA),
        "qwen3": ("qwen3", {**_LLAMA, "tie_word_embeddings": True}),
        "gemma": ("gemma", _LLAMA),
        "gemma2": ("gemma2", {**_LLAMA, "query_pre_attn_scalar": 32, "sliding_window": 64}),
        "gemma3": ("gemma3_text", {**_LLAMA, "query_pre_attn_scalar": 32, "sliding_window": 64}),
        "phi": ("phi", {**_OLD, "num_key_value_heads": 4}),
        "phi3": ("phi3", {**_OLD, "num_key_value_heads": 2}),
        "gpt2": ("gpt2", _GPT),
        "gpt_neox": ("gpt_neox", _OLD),
        "opt": ("opt", {**_SIZE, "ffn_dim": 256, "word_embed_proj_dim": 128}),
        "bloom": ("bloom", {"hidden_size": 128, "n_layer": 2, "n_head": 4}),
        "falcon": ("falcon", _SIZE),
        "mpt": ("mpt", {"d_model": 128, "n_layers": 2, "n_heads": 4, "max_seq_len": 512}),
        "gptj": ("gptj", {**_GPT, "rotary_dim": 16}),
        "stablelm": ("stablelm", {**_OLD, "num_key_value_heads": 2}),
        "starcoder2": ("starcoder2", {**_OLD, "num_key_value_heads": 2}),
        "cohere": ("cohere", {**_OLD, "num_key_value_heads": 2}),
        "olmo": ("olmo", _OLD),
        "olmo2": ("olmo2", _OLD),
        "granite": ("granite", {**_OLD, "num_key_value_heads": 2}),
        "smollm3": ("smollm3", {**_OLD, "num_key_value_heads": 2}),
        "olmoe": ("olmoe", {**_OLD, "num_key_value_heads": 4, "num_experts": 4, "num_experts_per_tok": 2}),
        "granitemoe": ("granitemoe", {**_OLD, "num_key_value_heads": 2, **_LOCAL}),
        "mixtral": ("mixtral", {**_LLAMA, **_LOCAL}),
        "qwen2_moe": ("qwen2_moe", {**_LLAMA, **_FEW, "shared_expert_intermediate_size": 64}),
        "qwen3_moe": ("qwen3_moe", {**_LLAMA, **_FEW}),
        "phimoe": ("phimoe", {**_OLD, "num_key_value_heads": 2, **_LOCAL}),
        "gpt_oss": ("gpt_oss", {**_LLAMA, **_LOCAL, "intermediate_size": 128, "layer_types": ["full_attention"] * 2}),
        "deepseek_v2": ("deepseek_v2", _DEEPSEEK),
        "deepseek_v3": ("deepseek_v3", {**_DEEPSEEK, "q_lora_rank": 64, "topk_method": "noaux_tc"}),
        "mamba": ("mamba", {"hidden_size": 128, "num_hidden_layers": 2, "state_size": 16}),
    }
)
"""Name -> `model_type` and the settings of a tiny model."""
_TOKENS = {"vocab_size": 272, "bos_token_id": 256, "eos_token_id": 256, "pad_token_id": 256}


def make_architecture(folder: Path, name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """Writes a random model of `CONFIGS` with a byte-level tokenizer; large weights, so that its texts vary."""
    kind, settings = CONFIGS[name]
    config = AutoConfig.for_model(kind, **_TOKENS, initializer_range=0.1, dtype=dtype, **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # noqa: TID251 - transformers initialises from the global generator, restored after
        AutoModelForCausalLM.from_config(config).to(dtype).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder
