"""Opens models as mergekit does: all of one architecture; adapters are merged into a rounded checkpoint first.

Shape letters: M output rows, N input columns, R rank.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from crossbreed.errors import InputError
from crossbreed.mergekit import ModelReference
from crossbreed.sources import Adapter, Checkpoint, Structure, locate

_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_PARTS = ("text_config", "vision_config", "audio_config")


@dataclass(frozen=True, eq=False, kw_only=True)
class OpenModel:
    """A checkpoint, optionally with an adapter merged into it."""

    checkpoint: Checkpoint
    adapter: Adapter | None = None
    adapted_dtype: torch.dtype | None = None
    """The dtype to which a checkpoint with an adapter is rounded; None: its own."""

    @cached_property
    def structure(self) -> Structure:
        """The tensors, with the dtypes that `tensor` returns."""
        cast = None if self.adapter is None or self.adapted_dtype is None else _name(self.adapted_dtype)
        tensors = {
            name: replace(info, dtype=cast) if cast and "float" in info.dtype else info
            for name, info in self.checkpoint.tensors.items()
        }
        return Structure(tensors=tensors, touched={}, hashes={}, tied=self.checkpoint.tied)

    def tensor(self, name: str) -> torch.Tensor:
        """Returns a tensor; of a plain checkpoint, a view of the file."""
        stored = self.checkpoint.tensor(name)
        if self.adapter is None or not stored.is_floating_point():
            return stored
        tensor_MN = stored if self.adapted_dtype is None else stored.to(self.adapted_dtype)
        factors = self.adapter.factors(name)
        if factors is None:
            return tensor_MN
        delta_MN = (factors.b_MR @ factors.a_RN) * factors.scale  # PEFT: in fp32, and one rounding of the sum
        return (tensor_MN.float() + delta_MN).to(tensor_MN.dtype)


def open_models(
    references: Iterable[ModelReference], *, lora_dtype: str | None = None
) -> dict[ModelReference, OpenModel]:
    """Opens every model, without reading its weights.

    Args:
        references: The names of the models in the configuration; the others' configurations must fit the first's.
        lora_dtype: The dtype in which adapters are merged into their models; None: the model's own.

    Raises:
        InputError: a model is missing or broken, of another architecture, or of one that is not merged.
    """
    opened: dict[ModelReference, OpenModel] = {}
    for reference in references:
        opened[reference] = model = _open(reference, getattr(torch, lora_dtype) if lora_dtype else None)
        config, first = model.checkpoint.config, next(iter(opened.values())).checkpoint
        if not reference.architecture and config.get("model_type") != first.config.get("model_type"):
            raise InputError(
                f"`{reference}` is of another architecture",
                expected=f"{first.config.get('model_type')}, as {first.path}",
                got=str(config.get("model_type")),
                where=str(model.checkpoint.path / "config.json"),
                fix="if its tensors are the same, say so: model: {model: PATH, override_architecture: NAME}",
            )
    return opened


def _open(reference: ModelReference, lora_dtype: torch.dtype | None) -> OpenModel:
    origin = locate(reference.model)
    if (origin.path / "adapter_config.json").is_file() and not (origin.path / "config.json").is_file():
        raise InputError(f"`{reference.model}` is an adapter", expected="MODEL+ADAPTER", where=str(origin.path))
    checkpoint = Checkpoint.open(origin)
    _refuse_architecture(reference, checkpoint.config)
    adapter = Adapter.open(locate(reference.lora), base=checkpoint) if reference.lora else None
    return OpenModel(checkpoint=checkpoint, adapter=adapter, adapted_dtype=lora_dtype)


def _refuse_architecture(reference: ModelReference, config: Mapping[str, Any]) -> None:
    if parts := [key for key in _PARTS if config.get(key)]:
        raise InputError(
            f"`{reference}` has several modules, which mergekit's numerics do not merge here",
            expected="a model of text alone",
            got=f"`{parts[0]}` in its configuration",
        )
    if experts := [key for key in _EXPERT_COUNTS if (config.get(key) or 0) > 1]:
        raise InputError(
            f"`{reference}` is a mixture of experts, which mergekit's numerics do not merge here",
            expected="a dense model",
            got=f"{experts[0]}: {config[experts[0]]}",
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
