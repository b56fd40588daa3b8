"""Breeds merged language models: search over merge recipes, scored on your own items.

>>> import crossbreed
>>> spec = crossbreed.load_spec("spec.yaml")  # doctest: +SKIP
>>> report = crossbreed.run(spec, "runs/mine", on_event=print)  # doctest: +SKIP

The parts are usable on their own: `crossbreed.sources`, `search_spaces`, `optimizer`, `kernels`, `fitness`, `runs`.
docs/python.md is a tour. Everything is imported on first use; names that need torch raise MissingExtra without it.
"""

from typing import TYPE_CHECKING

from crossbreed.lazy import attributes

if TYPE_CHECKING:
    from crossbreed import (
        errors,
        fitness,
        kernels,
        mergekit,
        optimizer,
        recipes,
        runs,
        search_spaces,
        sources,
        testing,
        types,
    )
    from crossbreed.kernels import materialize
    from crossbreed.runs.driver import run
    from crossbreed.runs.evaluate import evaluate
    from crossbreed.runs.spec import Spec, load_spec, parse_spec
    from crossbreed.sources import open_sources
    from crossbreed.types import Recipe

    __version__: str

__all__ = [
    "Recipe",
    "Spec",
    "__version__",
    "errors",
    "evaluate",
    "fitness",
    "kernels",
    "load_spec",
    "materialize",
    "mergekit",
    "open_sources",
    "optimizer",
    "parse_spec",
    "recipes",
    "run",
    "runs",
    "search_spaces",
    "sources",
    "testing",
    "types",
]


def _require_torch(module: str) -> None:
    if module == "crossbreed.kernels":
        from crossbreed.sources import require_tensors

        require_tensors()


if not TYPE_CHECKING:  # else mypy would accept every name, as one that `__getattr__` finds
    _get, __dir__ = attributes(
        __name__,
        {
            "crossbreed": [
                "errors",
                "fitness",
                "kernels",
                "mergekit",
                "optimizer",
                "recipes",
                "runs",
                "search_spaces",
                "sources",
                "testing",
                "types",
            ],
            "crossbreed.kernels": ["materialize"],
            "crossbreed.runs.driver": ["run"],
            "crossbreed.runs.evaluate": ["evaluate"],
            "crossbreed.runs.spec": ["Spec", "load_spec", "parse_spec"],
            "crossbreed.sources": ["open_sources"],
            "crossbreed.types": ["Recipe"],
        },
        before=_require_torch,
    )

    def __getattr__(name: str) -> object:
        if name == "__version__":
            from importlib.metadata import version

            return version(__name__)
        return _get(name)
