"""Objects of a Python program in place of the parts of a spec.

`crossbreed.run(spec, out, optimizer=..., engine=..., tasks=...)` puts `kind: object` into the spec, with the name of
the object. The run is recorded and resumed with that name; the object itself is never written to a file.
"""

import re
from functools import partial
from typing import Final

from crossbreed.errors import InputError

OBJECT: Final = "object"
"""The kind of an optimizer, task or engine passed from Python."""
RECIPE_OBJECT: Final = "recipe_object"
"""The kind of an engine that takes recipes, passed from Python."""


def name_of(given: object) -> str:
    """Returns the name under which a run records an object: its own `name`, or else its class or function.

    The arguments of a `functools.partial` are part of its name.

    >>> from fractions import Fraction
    >>> name_of(Fraction(1, 2)), name_of(Fraction.from_float)
    ('fractions.Fraction', 'fractions.Fraction.from_float')
    """
    name = getattr(given, "name", None)
    if isinstance(name, str) and name:
        return name
    if isinstance(given, partial):
        arguments = [*map(_shown, given.args), *(f"{key}={_shown(value)}" for key, value in given.keywords.items())]
        return name_of(given.func) + (f"({', '.join(arguments)})" if arguments else "")
    named = given if hasattr(given, "__qualname__") else type(given)
    return f"{named.__module__}.{named.__qualname__}"


def _shown(value: object) -> str:
    """Returns an argument as another process shows it, too: without addresses in memory."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def absent(argument: str, name: str, *, kind: str = OBJECT) -> InputError:
    """Returns the error for a spec that names an object which the caller has not given.

    Args:
        argument: The argument of `crossbreed.run` that it comes by.
        name: The object's name.
        kind: The kind in the spec.
    """
    return InputError(
        f"this spec belongs to a run that was started from Python with an object for `{argument}`",
        expected=f"the object `{name}`" if name else "an object",
        got="none: a file cannot hold it",
        where=f"`kind: {kind}` of {argument}",
        fix=f"call crossbreed.run(spec, out, {argument}=...) again, or runs.report_on, with every object of the run",
    )
