"""The boundary to an engine's library, whose errors say nothing about a candidate and become EngineErrors.

Our own bugs must not: they would be retried, journalled as FAILED and never noticed.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from crossbreed.errors import CrossbreedError, EngineError, first_line

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
        raise EngineError(f"{failure}: {first_line(error, at_most=None)}") from error


@contextmanager
def engine_code(failure: str) -> Iterator[None]:
    """Does the same around our own code that calls a library throughout; exceptions in `BUGS` pass through."""
    try:
        yield
    except (CrossbreedError, *BUGS):
        raise
    except Exception as error:
        raise EngineError(f"{failure}: {first_line(error, at_most=None)}") from error
