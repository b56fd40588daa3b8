"""Tiny random models of many architectures of transformers, for tests of what must hold on all of them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
import transformers as tf

from crossbreed.testing.toys import byte_tokenizer

Settings: TypeAlias = dict[str, Any]

_TOKENS: Settings = {"vocab_size": 272, "bos_token_id": 256, "eos_token_id": 256, "pad_token_id": 256}
_SIZES: Settings = {
    **_TOKENS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 256,
}
_GROUPED: Settings = {**_SIZES, "num_key_value_heads": 1, "head_dim": 16}
_EXPERTS: Settings = {**_GROUPED, "num_experts_per_tok": 1}
_OLD: Settings = {**_TOKENS, "n_layer": 2, "n_head": 2}
_OLDER: Settings = {**_OLD, "n_embd": 32, "n_positions": 256}
_MLA: Settings = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
_MAMBA: Settings = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1}
_ROUTED: Settings = {"moe_intermediate_size": 16, "n_routed_experts": 2, "n_group": 1, "topk_group": 1}

ARCHITECTURES: Mapping[str, Callable[..., tf.PretrainedConfig]] = {
    "llama": lambda **own: tf.LlamaConfig(**_GROUPED | own),
    "mistral": lambda **own: tf.MistralConfig(**_GROUPED | own),
    "ministral": lambda **own: tf.MinistralConfig(**_GROUPED | own),
    "qwen2": lambda **own: tf.Qwen2Config(**_GROUPED | own),
    "qwen3": lambda **own: tf.Qwen3Config(**_GROUPED | own),
    "gemma": lambda **own: tf.GemmaConfig(**_GROUPED | own),
    "gemma2": lambda **own: tf.Gemma2Config(**_GROUPED | own),
    "gemma3_text": lambda **own: tf.Gemma3TextConfig(**_GROUPED | own),
    "phi": lambda **own: tf.PhiConfig(**_SIZES | own),
    "phi3": lambda **own: tf.Phi3Config(**_SIZES | own),
    "olmo": lambda **own: tf.OlmoConfig(**_SIZES | own),
    "olmo2": lambda **own: tf.Olmo2Config(**_SIZES | own),
    "stablelm": lambda **own: tf.StableLmConfig(**_SIZES | {"num_key_value_heads": 2} | own),
    "starcoder2": lambda **own: tf.Starcoder2Config(**_SIZES | {"num_key_value_heads": 1} | own),
    "cohere": lambda **own: tf.CohereConfig(**_SIZES | own),
    "cohere2": lambda **own: tf.Cohere2Config(**_SIZES | own),
    "granite": lambda **own: tf.GraniteConfig(**_SIZES | own),
    "smollm3": lambda **own: tf.SmolLM3Config(**_SIZES | {"num_key_value_heads": 1} | own),
    "glm4": lambda **own: tf.Glm4Config(**_GROUPED | own),
    "exaone4": lambda **own: tf.Exaone4Config(**_GROUPED | own),
    "nemotron": lambda **own: tf.NemotronConfig(**_GROUPED | own),
    "gpt2": lambda **own: tf.GPT2Config(**_OLDER | own),
    "gptj": lambda **own: tf.GPTJConfig(**_OLDER | {"rotary_dim": 4} | own),
    "gpt_neo": lambda **own: tf.GPTNeoConfig(
        **_SIZES | {"num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]} | own
    ),
    "gpt_neox": lambda **own: tf.GPTNeoXConfig(**_SIZES | own),
    "gpt_bigcode": lambda **own: tf.GPTBigCodeConfig(**_OLDER | own),
    "bloom": lambda **own: tf.BloomConfig(**_OLD | {"hidden_size": 32} | own),
    "falcon": lambda **own: tf.FalconConfig(**_SIZES | own),
    "falcon_new": lambda **own: tf.FalconConfig(**_SIZES | {"num_kv_heads": 1, "new_decoder_architecture": True} | own),
    "opt": lambda **own: tf.OPTConfig(**_SIZES | {"ffn_dim": 48, "word_embed_proj_dim": 32} | own),
    "mpt": lambda **own: tf.MptConfig(
        **_TOKENS | {"d_model": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 256} | own
    ),
    "mamba": lambda **own: tf.MambaConfig(**_TOKENS | {"hidden_size": 32, "num_hidden_layers": 2} | own),
    "mamba2": lambda **own: tf.Mamba2Config(
        **_TOKENS
        | {"hidden_size": 32, "num_hidden_layers": 2, "num_heads": 4, "head_dim": 16, "n_groups": 1, "state_size": 8}
        | {"time_step_limit": (0.0, float("inf"))}  # as on the hub
        | own
    ),
    "rwkv": lambda **own: tf.RwkvConfig(
        **_TOKENS | {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32} | own
    ),
    "falcon_h1": lambda **own: tf.FalconH1Config(**_GROUPED | _MAMBA | {"mamba_d_ssm": 64} | own),
    "lfm2": lambda **own: tf.Lfm2Config(
        **_SIZES | {"num_key_value_heads": 1, "layer_types": ["conv", "full_attention"]} | own
    ),
    "jamba": lambda **own: tf.JambaConfig(
        **_SIZES
        | {"num_key_value_heads": 1, "num_experts": 2, "num_experts_per_tok": 1, "expert_layer_period": 2}
        | {"expert_layer_offset": 1, "attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False}
        | {"mamba_dt_rank": 4, "mamba_d_state": 8}
        | own
    ),
    "mixtral": lambda **own: tf.MixtralConfig(**_EXPERTS | {"num_local_experts": 2} | own),
    "phimoe": lambda **own: tf.PhimoeConfig(
        **_SIZES | {"num_key_value_heads": 1, "num_local_experts": 2, "num_experts_per_tok": 2} | own
    ),
    "qwen2_moe": lambda **own: tf.Qwen2MoeConfig(
        **_SIZES
        | {"num_key_value_heads": 1, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
        | {"shared_expert_intermediate_size": 16}
        | own
    ),
    "qwen3_moe": lambda **own: tf.Qwen3MoeConfig(**_EXPERTS | {"num_experts": 2, "moe_intermediate_size": 16} | own),
    "olmoe": lambda **own: tf.OlmoeConfig(**_SIZES | {"num_experts": 2, "num_experts_per_tok": 1} | own),
    "granitemoe": lambda **own: tf.GraniteMoeConfig(
        **_SIZES | {"num_local_experts": 2, "num_experts_per_tok": 1} | own
    ),
    "gpt_oss": lambda **own: tf.GptOssConfig(**_EXPERTS | {"num_local_experts": 2} | own),
    "deepseek_v2": lambda **own: tf.DeepseekV2Config(
        **_SIZES
        | _MLA
        | _ROUTED
        | {"num_experts_per_tok": 1, "first_k_dense_replace": 1, "num_key_value_heads": 2}
        | own
    ),
    "deepseek_v3": lambda **own: tf.DeepseekV3Config(
        **_SIZES
        | _MLA
        | _ROUTED
        | {"num_experts_per_tok": 1, "first_k_dense_replace": 1, "num_key_value_heads": 2}
        | own
    ),
}
"""Causal language models: name -> its configuration, with settings of one's own."""

OTHERS: Mapping[str, tuple[type, Callable[[], tf.PretrainedConfig]]] = {
    "bert": (tf.AutoModelForMaskedLM, lambda: tf.BertConfig(**_SIZES)),
    "roberta": (tf.AutoModelForMaskedLM, lambda: tf.RobertaConfig(**_SIZES | {"max_position_embeddings": 512})),
    "bart": (
        tf.AutoModelForSeq2SeqLM,
        lambda: tf.BartConfig(
            **_TOKENS,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
        ),
    ),
    "t5": (
        tf.AutoModelForSeq2SeqLM,
        lambda: tf.T5Config(vocab_size=272, d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2),
    ),
    "qwen2_vl": (
        tf.AutoModelForImageTextToText,
        lambda: tf.Qwen2VLConfig(
            text_config={**_SIZES, "num_key_value_heads": 1},
            vision_config={"depth": 3, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2},
        ),
    ),
}
"""Models that are no causal language models: name -> what loads it, and its configuration."""


def make_model(name: str, folder: Path, *, seed: int = 0, **settings: Any) -> Path:
    """Writes a random model and a tokenizer of bytes, in fp32, as transformers saves it.

    Args:
        name: One of `ARCHITECTURES` or `OTHERS`.
        folder: New or empty.
        seed: Of the weights.
        settings: Of the configuration, for the former.
    """
    if name in ARCHITECTURES:
        auto: Any = tf.AutoModelForCausalLM
        config = ARCHITECTURES[name](**settings)
    else:
        auto, make = OTHERS[name]
        config = make()
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        model = auto.from_config(config, dtype=torch.float32)
        for _, tensor in sorted(model.named_parameters()):  # also what begins at 0 or 1, lest it go unnoticed
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(noise / max(1, tensor.shape[-1]) ** 0.5 if tensor.ndim > 1 else tensor + noise / 10)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder
