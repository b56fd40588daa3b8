"""The files of a LoRA adapter, as PEFT writes them, for low-rank changes of a base's matrices.

PEFT finds modules by the names that transformers gives them in memory, and orients factors by the type of the module.
A change of another tensor (a norm's, a bias, the experts of a mixture that are one tensor) has no place in an adapter:
`modules_to_save` would hold it, but neither vLLM nor crossbreed reads that.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from crossbreed.sources.adapter import LowRank
from crossbreed.sources.adapter_names import model_in_memory
from crossbreed.sources.checkpoint import Checkpoint
from crossbreed.sources.naming import spellings

_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True, kw_only=True)
class Carrier:
    """A module that PEFT puts factors beside."""

    module: str
    """Its name in memory."""
    is_transposed: bool
    """Whether its matrix is stored as (inputs, outputs)."""
    is_embedding: bool
    is_tied: bool
    """Whether its matrix is the head's, too."""

    def tensors(self, low: LowRank) -> dict[str, torch.Tensor]:
        """Returns the factors by their names in the adapter's file; `low` is oriented as the base's tensor."""
        b_MR, a_RN = low.scale * low.b_MR, low.a_RN
        if self.is_transposed:
            b_MR, a_RN = a_RN.T, b_MR.T
        a, b = ("lora_embedding_A", "lora_embedding_B") if self.is_embedding else ("lora_A.weight", "lora_B.weight")
        stem = f"{_PREFIX}{self.module}"
        return {f"{stem}.{a}": a_RN.contiguous(), f"{stem}.{b}": b_MR.contiguous()}


def carriers(base: Checkpoint) -> dict[str, Carrier]:
    """Returns tensor of the base -> the module that carries its change; nothing where transformers cannot build it."""
    from transformers.pytorch_utils import Conv1D

    model = model_in_memory(base)
    found: dict[str, Carrier] = {}
    for module, kind in () if model is None else model.named_modules():
        if isinstance(kind, torch.nn.Linear | torch.nn.Embedding | Conv1D):
            name = next((f"{own}.weight" for own in spellings(module) if f"{own}.weight" in base.tensors), None)
            if name is not None and name not in found:
                is_embedding = isinstance(kind, torch.nn.Embedding)
                found[name] = Carrier(
                    module=module,
                    is_transposed=is_embedding or isinstance(kind, Conv1D),
                    is_embedding=is_embedding,
                    is_tied=name == base.tied_embedding,
                )
    return found


def adapter_tensors(changes: Mapping[str, LowRank], found: Mapping[str, Carrier]) -> dict[str, torch.Tensor]:
    """Returns the tensors of the adapter's file.

    Args:
        changes: Tensor of the base -> what is added to it.
        found: The carriers of the base.
    """
    return {factor: tensor for name, low in changes.items() for factor, tensor in found[name].tensors(low).items()}


def adapter_config(changes: Mapping[str, LowRank], found: Mapping[str, Carrier], base: Checkpoint) -> dict[str, Any]:
    """Returns what stands in adapter_config.json; the arguments are those of `adapter_tensors`, `changes` not empty.

    Alpha is the rank, so that every product counts once; the largest rank is `r`, by which servers judge.
    """
    ranks = {found[name].module: len(low.a_RN) for name, low in changes.items()}
    largest = max(ranks.values())
    others = {re.escape(module): rank for module, rank in sorted(ranks.items()) if rank != largest}
    changed = [found[name] for name in changes]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.origin.hub_id,
        "revision": base.origin.revision,
        "r": largest,
        "lora_alpha": largest,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(ranks),
        "fan_in_fan_out": all(one.is_transposed and not one.is_embedding for one in changed),
        "ensure_weight_tying": any(one.is_tied for one in changed),
        "use_rslora": False,
        "use_dora": False,
        "lora_dropout": 0.0,
        "bias": "none",
        "modules_to_save": None,
        "init_lora_weights": True,
        "inference_mode": True,
    }
