"""Breeds merged language models: search over merge recipes, scored on your own items.

>>> import crossbreed
>>> spec = crossbreed.load_spec("spec.yaml")  # doctest: +SKIP
>>> report = crossbreed.run(spec, "runs/mine")  # doctest: +SKIP

The parts stand on their own: `crossbreed.sources`, `kernels`, `search_spaces`, `optimizer`, `fitness`, `runs`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crossbreed.runs import load_spec, parse_spec, run

__all__ = ["load_spec", "parse_spec", "run"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from crossbreed import runs

    return getattr(runs, name)
