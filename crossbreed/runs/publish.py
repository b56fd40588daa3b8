"""From a recipe to an ordinary checkpoint folder, which holds the weights that were scored or does not exist at all.

Everything is written to a temporary sibling, read back, fingerprinted, and renamed. What can be refused is refused
before the first byte: an output folder in use, a disk without room, a licence that nobody has chosen.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml

from crossbreed.durable import sync
from crossbreed.errors import InputError, MachineError
from crossbreed.kernels import Fingerprinted, fingerprint_checkpoint
from crossbreed.mergekit import to_mergekit
from crossbreed.recipes import dump_recipe
from crossbreed.runs.card import (
    MERGEKIT_FILE,
    RECIPE_FILE,
    Origins,
    Parent,
    choose_licence,
    model_card,
    parents_of,
)
from crossbreed.runs.coefficients import coefficient_map
from crossbreed.runs.shards import Shard, plan_shards, write_shards
from crossbreed.sources import Checkpoint, Origin, Sources, TensorInfo
from crossbreed.types import Recipe, WeightStream

PUBLISHED_SCHEMA = 1
MAX_SHARD_BYTES = 5_000_000_000
_SPARE_BYTES = 16 << 20
"""Room in a folder for what is not weights, beyond the copied files."""
_COPIED = (
    *(
        "generation_config.json",
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
"""What of the base's folder belongs to every merge of it."""


class Hub(Protocol):
    """What publishing needs of `huggingface_hub.HfApi`."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> object:
        """Makes the repository, unless it is there."""
        ...

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> object:
        """Uploads what has changed."""
        ...


def publish_checkpoint(
    *,
    recipe: Recipe,
    sources: Sources,
    out: Path,
    stream_factory: Callable[[], WeightStream],
    expected_fingerprint: str,
    origins: Origins,
    title: str | None = None,
    licence: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> str:
    """Writes a checkpoint with a model card.

    Args:
        recipe: What to publish.
        sources: Of the recipe, opened.
        out: A folder that does not exist or is empty.
        stream_factory: Makes the recipe's weights; called once.
        expected_fingerprint: Of the weights that were scored.
        origins: The run, for the card.
        title: Of the card; the folder's name when absent.
        licence: Hub's id of the merge's licence, when the parents do not state a common one.
        max_shard_bytes: Largest file.

    Returns:
        The fingerprint.

    Raises:
        InputError: `out` cannot be used, the disk lacks room, or the licence is open.
        MachineError: what was made or written is not what was scored; `out` is left alone.
    """
    parents = parents_of(recipe, sources)
    chosen = choose_licence(parents, licence)
    in_mergekit = _mergekit_config(recipe, sources) is not None
    readme = model_card(
        title=title or out.resolve().name,
        parents=parents,
        licence=chosen,
        origins=origins,
        coefficients=coefficient_map(recipe, sources.structure),
        in_mergekit=in_mergekit,
    )
    record = {
        "licence": chosen,
        "run": {"name": origins.name, "seed": origins.seed, "trial": origins.report.winner.number},
        "versions": dict(origins.versions),
        "optimised_on": list(origins.optimised_on),
        "scores": origins.report.winner.to_json(),
    }
    return write_checkpoint(
        recipe=recipe,
        sources=sources,
        out=out,
        stream_factory=stream_factory,
        expected_fingerprint=expected_fingerprint,
        readme=readme,
        record=record,
        max_shard_bytes=max_shard_bytes,
    )


def write_checkpoint(
    *,
    recipe: Recipe,
    sources: Sources,
    out: Path,
    stream_factory: Callable[[], WeightStream],
    expected_fingerprint: str | None = None,
    readme: str | None = None,
    record: Mapping[str, Any] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> str:
    """Writes a checkpoint, without a card unless one is given: what `crossbreed merge` needs.

    Args:
        recipe: What to write.
        sources: Of the recipe, opened.
        out: A folder that does not exist or is empty.
        stream_factory: Makes the recipe's weights; called once.
        expected_fingerprint: What they must be, if that is known.
        readme: The model card.
        record: More for `crossbreed.json`.
        max_shard_bytes: Largest file.

    Returns:
        The fingerprint.

    Raises:
        InputError: `out` cannot be used, or the disk lacks room.
        MachineError: what was made or written is not what was expected; `out` is left alone.
    """
    contents = checkpoint_contents(recipe, sources, readme=readme, record=record, max_shard_bytes=max_shard_bytes)
    with new_folders({out: contents.num_bytes}) as folders:
        return contents.write(folders[out], stream_factory, expected_fingerprint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a checkpoint's folder will hold, all but the weights themselves."""

    tensors: Mapping[str, TensorInfo]
    """What the stream of weights will bring."""
    copies: Mapping[str, Path]
    """Name in the folder -> file to copy there."""
    texts: Callable[[str], Mapping[str, str]]
    """Fingerprint of the weights -> name in the folder -> what else is to be written there."""
    max_shard_bytes: int = MAX_SHARD_BYTES

    @property
    def num_bytes(self) -> int:
        """Room that the folder needs."""
        copied = sum(file.stat().st_size for file in self.copies.values())
        return sum(shard.num_bytes for shard in self._plan()) + copied + _SPARE_BYTES

    def write(
        self, folder: Path, stream_factory: Callable[[], WeightStream], expected_fingerprint: str | None = None
    ) -> str:
        """Fills an empty folder, and reads it back.

        Args:
            folder: One of `new_folders`.
            stream_factory: Makes the weights; called once.
            expected_fingerprint: What they must be, if that is known.

        Returns:
            The fingerprint.

        Raises:
            MachineError: what was made or written is not what was expected.
        """
        shards = self._plan()
        try:
            stream = Fingerprinted(stream_factory())
            write_shards(folder, shards, stream)
            if expected_fingerprint not in (None, stream.value):
                raise MachineError(
                    f"the weights made now ({stream.value[:16]}) are not the weights that were scored "
                    f"({str(expected_fingerprint)[:16]}): published they would not have these scores"
                )
            for name, file in self.copies.items():
                (folder / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(file, folder / name)
            for name, text in self.texts(stream.value).items():
                (folder / name).write_text(text, encoding="utf-8")
            _verify(folder, stream.value, shards)
            _sync_all(folder)
        except OSError as error:
            raise MachineError(f"writing {folder} failed: {error.strerror or error}") from error
        return stream.value

    def _plan(self) -> list[Shard]:
        return plan_shards(self.tensors, max_bytes=self.max_shard_bytes)


def checkpoint_contents(
    recipe: Recipe,
    sources: Sources,
    *,
    readme: str | None = None,
    record: Mapping[str, Any] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Contents:
    """Returns what is written beside a recipe's weights; the arguments are those of `write_checkpoint`."""

    def texts(fingerprint: str) -> dict[str, str]:
        return _texts(recipe, sources, fingerprint, record or {}) | ({"README.md": readme} if readme else {})

    return Contents(
        tensors=_merged_tensors(recipe, sources),
        copies=files_to_copy(sources.base.path),
        texts=texts,
        max_shard_bytes=max_shard_bytes,
    )


def push(folder: Path, repo_id: str, *, private: bool = True, dry_run: bool = False, hub: Hub | None = None) -> str:
    """Uploads a published folder to the hub.

    Args:
        folder: What `publish_checkpoint` wrote.
        repo_id: `org/name`.
        private: Whether a new repository is visible to its owner alone.
        dry_run: Touch nothing but say what would be uploaded.
        hub: For tests, and for other endpoints.

    Returns:
        The address, or for a dry run the files with their sizes.

    Raises:
        InputError: the folder is no published checkpoint, or the hub refuses.
    """
    if not (folder / "crossbreed.json").is_file() or not (folder / "README.md").is_file():
        raise InputError(
            "this folder was not published by crossbreed",
            expected="crossbreed.json and README.md beside the weights",
            where=str(folder),
            fix="crossbreed publish RUN --out DIR",
        )
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if dry_run:
        lines = [f"{path.stat().st_size:>15,}  {path.relative_to(folder)}" for path in files]
        total = sum(path.stat().st_size for path in files)
        visible = "private" if private else "public"
        return "\n".join([f"would upload to {repo_id} ({visible}):", *lines, f"{total:>15,}  bytes"])
    try:
        if hub is None:
            from huggingface_hub import HfApi

            hub = HfApi()
        hub.create_repo(repo_id, private=private, exist_ok=True)
        hub.upload_folder(repo_id=repo_id, folder_path=str(folder), commit_message="Publish a merge")
    except (OSError, ValueError) as error:  # every error of the hub client is one of the two
        raise InputError(
            "the hub did not take the upload",
            expected="a token that may write to this repository",
            got=f"{type(error).__name__}: {str(error).strip().splitlines()[0]}",
            where=repo_id,
            fix="`hf auth login`, check ORG/NAME; the same command goes on where it stopped",
        ) from error
    return f"https://huggingface.co/{repo_id}"


def require_unused(out: Path) -> None:
    """Raises InputError unless `out` is absent or an empty folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(
            "the output folder is in use",
            expected="a folder that does not exist, or an empty one",
            got=f"{sum(1 for _ in out.iterdir())} entries" if out.is_dir() else "a file",
            where=str(out),
            fix="choose another --out",
        )


def published_fingerprint(out: Path) -> str | None:
    """Returns what a folder that was published holds, None for any other."""
    record = out / "crossbreed.json"
    return str(json.loads(record.read_text())["fingerprint"]) if record.is_file() else None


def _merged_tensors(recipe: Recipe, sources: Sources) -> dict[str, TensorInfo]:
    """What the stream will bring: the base's tensors, those that float in the recipe's dtype."""
    return {
        name: TensorInfo(shape=info.shape, dtype=recipe.dtype) if "float" in info.dtype else info
        for name, info in sources.structure.tensors.items()
    }


def files_to_copy(folder: Path) -> dict[str, Path]:
    """Returns what of a model's folder belongs to every merge that it lends its tokenizer to, by name in the folder."""
    found = sorted({path for pattern in _COPIED for path in folder.glob(pattern) if path.is_file()})
    return {str(path.relative_to(folder)): path for path in found}


def _texts(recipe: Recipe, sources: Sources, fingerprint: str, record: Mapping[str, Any]) -> dict[str, str]:
    """Everything that is text and not copied, by file name."""
    published = {
        "schema": PUBLISHED_SCHEMA,
        "recipe": recipe.id,
        "fingerprint": fingerprint,
        "dtype": recipe.dtype,
        "sources": {parent.name: _source_record(parent) for parent in parents_of(recipe, sources)},
        **record,
    }
    texts = {
        "config.json": as_json(in_dtype(sources.base.config, recipe.dtype)),
        RECIPE_FILE: dump_recipe(recipe),
        "crossbreed.json": as_json(published),
    }
    mergekit = _mergekit_config(recipe, sources)
    return texts | ({MERGEKIT_FILE: mergekit} if mergekit else {})


def _source_record(parent: Parent) -> dict[str, str | None]:
    return {"hub_id": parent.hub_id, "revision": parent.revision, "hash": parent.hash, "licence": parent.licence}


def _mergekit_config(recipe: Recipe, sources: Sources) -> str | None:
    """The recipe in mergekit's words, None where mergekit has none for it."""
    parents = parents_of(recipe, sources)
    paths = {parent.name: parent.reference for parent in parents}
    adapters = {parent.name: sources.base.origin.reference for parent in parents if parent.is_adapter}
    config = to_mergekit(recipe, sources.structure, paths, adapters)
    return None if config is None else yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


def in_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Returns a model's configuration with another dtype, in its parts and under its old name too if it says so."""
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


@contextmanager
def new_folders(num_bytes: Mapping[Path, int]) -> Iterator[dict[Path, Path]]:
    """Gives siblings to write in, which become the folders when all went well, all of them, and are removed when not.

    A crash between two of the renames leaves folders that are whole, and siblings that are whole too and that the next
    attempt removes.

    Args:
        num_bytes: Folder, absent or empty -> how much will be written to it. They are on one disk.

    Raises:
        InputError: a folder cannot be used, or the disk lacks room for all of them.
        MachineError: a folder could not be renamed; none was.
    """
    partial = {out: out.absolute().with_name(f".{out.absolute().name}.crossbreed-partial") for out in num_bytes}
    for out in partial:
        require_unused(out)
    try:
        for out, folder in partial.items():
            _make_anew(folder, out)
        _require_room(next(iter(partial.values())), sum(num_bytes.values()))
        yield partial
        _rename(partial)
    finally:
        for folder in partial.values():
            shutil.rmtree(folder, ignore_errors=True)


def _make_anew(folder: Path, out: Path) -> None:
    try:
        shutil.rmtree(folder, ignore_errors=True)  # of a publish that was killed
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(
            f"the output folder cannot be written: {error.strerror}", where=str(out), fix="choose another --out"
        ) from None


def _rename(partial: Mapping[Path, Path]) -> None:
    try:
        with ExitStack() as undo:
            for out, folder in partial.items():
                folder.rename(out)
                undo.callback(out.rename, folder)
            undo.pop_all()
        for parent in {folder.parent for folder in partial.values()}:
            sync(parent)
    except OSError as error:
        raise MachineError(f"writing {', '.join(map(str, partial))} failed: {error}") from error


def _require_room(folder: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise InputError(
            "not enough disk for what is to be written",
            expected=f"{num_bytes / 1e9:.2f} GB free",
            got=f"{free / 1e9:.2f} GB",
            where=str(folder.parent),
            fix="free some space, or choose an --out on another disk",
        )


def import_readers() -> None:
    """Imports what reads a checkpoint back; before threads do, for two at once break transformers' lazy imports."""
    from transformers import AutoConfig, AutoTokenizer  # noqa: F401


def _verify(folder: Path, fingerprint: str, shards: Sequence[Shard]) -> None:
    """Reads back what was written, the way that others will."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        reopened = Checkpoint.open(Origin(path=folder))
        on_disk = fingerprint_checkpoint(folder)
        if "auto_map" not in reopened.config:  # code of its own runs only where its user says so
            AutoConfig.from_pretrained(folder, local_files_only=True)
            if any(folder.glob("tokenizer*")):
                AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise MachineError(f"what was written does not load: {error}") from error
    names = sorted(name for shard in shards for name in shard.tensors)
    if on_disk != fingerprint or sorted(reopened.tensors) != names:
        raise MachineError(f"what was written ({on_disk[:16]}) is not what was made ({fingerprint[:16]}): a bad disk?")


def _sync_all(folder: Path) -> None:
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)
