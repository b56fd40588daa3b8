"""A full checkpoint: a base, or an expert that was fine-tuned whole."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch

from crossbreed.errors import InputError, first_line
from crossbreed.sources import card
from crossbreed.sources.files import Shards, open_shards
from crossbreed.sources.hashes import digests_of, hash_of_tensors
from crossbreed.sources.hub import SourceLocation
from crossbreed.sources.json_files import DOWNLOAD_AGAIN, mapping_at, read_json, require_text, require_texts
from crossbreed.sources.naming import HEAD, is_derived, layer_of, may_be_tied
from crossbreed.sources.structure import TensorInfo

CONFIG = "config.json"
FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
"""What can be merged; narrower floats mean nothing without their scales."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Checkpoint:
    """Tensors of a full checkpoint, by the names in its files.

    The configuration says whether embeddings are tied. If they are, an equal `lm_head.weight` in the file is a copy and
    is not listed; an unequal one is refused, because loaders disagree on which of the two to use.
    """

    origin: SourceLocation
    config: dict[str, Any]
    """config.json."""
    tied: bool
    """lm_head is the input embedding."""
    shards: Shards
    """Views of the files, a tied copy and derived buffers included."""
    names: tuple[str, ...]
    """Names of the tensors that count, sorted."""
    base: Self | None = field(default=None, repr=False)
    """What it is an expert of."""

    @classmethod
    def open(cls, origin: SourceLocation, *, base: Self | None = None) -> Self:
        """Opens the folder of `origin` without reading its weights; whether it agrees with `base` is for others to say.

        Raises:
            InputError: weights or configuration missing, broken, quantised or contradictory.
        """
        config = read_json(origin.path / CONFIG)
        _check_config(config, origin.path / CONFIG)
        tied = _is_tied(config, origin.path)
        shards = open_shards(
            origin.path, stem="model", is_optional=lambda name: is_derived(name) or (tied and name == HEAD)
        )
        weights = _flatten(shards)
        if not weights:
            raise InputError(
                "the checkpoint holds no tensor",
                expected="weights",
                where=", ".join(map(str, shards)),
                fix=DOWNLOAD_AGAIN,
            )
        _check_head(weights, tied=tied, folder=origin.path)
        names = (name for name in weights if not is_derived(name) and not (tied and name == HEAD))
        return cls(origin=origin, config=config, tied=tied, shards=shards, names=tuple(sorted(names)), base=base)

    @property
    def path(self) -> Path:
        """The folder, with configuration and tokenizer."""
        return self.origin.path

    @property
    def licence(self) -> str | None:
        """What the folder's README states."""
        return card.licence(self.path)

    @property
    def num_tokens(self) -> int | None:
        """Rows of the embedding by the configuration; None where it does not say."""
        part = mapping_at(self.config, "text_config", where=self.path / CONFIG) or self.config
        rows = part.get("vocab_size")
        return rows if isinstance(rows, int) else None

    @property
    def tied_embedding(self) -> str | None:
        """The tensor that is embedding and head at once; None where they are two, or where it is not found."""
        if not self.tied:
            return None
        named = next((name for name in self.names if may_be_tied(name)), None)
        shaped = (name for name in self.names if layer_of(name) is None and self._has_token_rows(name))
        return named or next(shaped, None)

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Shapes and stored dtypes, sorted by name."""
        return {
            name: TensorInfo(shape=tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))
            for name, tensor in ((name, self._weights[name]) for name in self.names)
        }

    def tensor(self, name: str) -> torch.Tensor:
        """Returns a view of the file, in the stored dtype; never write to it."""
        return self._weights[name]

    @cached_property
    def digests(self) -> Mapping[str, str]:
        """Tensor name -> digest of dtype, shape and bytes. Reads all weights, unless the cache knows them."""
        found = {name: digest for path, held in self.shards.items() for name, digest in digests_of(path, held).items()}
        return {name: found[name] for name in self.names}

    @cached_property
    def hash(self) -> str:
        """Content hash: the same for every copy and sharding of the same tensors."""
        return hash_of_tensors(self.digests)

    @cached_property
    def touched(self) -> frozenset[str]:
        """Tensors with other values than the base's; stored in another dtype alone, a tensor is the same."""
        base = self.base
        return frozenset() if base is None else frozenset(name for name in self.names if self._differs(name, base))

    def _differs(self, name: str, base: "Checkpoint") -> bool:
        if self.digests[name] == base.digests[name]:
            return False
        mine, theirs = self.tensor(name), base.tensor(name)
        return mine.dtype == theirs.dtype or not torch.equal(*_promoted(mine, theirs))

    def _has_token_rows(self, name: str) -> bool:
        shape = self.tensor(name).shape
        return len(shape) == 2 and shape[0] == self.num_tokens

    @cached_property
    def _weights(self) -> Mapping[str, torch.Tensor]:
        return _flatten(self.shards)


def _promoted(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    dtype = torch.promote_types(first.dtype, second.dtype)
    return first.to(dtype), second.to(dtype)


def _flatten(shards: Shards) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = {}
    for path, tensors in shards.items():
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and tensor.dtype not in FLOATS:
                raise InputError(
                    f"`{name}` is {tensor.dtype}, which cannot be merged without its scales",
                    expected="bfloat16, float16, float32 or float64",
                    where=str(path),
                    fix="use the checkpoint that it was quantised from",
                )
            weights[name] = tensor
    return weights


def _check_config(config: dict[str, Any], where: Path) -> None:
    """Refuses what no later reader expects: keys of another kind, quantised weights, another file in its place."""
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        require_text(part, "model_type", where=where)
        require_texts(part, "architectures", where=where)
        if part.get("quantization_config"):
            raise InputError(
                "quantised checkpoints cannot be merged",
                expected="bfloat16, float16 or float32 weights",
                got=f"quantization_config: {str(part['quantization_config'])[:200]}",
                where=str(where),
                fix="use the checkpoint that it was quantised from",
            )
    if config.get("configuration_files"):
        raise InputError(
            "the configuration names other files, which transformers would read in its place",
            expected="one config.json",
            got=f"configuration_files: {str(config['configuration_files'])[:200]}",
            where=str(where),
            fix="write the keys of the file that is meant into config.json, without `configuration_files`",
        )


def _is_tied(config: dict[str, Any], folder: Path) -> bool:
    for part in (config, mapping_at(config, "text_config", where=folder / CONFIG)):
        if "tie_word_embeddings" in part:
            return bool(part["tie_word_embeddings"])
    return _tied_by_default(folder)


def _tied_by_default(folder: Path) -> bool:
    """Older configurations leave out what is their architecture's default, which transformers knows."""
    from transformers import AutoConfig

    try:
        return bool(AutoConfig.from_pretrained(folder, trust_remote_code=False).tie_word_embeddings)
    except Exception as error:  # transformers' checks of a configuration raise all kinds
        raise InputError(
            "cannot tell whether lm_head is tied to the embeddings",
            expected="`tie_word_embeddings` in the configuration, or an architecture that transformers knows",
            got=first_line(error),
            where=str(folder / CONFIG),
            fix='state it: "tie_word_embeddings": true or false',
        ) from error


def _check_head(weights: Mapping[str, torch.Tensor], *, tied: bool, folder: Path) -> None:
    head = weights.get(HEAD)
    embedding = next((name for name in weights if may_be_tied(name)), None)
    if embedding is None:
        return
    if tied and head is not None and not torch.equal(head, weights[embedding]):
        raise InputError(
            f"the configuration ties `{HEAD}` to `{embedding}`, but the file holds two different tensors",
            expected="equal tensors, or one",
            where=str(folder),
            fix='set "tie_word_embeddings": false if the head was trained, else remove it from the file',
        )
    same_shape = [name for name, tensor in weights.items() if tensor.shape == weights[embedding].shape]
    if not tied and same_shape == [embedding]:
        raise InputError(
            f"the configuration unties lm_head from `{embedding}`, but the file has no head",
            expected=f"`{HEAD}`, shaped as the embedding {tuple(weights[embedding].shape)}",
            where=str(folder),
            fix='set "tie_word_embeddings": true if it shares the embedding, else download the missing shard',
        )
