"""Packages whose names are imported on first use: importing one is cheap and needs no optional package."""

import sys
from collections.abc import Callable, Collection, Mapping
from importlib import import_module


def attributes(
    package: str, names: Mapping[str, Collection[str]], *, before: Callable[[str], None] = lambda module: None
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Returns the `__getattr__` and the `__dir__` of a package.

    mypy and editors read the same names from the package's `TYPE_CHECKING` block; tests/test_lazy.py compares the two.

    Args:
        package: Its `__name__`.
        names: Module -> the names that the package exports from it; the package's own name -> its modules.
        before: Called with a module's name before it is imported; raises if an optional package is missing.
    """
    homes = {name: module for module, offered in names.items() for name in offered}

    def get(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if homes[name] == package:
            before(f"{package}.{name}")
            return import_module(f"{package}.{name}")
        before(homes[name])
        value = getattr(import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)  # from now on an ordinary attribute
        return value

    return get, lambda: sorted(sys.modules[package].__all__)
