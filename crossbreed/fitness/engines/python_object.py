"""An engine object passed to `crossbreed.run` from Python: one that takes weights, or one that takes recipes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, cast

from pydantic import PrivateAttr

from crossbreed.fitness.engines.registry import EngineConfig, EnginePart, RecipeEngineConfig
from crossbreed.fitness.protocol import RecipeEngine, WeightEngine
from crossbreed.objects import absent
from crossbreed.sources.structure import Structure

StartEngine: TypeAlias = Callable[[Path], WeightEngine]
"""Starts an engine on the base's folder; called again after each failure."""


class DescribingEngine(RecipeEngine, Protocol):
    """An engine that takes recipes and describes the sources that it can merge."""

    def describe_sources(self, base: str, experts: Mapping[str, str]) -> Structure:
        """See RecipeEngineConfig."""
        ...


def is_started(given: object) -> bool:
    """Returns whether the object is an engine, rather than a callable that starts one."""
    return hasattr(given, "adopt") and not isinstance(given, type)


class EngineObject(EngineConfig):
    """An engine passed from Python: `crossbreed.run(spec, out, engine=...)`. Cannot be given in a file."""

    kind: Literal["object"] = "object"
    object: str = ""
    """Its name, which must be the same on resume."""
    _start: StartEngine | None = PrivateAttr(default=None)

    def hold(self, given: WeightEngine | StartEngine) -> None:
        """Keeps the object."""
        self._start = (lambda host: cast(WeightEngine, _Lent(given))) if is_started(given) else cast(StartEngine, given)

    def require(self) -> StartEngine:
        """Returns the callable that starts the engine.

        Raises:
            InputError: the object was not given.
        """
        if self._start is None:
            raise absent("engine", self.object)
        return self._start


class RecipeEngineObject(RecipeEngineConfig):
    """An engine that takes recipes, passed from Python: `crossbreed.run(spec, out, engine=...)`."""

    kind: Literal["recipe_object"] = "recipe_object"
    object: str = ""
    """Its name, which must be the same on resume."""
    _engine: DescribingEngine | None = PrivateAttr(default=None)

    def hold(self, given: DescribingEngine) -> None:
        """Keeps the object."""
        self._engine = given

    def require(self) -> DescribingEngine:
        """Returns the engine.

        Raises:
            InputError: the object was not given.
        """
        if self._engine is None:
            raise absent("engine", self.object, kind=self.kind)
        return self._engine

    def describe_sources(self, base: str, experts: Mapping[str, str]) -> Structure:
        """Returns the engine's own description; see RecipeEngineConfig."""
        return self.require().describe_sources(base, experts)


def start_weight_engine(config: EngineObject, host: Path) -> WeightEngine:
    """Returns the engine that the settings hold; see EnginePart."""
    return config.require()(host)


def start_recipe_engine(config: RecipeEngineObject) -> RecipeEngine:
    """Returns the engine that the settings hold; see EnginePart."""
    return cast(RecipeEngine, _Lent(config.require()))


class _Lent:
    """An engine that the caller owns: everything but `close` is passed on."""

    def __init__(self, engine: object) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:  # whatever the engine has
        return getattr(self._engine, name)

    def close(self) -> None:
        """Leaves the engine open."""


PART = EnginePart(config=EngineObject, takes="weights", make=f"{__name__}:start_weight_engine")
RECIPE_PART = EnginePart(config=RecipeEngineObject, takes="recipe", make=f"{__name__}:start_recipe_engine")
