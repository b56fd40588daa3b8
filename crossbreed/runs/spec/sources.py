"""The section `sources`: models on this machine or the hub, or names that an engine gives what is behind it."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, Field, PlainValidator, SerializeAsAny, ValidationInfo

from crossbreed.config import Config, ModelId, Name
from crossbreed.errors import InputError
from crossbreed.fitness import ENGINES, RecipeEngineConfig
from crossbreed.types import BASE


def _names_no_base(experts: dict[str, str]) -> dict[str, str]:
    if BASE in experts:
        raise ValueError("`base` names the base; give the expert another name")
    return experts


class SourcesConfig(Config):
    """The models to merge."""

    base: ModelId
    """The model that the experts were fine-tuned from: a local folder, or a hub id with optional `@revision`."""
    experts: Annotated[dict[Name, ModelId], Field(min_length=1), AfterValidator(_names_no_base)]
    """Name -> full checkpoint or PEFT LoRA adapter."""
    accept: tuple[str, ...] = ()
    """Differences from the base that experts may have: keys of config.json (`rope_parameters`, for example),
    `tokenizer`, `chat_template`. Merges are evaluated and published with the
    base's configuration, tokenizer and chat template."""

    @property
    def told(self) -> tuple[str, dict[str, str]]:
        """The base and name -> expert, as an engine that takes recipes is told of them."""
        return self.base, self.experts


class NamedSourcesConfig(Config):
    """The models to merge, by the names that an engine gives them: they are behind it, and no folders here.

    What is left out is all that the engine has.
    """

    base: Name | None = None
    """The engine's name of the base."""
    experts: tuple[Name, ...] = ()
    """The engine's names of the experts to merge, in the order of coordinates."""

    @property
    def told(self) -> tuple[str, dict[str, str]]:
        """The base and name -> expert, as an engine that takes recipes is told of them."""
        return self.base or "", {name: name for name in self.experts}


@dataclass(frozen=True, slots=True)
class _OfEngine:
    """What a spec says of sources that the engine names."""

    given: object


def _parse_sources(given: object, info: ValidationInfo) -> SourcesConfig | NamedSourcesConfig:
    if isinstance(given, SourcesConfig | NamedSourcesConfig):
        return given
    if isinstance(given, _OfEngine):
        return NamedSourcesConfig.model_validate(given.given, context=info.context)
    return SourcesConfig.model_validate(given, context=info.context)


AnySources: TypeAlias = Annotated[
    SerializeAsAny[SourcesConfig | NamedSourcesConfig],
    PlainValidator(_parse_sources, json_schema_input_type=SourcesConfig | NamedSourcesConfig),
]
"""A field that takes models, or names of the engine's."""


def marked(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns a raw spec in which sources that are the engine's names are marked; they may be left out."""
    if not _engine_names_sources(given):
        return given
    sources = {} if given.get("sources") is None else given["sources"]
    return {**given, "sources": sources if isinstance(sources, Config) else _OfEngine(sources)}


def _engine_names_sources(given: Mapping[str, Any]) -> bool:
    """Returns whether the engine of a raw spec has sources of its own names; False if it cannot be known."""
    fitness = given.get("fitness")
    engine = fitness.get("engine") if isinstance(fitness, Mapping) else None
    kind = engine.get("kind") if isinstance(engine, Mapping) else None
    with suppress(InputError):  # it is told where the engine is parsed
        config = ENGINES.look_up(kind).config
        return issubclass(config, RecipeEngineConfig) and config.names_sources
    return False
