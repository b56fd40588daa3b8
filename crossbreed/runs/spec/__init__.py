"""The spec: the settings of a run. Each section is declared beside the part that it configures."""

from crossbreed.runs.spec.artifacts import ArtifactsConfig, GramsConfig
from crossbreed.runs.spec.sources import NamedSourcesConfig, SourcesConfig
from crossbreed.runs.spec.spec import (
    FitnessConfig,
    SlopesConfig,
    Spec,
    WorkersConfig,
    dump_spec,
    load_spec,
    parse_spec,
)

__all__ = [
    "ArtifactsConfig",
    "FitnessConfig",
    "GramsConfig",
    "NamedSourcesConfig",
    "SlopesConfig",
    "SourcesConfig",
    "Spec",
    "WorkersConfig",
    "dump_spec",
    "load_spec",
    "parse_spec",
]
