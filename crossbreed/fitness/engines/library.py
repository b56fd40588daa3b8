"""The boundary to an engine's library, whose errors say nothing about a candidate and become EngineErrors.

Our own bugs must not: they would be retried, journalled as FAILED and never noticed.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module

from pydantic import ValidationError

from crossbreed.errors import CrossbreedError, EngineError, InputError, first_line

BUGS = (AssertionError, AttributeError, LookupError, NameError, NotImplementedError, TypeError)
"""The exceptions that indicate bugs, as opposed to faults of the machine."""


@contextmanager
def library_call(failure: str) -> Iterator[None]:
    """Turns any exception of a library call into an EngineError. Our own code belongs outside.

    Args:
        failure: The failed action, for the message.

    Raises:
        EngineError: the library raised; out of memory, for example.
    """
    try:
        yield
    except CrossbreedError:
        raise
    except Exception as error:
        raise EngineError(f"{failure}: {_reason(error)}") from error


@contextmanager
def engine_code(failure: str) -> Iterator[None]:
    """Does the same around our own code that calls a library throughout; exceptions in `BUGS` pass through."""
    try:
        yield
    except (CrossbreedError, *BUGS):
        raise
    except Exception as error:
        raise EngineError(f"{failure}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The first line; of settings that pydantic refuses, which only counts them there, what it says of each."""
    if isinstance(error, ValidationError):
        return "; ".join(one["msg"] for one in error.errors())
    return first_line(error, at_most=None)


TESTED = {"transformers": ">=5.19,<5.20", "vllm": ">=0.32,<0.33"}
"""Library -> the versions whose undocumented parts the engines know."""


@contextmanager
def internals(library: str) -> Iterator[None]:
    """Guards imports and uses of a library's undocumented parts: another version may not have them, or otherwise.

    Raises:
        InputError: this version has not.
    """
    try:
        yield
    except (ImportError, AttributeError, TypeError) as error:
        raise other_version(library, first_line(error)) from error


def require_internals(library: str, owner: object, names: Iterable[str]) -> None:
    """Checks that an object of a library has undocumented attributes, before one is read or replaced.

    Raises:
        InputError: it has not.
    """
    for name in names:
        if not hasattr(owner, name):
            kind = owner if isinstance(owner, type) else type(owner)
            raise other_version(library, f"{kind.__module__}.{kind.__qualname__} has no `{name}`")


def other_version(library: str, lacks: str) -> InputError:
    """Returns the error for a version of a library that lacks an undocumented part."""
    installed = getattr(import_module(library), "__version__", "unknown")
    return InputError(
        f"the engine uses parts of {library} that this version does not have: {lacks}",
        expected=f"{library} {TESTED[library]}",
        got=f"{library} {installed}",
        fix=f"install a version that the engine knows: {library}{TESTED[library]}",
    )
