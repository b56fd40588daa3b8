"""How these tests have PEFT make adapters, merge what crossbreed reads of them, and follow what it advises."""

import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from crossbreed.errors import InputError
from crossbreed.sources import Adapter, Sources, open_sources

IDS = torch.tensor([[3, 14, 15, 9, 26, 5, 35, 8]])
PLAIN: Mapping[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    found: torch.Tensor = model.eval()(IDS).logits
    return found


def train(
    base: Path, folder: Path, options: Mapping[str, Any] = PLAIN, config: Callable[..., PeftConfig] = LoraConfig
) -> torch.Tensor:
    """Has PEFT make an adapter, as after some training; returns what the trained model answers."""
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config(**options))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    return logits(model)


def merged(sources: Sources, folder: Path) -> Path:
    """Writes the base plus the expert's whole change, as any merge would with a weight of 1."""
    base, expert = sources.base, sources.experts["x"]
    shutil.copytree(base.path, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    weights = {}
    for name in base.tensors:
        if isinstance(expert, Adapter):
            low = expert.factors(name)
            delta = torch.zeros(()) if low is None else low.scale * low.b_MR @ low.a_RN
            weights[name] = base.tensor(name) + delta
        else:
            weights[name] = expert.tensor(name).clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def follow(fix: str) -> None:
    for line in fix.splitlines():
        if line.startswith("python"):
            program, option, code = shlex.split(line)
            assert (program, option) == ("python", "-c")
            exec(code, {})


def sources_after(error: InputError, base: Path, adapter: Path) -> Sources:
    """Does what the advice says, and opens what it names."""
    follow(error.fix)
    untied, full = base.with_name(f"{base.name}-untied"), adapter.with_name(f"{adapter.name}-merged")
    assert ("as the base" in error.fix) is untied.exists()
    assert ("as the expert" in error.fix) is full.exists()
    return open_sources(str(untied if untied.exists() else base), {"x": str(full if full.exists() else adapter)})


def own_copy(base: Path, tmp_path: Path) -> Path:
    """A base of the test's own, for advices write beside it; `$` is what no shell may look into."""
    return Path(shutil.copytree(base, tmp_path / "a $base"))
