"""The error tree. The command line maps each branch to an exit code.

CrossbreedError
├── InputError          (ValueError)    the user's input is invalid: exit 2
│   ├── Mistakes                        several of them, found together
│   ├── AlikeMistakes                   one that many items have
│   ├── MoreMistakes                    how many more there are
│   └── MissingExtra    (ImportError)   an optional package is not installed: exit 2
├── MachineError        (RuntimeError)  an engine, a worker, a disk: exit 1
│   ├── EngineError                     could not measure: the trial is FAILED
│   ├── ServiceOutage                   a service is away: the run ends, no trial FAILED, and the same command goes on
│   └── SwapError                       the engine does not answer with the weights it was given
└── InvalidWeights      (ValueError)    NaN or Inf in merged weights or logits: the trial is INVALID

Any other exception is a bug, ours or a plug-in's: it ends a run with exit 1 and is never a FAILED trial.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import util
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")

_MOST_CHARACTERS = (400, 300, 300, 240, 1000)
"""Of a message's five parts: together one screen."""
_MOST_LINES = 8
"""Of a part."""
_MOST_MISTAKES = 16
"""Named in one message."""
_MOST_LINES_OF_MISTAKES = 23
"""Of that message: the first mistakes have a second line with the rest, as far as there is room."""
_LONGEST_WORD = 40
"""Characters; a longer one is cut."""
_HASH = re.compile(r"\b[0-9a-f]{32,64}\b")
_MOST_HASHES = 8
"""Of a line, that do not count as its characters."""
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What moves a terminal's cursor, or is no text; a name of somebody else's may hold it."""


class CrossbreedError(Exception):
    """Base of all errors raised on purpose."""


class InputError(CrossbreedError, ValueError):
    """The user's input is invalid.

    The message is one screen: the problem, what was expected, what was got, where, and how to fix it.
    """

    count: int = 1
    """The mistakes that it stands for."""

    def __init__(self, problem: str, *, expected: str = "", got: str = "", where: str = "", fix: str = "") -> None:
        parts = (problem, expected, got, where, fix)
        self.problem, self.expected, self.got, self.where, self.fix = map(_fitting, parts, _MOST_CHARACTERS)
        super().__init__(str(self))

    @property
    def errors(self) -> "tuple[InputError, ...]":
        """The mistakes: itself, or each of several."""
        return (self,)

    def __str__(self) -> str:
        parts = {"expected": self.expected, "got": self.got, "where": self.where, "fix": self.fix}
        return "\n".join([self.problem, *(f"  {label + ':':<10}{text}" for label, text in parts.items() if text)])

    def __reduce__(self) -> tuple[object, ...]:  # keyword-only arguments do not survive the default pickling
        return _rebuild, (type(self), self.problem, self.expected, self.got, self.where, self.fix)


class Mistakes(InputError):
    """Several things in the user's input are invalid; each is told with its place, all on one screen."""

    def __init__(self, errors: Sequence[InputError], *, where: str = "") -> None:
        self._errors = tuple(errors)
        self.count = sum(error.count for error in self._errors)
        super().__init__(f"{self.count} mistakes", where=where)

    @property
    def errors(self) -> tuple[InputError, ...]:
        """Each of them."""
        return self._errors

    def __str__(self) -> str:
        named = [_told(number, error) for number, error in enumerate(self.errors[:_MOST_MISTAKES], 1)]
        left = sum(error.count for error in self.errors[_MOST_MISTAKES:])
        more = [f"... and {left} more"] if left else []
        room = _MOST_LINES_OF_MISTAKES - 1 - len(named) - len(more)
        told = [line for i, lines in enumerate(named) for line in (lines if i < room else lines[:1])]
        return "\n".join([self.problem + f" in {self.where}" * bool(self.where), *told, *more])

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_mistakes, (self.errors, self.where)


class MoreMistakes(InputError):
    """So many mistakes more, which are not named."""

    def __init__(self, count: int, *, where: str) -> None:
        super().__init__(f"and {count} more mistakes there" if count > 1 else "and one more mistake there", where=where)
        self.count = count

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_more, (self.count, self.where)


class Collector:
    """Gathers InputErrors of steps that do not need one another, so that all are told at once.

    >>> mistakes = Collector()
    >>> with mistakes.noted():
    ...     raise InputError("this is wrong")
    >>> with mistakes.noted():
    ...     raise InputError("and that")
    >>> mistakes.require_none()
    Traceback (most recent call last):
    ...
    crossbreed.errors.Mistakes: 2 mistakes
    1. this is wrong
    2. and that
    """

    def __init__(self) -> None:
        """Has no error yet."""
        self._errors: dict[str, InputError] = {}

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Notes an InputError of the block, and goes on behind it."""
        try:
            yield
        except InputError as error:
            self.note(error)

    def note(self, error: InputError) -> None:
        """Notes an error, or each of several."""
        for one in error.errors:
            self._errors.setdefault(str(one), one)

    @property
    def errors(self) -> tuple[InputError, ...]:
        """What was noted, once each."""
        return tuple(self._errors.values())

    def require_none(self, *, where: str = "") -> None:
        """Raises what was noted: the error itself, if it is one; several as Mistakes."""
        errors = self.errors
        if len(errors) > 1:
            raise Mistakes(errors, where=where)
        if errors:
            raise errors[0]


def each(make: Callable[[A], B], values: Iterable[A]) -> list[B]:
    """Returns what is made of each value; raises what is wrong with all of them at once.

    >>> each(int, ["1", "2"])
    [1, 2]
    """
    mistakes, made = Collector(), list[B]()
    for value in values:
        with mistakes.noted():
            made.append(make(value))
    mistakes.require_none()
    return made


class MissingExtra(InputError, ImportError):
    """A feature needs a package that is not installed."""


class MachineError(CrossbreedError, RuntimeError):
    """A fault of the machine or of an engine; the same input may work elsewhere or later."""


class EngineError(MachineError):
    """An engine could not answer. Never a score: the trial is retried as set in the Spec, then FAILED."""


class ServiceOutage(MachineError):
    """A service is away for longer than the run waits. It ends the run at once: no other attempt would fare better."""


class SwapError(MachineError):
    """The canary failed: after a swap the engine does not answer with the weights it was given."""


class InvalidWeights(CrossbreedError, ValueError):
    """Merged weights or logits contain NaN or Inf: measured and bad, not 'could not measure'."""


FAULTS = (MachineError, OSError, MemoryError)
"""What an attempt may raise and be made again, unless it is one of `NO_FAULTS`."""
NO_FAULTS = (
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    ServiceOutage,
)
"""OSErrors that code causes by naming a wrong path, and outages of services: they would be raised again."""


def is_fault(error: BaseException) -> bool:
    """Returns whether an exception is a fault, not a bug."""
    return isinstance(error, FAULTS) and not isinstance(error, NO_FAULTS)


def is_fault_again(error: BaseException) -> bool:
    """Returns whether what starting a worker raised is a fault, where the same code has started one before.

    Then a plain RuntimeError, in which libraries of engines wrap what a device or a socket does, is no bug either.
    """
    return is_fault(error) or type(error) is RuntimeError


def printable(text: str) -> str:
    r"""Returns a text without what a terminal would obey: escapes instead of control characters.

    >>> printable("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def _fitting(text: str, at_most: int) -> str:
    """Returns what fits a screen; commands and hashes to paste are kept whole, since half of one is none."""
    lines = [printable(line) for line in str(text).split("\n")]
    is_command, kept, left = "python -c" in text, list[str](), at_most
    for line in lines[:_MOST_LINES]:
        if not (is_command or _size(line) <= left or not kept):
            break
        kept.append(line if is_command or _size(line) <= left else _cut(line, left))
        left -= _size(line)
    if len(kept) < len(lines):
        kept.append(f"... ({len(lines) - len(kept)} more lines)")
    return "\n".join(kept)


def _size(line: str) -> int:
    return len(_HASH.sub("", line, count=_MOST_HASHES))


def _cut(line: str, at_most: int) -> str:
    """Returns both ends of a line, each without the word or hash that it would cut."""
    head, tail = at_most - 40, len(line) - 30
    before, after = line.rfind(" ", head - _LONGEST_WORD, head + 1), line.find(" ", tail - 1)
    head, tail = before if before > 0 else head, after + 1 if after > 0 else tail
    for found in _HASH.finditer(line):
        head = found.start() if found.start() < head < found.end() else head
        tail = found.end() if found.start() < tail < found.end() else tail
    return f"{line[:head]} ... {line[tail:]}"


def _rebuild(kind: type[InputError], problem: str, expected: str, got: str, where: str, fix: str) -> InputError:
    return kind(problem, expected=expected, got=got, where=where, fix=fix)


def _rebuild_more(count: int, where: str) -> MoreMistakes:
    return MoreMistakes(count, where=where)


def _rebuild_mistakes(errors: Sequence[InputError], where: str) -> Mistakes:
    return Mistakes(errors, where=where)


def _told(number: int, error: InputError) -> list[str]:
    """Returns an error in at most two lines: what and where, and below it the rest."""
    where = f" ({error.where})" if error.where else ""
    parts = {"expected": error.expected, "got": error.got, "fix": error.fix}
    rest = "; ".join(f"{label}: {_cut_to(' '.join(text.split()), 160)}" for label, text in parts.items() if text)
    return [f"{number}. {_cut_to(' '.join(error.problem.split()), 240)}{where}", *([f"   {rest}"] if rest else [])]


def _cut_to(text: str, at_most: int) -> str:
    return text if _size(text) <= at_most else _cut(text, at_most)


def first_line(error: BaseException, *, at_most: int | None = 300) -> str:
    """Returns the first line of a library's error message; what is longer than `at_most` ends in dots."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return line if at_most is None else excerpt(line, at_most=at_most)


def excerpt(text: str, *, at_most: int) -> str:
    """Returns a text of at most so many characters: a longer one ends in dots.

    >>> excerpt("what is longer", at_most=11)
    'what is ...'
    """
    return text if len(text) <= at_most else f"{text[: at_most - 4]} ..."


def require(module: str, *, extra: str) -> None:
    """Raises MissingExtra, with the extra that provides it, if `module` cannot be imported."""
    if not is_installed(module):
        raise MissingExtra(
            f"this needs the package `{module}`, which is not installed",
            fix=f"pip install 'crossbreed[{extra}]'",
        )


def is_installed(module: str) -> bool:
    """Returns whether a module can be found; False if its import is blocked."""
    try:
        return util.find_spec(module) is not None
    except (ImportError, ValueError):  # ValueError: sys.modules contains None
        return False


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether the machine ran out of memory. torch's CPU allocator raises a plain RuntimeError."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "allocate memory" in str(error))
    )
