"""A PEFT LoRA adapter: an expert that is the base plus a low-rank product in some of its matrices.

Shape letters: M output rows, N input columns, R rank. Ranks and alphas by pattern, rank-stabilised scaling and
transposed storage are read. What is no low-rank product beside an unchanged base (DoRA, biases, trained embeddings,
initialisations that moved the base ...) is refused by name, with the command that makes a full checkpoint of it.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch

from crossbreed.errors import InputError
from crossbreed.sources import card
from crossbreed.sources.checkpoint import HEAD, Checkpoint
from crossbreed.sources.files import Shards, open_shards, read_json
from crossbreed.sources.hashes import digests_of, hash_of
from crossbreed.sources.hub import Origin

_FACTOR = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")

_READ = {"peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out"}
_BESIDE_THE_POINT = {
    *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),  # the file says which
    *("lora_dropout", "megatron_config", "megatron_core", "runtime_config", "velora_config"),  # training only
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config"),  # of initialisations; judged by their name
    *("qalora_group_size", "ensure_weight_tying"),  # mean nothing without the option that they refine
}
_HARMLESS = {"bias": ("none",), "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal", "mica")}
"""Options with a value that leaves the base alone, and those values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """What an adapter adds to one matrix: delta_MN = scale * b_MR @ a_RN."""

    a_RN: torch.Tensor
    b_MR: torch.Tensor
    scale: float
    """alpha / R, or alpha / sqrt(R) when rank-stabilised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """A matrix of the base that the adapter changes."""

    names: tuple[str, str]
    """Of factors A and B in the file."""
    stored: LowRank
    """Oriented as the base's tensor, in the dtype of the file."""
    transposed: bool

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.stored.b_MR), self.stored.a_RN.shape[1]


@dataclass(frozen=True, eq=False, kw_only=True)
class Adapter:
    """Low-rank changes, by the name of the base's tensor that they change."""

    origin: Origin
    shards: Shards
    """Views of the files."""
    _targets: Mapping[str, _Target] = field(repr=False)

    @classmethod
    def open(cls, origin: Origin, *, base: Checkpoint) -> Self:
        """Opens the folder of `origin` and finds the tensor of `base` that each pair of factors changes.

        Which base the adapter names does not count: folders move. That its modules and shapes are this base's does.

        Raises:
            InputError: an adapter that is broken, does more than LoRA, or belongs to another base.
        """
        config = read_json(origin.path / "adapter_config.json")
        _check_kind(config, origin.path)
        shards = open_shards(origin.path, stem="adapter_model")
        targets = {}
        for module, names in _pairs(shards, origin.path).items():
            name = _tensor_of(module, base, origin.path)
            targets[name] = _open_target(module, names, _by_name(shards), config, origin.path)
            if targets[name].shape != base.tensors[name].shape:
                raise InputError(
                    f"the adapter is for another base: its change of `{name}` has another shape",
                    expected=f"{base.tensors[name].shape}, as in {base.path}",
                    got=str(targets[name].shape),
                    where=str(origin.path),
                    fix=f"use the base that it was trained on: {config.get('base_model_name_or_path')}",
                )
        return cls(origin=origin, shards=shards, _targets=targets)

    @property
    def path(self) -> Path:
        """The adapter's folder."""
        return self.origin.path

    @property
    def licence(self) -> str | None:
        """What the folder's README states."""
        return card.licence(self.path)

    def factors(self, name: str) -> LowRank | None:
        """Returns what the adapter adds to the base's tensor `name`, in float32; None if it adds nothing."""
        if name not in self.touched:
            return None
        stored = self._targets[name].stored
        return replace(stored, a_RN=stored.a_RN.float(), b_MR=stored.b_MR.float())

    @cached_property
    def touched(self) -> frozenset[str]:
        """Tensors whose delta is not zero: with an untrained B, the adapter touches nothing."""
        return frozenset(
            name
            for name, target in self._targets.items()
            if target.stored.scale and target.stored.a_RN.any() and target.stored.b_MR.any()
        )

    @cached_property
    def hash(self) -> str:
        """Content hash over targets, factors and scales: what the deltas depend on, and nothing else."""
        digests = {name: value for path, held in self.shards.items() for name, value in digests_of(path, held).items()}
        return hash_of(
            f"{name} {' '.join(digests[factor] for factor in target.names)} {target.stored.scale!r} {target.transposed}"
            for name, target in self._targets.items()
        )


def _check_kind(config: Mapping[str, Any], folder: Path) -> None:
    if config.get("peft_type") != "LORA":
        raise _refusal(f"adapters of type {config.get('peft_type')} are not read, only LORA", folder)
    for key, value in config.items():
        if key in _HARMLESS:
            harmless = value is None or value in _HARMLESS[key]
        else:
            harmless = key in _READ or key in _BESIDE_THE_POINT or not value
        if not harmless:
            raise _refusal(f"the adapter does more than add a low-rank product: `{key}: {value}`", folder)


def _by_name(shards: Shards) -> dict[str, torch.Tensor]:
    return {name: tensor for held in shards.values() for name, tensor in held.items()}


def _pairs(shards: Shards, folder: Path) -> Mapping[str, tuple[str, str]]:
    """Returns module -> names of its A and B."""
    sides: dict[str, dict[str, str]] = {}
    for name in sorted(_by_name(shards)):
        if not (found := _FACTOR.fullmatch(name)):
            raise _refusal(f"the adapter carries `{name}`, which is no low-rank factor of a matrix", folder)
        sides.setdefault(found["module"], {})[found["side"]] = name
    lone = [name for side in sides.values() if len(side) == 1 for name in side.values()]
    if lone:
        raise _refusal(f"the adapter carries `{lone[0]}` without its other factor", folder)
    return {module: (side["A"], side["B"]) for module, side in sides.items()}


def _tensor_of(module: str, base: Checkpoint, folder: Path) -> str:
    """Files may leave out, or add, the prefix of the model inside the head's: `model.` or `transformer.`."""
    _, _, inner = module.partition(".")
    for name in (module, inner, f"model.{module}", f"transformer.{module}"):
        if f"{name}.weight" in base.tensors:
            return f"{name}.weight"
    if base.tied and f"{module}.weight" == HEAD:
        raise _refusal(f"the adapter changes `{HEAD}`, which the base ties to its embeddings", folder)
    raise InputError(
        f"the adapter is for another base: it changes `{module}`",
        expected=f"modules of {base.path}, for example {next(iter(base.tensors))}",
        got=f"no tensor `{module}.weight` there",
        where=str(folder),
        fix="use the base that the adapter was trained on",
    )


def _open_target(
    module: str, names: tuple[str, str], weights: Mapping[str, torch.Tensor], config: Mapping[str, Any], folder: Path
) -> _Target:
    a_RN, b_MR = (weights[name] for name in names)
    if a_RN.ndim != 2 or b_MR.ndim != 2 or len(a_RN) != b_MR.shape[1]:
        raise _refusal(f"`{names[0]}` {tuple(a_RN.shape)} and `{names[1]}` {tuple(b_MR.shape)} make no product", folder)
    rank = _by_pattern(config, "rank_pattern", "r", module, folder)
    if len(a_RN) != rank:
        raise InputError(
            f"`{names[0]}` has another rank than the adapter's configuration gives it",
            expected=f"{rank:g}, by which alpha is divided",
            got=str(len(a_RN)),
            where=str(folder),
            fix="keep weights and adapter_config.json of one training run together",
        )
    alpha = _by_pattern(config, "alpha_pattern", "lora_alpha", module, folder)
    transposed = bool(config.get("fan_in_fan_out"))
    if transposed:  # (B A)^T = A^T B^T
        a_RN, b_MR = b_MR.T, a_RN.T
    scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    return _Target(names=names, stored=LowRank(a_RN=a_RN, b_MR=b_MR, scale=scale), transposed=transposed)


def _by_pattern(config: Mapping[str, Any], patterns: str, default: str, module: str, folder: Path) -> float:
    """PEFT's rule: the first pattern that matches the module's name, or its end from a dot on."""
    given = (config.get(patterns) or {}).items()
    matching = (value for pattern, value in given if re.match(rf"(.*\.)?({pattern})$", module))
    value = next(matching, config.get(default))
    if not isinstance(value, int | float):
        raise InputError(
            f"the adapter's configuration gives `{module}` no `{default}`",
            expected="a number",
            got=repr(value),
            where=str(folder / "adapter_config.json"),
            fix="copy the adapter_config.json that PEFT wrote beside the weights",
        )
    return float(value)


def _refusal(problem: str, folder: Path) -> InputError:
    merge = f"M.from_pretrained({str(folder)!r}).merge_and_unload().save_pretrained({f'{folder}-merged'!r})"
    return InputError(
        problem,
        expected="a LoRA adapter whose change of the base is scale * B @ A",
        where=str(folder),
        fix=f"merge it into a full checkpoint, and use that:\n"
        f'python -c "from peft import AutoPeftModelForCausalLM as M; {merge}"',
    )
