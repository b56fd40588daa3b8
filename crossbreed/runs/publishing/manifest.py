"""The files of a published folder: `crossbreed.json` lists them, and what differs from the list is not published again.

SHA-256, because the hub shows it beside each file and `sha256sum` checks it.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from crossbreed.errors import InputError
from crossbreed.sources.json_files import read_json

RECORD_FILE = "crossbreed.json"
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """One file of a published folder."""

    num_bytes: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """Returns the documented JSON."""
        return {"bytes": self.num_bytes, "sha256": self.sha256}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFolder:
    """What the `crossbreed.json` of a folder says about it."""

    path: Path
    fingerprint: str
    files: Mapping[str, FileRecord]
    """Name in the folder -> file, except `crossbreed.json` itself."""
    record: Mapping[str, Any]
    """All that the file says."""

    def verify(self) -> None:
        """Compares every file with the list.

        Raises:
            InputError: a file is missing, or is not what was published.
        """
        changed = [problem for name, file in self.files.items() if (problem := _problem(self.path / name, name, file))]
        if changed:
            raise self.changed(changed, expected="the files that its crossbreed.json lists")

    def changed(
        self, problems: Sequence[str], *, expected: str, what: str = "the folder has changed since it was published"
    ) -> InputError:
        """Returns the error for a folder that is not what was published."""
        more = f" and {len(problems) - _SHOWN} more" * (len(problems) > _SHOWN)
        return InputError(
            what,
            expected=expected,
            got=", ".join(problems[:_SHOWN]) + more,
            where=str(self.path),
            fix="publish to another --out; to change the card, edit it on the hub after the upload",
        )

    def require_says(self, record: Mapping[str, Any], *, has_scores: bool) -> None:
        """Checks that it was published as is asked now: of this run, with this licence, configuration and tokenizer.

        Args:
            record: What would be written now; versions may differ.
            has_scores: Whether its card is to have held-out scores.

        Raises:
            InputError: it was not.
        """
        asked, found = _compared(record), _compared(self.record)
        asked, found = asked | {"scores": has_scores}, found | {"scores": self.record.get("scores") is not None}
        if differing := [key for key in asked if asked[key] != found.get(key)]:
            raise InputError(
                "the folder holds these weights already, but was published otherwise",
                expected="; ".join(f"{key}: {asked[key]}" for key in differing),
                got="; ".join(f"{key}: {found.get(key)}" for key in differing),
                where=str(self.path),
                fix="publish to another --out",
            )

    @property
    def uploads(self) -> dict[str, int]:
        """The files to upload, and nothing else in the folder: name -> bytes."""
        sizes = {name: file.num_bytes for name, file in self.files.items()}
        return dict(sorted({**sizes, RECORD_FILE: (self.path / RECORD_FILE).stat().st_size}.items()))


def crossbreed_version(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """Returns version and commit of the crossbreed that wrote a record, as far as it says."""
    versions = record.get("versions")
    return tuple(versions.get(key) for key in ("crossbreed", "commit")) if isinstance(versions, Mapping) else ()


def file_records(folder: Path) -> dict[str, FileRecord]:
    """Returns the record of every file in a folder, by its name in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_record(path) for path in files}


def published_folder(folder: Path) -> PublishedFolder | None:
    """Returns what `crossbreed.json` says about a folder; None where there is none.

    Raises:
        InputError: it cannot be read, or lists no files.
    """
    path = folder / RECORD_FILE
    if not os.path.isfile(path):  # no error for 300 letters
        return None
    record = read_json(path)
    try:
        files = {
            name: FileRecord(num_bytes=file["bytes"], sha256=file["sha256"]) for name, file in record["files"].items()
        }
        if not isinstance(record["fingerprint"], str) or not all(map(_is_typed, files.values())):
            raise TypeError("a size that is no whole number, or a digest that is no text")
        if not all(map(_is_inside, files)) or not any(name.endswith(".safetensors") for name in files):
            raise ValueError("a file elsewhere, or no weights")
        return PublishedFolder(path=folder, fingerprint=record["fingerprint"], files=files, record=record)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(
            "this crossbreed.json does not list the files of its folder",
            expected="`fingerprint` and `files`, as this version of crossbreed writes them",
            got=f"the keys {', '.join(sorted(map(str, record)))[:200]}",
            where=str(path),
            fix="publish to another --out",
        ) from None


def _compared(record: Mapping[str, Any]) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(json.dumps(record))
    if isinstance(run := value.get("run"), dict):
        run.pop("versions", None)
    return {key: value[key] for key in value if key not in ("versions", "scores", "files", "fingerprint")}


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _is_typed(file: FileRecord) -> bool:
    return type(file.num_bytes) is int and isinstance(file.sha256, str)


def text_record(text: str) -> FileRecord:
    """Returns the record of a file with this text."""
    written = text.encode()
    return FileRecord(num_bytes=len(written), sha256=hashlib.sha256(written).hexdigest())


def file_record(path: Path) -> FileRecord:
    """Returns the record of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileRecord(num_bytes=path.stat().st_size, sha256=digest)


def _problem(path: Path, name: str, file: FileRecord) -> str | None:
    try:
        if path.resolve() != path.parent.resolve() / path.name or not path.is_file():
            return f"{name}: missing"
        if path.stat().st_size != file.num_bytes:
            return f"{name}: {path.stat().st_size:,} bytes instead of {file.num_bytes:,}"
        return f"{name}: other content" if file_record(path) != file else None
    except OSError as error:
        return f"{name}: {error.strerror}"
    except ValueError:  # NUL, or half a character
        return f"{name!r}: no name of a file"
