"""Functions that a user's spec names: loaded from a file or a module, and identified by its source."""

import importlib
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Annotated, SupportsFloat, TypeAlias

from pydantic import AfterValidator, TypeAdapter, ValidationInfo

from crossbreed.config import InputPath
from crossbreed.errors import CrossbreedError, InputError, excerpt, first_line
from crossbreed.fitness.answers import LARGEST
from crossbreed.fitness.items import Item
from crossbreed.fitness.values import FieldValue
from crossbreed.parsing import any_of, shown, suggestion
from crossbreed.text_files import read_text
from crossbreed.types import content_id

_MOST_LINES = 3
"""Of the user's own, in a message."""
_MOST_BYTES = 16 << 20
_FORMS = "score(answers, items); evaluate(ask, items) of a task without a prompt; evaluate(weights, items) of an engine"
_PATH: TypeAdapter[str] = TypeAdapter(InputPath)


def _resolved(reference: str, info: ValidationInfo) -> str:
    """Returns a reference with an absolute path."""
    place, _, name = reference.partition("@")[0].rpartition(":")
    pinned = reference.partition("@")[1:]
    if not place or not name.isidentifier():
        raise ValueError(
            f"a function is named as `path.py:name` or `package.module:name`, got {shown(reference)}: "
            "write the file, a colon and the function's name"
        )
    if place.endswith(".py"):
        place = _PATH.validate_python(place, context=info.context)
    return "".join((place, ":", name, *pinned))


FunctionReference: TypeAlias = Annotated[str, AfterValidator(_resolved)]
"""`path.py:name`, relative to the spec's folder, or `package.module:name`; behind an `@` the hash of its source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserFunction:
    """A function and the file that it is from."""

    reference: str
    """Short, for messages: `own.py:score`."""
    call: Callable[..., object]
    file: str
    hash: str
    """Of the file's content."""

    def values(self, arguments: Sequence[object], items: Sequence[Item], *, where: str) -> list[float]:
        """Calls the function and returns what it must return: a number for each item.

        Args:
            arguments: What it takes.
            items: The items that it scores.
            where: The task or engine, for messages.

        Raises:
            InputError: the function raises, or returns something else; the message shows the user's own lines.
            CrossbreedError: what our own code raised inside it.
        """
        with self.blamed(where):
            returned = self.call(*arguments)
            found = None if isinstance(returned, str | bytes | Mapping) else list(returned)  # type: ignore[call-overload]
        numbers = [] if found is None else [_number(value) for value in found]
        if found is None or len(found) != len(items):
            got = shown(returned) if found is None else f"{len(found)} values"
            raise self._wrong(f"returns {got} for {len(items)} items", where)
        for item, value, number in zip(items, found, numbers, strict=True):
            if number is None:
                raise self._wrong(f"returns {shown(value)} for item `{item.id}`", where)
        return [number for number in numbers if number is not None]

    @contextmanager
    def blamed(self, where: str) -> Iterator[None]:
        """Says of what the block raises that it is the user's, with the lines of the user's file."""
        try:
            yield
        except CrossbreedError:
            raise
        except Exception as error:  # a user's function may raise anything
            raise blame(error, self.file, f"`{self.reference}`", where) from error

    def _wrong(self, what: str, where: str) -> InputError:
        line = inspect.unwrap(self.call).__code__.co_firstlineno if hasattr(self.call, "__code__") else 0
        return InputError(
            f"`{self.reference}` {what}",
            expected="a list with one finite number for each item",
            where=f"{where}; {self.file}" + f", line {line}" * bool(line),
            fix="correct the function: what cannot be measured is an exception, not a number",
        )


def blame(error: BaseException, file: str, who: str, where: str) -> InputError:
    """Returns an error of a user's code as an InputError that shows the lines of the user's own file."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    line = frames[-1].lineno if frames else getattr(error, "lineno", None)
    lines = [f"line {frame.lineno}: {frame.line}" for frame in frames[-_MOST_LINES:]]
    if isinstance(error, SyntaxError) and error.text and error.filename == file:
        lines, line = [f"line {error.lineno}: {error.text.strip()}"], error.lineno
    return InputError(
        f"{who} raises {type(error).__name__}: {excerpt(first_line(error), at_most=200)}",
        got="\n            ".join(lines),
        where=f"{where}; {file}" + f", line {line}" * (line is not None),
        fix="correct the function; a run that has begun with it needs another --out, since its scores would change",
    )


_LOADED: dict[tuple[str, str], UserFunction] = {}
"""(reference, hash) -> function: a file is executed once as long as its content stays the same."""


def load_function(reference: str, *, where: str) -> UserFunction:
    """Returns the function that a spec names.

    Args:
        reference: A parsed FunctionReference.
        where: The task or engine, for messages.

    Raises:
        InputError: there is none, its file cannot be imported, or it takes other arguments; or its source is not that
            of the hash behind the `@`.
    """
    named, _, pinned = reference.partition("@")
    if pinned and (named, pinned) in _LOADED:
        return _LOADED[named, pinned]
    place, _, name = named.rpartition(":")
    file = place if place.endswith(".py") else _file_of(place, where)
    source = read_text(Path(file), what=f"the file of the function of {where}", max_bytes=_MOST_BYTES)
    found = content_id(source)
    if pinned and pinned != found:
        raise InputError(
            f"the source of `{named}` is another one",
            expected=f"content hash {pinned}",
            got=found,
            where=f"{where}; {file}",
            fix="put the file back, or remove what stands behind the `@` for a new run",
        )
    key = (named, found)
    if key not in _LOADED:
        short = f"{Path(place).name}:{name}" if place.endswith(".py") else named
        try:
            module = _run(source, file) if place.endswith(".py") else importlib.import_module(place)
        except (Exception, SystemExit) as error:  # a user's module may raise anything
            raise blame(error, file, f"the file of `{short}`", where) from error
        call = _function_in(module, name, file, where)
        _check_arguments(call, short, f"{where}; {file}")
        _LOADED[key] = UserFunction(reference=short, call=call, file=file, hash=found)
    return _LOADED[key]


def identity_of(reference: str, *, where: str) -> str:
    """Returns what of a function must not change on resume: its name and its source, wherever the file is."""
    named, _, pinned = reference.partition("@")
    if not pinned:
        pinned = load_function(reference, where=where).hash
    place, _, name = named.rpartition(":")
    return f"{Path(place).name if place.endswith('.py') else place}:{name}@{pinned}"


def fields_of(item: Item) -> dict[str, FieldValue]:
    """Returns an item as a user's function gets it: a copy of its fields, and its id."""
    return {"id": item.id, **deepcopy(dict(item.fields))}


def _file_of(module: str, where: str) -> str:
    """Returns the source file of a module that can be imported."""
    try:
        found = find_spec(module)
    except (ImportError, ValueError):  # a package above it is missing, or sys.modules contains None
        found = None
    if found is None or not found.origin or not found.origin.endswith(".py"):
        raise InputError(
            f"there is no module `{module}` with a source in Python",
            expected="an installed module, or a file",
            got="none" if found is None else str(found.origin),
            where=where,
            fix=f"install it, or name the file relative to the spec: {module.replace('.', '/')}.py:NAME",
        )
    return found.origin


def _run(source: str, file: str) -> ModuleType:
    """Executes a file as a module of its own; it may import its neighbours, as a script may."""
    module = ModuleType(f"crossbreed_function_{content_id(file + source)}")
    module.__file__ = file
    sys.modules[module.__name__] = module  # where dataclasses and pickle look for it
    folder, before = str(Path(file).parent), sys.path[:]
    sys.path.insert(0, folder)
    try:
        exec(compile(source, file, "exec"), module.__dict__)
    finally:
        sys.path[:] = before
    return module


def _function_in(module: ModuleType, name: str, file: str, where: str) -> Callable[..., object]:
    found: object = getattr(module, name, None)
    if not callable(found):
        names = [key for key, value in vars(module).items() if inspect.isfunction(value) and not key.startswith("_")]
        raise InputError(
            f"there is no function `{name}`",
            expected=any_of(names) if names else "a function",
            got="nothing of that name" if found is None else shown(found),
            where=f"{where}; {file}",
            fix=suggestion(name, names) or "name one that the file defines",
        )
    return found


def _check_arguments(call: Callable[..., object], short: str, where: str) -> None:
    """Raises InputError unless a function takes two arguments by position, as each of them does."""
    try:
        signature = inspect.signature(call)
        signature.bind(None, None)
    except TypeError as error:
        raise InputError(
            f"`{short}` cannot be called with two arguments: {error}",
            expected=_FORMS,
            got=f"{short.rpartition(':')[2]}{signature}",
            where=where,
            fix="give it two arguments",
        ) from None
    except ValueError:
        pass  # a builtin, which tells no signature


def _number(value: object) -> float | None:
    """Returns what a function returned for an item as a float; None if it is no finite number."""
    try:
        number = float(value) if isinstance(value, SupportsFloat) else math.nan
    except (TypeError, ValueError, RuntimeError, OverflowError):  # an array of several, for example
        return None
    return number if math.isfinite(number) and abs(number) <= LARGEST else None
