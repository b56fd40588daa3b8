"""Opens a base and its experts, and finds in seconds whatever would make their merge wrong.

Cheap checks come first (configurations, vocabularies, names, shapes), so that a wrong expert is named before the
weights of any are read. Sources may be stored in different floating-point dtypes: promotion to the wider one is exact.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from crossbreed.errors import InputError
from crossbreed.sources.adapter import Adapter
from crossbreed.sources.checkpoint import Checkpoint
from crossbreed.sources.hub import Origin, locate
from crossbreed.sources.structure import Structure
from crossbreed.sources.vocabulary import check_vocabularies

Expert: TypeAlias = Checkpoint | Adapter

BASE = "base"
"""The base's name in recipes, so no expert's."""

_MUST_AGREE = (
    *("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "hidden_act", "layer_types"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "num_experts", "num_experts_per_tok"),
    *("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "sliding_window", "rope_theta", "partial_rotary_factor"),
    *("attn_logit_softcapping", "final_logit_softcapping", "embedding_multiplier", "logits_scaling"),
)
"""What changes the function of the same weights. A merge runs under the base's configuration."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Sources:
    """Everything that a run may merge, opened and in agreement."""

    base: Checkpoint
    experts: Mapping[str, Expert]
    """By the names that recipes use, in the order of the Spec."""
    structure: Structure
    """What a search space is told of them."""


def open_sources(base: str, experts: Mapping[str, str]) -> Sources:
    """Opens a base and its experts, each a local folder or a hub id.

    All weights are read once, to hash them; a second time the cache knows them.

    Args:
        base: A full checkpoint.
        experts: Expert name -> full checkpoint or PEFT LoRA adapter.

    Raises:
        InputError: a source is missing, broken, or disagrees with the base; the message names it and the tensor.
    """
    if BASE in experts:
        raise InputError(f"`{BASE}` is the base's own name in recipes", got="an expert of that name", fix="rename it")
    base_origin = locate(base)
    if _is_adapter(base_origin):
        raise InputError(
            "the base is an adapter",
            expected="a full checkpoint",
            where=str(base_origin.path),
            fix="name the model that it was trained on as the base, and the adapter as an expert",
        )
    foundation = Checkpoint.open(base_origin)
    opened = {name: _open_expert(name, locate(source), foundation) for name, source in experts.items()}
    return Sources(base=foundation, experts=opened, structure=_structure(foundation, opened))


def _is_adapter(origin: Origin) -> bool:
    return (origin.path / "adapter_config.json").is_file()


def _open_expert(name: str, origin: Origin, base: Checkpoint) -> Expert:
    if _is_adapter(origin):
        return Adapter.open(origin, base=base)
    expert = Checkpoint.open(origin, base=base)
    _check_configs(name, expert, base)
    check_vocabularies(base.path, expert.path, name=name)
    _check_tensors(name, expert, base)
    return expert


def _structure(base: Checkpoint, experts: Mapping[str, Expert]) -> Structure:
    return Structure(
        tensors=base.tensors,
        touched={name: expert.touched for name, expert in experts.items()},
        hashes={BASE: base.hash, **{name: expert.hash for name, expert in experts.items()}},
        tied=base.tied,
    )


def _check_configs(name: str, expert: Checkpoint, base: Checkpoint) -> None:
    ours, theirs = _settings(base), _settings(expert)
    for key in (*_MUST_AGREE, "tie_word_embeddings"):
        if key in ours and key in theirs and ours[key] != theirs[key]:
            raise InputError(
                f"expert `{name}` has another `{key}` than the base",
                expected=f"{ours[key]!r}, as in {base.path / 'config.json'}",
                got=repr(theirs[key]),
                where=str(expert.path / "config.json"),
                fix="merge only fine-tunes of one base",
            )


def _settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """Flattens a configuration; one that leaves a setting out has its architecture's default, and is not compared."""
    config = checkpoint.config
    text, rope = config.get("text_config") or {}, config.get("rope_parameters") or {}
    return {**config, **text, **rope, "tie_word_embeddings": checkpoint.tied}


def _check_tensors(name: str, expert: Checkpoint, base: Checkpoint) -> None:
    strays = sorted(base.tensors.keys() ^ expert.tensors.keys())
    if strays:
        here, there = ("lacks", "has") if strays[0] in base.tensors else ("has", "lacks")
        raise InputError(
            f"expert `{name}` {here} `{strays[0]}`, which the base {there}",
            expected=f"the {len(base.tensors)} tensors of {base.path}",
            got=f"{len(expert.tensors)} tensors, {len(strays)} names differ",
            where=str(expert.path),
            fix="merge only fine-tunes of one base; save both with the same version of transformers",
        )
    for tensor, info in expert.tensors.items():
        if info.shape != base.tensors[tensor].shape:
            raise InputError(
                f"`{tensor}` of expert `{name}` has another shape than the base's",
                expected=str(base.tensors[tensor].shape),
                got=str(info.shape),
                where=str(expert.path),
                fix="merge only fine-tunes of one base",
            )
        _check_values(name, tensor, expert, base)


def _check_values(name: str, tensor: str, expert: Checkpoint, base: Checkpoint) -> None:
    """Masks and position ids cannot be averaged: one value must serve all."""
    ours, theirs = base.tensor(tensor), expert.tensor(tensor)
    if ours.is_floating_point() and theirs.is_floating_point():
        return
    if ours.dtype != theirs.dtype or not torch.equal(ours, theirs):
        raise InputError(
            f"`{tensor}` of expert `{name}` is no weight, and differs from the base's",
            expected=f"the base's values, {ours.dtype}",
            got=f"others, {theirs.dtype}",
            where=str(expert.path),
            fix="a buffer is part of the architecture: merge only fine-tunes of one base",
        )
