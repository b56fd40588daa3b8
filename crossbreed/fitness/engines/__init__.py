"""Engines: who answers. `vllm` is the fast one, `transformers` the plain reference; both take weights as a stream.

An engine starts on a *host* folder (config and tokenizer, weights or not), adopts one candidate after the other and
answers chunks of requests. To add one, satisfy `crossbreed.fitness.protocol.Engine`, and give it settings and a line
in `registry.py`.
"""

from crossbreed.fitness.engines.registry import (
    EngineConfig,
    FakeConfig,
    TransformersConfig,
    VllmConfig,
    build_engine,
)

__all__ = ["EngineConfig", "FakeConfig", "TransformersConfig", "VllmConfig", "build_engine"]
