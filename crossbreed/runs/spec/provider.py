"""What a provider of a merge service says: sources, an engine, its own tasks and `serve`; it searches nothing.

A run's whole spec with a section `serve` is one, too.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from crossbreed.config import Config, Name
from crossbreed.errors import InputError
from crossbreed.fitness import AnyEngineConfig, AnyTaskConfig, EngineConfig, TaskConfig
from crossbreed.runs.spec.presets import PRESET
from crossbreed.runs.spec.scored_tasks import scorable, unique_names
from crossbreed.runs.spec.serve import ServeConfig
from crossbreed.runs.spec.sources import NamedSourcesConfig, SourcesConfig
from crossbreed.runs.spec.spec import (
    Spec,
    SpecFile,
    noting,
    parse_spec_file,
    read_spec_file,
)
from crossbreed.types import Dtype

OF_A_RUN = (PRESET, "space", "optimizer", "stages")
"""The keys without which a spec is no run's."""


class ProvidedConfig(Config):
    """What answers, and the provider's own tasks."""

    engine: AnyEngineConfig
    """The engine that runs the merged models."""
    tasks: Annotated[
        list[AnyTaskConfig], AfterValidator(unique_names), AfterValidator(scorable), Field(default_factory=list)
    ]
    """The tasks that `/v1/evaluations` scores, on all their items."""


class ProviderSpec(Config):
    """The settings of a merge service."""

    name: Name = "service"
    """The name in messages and logs."""
    sources: SourcesConfig
    """The base and its experts."""
    fitness: ProvidedConfig
    """The engine, and the provider's own tasks."""
    serve: ServeConfig = ServeConfig()
    """The service."""
    dtype: Literal["auto", Dtype] = "auto"
    """Dtype of the base's and the experts' own weights; a recipe names its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provided:
    """What a service is made of."""

    name: str
    sources: SourcesConfig | NamedSourcesConfig
    engine: EngineConfig
    tasks: Sequence[TaskConfig]
    serve: ServeConfig
    dtype: Literal["auto", Dtype]
    run: Spec | None = None
    """The run whose spec it is: its tasks are scored on the search items alone. None: on all items."""
    whole: ProviderSpec | None = None
    """The provider's spec; None if it is a run's."""


def load_provider_spec(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Provided:
    """Reads a provider's spec, or a run's with a section `serve`; as `load_spec` reads a run's.

    Raises:
        InputError: it cannot be read or is invalid; the message names the key.
    """
    file = read_spec_file(path, overrides)
    if not any(key in file.raw for key in OF_A_RUN):
        return _of_provider(file)
    spec = parse_spec_file(file)
    if spec.serve is None:
        raise InputError(
            "the spec of a run has no section `serve`",
            expected="`serve:`, for example with a port",
            where=file.places.where,
            fix="add `serve: {port: 8000}`, or set it: --set serve.port=8000",
        )
    return provided_by(spec, spec.serve)


def load_spec_to_check(
    path: str | os.PathLike[str], overrides: Sequence[str] = (), *, with_items: bool = False
) -> Spec | Provided:
    """Reads the spec of a run, or a provider's: that has a section `serve`, and none of those that search.

    Args:
        path: As for `load_spec`, like the others.
        overrides: As there.
        with_items: As there.

    Raises:
        InputError: it cannot be read or is invalid; the message names the key.
    """
    file = read_spec_file(path, overrides)
    is_provider_s = "serve" in file.raw and not any(key in file.raw for key in OF_A_RUN)
    return _of_provider(file) if is_provider_s else parse_spec_file(file, with_items=with_items)


def provided_by(run: Spec, serve: ServeConfig) -> Provided:
    """Returns what the spec of a run serves."""
    return replace(_provided(run, serve), run=run)


def _of_provider(file: SpecFile) -> Provided:
    found: ProviderSpec | None = None
    with noting(file.raw, file.places, file.mistakes):
        found = ProviderSpec.model_validate(file.raw, context={"folder": file.folder})
    file.mistakes.require_none(where=file.places.where)
    assert found is not None, "what is wrong was told"
    return replace(_provided(found, found.serve), whole=found)


def _provided(spec: ProviderSpec | Spec, serve: ServeConfig) -> Provided:
    return Provided(
        name=spec.name,
        sources=spec.sources,
        engine=spec.fitness.engine,
        tasks=spec.fitness.tasks,
        serve=serve,
        dtype=spec.dtype,
    )
