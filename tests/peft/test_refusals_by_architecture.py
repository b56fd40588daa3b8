"""Adapters whose modules the base's files call otherwise, or that adapt stacked experts: what is advised is right."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from making import merged, sources_after
from peft import LoraConfig, get_peft_model

from crossbreed.errors import InputError
from crossbreed.sources import open_sources
from crossbreed.testing.tiny_models import make_model

IN_MEMORY, MORE = "as transformers has it in memory", "does more than add a low-rank product: `target_parameters"


@pytest.mark.parametrize(
    ("name", "modules", "problem"),
    [
        ("phimoe", ["router", "q_proj"], IN_MEMORY),
        ("deepseek_v3", ["gate_proj", "up_proj", "down_proj"], MORE),
        pytest.param("deepseek_v2", ["gate_proj", "up_proj", "down_proj"], MORE, marks=pytest.mark.slow),
        pytest.param("gemma3", ["q_proj", "fc1"], IN_MEMORY, marks=pytest.mark.slow),
        ("qwen2_vl", ["q_proj", "qkv"], IN_MEMORY),
    ],
)
def test_an_adapter_that_is_refused_is_merged_by_the_advice(
    name: str, modules: list[str], problem: str, tmp_path: Path
) -> None:
    base, adapter = make_model(name, tmp_path / "base"), tmp_path / "adapter"
    tuned = get_peft_model(loaded(base), LoraConfig(r=2, lora_alpha=4, target_modules=modules))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    tuned.save_pretrained(adapter)
    with pytest.raises(InputError) as caught:
        open_sources(str(base), {"x": str(adapter)})
    assert problem in caught.value.problem
    sources = sources_after(caught.value, base, adapter)
    ours, theirs = loaded(merged(sources, tmp_path / "ours")).state_dict(), tuned.merge_and_unload().state_dict()
    assert ours.keys() == theirs.keys()
    for tensor in ours:
        torch.testing.assert_close(ours[tensor], theirs[tensor], rtol=1e-4, atol=1e-5)


def loaded(folder: Path) -> Any:
    [named] = transformers.AutoConfig.from_pretrained(folder).architectures
    return getattr(transformers, named).from_pretrained(folder, dtype=torch.float32)
