"""The run folder and its files. Only the journal is state; the rest is derived from it."""

import gzip
import json
import os
import shlex
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from traceback import format_exc
from typing import Annotated, Any, TypeAlias

from pydantic import Field, TypeAdapter

from crossbreed.durable import naming, write_atomically, written_as
from crossbreed.errors import CrossbreedError, InputError, first_line
from crossbreed.recipes import dump_recipe
from crossbreed.runs.record.journal import read
from crossbreed.runs.record.phase import PHASE_FILE, read_phase
from crossbreed.runs.record.records import RunRecord, SplitName
from crossbreed.runs.record.worker_counts import WORKERS_FILE
from crossbreed.sources.structure import Structure
from crossbreed.types import Recipe, Score

_TEXTS = TypeAdapter(dict[str, dict[str, str]])
"""What a file of answers has: task -> item id -> text."""
_NUMBERS = TypeAdapter(dict[str, dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)] | None]])
"""What a file of numbers beside answers has: task -> item id -> number."""
Answered: TypeAlias = Mapping[str, Sequence[str]]
"""Task -> item ids."""
MIN_FREE_BYTES = 200 * 2**20
"""The disk space to require: a run folder contains text (journals, answers, reports)."""
TRACEBACK_IS_IN = "the traceback is in "
"""The beginning of the note on an exception whose traceback is in log.txt."""
_ANSWERS, _WARM_STARTS = "answers", "warm_starts"
_IN_THE_ROOT = (
    "spec.yaml",
    "archive.json",
    "report.json",
    "report.html",
    "structure.json.gz",
    PHASE_FILE,
    WORKERS_FILE,
)
"""What is written atomically beside the journal; other names that look alike are the user's."""
_LEFT_BY_A_FAILED_START = ("owner.json", "lock", "log.txt", PHASE_FILE)


class RunFolder:
    """The paths of one run, and the writing of its files other than the journal."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = path / "journal.jsonl"
        self.spec = path / "spec.yaml"
        self.archive = path / "archive.json"
        self.report_json = path / "report.json"
        self.report_html = path / "report.html"
        self.log = path / "log.txt"
        self.recipes = path / "recipes"
        self.artifacts = path / "artifacts"
        self._structure = path / "structure.json.gz"

    def create(self) -> bool:
        """Creates the folder, unless it exists; raises InputError if it cannot be written.

        Returns:
            Whether it is new.
        """
        self._require_files()
        is_new = not self.path.exists()
        if self.path.exists() and not self.path.is_dir():
            raise InputError("the run folder is a file", where=str(self.path), fix="choose another --out")
        if (
            self.path.is_dir()
            and not self.journal.exists()
            and any(written_as(p.name) not in _LEFT_BY_A_FAILED_START for p in self.path.iterdir())
        ):
            raise InputError(
                "the output folder is not empty and is not a run",
                expected="an empty or new folder, or one with a journal.jsonl",
                where=str(self.path),
                fix="choose another --out",
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise InputError(
                f"the run folder cannot be written: {error.strerror}", where=str(self.path), fix="choose another --out"
            ) from None
        free_bytes = shutil.disk_usage(self.path).free
        if free_bytes < MIN_FREE_BYTES:
            raise InputError(
                "not enough disk for the run folder",
                expected=f"{MIN_FREE_BYTES >> 20} MiB free",
                got=f"{free_bytes >> 20} MiB",
                where=str(self.path),
                fix="free some space, or choose another --out",
            )
        return is_new

    def existing(self) -> "RunFolder":
        """Returns itself; raises InputError if it is not a run folder."""
        is_begun = self.journal.exists() and self.spec.exists()
        if not is_begun and (note := read_phase(self.path)):
            raise InputError(
                "this run has only begun, and there is nothing to read yet",
                expected="a journal.jsonl and a spec.yaml",
                got=note.phase.value,
                where=str(self.path),
                fix=f"wait until `crossbreed show --watch {shlex.quote(str(self.path))}` shows a trial",
            )
        if not self.journal.exists():
            raise InputError(
                "this is not a run folder",
                expected="a journal.jsonl",
                where=str(self.path),
                fix="name the folder that `crossbreed run` wrote: its --out, or runs/NAME",
            )
        if not self.spec.exists():
            raise InputError(
                "the run has no spec: it was stopped as it began, or the file is gone",
                expected=f"a {self.spec.name}",
                where=str(self.path),
                fix="give `crossbreed run` the run's own spec and this folder as --out, which writes the file again",
            )
        self._require_files()
        return self

    def _require_files(self) -> None:
        """Refuses pipes and devices, which would be waited for; another machine may have written the folder."""
        for path in sorted(self.path.iterdir()) if self.path.is_dir() else ():
            if path.exists() and not (path.is_file() or path.is_dir()):
                raise InputError(
                    f"`{path.name}` is neither a file nor a folder",
                    expected="a run folder's files",
                    where=str(self.path),
                    fix="remove it",
                )

    def clear(self) -> None:
        """Removes what killed processes have left before it had its place; the caller has the journal open."""
        ours = [self.recipes, self.artifacts, self.path / _ANSWERS, self.path / _WARM_STARTS]
        for place in (self.path, *ours):
            for left in place.glob(".?*-????????"):
                if place != self.path or written_as(left.name) in _IN_THE_ROOT:
                    with suppress(OSError):  # a folder, or another process's that has been refused
                        left.unlink()

    def begun(self) -> RunRecord | None:
        """Returns the first record of the journal; None for a new run."""
        first = next(read(self.journal), None)
        return first if isinstance(first, RunRecord) else None

    def keep_answers(self, split: SplitName, number: int, score: Score) -> None:
        """Stores the generated texts, for `show --trial N --answers`; of the report, what else is known of them too."""
        self._keep(self._answers(split, number), score, score.texts)
        if split == "report":
            self._keep(self._details(split, number, "margins"), score, score.margins)
            self._keep(self._details(split, number, "thinking"), score, score.thinking)

    def _keep(self, path: Path, score: Score, told: Mapping[str, Sequence[object]]) -> None:
        """Writes what is told of the items of tasks, if anything is."""
        if told:
            if not path.parent.is_dir():
                path.parent.mkdir(exist_ok=True)
            payload = {task: dict(zip(score.tasks[task].item_ids, one, strict=True)) for task, one in told.items()}
            write_atomically(path, _zipped(payload))

    def answers(self, split: SplitName, number: int) -> dict[str, dict[str, str]]:
        """Returns task -> item id -> text; empty if nothing was generated.

        Raises:
            InputError: the file is damaged.
        """
        path = self._answers(split, number)
        try:
            return _TEXTS.validate_json(gzip.decompress(path.read_bytes())) if path.exists() else {}
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise InputError(
                "the answers of a trial cannot be read",
                expected="the gzipped JSON that the run wrote",
                got=first_line(error),
                where=str(path),
                fix="remove the file: scores are in the journal",
            ) from error

    def margins(self, split: SplitName, number: int, *, item_ids: Answered) -> dict[str, dict[str, float]]:
        """Returns task -> item id -> nats from a tie, where that is known: older versions did not keep it.

        Args:
            split: The split.
            number: The trial.
            item_ids: Task -> the items that it has answered; what is told of others is of another run.
        """
        return self._numbers(self._details(split, number, "margins"), item_ids)

    def thinking(self, split: SplitName, number: int, *, item_ids: Answered) -> dict[str, dict[str, float]]:
        """Returns task -> item id -> tokens that were cut as thinking, of tasks that cut some; as for `margins`."""
        return self._numbers(self._details(split, number, "thinking"), item_ids)

    def _numbers(self, path: Path, item_ids: Answered) -> dict[str, dict[str, float]]:
        try:
            found = _NUMBERS.validate_json(gzip.decompress(path.read_bytes()))
        except (OSError, EOFError, ValueError, zlib.error):
            return {}
        return {
            task: {item: value for item, value in items.items() if value is not None}
            for task, items in found.items()
            if items.keys() == set(item_ids.get(task, ()))
        }

    def keep_structure(self, structure: Structure) -> None:
        """Stores the names and shapes of the sources' tensors, so that recipes can be shown where no source is."""
        if not self._structure.exists():
            write_atomically(self._structure, _zipped(structure.to_json()))

    def warm_start(self, index: int) -> Path:
        """Returns the path of the run's own copy of a warm start."""
        return self.path / _WARM_STARTS / f"{index:06d}.yaml"

    def keep_warm_starts(self, recipes: Sequence[Recipe]) -> tuple[str, ...]:
        """Stores the warm starts, whose files may be another run's and change; returns their paths in the folder."""
        paths = tuple(map(self.warm_start, range(len(recipes))))
        for path, recipe in zip(paths, recipes, strict=True):
            path.parent.mkdir(exist_ok=True)
            content = dump_recipe(recipe).encode()
            if not path.exists() or path.read_bytes() != content:
                write_atomically(path, content)
        return tuple(path.relative_to(self.path).as_posix() for path in paths)

    def structure(self) -> Structure | None:
        """Returns what `keep_structure` stored; None if there is nothing, or nothing that can be read."""
        try:
            return Structure.from_json(json.loads(gzip.decompress(self._structure.read_bytes())))
        except (OSError, EOFError, ValueError, RecursionError, zlib.error):  # InputError is a ValueError
            return None

    def log_tail(self, num_bytes: int) -> list[str]:
        """Returns the last whole lines of log.txt."""
        try:
            with self.log.open("rb") as log:
                begin = max(0, log.seek(0, os.SEEK_END) - num_bytes)
                log.seek(begin)
                lines = log.read(num_bytes).decode(errors="replace").splitlines()
        except OSError:
            return []
        return lines[1:] if begin else lines

    def append_log(self, text: str) -> None:
        """Appends to log.txt, with a timestamp before each line. It is for people only, and never read back."""
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        with naming(self.log), self.log.open("a", encoding="utf-8") as log:
            log.writelines(f"{now}  {line}\n" for line in text.splitlines())

    @contextmanager
    def logging_bugs(self) -> Iterator[None]:
        """Writes the traceback of a passing bug to log.txt, and adds a note about it to the exception."""
        try:
            yield
        except (CrossbreedError, OSError):
            raise
        except Exception as error:
            with suppress(OSError):
                self.append_log(format_exc())
                error.add_note(f"{TRACEBACK_IS_IN}{self.log}")
            raise

    def read_json(self, path: Path) -> dict[str, Any] | None:
        """Returns the object in a derived file; None if it is missing or damaged: the next report writes it anew."""
        try:
            value = json.loads(path.read_bytes(), parse_constant=_no_number)
        except (OSError, ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    def write_json(self, path: Path, value: Any) -> None:  # any JSON value
        """Writes a derived file atomically."""
        write_atomically(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())

    def _answers(self, split: SplitName, number: int) -> Path:
        return self.path / _ANSWERS / f"{number:06d}.{split}.json.gz"

    def _details(self, split: SplitName, number: int, what: str) -> Path:
        return self.path / _ANSWERS / f"{number:06d}.{split}.{what}.json.gz"


def _zipped(value: Any) -> bytes:  # any JSON value
    return gzip.compress(json.dumps(value, ensure_ascii=False).encode(), compresslevel=6, mtime=0)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")
