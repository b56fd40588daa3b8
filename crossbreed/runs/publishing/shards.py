"""Writes safetensors shards from a stream, one tensor in memory at a time.

safetensors' own writer needs all tensors of a file at once. Names, shapes and dtypes are known before the first tensor
is made, so the headers, which come first in a file, can be written first, and the size is known in advance.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from crossbreed.sources.structure import TensorInfo
from crossbreed.types import WeightStream

STEM = "model"
INDEX = f"{STEM}.safetensors.index.json"
_CODES = {
    "bfloat16": "BF16",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
"""torch dtype -> safetensors' name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """The plan of one file."""

    file: str
    tensors: Mapping[str, TensorInfo]
    """Sorted by name, the order of the stream."""

    @property
    def num_bytes(self) -> int:
        """The size of the tensors, without the header."""
        return sum(size_bytes(info) for info in self.tensors.values())

    def layout(self) -> dict[str, int]:
        """Returns tensor -> offset in the data. Wide elements come first, so that each tensor is aligned to its own."""
        offsets, end = {}, 0
        for name in sorted(self.tensors, key=lambda name: (-_itemsize(self.tensors[name]), name)):
            offsets[name] = end
            end += size_bytes(self.tensors[name])
        return offsets

    def header(self) -> bytes:
        """Returns everything before the data."""
        entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
        for name, start in self.layout().items():
            info = self.tensors[name]
            entries[name] = {
                "dtype": _CODES[info.dtype],
                "shape": list(info.shape),
                "data_offsets": [start, start + size_bytes(info)],
            }
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the data starts aligned
        return len(text).to_bytes(8, "little") + text


def size_bytes(info: TensorInfo) -> int:
    """Returns the size of a tensor's values."""
    return math.prod(info.shape) * _itemsize(info)


def plan_shards(tensors: Mapping[str, TensorInfo], *, max_bytes: int) -> list[Shard]:
    """Returns the files in the order of names, each at most `max_bytes` large or with a single tensor."""
    groups: list[dict[str, TensorInfo]] = [{}]
    filled = 0
    for name in sorted(tensors):
        size = size_bytes(tensors[name])
        if groups[-1] and filled + size > max_bytes:
            groups.append({})
            filled = 0
        groups[-1][name] = tensors[name]
        filled += size
    if len(groups) == 1:
        return [Shard(file=f"{STEM}.safetensors", tensors=groups[0])]
    names = (f"{STEM}-{i:05d}-of-{len(groups):05d}.safetensors" for i in range(1, len(groups) + 1))
    return [Shard(file=file, tensors=group) for file, group in zip(names, groups, strict=True)]


def write_shards(folder: Path, shards: list[Shard], stream: WeightStream) -> None:
    """Writes the planned files, with an index if there are several, and waits until they are on disk.

    A tensor is written while the stream makes the next one.
    """
    for shard in shards:
        header, offsets = shard.header(), shard.layout()
        with (folder / shard.file).open("wb") as file, ThreadPoolExecutor(1, "write") as thread:
            writing = thread.submit(file.write, header)
            for name, info in shard.tensors.items():
                came, tensor = next(stream)
                found = TensorInfo(shape=tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))
                assert (came, found) == (name, info), f"the stream has {came} {found} instead of {name} {info}"
                writing.result()
                writing = thread.submit(_write, file, len(header) + offsets[name], tensor)
            writing.result()
            file.flush()
            os.fsync(file.fileno())
    assert next(stream, None) is None, "the stream has more tensors than planned"
    for name, text in index_files(shards).items():
        (folder / name).write_text(text)


def index_files(shards: Sequence[Shard]) -> dict[str, str]:
    """Returns the text of the index by its name; nothing for a single shard."""
    if len(shards) == 1:
        return {}
    index = {
        "metadata": {"total_size": sum(shard.num_bytes for shard in shards)},
        "weight_map": {name: shard.file for shard in shards for name in shard.tensors},
    }
    return {INDEX: json.dumps(index, indent=2, sort_keys=True) + "\n"}


def _write(file: BinaryIO, offset: int, tensor: torch.Tensor) -> int:
    file.seek(offset)
    return file.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _itemsize(info: TensorInfo) -> int:
    dtype = getattr(torch, info.dtype)
    assert isinstance(dtype, torch.dtype)
    return dtype.itemsize
