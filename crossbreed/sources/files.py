"""Tensors in a folder's safetensors files, mapped into memory and never copied.

A tensor here is a view of its file: listing a checkpoint costs milliseconds, and the operating system reads pages when
somebody looks at them. They are read-only by agreement: a write would stay private to the process, and be wrong there.
"""

import errno
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from crossbreed.errors import InputError, first_line
from crossbreed.sources.advice import literal, python_command
from crossbreed.sources.json_files import DOWNLOAD_AGAIN, read_json
from crossbreed.sources.mapped_file import FileState, MappedFile

Shards: TypeAlias = Mapping[MappedFile, Mapping[str, torch.Tensor]]
"""File -> tensor name -> view of the file."""

_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def open_shards(folder: Path, *, stem: str, is_optional: Callable[[str], bool] = lambda name: False) -> Shards:
    """Maps `STEM.safetensors`, or the shards that `STEM.safetensors.index.json` lists.

    Args:
        folder: The folder of the files.
        stem: The stem of their names.
        is_optional: Tells which tensors an index may list although no shard holds them, or the other way round.

    Raises:
        InputError: weights missing, truncated, pickled, or not as the index says.
    """
    whole, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if whole.is_file():
        return dict([_open_file(whole)])
    if index.is_file():
        return _open_indexed(folder, index, is_optional)
    raise _no_weights(folder, stem)


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Writes a safetensors file of contiguous tensors.

    Raises:
        OSError: the disk is full, or cannot be written for another reason.
    """
    try:
        save_file(dict(tensors), path, metadata={"format": "pt"})
    except SafetensorError as error:  # no OSError, whatever the cause
        found = _SYSTEM_ERROR.search(str(error))
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, os.strerror(number) if found else first_line(error), str(path)) from error


def _open_file(path: Path) -> tuple[MappedFile, dict[str, torch.Tensor]]:
    try:
        mapped = MappedFile(path=path, state=FileState.of(path))
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except PermissionError as error:
        raise InputError(
            f"`{path.name}` may not be read",
            got=first_line(error),
            where=str(path),
            fix="ask its owner for the right to read it",
        ) from error
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"`{path.name}` is not a whole safetensors file",
            expected="header and tensors of the length that the header says",
            got=f"{path.stat().st_size:,} bytes: {error}",
            where=str(path),
            fix=DOWNLOAD_AGAIN,
        ) from error
    mapped.require_unchanged()
    return mapped, tensors


def _open_indexed(folder: Path, index: Path, is_optional: Callable[[str], bool]) -> Shards:
    weight_map = read_json(index).get("weight_map")
    is_map = isinstance(weight_map, dict) and all(isinstance(name, str) for name in weight_map.values())
    if not is_map or not weight_map:
        raise InputError(
            "the index lists no tensors", expected="`weight_map`: tensor -> file", where=str(index), fix=DOWNLOAD_AGAIN
        )
    names = sorted(set(weight_map.values()))
    paths = {name: folder / name for name in names}
    # os.path.isfile: no error for NUL, nor for 300 letters
    missing = [name for name, path in paths.items() if path.name != name or not os.path.isfile(path)]
    if missing:
        raise InputError(
            f"shard `{missing[0]}` is missing",
            expected=f"the {len(names)} files that the index lists",
            got=f"{len(names) - len(missing)} of them",
            where=str(index),
            fix=DOWNLOAD_AGAIN,
        )
    shards = dict(_open_file(folder / name) for name in names)
    held = {(tensor, file.path.name) for file, tensors in shards.items() for tensor in tensors}
    strays = sorted(stray for stray in held ^ set(weight_map.items()) if not is_optional(stray[0]))
    if strays:
        tensor, shard = strays[0]
        says, holds = ("holds", "index does not list") if strays[0] in held else ("lacks", "index puts there")
        raise InputError(
            f"index and shards disagree: `{shard}` {says} `{tensor}`, which the {holds}",
            expected="each tensor in the one file that the index names",
            got=f"{len(strays)} disagreements",
            where=str(index),
            fix="download index and shards again, from one revision",
        )
    return shards


def _no_weights(folder: Path, stem: str) -> InputError:
    pickles = sorted(path for pattern in _PICKLES for path in folder.glob(pattern) if path.name != "training_args.bin")
    expected = f"{stem}.safetensors, or {stem}.safetensors.index.json with its shards"
    if not pickles:
        return InputError(
            "no weights in the folder",
            expected=expected,
            got=", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "an empty folder",
            where=str(folder),
            fix="name the folder that `save_pretrained` wrote; of a hub repository, only safetensors are fetched",
        )
    return InputError(
        "pickle weights are not read: loading one can run any code in it",
        expected=expected,
        got=pickles[0].name,
        where=str(folder),
        fix=f"convert once, if you trust the file:\n{_conversion(pickles[0], stem)}",
    )


def _conversion(pickle: Path, stem: str) -> str:
    if pickle.name.startswith("pytorch_model"):  # transformers knows shards and tied tensors
        folder = literal(pickle.parent)
        return python_command(
            "from transformers import AutoModelForCausalLM as M",
            f'M.from_pretrained({folder}, dtype="auto").save_pretrained({folder})',
        )
    return python_command(
        "import torch",
        "from safetensors.torch import save_file",
        f"w = torch.load({literal(pickle)}, weights_only=True)",
        f'save_file(w, {literal(pickle.with_name(f"{stem}.safetensors"))}, {{"format": "pt"}})',
    )
