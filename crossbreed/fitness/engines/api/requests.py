"""The journal of requests: what a candidate was answered, so that a run that stopped goes on in the middle of a task.

One file per recipe, in the run folder. An answer is given back once, to the process that finds it: whoever asks the
same again wants to know what the service says now. A candidate that is done needs its file no longer.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from crossbreed.fitness.services.appending import append_line, key_of, read_lines

T = TypeVar("T")


class RequestJournal:
    """Question -> answer, of one candidate."""

    def __init__(self, folder: Path | None, recipe_id: str, fingerprint: str) -> None:
        """Reads what earlier processes were answered.

        Args:
            folder: Where the files are; None: nothing is kept.
            recipe_id: The candidate's.
            fingerprint: Of the weights that answered: answers of others do not count.
        """
        self._file = None if folder is None else folder / f"{recipe_id}.jsonl"
        self._fingerprint = fingerprint
        self._held = dict[str, Any]()
        for line in () if self._file is None else read_lines(self._file):
            if line.get("fingerprint") == fingerprint and isinstance(line.get("key"), str):
                self._held[line["key"]] = line.get("answer")

    def asked(self, question: Mapping[str, Any], read: Callable[[Any], T]) -> T | None:
        """Returns what a process before this one was answered; None if nothing, or nothing that `read` takes."""
        answer = self._held.pop(key_of(question), None)
        with suppress(ValueError):  # ValidationError and WrongAnswer among them
            return None if answer is None else read(answer)
        return None

    def note(self, question: Mapping[str, Any], answer: Any) -> None:  # JSON
        """Writes what was answered."""
        if self._file is not None:
            append_line(self._file, {"key": key_of(question), "fingerprint": self._fingerprint, "answer": answer})

    def forget(self) -> None:
        """Removes the file: the candidate is done."""
        if self._file is not None:
            with suppress(OSError):
                self._file.unlink(missing_ok=True)
