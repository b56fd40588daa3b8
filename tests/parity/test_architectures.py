"""mergekit 0.1.5 merges every model in the table of `mergekit.architectures`, tensor by tensor, as its recipe does."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from crossbreed.kernels import materialize
from crossbreed.mergekit import to_mergekit
from crossbreed.mergekit.architectures import ARCHITECTURES, is_reproduced
from crossbreed.recipes.named import weighted_deltas
from crossbreed.runs.publishing.contents import mergekit_config
from crossbreed.sources import open_sources
from crossbreed.testing import tiny_models
from crossbreed.testing.toys import byte_tokenizer, make_adapter, make_expert
from crossbreed.types import Recipe, Rule

pytestmark = [
    pytest.mark.parity,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("mergekit") is None, reason="mergekit 0.1.5 is not installed (pip install --no-deps)"),
]
TYPES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "GemmaForCausalLM": "gemma",
    "GraniteForCausalLM": "granite",
    "ArceeForCausalLM": "arcee",
    "Cohere2ForCausalLM": "cohere2",
    "GPT2LMHeadModel": "gpt2",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3_text",
    "Glm4ForCausalLM": "glm4",
    "Olmo2ForCausalLM": "olmo2",
    "Phi3ForCausalLM": "phi3",
    "PhiForCausalLM": "phi",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "StableLmForCausalLM": "stablelm",
    "Starcoder2ForCausalLM": "starcoder2",
    "BloomForCausalLM": "bloom",
    "CTRLLMHeadModel": "ctrl",
    "Exaone4ForCausalLM": "exaone4",
    "GPTBigCodeForCausalLM": "gpt_bigcode",
    "GPTJForCausalLM": "gptj",
    "GPTNeoForCausalLM": "gpt_neo",
    "MinistralForCausalLM": "ministral",
    "MptForCausalLM": "mpt",
    "NemotronForCausalLM": "nemotron",
    "OPTForCausalLM": "opt",
    "OlmoForCausalLM": "olmo",
    "OpenAIGPTLMHeadModel": "openai-gpt",
    "SmolLM3ForCausalLM": "smollm3",
}
SIZES = {
    "vocab_size": 272,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 256,
    "eos_token_id": 256,
    "pad_token_id": 256,
}
OTHERS = ("cohere", "gpt_neox")


def make_model(folder: Path, kind: str) -> Path:
    """Writes a random model of an architecture in bfloat16, as transformers saves it."""
    if kind in tiny_models.ARCHITECTURES:
        config = tiny_models.ARCHITECTURES[kind]()
    else:
        config = AutoConfig.for_model(kind, **SIZES)
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_table_holds(architecture: str, tmp_path: Path) -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    base = make_model(tmp_path / "base", TYPES[architecture])
    expert = make_expert(tmp_path / "e", base=base, seed=1)
    sources = open_sources(str(base), {"e": str(expert)})
    assert is_reproduced(sources.base.config["architectures"], sources.structure.tensors)
    rules = [
        Rule(match=match, operator="task_arithmetic", params={"weight": weight})
        for match, weight in (
            (r".*\.0\.(mlp|ffn|fc1).*", 0.9),
            (".*mlp.*|.*(embed|wte).*", 0.3),
            (r".*\.1\..*", 0.45),
            (".*", 0.6),
        )
    ]
    recipe = Recipe(base="base", sources=sources.structure.hashes, rules=tuple(rules))
    config = to_mergekit(recipe, sources.structure, {"base": str(base), "e": str(expert)})
    assert config is not None
    parsed = MergeConfiguration.model_validate(yaml.safe_load(yaml.safe_dump(config)))
    run_merge(parsed, str(tmp_path / "out"), MergeOptions(quiet=True, write_model_card=False))
    theirs, ours = load_file(tmp_path / "out" / "model.safetensors"), dict(materialize(recipe, sources))
    assert theirs.keys() == ours.keys()
    assert sum(int((theirs[name] != ours[name]).sum()) for name in ours) <= 1e-3 * sum(t.numel() for t in ours.values())


@pytest.mark.parametrize("kind", OTHERS)
def test_others_are_not_in_it(kind: str, tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", kind)
    sources = open_sources(str(base), {"e": str(make_expert(tmp_path / "e", base=base, seed=1))})
    assert not is_reproduced(sources.base.config["architectures"], sources.structure.tensors)


def test_architectures_that_mergekit_does_not_list_merge_no_adapter(tmp_path: Path) -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    base = make_model(tmp_path / "base", "olmo")
    sources = open_sources(str(base), {"e": str(make_adapter(tmp_path / "e", base=base, seed=1))})
    recipe = weighted_deltas({"e": 0.5}, hashes=sources.structure.hashes, dtype="bfloat16")
    assert mergekit_config(recipe, sources) is None
    names = {"base": str(base), "e": str(tmp_path / "e")}
    config = MergeConfiguration.model_validate(to_mergekit(recipe, sources.structure, names, {"e": str(base)}))
    with pytest.raises(Exception, match="LoRA not merged"):
        run_merge(config, str(tmp_path / "out"), MergeOptions(quiet=True, write_model_card=False))
