"""The contents of a checkpoint folder: weights from a stream, files copied from the base, descriptions of the merge."""

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from crossbreed.durable import sync
from crossbreed.errors import InputError, MachineError
from crossbreed.kernels import Fingerprinted, fingerprint_checkpoint
from crossbreed.mergekit import to_mergekit
from crossbreed.mergekit.architectures import is_reproduced, passes_layers_through
from crossbreed.recipes import dump_recipe
from crossbreed.runs.publishing.manifest import (
    RECORD_FILE,
    FileRecord,
    PublishedFolder,
    crossbreed_version,
    file_record,
    file_records,
    text_record,
)
from crossbreed.runs.publishing.model_card import MERGEKIT_FILE, RECIPE_FILE, SourceInfo, source_infos
from crossbreed.runs.publishing.shards import Shard, index_files, plan_shards, write_shards
from crossbreed.sources import Checkpoint, SourceLocation, Sources, TensorInfo
from crossbreed.sources.checkpoint import CONFIG
from crossbreed.sources.depth import config_of_recipe
from crossbreed.sources.host import host_hashes
from crossbreed.sources.json_files import read_json
from crossbreed.sources.output_tensors import output_tensors
from crossbreed.sources.vocabulary import end_tokens
from crossbreed.types import Recipe, WeightStream

PUBLISHED_SCHEMA = 1
MAX_SHARD_BYTES = 5_000_000_000
CARD = "README.md"
GENERATION_CONFIG = "generation_config.json"
TOKEN_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")
"""What config.json says of a tokenizer: transformers takes it from there where there is no generation_config.json."""
_SPARE_BYTES = 16 << 20
"""Disk space for files other than weights and copies."""
_PATH = re.compile(r"(~?/|[A-Za-z]:[\\/]|\\\\|file://)[^\n{}]*[/\\][^\n{}]+")
"""An absolute path of a file or folder, on Linux or Windows."""
_TEXTS = ("content", "chat_template", "additional_special_tokens", "extra_special_tokens")
"""Keys of texts that a model reads or writes, which may look like a path."""
_COPIED = (
    *(
        GENERATION_CONFIG,
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
    ),
    *("tokenizer*", "*.model", "*.tiktoken", "chat_template*", "additional_chat_templates/*"),
    *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
    *("*.py", "LICENSE*", "NOTICE*"),
)
"""The files of the base's folder that are copied to every merge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """The planned contents of a checkpoint's folder, except the weights themselves."""

    tensors: Mapping[str, TensorInfo]
    """The tensors of the weight stream."""
    copies: Mapping[str, Path]
    """Name in the folder -> file to copy."""
    texts: Mapping[str, str]
    """Name in the folder -> text to write."""
    record: Mapping[str, Any]
    """The content of `crossbreed.json`, without the fingerprint and the files."""
    max_shard_bytes: int = MAX_SHARD_BYTES

    @property
    def num_bytes(self) -> int:
        """The disk space that the folder needs."""
        copied = sum(file.stat().st_size for file in self.copies.values())
        return sum(shard.num_bytes for shard in self._plan()) + copied + _SPARE_BYTES

    def write(
        self, folder: Path, stream_factory: Callable[[], WeightStream], expected_fingerprint: str | None = None
    ) -> str:
        """Fills an empty folder, and reads it back.

        Args:
            folder: A folder from `new_folders`.
            stream_factory: Makes the weights; called once.
            expected_fingerprint: The fingerprint that they must have, if known.

        Returns:
            The fingerprint.

        Raises:
            MachineError: the weights made or written are not the expected ones.
        """
        shards = self._plan()
        try:
            stream = Fingerprinted(stream_factory())
            write_shards(folder, shards, stream)
            if expected_fingerprint not in (None, stream.value):
                raise MachineError(
                    f"the weights made now ({stream.value[:16]}) are not the weights that were scored "
                    f"({str(expected_fingerprint)[:16]}), so their scores would not be valid: publish with the same "
                    "sources, versions of crossbreed and torch, and processor as in the search (docs/numerics.md)"
                )
            for name, file in self.copies.items():
                (folder / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(file, folder / name)
            for name, text in self.texts.items():
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_text(text, encoding="utf-8")
            record = self._record_text(stream.value, file_records(folder))
            (folder / RECORD_FILE).write_text(record, encoding="utf-8")
            _verify(folder, stream.value, shards)
            _sync_all(folder)
        except OSError as error:
            raise MachineError(f"writing {error.filename or folder} failed: {error.strerror or error}") from error
        return stream.value

    def sizes(self, fingerprint: str) -> dict[str, int]:
        """Returns name in the folder -> bytes, for all files; `fingerprint` is that of the weights."""
        shards = self._plan()
        found = {shard.file: len(shard.header()) + shard.num_bytes for shard in shards}
        found |= {name: file.stat().st_size for name, file in self.copies.items()}
        texts = {**index_files(shards), **self.texts}
        found |= {name: len(text.encode()) for name, text in texts.items()}
        files = {name: FileRecord(num_bytes=size, sha256="0" * 64) for name, size in found.items()}
        found[RECORD_FILE] = len(self._record_text(fingerprint, files).encode())
        return dict(sorted(found.items()))

    def has_other_card(self, published: PublishedFolder) -> bool:
        """Returns whether a folder's list has another README.md than these contents."""
        return published.files.get(CARD) != text_record(self.texts[CARD])

    def require_written(self, published: PublishedFolder, fingerprint: str) -> None:
        """Checks that a folder holds what would be written now, whatever its own list says; reads its weights.

        The list stands in the folder itself, which `verify` compares with it: whoever changes a file can change both.

        Args:
            published: The folder, verified.
            fingerprint: The fingerprint of the scored weights.

        Raises:
            InputError: a file or a score is missing, further, or another.
        """
        shards, listed, record = self._plan(), published.files, published.record
        texts = {name: text_record(text) for name, text in {**index_files(shards), **self.texts}.items()}
        copied = {name: file_record(file) for name, file in self.copies.items() if name not in texts}
        expected = {**copied, **texts}
        weights = {shard.file: shard for shard in shards}
        names = sorted({*expected, *weights, *listed})
        differing = [name for name in weights if not _is_laid_out(published.path / name, weights[name])]
        differing += [name for name in names if name not in weights and listed.get(name) != expected.get(name)]
        known = {**json.loads(as_json(self.record)), "fingerprint": published.fingerprint, "files": record["files"]}
        differing += [f"{RECORD_FILE}: {key}" for key in sorted(known.keys() ^ record.keys())]
        if known.get("scores") != record.get("scores"):
            differing.append(f"{RECORD_FILE}: scores")
        asked = "what this version of crossbreed publishes of the run"
        if differing and crossbreed_version(record) != crossbreed_version(self.record):
            what = "another version of crossbreed published this folder, and this one would write it otherwise"
            raise published.changed(differing, expected=asked, what=what)
        if not differing and fingerprint_checkpoint(published.path) != fingerprint:
            differing = ["other weights than those that were scored"]
        if differing:
            raise published.changed(differing, expected=asked)

    def _record_text(self, fingerprint: str, files: Mapping[str, FileRecord]) -> str:
        listed = {name: files[name].to_json() for name in sorted(files)}
        return as_json({**self.record, "fingerprint": fingerprint, "files": listed})

    def _plan(self) -> list[Shard]:
        return plan_shards(self.tensors, max_bytes=self.max_shard_bytes)


def _is_laid_out(path: Path, shard: Shard) -> bool:
    header = shard.header()
    try:
        with path.open("rb") as file:
            return file.read(len(header)) == header and path.stat().st_size == len(header) + shard.num_bytes
    except OSError:
        return False


def checkpoint_contents(
    recipe: Recipe,
    sources: Sources,
    *,
    record: Mapping[str, Any] | None = None,
    extra: Mapping[str, str] = MappingProxyType({}),
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Contents:
    """Returns the contents of a recipe's checkpoint; `extra` are further texts, the others as in `write_checkpoint`."""
    parents = {parent.name: source_record(parent) for parent in source_infos(recipe, sources)}
    copies = files_to_copy(sources.base.path)
    known = {
        "schema": PUBLISHED_SCHEMA,
        "recipe": recipe.id,
        "dtype": recipe.dtype,
        "sources": parents,
        "host": host_hashes(sources),
    }
    return Contents(
        tensors=_merged_tensors(recipe, sources),
        copies=copies,
        texts={**_public_copies(copies), **_texts(recipe, sources), **extra},
        record=without_paths({**known, **(record or {})}),
        max_shard_bytes=max_shard_bytes,
    )


def _merged_tensors(recipe: Recipe, sources: Sources) -> dict[str, TensorInfo]:
    """Returns the tensors of the stream: of the base's shapes, floating-point ones in the recipe's dtype."""
    tensors = sources.structure.tensors
    planned = output_tensors(recipe, tensors, sources.base.config)
    infos = {name: tensors[output.tensor] for name, output in planned.items()}
    return {
        name: TensorInfo(shape=info.shape, dtype=recipe.dtype) if "float" in info.dtype else info
        for name, info in infos.items()
    }


def files_to_copy(folder: Path) -> dict[str, Path]:
    """Returns the files of a model's folder to copy to every merge that uses its tokenizer, by name in the folder."""
    found = sorted({path for pattern in _COPIED for path in folder.glob(pattern) if path.is_file()})
    for path in found:
        require_inside(path, folder)
    return {str(path.relative_to(folder)): path for path in found}


def require_inside(path: Path, folder: Path) -> None:
    """Refuses a link that leads out of a model's folder: what it names would be published.

    Raises:
        InputError: it does. Links of the hub's cache lead from a snapshot to the `blobs` of the same repository.
    """
    real, home = path.resolve(), folder.resolve()
    rooms = [home]
    if home.parent.name == "snapshots":
        rooms.append(home.parent.parent / "blobs")
    if not any(room in real.parents for room in rooms):
        raise InputError(
            f"`{path.relative_to(folder)}` is a link to a file elsewhere, which would be published",
            expected="files of the model's own folder",
            got=str(real),
            where=str(folder),
            fix="remove the link, or put a copy of the file there if it belongs to the model",
        )


def _texts(recipe: Recipe, sources: Sources) -> dict[str, str]:
    """Returns all text files that are not copied, by name."""
    texts = {
        "config.json": as_copied_json(in_dtype(without_paths(config_of_recipe(recipe, sources)), recipe.dtype)),
        RECIPE_FILE: dump_recipe(recipe),
    }
    texts |= {f"{name}.json": (sources.experts[name].path / f"{name}.json").read_text() for name in sources.made}
    mergekit = mergekit_config(recipe, sources)
    return texts | _generation_config(sources) | ({MERGEKIT_FILE: mergekit} if mergekit else {})


def _generation_config(sources: Sources) -> dict[str, str]:
    """With every token that ended an answer when the merge was scored; nothing where the base's file says as much."""
    config = sources.base.config.get("text_config") or sources.base.config
    file, ends = sources.base.path / GENERATION_CONFIG, sorted(sources.end_token_ids)
    stated = read_json(file) if file.is_file() else {key: config[key] for key in TOKEN_KEYS if key in config}
    named_by = (file if file.is_file() else sources.base.path / CONFIG).name
    said = sorted(one.id for one in end_tokens(sources.base.path) if one.id is not None and named_by in one.named_by)
    has_null = isinstance(rows := stated.get("eos_token_id"), list) and None in rows  # no answer ends, but in an error
    if not ends or (said == ends and not has_null):
        return {}
    stated = {key: value for key, value in stated.items() if key != "_from_model_config"}  # or it would be made anew
    stated = without_paths(stated)
    return {GENERATION_CONFIG: as_copied_json({**stated, "eos_token_id": ends[0] if len(ends) == 1 else ends})}


def source_record(parent: SourceInfo) -> dict[str, str | None]:
    """Returns what `crossbreed.json` says of a source."""
    return {"hub_id": parent.hub_id, "revision": parent.revision, "hash": parent.hash, "licence": parent.licence}


def mergekit_config(recipe: Recipe, sources: Sources) -> str | None:
    """Returns the recipe as a mergekit configuration; None if mergekit cannot express or merge it.

    It is made to be published: a source that is no hub's has a placeholder for its path.
    """
    parents = source_infos(recipe, sources)
    if len(parents) < len(recipe.sources):  # a source is the run's own, and in nobody's hands
        return None
    paths = {parent.name: parent.public_reference for parent in parents}
    adapters = {parent.name: paths[recipe.base] for parent in parents if parent.is_adapter}
    must_be_listed = bool(adapters) or passes_layers_through(recipe)
    architectures = sources.base.config.get("architectures")
    if not is_reproduced(architectures, sources.structure.tensors, must_be_listed=must_be_listed):
        return None
    config = to_mergekit(recipe, sources.structure, paths, adapters)
    return None if config is None else yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


def without_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a configuration without the folders that its owner had things in, which are nobody else's affair.

    >>> without_paths({"_name_or_path": "org/base", "name_or_path": "org/base", "vocab_file": "/home/me/v.txt"})
    {'name_or_path': 'org/base'}
    >>> without_paths({"files": ["v.txt", "/home/me/v.txt"], "additional_special_tokens": ["/a/b"]})
    {'files': ['v.txt'], 'additional_special_tokens': ['/a/b']}
    """
    return {
        key: value if key in _TEXTS else _without_paths(value)
        for key, value in config.items()
        if key != "_name_or_path" and (key in _TEXTS or not _is_path(value))
    }


def _without_paths(value: Any) -> Any:  # any JSON value
    if isinstance(value, Mapping):
        return without_paths(value)
    return [_without_paths(inner) for inner in value if not _is_path(inner)] if isinstance(value, list) else value


def _is_path(value: Any) -> bool:  # any JSON value
    return isinstance(value, str) and _PATH.match(value) is not None


def _public_copies(copies: Mapping[str, Path]) -> dict[str, str]:
    """Returns the texts of those configurations among the copies that hold a path: they are not copied as they are."""
    found = {}
    for name, file in copies.items():
        if fnmatch(name, "*config.json") or name == "special_tokens_map.json":
            stated = read_json(file)
            if (public := without_paths(stated)) != stated:
                found[name] = as_copied_json(public)
    return found


def in_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Returns a model's configuration with another dtype, also in its parts and under the old key, if present."""
    return _replaced(config, dtype) | {"dtype": dtype}


def _replaced(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    return {
        key: dtype
        if key in ("dtype", "torch_dtype") and value
        else _replaced(value, dtype)
        if isinstance(value, Mapping)
        else value
        for key, value in config.items()
    }


def as_json(value: Any) -> str:  # any JSON value
    """Returns the text of a JSON file."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_copied_json(value: Any) -> str:  # any JSON value
    """Returns the text of somebody else's JSON file: `Infinity` and `NaN` are written as they were read."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def import_readers() -> None:
    """Imports the readers of checkpoints, before threads do: concurrent ones break transformers' lazy imports."""
    from transformers import AutoConfig, AutoTokenizer  # noqa: F401


def _verify(folder: Path, fingerprint: str, shards: Sequence[Shard]) -> None:
    """Reads back the written folder with the usual readers; raises MachineError if it is not as expected."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        reopened = Checkpoint.open(SourceLocation(path=folder))
        on_disk = fingerprint_checkpoint(folder)
        if "auto_map" not in reopened.config:  # a model's own code runs only with its user's consent
            AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            if any(folder.glob("tokenizer*")):
                AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise MachineError(f"the written checkpoint does not load: {error}") from error
    names = sorted(name for shard in shards for name in shard.tensors)
    if on_disk != fingerprint or sorted(reopened.tensors) != names:
        raise MachineError(
            f"the written weights ({on_disk[:16]}) are not the merged ones ({fingerprint[:16]}): is the disk faulty?"
        )


def _sync_all(folder: Path) -> None:
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)
