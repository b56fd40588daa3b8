"""Engines: requests in, responses out. `vllm` is the fast one, `transformers` the simple reference.

An engine that takes weights starts on a *host* folder (config and tokenizer, with or without weights), adopts one
candidate after the other from a stream and answers chunks of requests. One that takes recipes makes the weights itself.
To add one, satisfy a protocol of `crossbreed.fitness.protocol`, declare its settings, and name its `EnginePart` in
`registry.py` or as an entry point of another package (docs/plugins.md).
"""

from crossbreed.fitness.engines.registry import (
    ENGINES,
    AdapterEngineConfig,
    AnyEngineConfig,
    EngineConfig,
    EnginePart,
    FakeConfig,
    RecipeEngineConfig,
    TransformersConfig,
    VllmConfig,
    build_adapter_engine,
    build_engine,
    build_recipe_engine,
    reference_config,
    require_code,
)

__all__ = [
    "ENGINES",
    "AdapterEngineConfig",
    "AnyEngineConfig",
    "EngineConfig",
    "EnginePart",
    "FakeConfig",
    "RecipeEngineConfig",
    "TransformersConfig",
    "VllmConfig",
    "build_adapter_engine",
    "build_engine",
    "build_recipe_engine",
    "reference_config",
    "require_code",
]
