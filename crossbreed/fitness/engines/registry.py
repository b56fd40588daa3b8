"""Which engines there are: their settings, and where their code is, imported only when it is wanted."""

import os
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import Field, field_validator

from crossbreed.config import Config
from crossbreed.errors import CrossbreedError, EngineError
from crossbreed.fitness.protocol import Engine


class VllmConfig(Config):
    """vLLM in the worker's own process, on CPU or CUDA: the engine for searches."""

    kind: Literal["vllm"]
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """What the model computes in."""
    max_model_len: Annotated[int, Field(ge=2)] | None = None
    """Longest prompt plus answer, in tokens. Unless given: what the model's config allows."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    """CUDA: the part of the GPU's memory that the engine may take."""
    kv_cache_gb: Annotated[float, Field(gt=0)] | None = None
    """Memory for the KV cache. Unless given: 1 on CPU; on CUDA what `gpu_memory_utilization` leaves."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed to `vllm.LLM` as they are. One device an engine: a sharded one could not take a stream of weights."""

    @field_validator("options")
    @classmethod
    def _ours_stay_ours(cls, options: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(options.keys() & {"model", "worker_extension_cls", *cls.model_fields}):
            raise ValueError(f"`{taken[0]}` is set by crossbreed, or has a field of its own")
        return options


class TransformersConfig(Config):
    """One forward at a time in Hugging Face transformers: slow and plain, the reference for the others."""

    kind: Literal["transformers"]
    dtype: Literal["bfloat16", "float16", "float32"] = "float32"
    """What the model computes in."""
    max_model_len: Annotated[int, Field(ge=2)] | None = None
    """Longest prompt plus answer, in tokens. Unless given: what the model's config allows."""
    device: str = "cpu"
    """torch's name of the device."""


class FakeConfig(Config):
    """No model: see `crossbreed.testing.fakes`. For tests of everything that is not a model."""

    kind: Literal["fake"]
    delay_s: Annotated[float, Field(ge=0)] = 0.0
    """How long an answer to a chunk takes."""
    fail: Literal["start", "answer", "exit"] | None = None
    """Fail when started, fail in the `fail_at`-th answer of an engine, or end the process there."""
    fail_at: Annotated[int, Field(ge=1)] = 1
    """Which answer fails, counted from 1."""


EngineConfig: TypeAlias = Annotated[VllmConfig | TransformersConfig | FakeConfig, Field(discriminator="kind")]
"""Settings of one engine."""

ENGINES = MappingProxyType(
    {
        "vllm": "crossbreed.fitness.engines.vllm:VllmEngine",
        "transformers": "crossbreed.fitness.engines.transformers:TransformersEngine",
        "fake": "crossbreed.testing.fakes:FakeEngine",
    }
)
"""Kind -> `module:Class`, called with the settings and the host."""


def build_engine(config: EngineConfig, host: str | os.PathLike[str]) -> Engine:
    """Starts an engine.

    Args:
        config: its settings.
        host: the folder to start from: config and tokenizer, and weights where there are some.

    Raises:
        MissingExtra: the engine's package is not installed.
        InputError: the engine has no such setting.
        EngineError: it does not start, whatever its package raised.
    """
    module, _, name = ENGINES[config.kind].partition(":")
    try:
        return cast(Engine, getattr(import_module(module), name)(config, Path(host)))
    except CrossbreedError:
        raise
    except Exception as error:
        raise EngineError(f"the {config.kind} engine did not start on {host}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """Returns what a library's error says, in one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
