"""A PEFT LoRA adapter: an expert that is the base plus a low-rank product in some of its matrices.

Shape letters: M output rows, N input columns, R rank. Linear layers, embeddings and GPT-2's transposed layers are read
by PEFT's own rules. What is no low-rank product beside an unchanged base (DoRA, biases, trained embeddings,
initialisations that moved the base ...) is refused by name, with what helps.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Self, TypeAlias

import torch

from crossbreed.errors import InputError
from crossbreed.sources import card
from crossbreed.sources.adapter_advice import Advice, refusal
from crossbreed.sources.adapter_config import ADAPTER_CONFIG, AdapterConfig
from crossbreed.sources.adapter_names import Factors, factor_of, find_factors, resolve
from crossbreed.sources.checkpoint import FLOATS, Checkpoint
from crossbreed.sources.files import Shards, open_shards
from crossbreed.sources.hashes import digests_of, hash_of
from crossbreed.sources.hub import SourceLocation
from crossbreed.sources.json_files import DOWNLOAD_AGAIN
from crossbreed.sources.naming import HEAD, is_end, is_stored_transposed, spellings

__all__ = ["ADAPTER_CONFIG", "ADAPTER_STEM", "Adapter", "LowRank", "factor_of"]

ADAPTER_STEM = "adapter_model"
"""Of its safetensors files."""
TRAINING_TENSORS = (".lora_velora_embed",)
"""How tensors end that only training reads."""

Weights: TypeAlias = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """What an adapter adds to one matrix: delta_MN = scale * b_MR @ a_RN."""

    a_RN: torch.Tensor
    b_MR: torch.Tensor
    scale: float
    """alpha / R, or alpha / sqrt(R) when rank-stabilised."""
    transposed: bool = False
    """Whether the base stores the matrix transposed: a_RN is then what the adapter calls B, and b_MR its A."""

    @property
    def turned(self) -> "LowRank":
        """The factors of the transposed delta."""
        return replace(self, a_RN=self.b_MR.T, b_MR=self.a_RN.T, transposed=not self.transposed)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """A matrix of the base that the adapter changes."""

    names: tuple[str, str]
    """Of factors A and B in the file."""
    stored: LowRank
    """Oriented as the base's tensor, in the dtype of the file."""

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.stored.b_MR), self.stored.a_RN.shape[1]


@dataclass(frozen=True, eq=False, kw_only=True)
class Adapter:
    """Low-rank changes, by the name of the base's tensor that they change."""

    origin: SourceLocation
    shards: Shards
    """Views of the files."""
    _targets: Mapping[str, _Target] = field(repr=False)

    @classmethod
    def open(cls, origin: SourceLocation, *, base: Checkpoint) -> Self:
        """Opens the folder of `origin` and finds the tensor of `base` that each pair of factors changes.

        Which base the adapter names does not count: folders move. That its modules and shapes are this base's does.

        Raises:
            InputError: an adapter that is broken, does more than LoRA, or belongs to another base.
        """
        config = AdapterConfig.read(origin.path)
        shards = open_shards(origin.path, stem=ADAPTER_STEM)
        weights = {name: tensor for held in shards.values() for name, tensor in held.items()}
        _check_weights(weights, config)
        factors, others = find_factors(weights, origin.path)
        _check_problems(config, others, factors, weights, base)
        targets: dict[str, _Target] = {}
        for one in factors:
            name = resolve(one, base, config, ties=config.ties_ends)
            target = _open_target(one, name, weights, config, base)
            if name not in targets:
                targets[name] = target
            elif not (name == base.tied_embedding and config.ties_ends and _are_equal(targets[name], target)):
                raise InputError(
                    f"the adapter changes `{name}` twice",
                    expected="one pair of factors for each matrix",
                    got=" and ".join(sorted((*targets[name].names, *one.names))),
                    where=str(origin.path),
                    fix="keep one of the two: write the file again with PEFT's `save_pretrained`",
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

    @property
    def ranks(self) -> dict[str, int]:
        """Tensor that it touches -> rank of its factors."""
        return {name: len(self._targets[name].stored.a_RN) for name in sorted(self.touched)}

    @property
    def why_idle(self) -> str:
        """Which of its parts is zero, where it touches nothing."""
        if not any(target.stored.scale for target in self._targets.values()):
            return "lora_alpha is 0"
        weights = {name: tensor for held in self.shards.values() for name, tensor in held.items()}
        for side, index in (("lora_B", 1), ("lora_A", 0)):
            if not any(weights[target.names[index]].any() for target in self._targets.values()):
                return f"{side} is 0"
        return "in each pair one factor is 0"

    @cached_property
    def hash(self) -> str:
        """Content hash over targets, factors and scales: what the deltas depend on, and nothing else."""
        digests = {name: value for path, held in self.shards.items() for name, value in digests_of(path, held).items()}
        return hash_of(
            f"{name} {' '.join(digests[factor] for factor in one.names)} {one.stored.scale!r} {one.stored.transposed}"
            for name, one in self._targets.items()
        )


def _check_weights(weights: Weights, config: AdapterConfig) -> None:
    """Refuses files that hold no factors of their own."""
    where = str(config.folder)
    if not weights:
        raise InputError("the adapter's file holds no tensor", expected="factors", where=where, fix=DOWNLOAD_AGAIN)
    for name, tensor in weights.items():
        if not tensor.numel():
            raise InputError(
                f"`{name}` of the adapter is empty: saved before its parts were gathered, as DeepSpeed ZeRO-3 does",
                expected="a tensor with numbers",
                got=f"shape {tuple(tensor.shape)}",
                where=where,
                fix="use a checkpoint saved whole: `stage3_gather_16bit_weights_on_model_save: true`",
            )
        if tensor.dtype not in FLOATS:
            raise InputError(
                f"`{name}` of the adapter is {tensor.dtype}, which means nothing without its scales",
                expected="bfloat16, float16 or float32",
                where=where,
                fix="use the adapter that it was quantised from",
            )


def _check_problems(
    config: AdapterConfig, others: Iterable[str], factors: Iterable[Factors], weights: Weights, base: Checkpoint
) -> None:
    """Raises for whatever is more than a low-rank product; what needs most to be mended comes first."""
    problems = [*config.problems(), *_strays(others, weights, config, base)]
    if not problems:
        return
    problem, advice = max(problems, key=lambda one: one[1])
    trained_ends = any(is_end(one.module) for one in factors)
    saved_ends = any(is_end(str(module)) for module in config.values.get("modules_to_save") or ())
    if advice is Advice.MERGE and base.tied and (trained_ends or (saved_ends and not config.ties_ends)):
        advice = Advice.NONE if config.ties_ends else Advice.UNTIE_AND_MERGE
    raise refusal(problem, config.folder, base, advice)


def _strays(
    others: Iterable[str], weights: Weights, config: AdapterConfig, base: Checkpoint
) -> Iterator[tuple[str, Advice]]:
    """Yields tensors that are no factors. PEFT adds copies of the base's own ends, which change nothing."""
    for name in others:
        is_copied, copied = ".base_layer." in name, name.removeprefix("base_model.model.").replace(".base_layer.", ".")
        own = _own_name(copied, base)
        if name.endswith(TRAINING_TENSORS) or (is_copied and own is None):  # of a module that is found to be missing
            continue
        if own is None or not _is_copy(weights[name], base.tensor(own)):
            yield f"the adapter carries `{name}`, which is no low-rank factor of a matrix", Advice.MERGE


def _own_name(name: str, base: Checkpoint) -> str | None:
    """What the base's files call a tensor; a head that they do not hold is its embedding."""
    module, _, leaf = name.rpartition(".")
    names = [f"{spelling}.{leaf}" for spelling in spellings(module)]
    names += [base.tied_embedding or ""] * (name == HEAD)
    return next((own for own in names if own in base.tensors), None)


def _is_copy(tensor: torch.Tensor, own: torch.Tensor) -> bool:
    same = torch.equal(own.to(tensor.dtype), tensor) or torch.equal(own, tensor.to(own.dtype))
    return own.shape == tensor.shape and same


def _open_target(one: Factors, name: str, weights: Weights, config: AdapterConfig, base: Checkpoint) -> _Target:
    a_RN, b_MR = (weights[factor] for factor in one.names)
    if a_RN.ndim != 2 or b_MR.ndim != 2 or len(a_RN) != b_MR.shape[1]:
        shapes = f"`{one.names[0]}` {tuple(a_RN.shape)} and `{one.names[1]}` {tuple(b_MR.shape)}"
        raise refusal(f"{shapes} make no product", config.folder, base, Advice.MERGE)
    if len(a_RN) != (rank := config.rank(one.module)):
        raise InputError(
            f"`{one.names[0]}` has another rank than the adapter's configuration gives it",
            expected=f"{rank:g}, by which alpha is divided",
            got=str(len(a_RN)),
            where=str(config.folder),
            fix="keep weights and adapter_config.json of one training run together",
        )
    transposed = one.is_embedding or _is_transposed(name, (len(b_MR), a_RN.shape[1]), config, base)
    given = LowRank(a_RN=a_RN, b_MR=b_MR, scale=config.scale(one.module))
    target = _Target(names=one.names, stored=given.turned if transposed else given)
    if target.shape != base.tensors[name].shape:
        raise InputError(
            f"the adapter is for another base: its change of `{name}` has another shape",
            expected=f"{base.tensors[name].shape}, as in {base.path}",
            got=str(target.shape) + " (`use_qalora`: for a quantised base alone)" * config.pools_inputs,
            where=str(config.folder),
            fix=f"use the base that it was trained on: {config.base}",
        )
    return target


def _is_transposed(name: str, shape: tuple[int, int], config: AdapterConfig, base: Checkpoint) -> bool:
    """PEFT's rule: by the type of the layer, whatever the adapter's flag says.

    The architecture tells the type; of one that transformers does not know, the shape, unless the matrix is square.
    """
    kind, own = base.config.get("model_type"), base.tensors[name].shape
    if is_stored_transposed(name, kind):
        return True
    if own == shape and shape[0] != shape[1]:
        return False
    if own not in (shape, shape[::-1]) or not (config.says_transposed or own != shape) or _is_known(kind):
        return False
    if own == shape:
        raise InputError(
            f"cannot tell whether the base stores `{name}` transposed: it is square",
            expected="an architecture that transformers knows",
            got=f"model_type: {kind}, and fan_in_fan_out: true, which PEFT does not go by",
            where=str(config.folder),
            fix='write "fan_in_fan_out": false into adapter_config.json if the layer is an ordinary Linear',
        )
    return True


def _is_known(model_type: object) -> bool:
    from transformers import CONFIG_MAPPING

    return isinstance(model_type, str) and model_type in CONFIG_MAPPING


def _are_equal(one: _Target, other: _Target) -> bool:
    pairs = ((one.stored.a_RN, other.stored.a_RN), (one.stored.b_MR, other.stored.b_MR))
    return one.stored.scale == other.stored.scale and all(torch.equal(mine, theirs) for mine, theirs in pairs)
