"""Adapters that PEFT makes, with every option of 0.21 that changes one: read to PEFT's own numbers, or refused with an
advice that, followed to the letter, gives the model that was trained."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from making import logits, merged, own_copy, sources_after, train
from peft import (
    AdaLoraConfig,
    BOFTConfig,
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    VeraConfig,
)
from peft.tuners.lora.config import BdLoraConfig, KasaConfig, MontecloraConfig, VeloraConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from crossbreed.errors import InputError
from crossbreed.sources import open_sources
from crossbreed.sources.adapter_advice import Advice

Q_PROJ = {"target_modules": ["q_proj"]}
PARAMETER = {"target_modules": [], "target_parameters": ["q_proj.weight"]}
PARAMETER_OF_GPT2 = {"target_modules": [], "target_parameters": ["attn.c_proj.weight"]}


@dataclass(frozen=True)
class Case:
    """An adapter, and what becomes of it."""

    name: str
    base: str
    options: dict[str, Any]
    advice: Advice | None = None
    """None: it is read as it is."""
    says: str = ""
    """Of a refusal."""
    config: Callable[..., PeftConfig] = field(default=LoraConfig)


def lora(name: str, base: str = "tied", **options: Any) -> Case:
    return Case(name, base, {"r": 4, "lora_alpha": 8, **options})


def refused(name: str, advice: Advice, says: str, base: str = "tied", **options: Any) -> Case:
    return Case(name, base, {"r": 4, "lora_alpha": 8, **Q_PROJ, **options}, advice, says)


def other(name: str, config: Callable[..., PeftConfig], advice: Advice, **options: Any) -> Case:
    return Case(name, "tied", options, advice, "adapters of type", config)


READ = [
    lora("plain", **Q_PROJ),
    lora("rslora", **Q_PROJ, use_rslora=True),
    lora(
        "rank pattern",
        target_modules=["q_proj", "down_proj"],
        rank_pattern={"down_proj": 2, r"1\.self_attn\.q_proj": 6},
    ),
    lora("alpha pattern", **Q_PROJ, alpha_pattern={r"layers\.1\..*": 3}, use_rslora=True),
    lora("all-linear", target_modules="all-linear"),
    lora("exclude_modules", target_modules="all-linear", exclude_modules=["down_proj"]),
    lora("layers_to_transform", target_modules=["q_proj", "v_proj"], layers_to_transform=[1], layers_pattern="layers"),
    lora("regular expression", target_modules=r".*layers\.1\.mlp\.(up|down)_proj"),
    lora("negative alpha", **Q_PROJ | {"lora_alpha": -3}),
    lora("use_qalora on a plain base", **Q_PROJ, use_qalora=True),
    lora("velora", **Q_PROJ, velora_config=VeloraConfig(num_groups=4)),
    lora("orthogonal", **Q_PROJ, init_lora_weights="orthogonal"),
    lora("Conv1D", "gpt2", target_modules=["c_attn"], fan_in_fan_out=True),
    lora("Conv1D, all-linear", "gpt2", target_modules="all-linear"),
    lora("Conv1D that is square", "gpt2", target_modules=["attn.c_proj"], fan_in_fan_out=True),
    lora("Conv1D and Linear, one flag for both", "gpt2-untied", target_modules=["attn.c_proj", "lm_head"]),
    lora("position embedding", "gpt2", target_modules=["wpe"]),
    lora("embedding", "untied", target_modules=["embed_tokens", "lm_head", "q_proj"]),
    lora("fused", "phi3", target_modules=["qkv_proj", "gate_up_proj"]),
    lora("attention of a mixture of experts", "moe", target_modules=["q_proj", "o_proj"]),
    lora(
        "tied head and embedding, trained as one", target_modules=["q_proj", "embed_tokens"], ensure_weight_tying=True
    ),
    lora("tied head, trained as one", target_modules=["lm_head"], ensure_weight_tying=True),
]
REFUSED = [
    refused("DoRA", Advice.MERGE, "use_dora", use_dora=True),
    refused("bias: all", Advice.MERGE, "`bias: all`", "gpt2", target_modules=["c_attn"], bias="all"),
    refused("bias: lora_only", Advice.MERGE, "`bias: lora_only`", "gpt2", target_modules=["c_attn"], bias="lora_only"),
    refused("lora_bias", Advice.MERGE, "lora_bias", "gpt2", target_modules=["c_attn"], lora_bias=True),
    refused("modules_to_save", Advice.MERGE, "modules_to_save", "untied", modules_to_save=["lm_head", "norm"]),
    refused("modules_to_save, no end", Advice.MERGE, "modules_to_save", modules_to_save=["norm"]),
    refused("trained tokens", Advice.MERGE, "trainable_token_indices", trainable_token_indices=[1, 2]),
    refused("pissa", Advice.MERGE, "init_lora_weights", init_lora_weights="pissa"),
    refused("olora", Advice.MERGE, "init_lora_weights", init_lora_weights="olora"),
    refused("kasa", Advice.MERGE, "kasa_config", kasa_config=KasaConfig()),
    refused("bdlora", Advice.MERGE, "use_bdlora", use_bdlora=BdLoraConfig(target_modules_bd_a=["q_proj"], nblocks=2)),
    refused("monteclora", Advice.MERGE, "monteclora_config", monteclora_config=MontecloraConfig()),
    refused("a Linear's parameter", Advice.MERGE, "target_parameters", **PARAMETER),
    refused("a Conv1D's parameter", Advice.MERGE, "target_parameters", "gpt2", **PARAMETER_OF_GPT2),
    refused("experts", Advice.MERGE, "target_parameters", "moe", target_parameters=["mlp.experts.down_proj"]),
    refused(
        "head under its name in memory", Advice.MERGE, "in memory", "neox", target_modules=["embed_out", "lm_head"]
    ),
    refused("tied head", Advice.UNTIE, "ties to its embeddings", target_modules=["q_proj", "lm_head"]),
    refused("tied embedding", Advice.UNTIE, "ties to its head", target_modules=["q_proj", "embed_tokens"]),
    refused("GPT-2's tied embedding", Advice.UNTIE, "ties to its head", "gpt2", target_modules=["wte", "c_fc"]),
    refused("GPT-2's tied head", Advice.UNTIE, "ties", "gpt2", target_modules=["attn.c_proj", "lm_head"]),
    refused("Bloom's tied embedding", Advice.UNTIE, "ties", "bloom", target_modules=["word_embeddings"]),
    refused("tied head, saved", Advice.UNTIE_AND_MERGE, "modules_to_save", modules_to_save=["lm_head"]),
    refused("tied embedding, saved", Advice.UNTIE_AND_MERGE, "modules_to_save", modules_to_save=["embed_tokens"]),
    refused("both, saved", Advice.UNTIE_AND_MERGE, "modules_to_save", modules_to_save=["lm_head", "embed_tokens"]),
    refused("DoRA of a tied head", Advice.UNTIE_AND_MERGE, "use_dora", target_modules=["lm_head"], use_dora=True),
    refused(
        "saved, trained as one", Advice.MERGE, "modules_to_save", modules_to_save=["lm_head"], ensure_weight_tying=True
    ),
    other("LoHa", LoHaConfig, Advice.MERGE, r=4, **Q_PROJ),
    other("LoKr", LoKrConfig, Advice.MERGE, r=4, **Q_PROJ),
    other("IA3", IA3Config, Advice.MERGE, target_modules=["q_proj"], feedforward_modules=[], task_type="CAUSAL_LM"),
    other("OFT", OFTConfig, Advice.MERGE, oft_block_size=4, **Q_PROJ),
    other("BOFT", BOFTConfig, Advice.MERGE, boft_block_size=4, **Q_PROJ),
    other("VeRA", VeraConfig, Advice.MERGE, r=4, **Q_PROJ),
    other("AdaLoRA", AdaLoraConfig, Advice.MERGE, target_r=2, init_r=4, total_step=10, **Q_PROJ),
    refused("layer_replication", Advice.NONE, "layer_replication", layer_replication=[[0, 2], [1, 2]]),
    refused("activated LoRA", Advice.NONE, "alora_invocation_tokens", alora_invocation_tokens=[1, 2]),
    other("prompt", PromptTuningConfig, Advice.NONE, num_virtual_tokens=2, task_type="CAUSAL_LM"),
    other("prefix", PrefixTuningConfig, Advice.NONE, num_virtual_tokens=2, task_type="CAUSAL_LM"),
]


@pytest.mark.parametrize("case", READ, ids=lambda case: case.name)
def test_what_is_read_is_what_peft_merges(case: Case, bases: dict[str, Path], tmp_path: Path) -> None:
    live = train(bases[case.base], tmp_path / "adapter", case.options, case.config)
    sources = open_sources(str(bases[case.base]), {"x": str(tmp_path / "adapter")})
    assert sources.structure.touched["x"]
    ours = merged(sources, tmp_path / "ours")
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(ours)), live, rtol=1e-5, atol=1e-5)
    if not case.options.get("ensure_weight_tying"):  # PEFT merges both of the two into the one tensor
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(bases[case.base]), tmp_path / "adapter")
        model.merge_and_unload().save_pretrained(tmp_path / "theirs")
        theirs, mine = load_file(tmp_path / "theirs/model.safetensors"), load_file(ours / "model.safetensors")
        for name, weight in mine.items():
            torch.testing.assert_close(weight, theirs[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_what_is_refused_comes_with_an_advice_that_works(case: Case, bases: dict[str, Path], tmp_path: Path) -> None:
    base, adapter = own_copy(bases[case.base], tmp_path), tmp_path / "an 'adapter'"
    live = train(base, adapter, case.options, case.config)
    with pytest.raises(InputError) as caught:
        open_sources(str(base), {"x": str(adapter)})
    assert case.says in caught.value.problem
    if case.advice is Advice.NONE:
        assert caught.value.fix.startswith("leave it out")
        return
    sources = sources_after(caught.value, base, adapter)
    ours = merged(sources, tmp_path / "ours")
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(ours)), live, rtol=1e-4, atol=1e-4)
