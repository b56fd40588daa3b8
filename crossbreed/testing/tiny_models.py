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
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
"""Attention heads have 32 numbers, the fewest that vLLM computes on a CPU."""
_SHARED: Settings = {**_SIZES, "num_key_value_heads": 2}
_GROUPED: Settings = {**_SHARED, "head_dim": 32}
_OLD: Settings = {**_TOKENS, "n_layer": 2, "n_head": 4}
_OLDER: Settings = {**_OLD, "n_embd": 128, "n_positions": 512}
_FEW: Settings = {"num_experts": 4, "num_experts_per_tok": 2}
_LOCAL: Settings = {"num_local_experts": 4, "num_experts_per_tok": 2}
_SLIDING: Settings = {"query_pre_attn_scalar": 32, "sliding_window": 64}
_MAMBA: Settings = {"mamba_n_heads": 8, "mamba_d_head": 32, "mamba_d_state": 16, "mamba_n_groups": 1}
_DEEPSEEK: Settings = {
    **_SIZES,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 64,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}
_TOWER: Settings = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}

ARCHITECTURES: Mapping[str, Callable[..., tf.PretrainedConfig]] = {
    "llama": lambda **own: tf.LlamaConfig(**_GROUPED | own),
    "mistral": lambda **own: tf.MistralConfig(**_GROUPED | own),
    "ministral": lambda **own: tf.MinistralConfig(**_GROUPED | own),
    "qwen2": lambda **own: tf.Qwen2Config(**_GROUPED | own),
    "qwen3": lambda **own: tf.Qwen3Config(**_GROUPED | {"tie_word_embeddings": True} | own),
    "gemma": lambda **own: tf.GemmaConfig(**_GROUPED | own),
    "gemma2": lambda **own: tf.Gemma2Config(**_GROUPED | _SLIDING | own),
    "gemma3_text": lambda **own: tf.Gemma3TextConfig(**_GROUPED | _SLIDING | own),
    "gemma3": lambda **own: tf.Gemma3Config(
        text_config={**_GROUPED, **_SLIDING},
        vision_config={**_TOWER, "image_size": 16, "patch_size": 4},
        mm_tokens_per_image=4,
        image_token_index=257,
        **own,
    ),
    "phi": lambda **own: tf.PhiConfig(**_SIZES | own),
    "phi3": lambda **own: tf.Phi3Config(**_SHARED | own),
    "olmo": lambda **own: tf.OlmoConfig(**_SIZES | own),
    "olmo2": lambda **own: tf.Olmo2Config(**_SIZES | own),
    "stablelm": lambda **own: tf.StableLmConfig(**_SHARED | own),
    "starcoder2": lambda **own: tf.Starcoder2Config(**_SHARED | own),
    "cohere": lambda **own: tf.CohereConfig(**_SHARED | own),
    "cohere2": lambda **own: tf.Cohere2Config(**_SHARED | own),
    "granite": lambda **own: tf.GraniteConfig(**_SHARED | own),
    "smollm3": lambda **own: tf.SmolLM3Config(**_SHARED | own),
    "glm4": lambda **own: tf.Glm4Config(**_GROUPED | own),
    "exaone4": lambda **own: tf.Exaone4Config(**_GROUPED | own),
    "nemotron": lambda **own: tf.NemotronConfig(**_GROUPED | own),
    "gpt2": lambda **own: tf.GPT2Config(**_OLDER | own),
    "openai-gpt": lambda **own: tf.OpenAIGPTConfig(**_OLDER | own),
    "ctrl": lambda **own: tf.CTRLConfig(**_OLDER | {"dff": 192} | own),
    "gptj": lambda **own: tf.GPTJConfig(**_OLDER | {"rotary_dim": 16} | own),
    "gpt_neo": lambda **own: tf.GPTNeoConfig(
        **_SIZES | {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]} | own
    ),
    "gpt_neox": lambda **own: tf.GPTNeoXConfig(**_SIZES | own),
    "gpt_bigcode": lambda **own: tf.GPTBigCodeConfig(**_OLDER | own),
    "bloom": lambda **own: tf.BloomConfig(**_OLD | {"hidden_size": 128} | own),
    "falcon": lambda **own: tf.FalconConfig(**_SIZES | own),
    "falcon_new": lambda **own: tf.FalconConfig(**_SIZES | {"num_kv_heads": 2, "new_decoder_architecture": True} | own),
    "opt": lambda **own: tf.OPTConfig(**_SIZES | {"ffn_dim": 192, "word_embed_proj_dim": 128} | own),
    "mpt": lambda **own: tf.MptConfig(
        **_TOKENS | {"d_model": 128, "n_layers": 2, "n_heads": 4, "max_seq_len": 512} | own
    ),
    "mamba": lambda **own: tf.MambaConfig(**_TOKENS | {"hidden_size": 128, "num_hidden_layers": 2} | own),
    "mamba2": lambda **own: tf.Mamba2Config(
        **_TOKENS
        | {"hidden_size": 128, "num_hidden_layers": 2, "num_heads": 8, "head_dim": 32, "n_groups": 1, "state_size": 16}
        | {"time_step_limit": (0.0, float("inf"))}  # as on the hub
        | own
    ),
    "rwkv": lambda **own: tf.RwkvConfig(
        **_TOKENS | {"hidden_size": 128, "num_hidden_layers": 2, "attention_hidden_size": 128} | own
    ),
    "falcon_h1": lambda **own: tf.FalconH1Config(**_GROUPED | _MAMBA | {"mamba_d_ssm": 256} | own),
    "lfm2": lambda **own: tf.Lfm2Config(**_SHARED | {"layer_types": ["conv", "full_attention"]} | own),
    "jamba": lambda **own: tf.JambaConfig(
        **_SHARED
        | _FEW
        | {"expert_layer_period": 2, "expert_layer_offset": 1, "attn_layer_period": 2, "attn_layer_offset": 1}
        | {"use_mamba_kernels": False, "mamba_dt_rank": 8, "mamba_d_state": 16}
        | own
    ),
    "mixtral": lambda **own: tf.MixtralConfig(**_GROUPED | _LOCAL | own),
    "phimoe": lambda **own: tf.PhimoeConfig(**_SHARED | _LOCAL | own),
    "qwen2_moe": lambda **own: tf.Qwen2MoeConfig(
        **_SHARED | _FEW | {"moe_intermediate_size": 64, "shared_expert_intermediate_size": 64} | own
    ),
    "qwen3_moe": lambda **own: tf.Qwen3MoeConfig(**_GROUPED | _FEW | {"moe_intermediate_size": 64} | own),
    "olmoe": lambda **own: tf.OlmoeConfig(**_SIZES | _FEW | own),
    "granitemoe": lambda **own: tf.GraniteMoeConfig(**_SHARED | _LOCAL | own),
    "gpt_oss": lambda **own: tf.GptOssConfig(
        **_GROUPED | _LOCAL | {"intermediate_size": 128, "layer_types": ["full_attention"] * 2} | own
    ),
    "deepseek_v2": lambda **own: tf.DeepseekV2Config(**_DEEPSEEK | {"q_lora_rank": None} | own),
    "deepseek_v3": lambda **own: tf.DeepseekV3Config(
        **_DEEPSEEK
        | {"q_lora_rank": 64}
        | {"scoring_func": "sigmoid", "topk_method": "noaux_tc"}  # as on the hub; vLLM alone reads them
        | own
    ),
}
"""Causal language models: name -> its configuration, with settings of one's own."""

_SMALL: Settings = {**_SIZES, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
OTHERS: Mapping[str, tuple[type, Callable[[], tf.PretrainedConfig]]] = {
    "bert": (tf.AutoModelForMaskedLM, lambda: tf.BertConfig(**_SMALL)),
    "roberta": (tf.AutoModelForMaskedLM, lambda: tf.RobertaConfig(**_SMALL | {"max_position_embeddings": 512})),
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
            text_config={**_SMALL, "num_key_value_heads": 1},
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
        seed: The seed of the weights.
        settings: Settings of the configuration, for the former.
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
