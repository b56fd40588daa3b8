"""Tiny models of real architectures with a byte-level tokenizer: real code paths in milliseconds, no download."""

import json
import string
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

Architecture: TypeAlias = Literal["llama", "qwen2", "qwen3"]
_CONFIGS: dict[str, type[PretrainedConfig]] = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Returns a tokenizer of 256 bytes and `<eos>`: every text has tokens, and every token is text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate([*alphabet, "<eos>"])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>", chat_template=CHAT_TEMPLATE
    )


def make_checkpoint(
    folder: Path,
    *,
    architecture: Architecture = "llama",
    tied: bool = True,
    num_layers: int = 4,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
) -> Path:
    """Writes a random model (about 0.5 M parameters) with its tokenizer; large weights, so that its texts vary."""
    config = _CONFIGS[architecture](
        vocab_size=272,
        hidden_size=128,
        intermediate_size=192,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        bos_token_id=256,
        eos_token_id=256,
        pad_token_id=256,
        initializer_range=0.2,
        dtype=dtype,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # noqa: TID251 - transformers initialises from the global generator, restored after
        model = AutoModelForCausalLM.from_config(config).to(dtype)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def make_expert(folder: Path, *, base: Path, seed: int, scale: float = 0.05, pattern: str = "") -> Path:
    """Writes a full checkpoint: the base plus Gaussian deltas on the 2-D tensors whose name contains `pattern`."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = load_file(base / "model.safetensors")
    for name in sorted(tensors):
        if tensors[name].ndim == 2 and pattern in name:
            noise = torch.randn(tensors[name].shape, generator=generator)
            tensors[name] = (tensors[name].float() + scale * noise).to(tensors[name].dtype)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for file in base.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def make_adapter(
    folder: Path, *, base: Path, seed: int, rank: int = 4, rslora: bool = False, scale: float = 0.3
) -> Path:
    """Writes a PEFT LoRA adapter with random, non-zero factors on every attention and MLP projection."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    factors: dict[str, torch.Tensor] = {}
    targets = set()
    for name, weight in sorted(load_file(base / "model.safetensors").items()):
        if name.endswith("_proj.weight"):
            module = name.removesuffix(".weight")
            targets.add(module.rsplit(".", 1)[-1])
            out_features, in_features = weight.shape
            factors[f"base_model.model.{module}.lora_A.weight"] = torch.randn(rank, in_features, generator=generator)
            factors[f"base_model.model.{module}.lora_B.weight"] = (
                torch.randn(out_features, rank, generator=generator) * scale / in_features**0.5
            )
    save_file(factors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": rank,
        "lora_alpha": 2 * rank,
        "use_rslora": rslora,
        "use_dora": False,
        "bias": "none",
        "modules_to_save": None,
        "target_modules": sorted(targets),
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
    return folder


def make_printable_pair(folder: Path) -> tuple[Path, Path]:
    """Returns two toys of one shape, `a` and `b`; `a` writes printable characters. Creates them if they are missing.

    In `a` the embeddings of all other tokens are 0, and so are their logits, because they are tied.
    """
    a, b = folder / "a", folder / "b"
    if not folder.exists():
        make_checkpoint(a, num_layers=3)
        weights = load_weights(a)
        name = "model.embed_tokens.weight"
        kept = [index for token, index in byte_tokenizer().get_vocab().items() if token in string.printable]
        weights[name] = torch.zeros_like(weights[name]).index_copy_(0, torch.tensor(kept), weights[name][kept])
        save_file(weights, a / "model.safetensors", metadata={"format": "pt"})
        make_expert(b, base=a, seed=2)
    return a, b


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Returns a toy's tensors, in the order of a stream."""
    return dict(sorted(load_file(folder / "model.safetensors").items()))
