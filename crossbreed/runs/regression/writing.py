"""`crossbreed regress`: writes the checkpoint of a regression without a search."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from crossbreed.errors import InputError
from crossbreed.recipes.grammar import DTYPES
from crossbreed.recipes.named import weighted_deltas
from crossbreed.runs.drafting.draft import expert_names
from crossbreed.runs.events import CheckpointWritten, Listener, ignore
from crossbreed.runs.plan import build_plan
from crossbreed.runs.publishing.checkpoint import Merge, write_checkpoint
from crossbreed.runs.publishing.folders import require_unused
from crossbreed.runs.regression.artifact import making_of, regression_of
from crossbreed.runs.regression.making import Making
from crossbreed.runs.regression.texts import Asked
from crossbreed.runs.spec import Spec, load_spec
from crossbreed.runs.spec.regression import RegressionConfig, SamplesConfig
from crossbreed.runs.weights import Weights
from crossbreed.sources import open_sources
from crossbreed.types import REGRESSION


def write_regression(
    models: Sequence[str], out: Path, *, overrides: Sequence[str] = (), on_event: Listener = ignore
) -> None:
    """Writes what the command line names: one spec, or a base and its experts; raises as the functions below."""
    if len(models) == 1:
        regress(load_spec(models[0], overrides), out, on_event=on_event)
    elif overrides:
        raise InputError("--set changes a spec", expected="regress SPEC.yaml --set ...", got="models")
    else:
        regress_without_data(models[0], models[1:], out, on_event=on_event)


def regress(spec: Spec, out: Path, *, on_event: Listener = ignore) -> None:
    """Writes the regression of a spec as a checkpoint.

    Args:
        spec: Its regression, an artifact or a stage, says how; default: the defaults.
        out: A new or empty folder.
        on_event: As for `run`.

    Raises:
        InputError: the spec or the folder is invalid, or there are no texts for an expert.
        EngineError: transformers could not run the model.
    """
    require_unused(out)
    _write(making_of(build_plan(spec, searches=False), spec.regression or RegressionConfig()), out, on_event)


def regress_without_data(base: str, experts: Sequence[str], out: Path, *, on_event: Listener = ignore) -> None:
    """Writes a regression for which each expert has written its calibration texts itself.

    Args:
        base: A folder or hub id.
        experts: Folders or hub ids.
        out: A new or empty folder.
        on_event: As for `run`.

    Raises:
        InputError: a source or the folder is invalid.
        EngineError: transformers could not run the model.
    """
    require_unused(out)
    names = expert_names(experts)
    weights = Weights(sources=open_sources(base, dict(zip(names, experts, strict=True))))
    config = RegressionConfig(items=0, samples=SamplesConfig())
    asked = Asked(golds=(), samples=config.samples, seed=0)
    dtype = weights.structure.dtype
    if dtype not in DTYPES:
        raise InputError(
            "merges cannot be written in the dtype of the base's weights",
            expected=" or ".join(DTYPES),
            got=dtype,
            where=base,
            fix="use a spec, and set `dtype:` there",
        )
    _write(Making(weights=weights, config=config, asked=dict.fromkeys(names, asked), dtype=dtype), out, on_event)


def _write(making: Making, out: Path, on_event: Listener) -> None:
    sources = regression_of(making, on_event).sources
    recipe = weighted_deltas({REGRESSION: 1.0}, hashes=sources.structure.hashes, dtype=making.dtype)
    stream = partial(replace(making.weights, sources=sources).materialize_once, recipe)
    fingerprint = write_checkpoint(Merge(recipe=recipe, sources=sources, stream_factory=stream), out)
    on_event(CheckpointWritten(folder=out, fingerprint=fingerprint))
