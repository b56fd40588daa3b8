"""Writes names.json: what architectures call their tensors on disk, and their shapes.

Each is a tiny model of transformers, saved as transformers saves it. A few families that exist under other names on the
hub, or only there, are written down by hand.

    python tests/golden/names/make_names.py
"""

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import transformers as tf
from safetensors import safe_open

HERE = Path(__file__).parent
SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
GROUPED = {**SIZES, "num_key_value_heads": 1, "head_dim": 8}
EXPERTS = {**GROUPED, "num_experts_per_tok": 1}
OLD = {"vocab_size": 32, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 1}
MLA = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
TOWER = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}
CLIP_TOWER = {"model_type": "clip_vision_model", **TOWER}
VISION = {"depth": 3, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4}

CONFIGS: dict[str, Callable[[], tf.PretrainedConfig]] = {
    "llama": lambda: tf.LlamaConfig(**GROUPED),
    "llama-tied": lambda: tf.LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "mistral": lambda: tf.MistralConfig(**GROUPED),
    "qwen2": lambda: tf.Qwen2Config(**GROUPED),
    "qwen3": lambda: tf.Qwen3Config(**GROUPED),
    "gemma2": lambda: tf.Gemma2Config(**GROUPED),
    "gemma3": lambda: tf.Gemma3TextConfig(**GROUPED),
    "phi": lambda: tf.PhiConfig(**SIZES),
    "phi3": lambda: tf.Phi3Config(**SIZES),
    "olmo2": lambda: tf.Olmo2Config(**SIZES),
    "stablelm": lambda: tf.StableLmConfig(**SIZES, qk_layernorm=True),
    "starcoder2": lambda: tf.Starcoder2Config(**SIZES, num_key_value_heads=1),
    "cohere": lambda: tf.CohereConfig(**SIZES),
    "gpt2": lambda: tf.GPT2Config(**OLD, n_embd=16, n_positions=16),
    "gptj": lambda: tf.GPTJConfig(**OLD, n_embd=16, n_positions=16, rotary_dim=4),
    "gpt_neox": lambda: tf.GPTNeoXConfig(**SIZES),
    "gpt_bigcode": lambda: tf.GPTBigCodeConfig(**OLD, n_embd=16, n_positions=16),
    "bloom": lambda: tf.BloomConfig(**OLD, hidden_size=16),
    "falcon": lambda: tf.FalconConfig(vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2),
    "falcon-new": lambda: tf.FalconConfig(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_kv_heads=1,
        new_decoder_architecture=True,
    ),
    "opt": lambda: tf.OPTConfig(**{**SIZES, "ffn_dim": 24, "word_embed_proj_dim": 16}),
    "mpt": lambda: tf.MptConfig(vocab_size=32, d_model=16, n_layers=2, n_heads=2, max_seq_len=16),
    "mamba": lambda: tf.MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=2),
    "rwkv": lambda: tf.RwkvConfig(vocab_size=32, hidden_size=16, num_hidden_layers=2, attention_hidden_size=16),
    "falcon_h1": lambda: tf.FalconH1Config(
        **GROUPED, mamba_d_ssm=16, mamba_n_heads=2, mamba_d_head=8, mamba_d_state=4, mamba_n_groups=1
    ),
    "lfm2": lambda: tf.Lfm2Config(**SIZES, num_key_value_heads=1, layer_types=["conv", "full_attention"]),
    "mixtral": lambda: tf.MixtralConfig(**EXPERTS, num_local_experts=2),
    "qwen3_moe": lambda: tf.Qwen3MoeConfig(**EXPERTS, num_experts=2, moe_intermediate_size=8),
    "olmoe": lambda: tf.OlmoeConfig(**SIZES, num_experts=2, num_experts_per_tok=1),
    "granitemoe": lambda: tf.GraniteMoeConfig(**SIZES, num_local_experts=2, num_experts_per_tok=1),
    "gpt_oss": lambda: tf.GptOssConfig(**EXPERTS, num_local_experts=2),
    "deepseek_v3": lambda: tf.DeepseekV3Config(
        **SIZES,
        **MLA,
        moe_intermediate_size=8,
        n_routed_experts=2,
        num_experts_per_tok=1,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        num_key_value_heads=2,
    ),
    "bert": lambda: tf.BertConfig(**SIZES),
    "t5": lambda: tf.T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2),
    "bart": lambda: tf.BartConfig(
        vocab_size=32,
        d_model=16,
        encoder_layers=3,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        max_position_embeddings=16,
    ),
    "gemma3-vision": lambda: tf.Gemma3Config(text_config=GROUPED, vision_config=TOWER, mm_tokens_per_image=4),
    "llava": lambda: tf.LlavaConfig(text_config={"model_type": "llama", **GROUPED}, vision_config=CLIP_TOWER),
    "qwen2_vl": lambda: tf.Qwen2VLConfig(
        text_config={**SIZES, "num_key_value_heads": 1},
        vision_config=VISION,
    ),
}
AUTO = {
    "bert": tf.AutoModelForMaskedLM,
    "t5": tf.AutoModelForSeq2SeqLM,
    "bart": tf.AutoModelForSeq2SeqLM,
    **dict.fromkeys(("qwen2_vl", "gemma3-vision", "llava"), tf.AutoModelForImageTextToText),
}

BY_HAND = {
    "chatglm": {
        "transformer.embedding.word_embeddings.weight": [32, 16],
        "transformer.encoder.final_layernorm.weight": [16],
        "transformer.encoder.layers.0.input_layernorm.weight": [16],
        "transformer.encoder.layers.0.mlp.dense_4h_to_h.weight": [16, 24],
        "transformer.encoder.layers.0.mlp.dense_h_to_4h.weight": [48, 16],
        "transformer.encoder.layers.0.post_attention_layernorm.weight": [16],
        "transformer.encoder.layers.0.self_attention.dense.weight": [16, 16],
        "transformer.encoder.layers.0.self_attention.query_key_value.weight": [32, 16],
        "transformer.output_layer.weight": [32, 16],
        "transformer.rotary_pos_emb.inv_freq": [4],
    },
    "internlm2": {
        "model.layers.0.attention.wo.weight": [16, 16],
        "model.layers.0.attention.wqkv.weight": [32, 16],
        "model.layers.0.attention_norm.weight": [16],
        "model.layers.0.feed_forward.w1.weight": [24, 16],
        "model.layers.0.feed_forward.w2.weight": [16, 24],
        "model.layers.0.feed_forward.w3.weight": [24, 16],
        "model.layers.0.ffn_norm.weight": [16],
        "model.norm.weight": [16],
        "model.tok_embeddings.weight": [32, 16],
        "output.weight": [32, 16],
    },
    "llama-of-2023": {
        "lm_head.weight": [32, 16],
        "model.embed_tokens.weight": [32, 16],
        "model.layers.0.self_attn.rotary_emb.inv_freq": [4],
    },
}


def saved(config: tf.PretrainedConfig, auto: type = tf.AutoModelForCausalLM) -> dict[str, list[int]]:
    """Returns the names and shapes in the file of a model of that configuration."""
    with TemporaryDirectory() as folder:
        auto.from_config(config).save_pretrained(folder)
        with safe_open(f"{folder}/model.safetensors", framework="pt") as file:
            return {name: file.get_slice(name).get_shape() for name in sorted(file.keys())}


def on_the_hub(names: dict[str, list[int]]) -> dict[str, list[int]]:
    """Returns them as uploaded before transformers wrote the prefix of the model inside the head's."""
    return {name.removeprefix("transformer."): shape for name, shape in names.items()}


def main() -> None:
    """Writes one line for each tensor."""
    tf.logging.set_verbosity_error()
    names = {name: saved(make(), AUTO.get(name, tf.AutoModelForCausalLM)) for name, make in CONFIGS.items()}
    names |= {f"{name}-hub": on_the_hub(names[name]) for name in ("gpt2", "bloom")} | BY_HAND
    texts = [
        json.dumps(architecture) + ": {\n" + ",\n".join(f"{json.dumps(n)}: {json.dumps(s)}" for n, s in shapes.items())
        for architecture, shapes in sorted(names.items())
    ]
    (HERE / "names.json").write_text("{\n" + "\n},\n".join(texts) + "\n}}\n")


if __name__ == "__main__":
    main()
