"""The preparation of a run: Grams of the inputs of each expert's matrices.

They are stored in the cache folder of the machine (`CROSSBREED_CACHE`), one file per expert, named by a hash of
everything from which it is computed: base, expert, input tokens, settings and versions. So runs of the same experts
share them. A recipe refers to them by content hash, and the run's folder holds a copy: so a run goes on, and workers
start, on processors that would make other bits of the same inputs. A worker that sees neither the driver's cache nor
the run's folder computes them; if it gets other bits, the run ends with an error.
"""

from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from crossbreed.errors import InputError, InvalidWeights, require
from crossbreed.fitness import Loglikelihood, Observable, build_engine, reference_config
from crossbreed.kernels.artifacts.input_grams import InputGrams, InputGramSums
from crossbreed.kernels.linalg.blas import on_threads
from crossbreed.recipes.named import weighted_deltas
from crossbreed.runs.artifact_files import folder, install, note, opened, stored
from crossbreed.runs.events import Listener, Preparing, ignore
from crossbreed.runs.plan import Plan
from crossbreed.runs.spec import GramsConfig
from crossbreed.runs.weights import Weights
from crossbreed.sources import Sources
from crossbreed.sources.hashes import hash_of
from crossbreed.types import canonical_json

_SCHEMA = 1
"""The version of the file names' hash. Increment it with every change of what is summed or how (`InputGramSums`, the
sketch, what an engine observes), so that sums of older code are not used."""
_NUM_THREADS = 2
"""The number of threads for the sums, whose rounding depends on it."""


class _Wanted(NamedTuple):
    """An expert's Grams: their file, and the requests from which to compute them."""

    path: Path
    name: str
    requests: Sequence[Loglikelihood]


def prepare_grams(
    plan: Plan, *, on_event: Listener = ignore, recorded: str | None = None, kept: Path | None = None
) -> Plan:
    """Returns the plan with the artifacts of its spec: those of the run, this machine's, or newly made ones.

    Args:
        plan: A new plan.
        on_event: Called before an artifact is made.
        recorded: The content hash of the Grams that the run was begun with; None for a new run.
        kept: The folder of the run's artifacts.

    Raises:
        InputError: an expert's activations are NaN or infinite.
        EngineError: transformers could not start.
    """
    config = plan.spec.artifacts.grams
    if config is None:
        return plan
    if recorded is not None and (grams := stored(InputGrams, recorded, kept=kept)) is not None:
        install(grams)
        return plan.with_artifact(grams)
    require("transformers", extra="torch")
    assert plan.weights is not None, "a plan with Grams has weights"
    tensors = plan.weights.projections
    wanted = [_wanted(plan, plan.weights.sources, config, name, tensors) for name in plan.structure.experts]
    missing = [expert for expert in wanted if recorded is not None or opened(InputGrams, expert.path) is None]
    if missing:  # or the run has others' bits
        on_event(Preparing(what=f"Grams of {', '.join(expert.name for expert in missing)}", folder=folder()))
        _collect(plan, plan.weights, config, missing, tensors)
    grams = InputGrams.open(*dict.fromkeys(expert.path for expert in wanted))
    note(grams)
    return plan.with_artifact(grams)


def _wanted(plan: Plan, sources: Sources, config: GramsConfig, expert: str, tensors: Sequence[str]) -> _Wanted:
    from crossbreed.fitness.engines.encoder import Encoder

    encoder = Encoder(sources.base.path, max_model_len=plan.spec.fitness.max_model_len)
    names = config.tasks_of(expert, [task.name for task in plan.tasks])
    requests = [
        task.calibration(item)
        for task in plan.tasks
        if task.name in names
        for item in plan.items["search"][task.name].items[: config.items]
    ]
    rule: dict[str, Any] = {
        "schema": _SCHEMA,
        "base": sources.base.hash,
        "config": sources.base.config,
        "expert": sources.experts[expert].hash,
        "tensors": tensors,
        "tokens": [encoder.encode(request).token_ids for request in requests],
        "settings": config.model_dump(mode="json", exclude={"items", "tasks"}),
        "threads": _NUM_THREADS,
        "versions": {package: version(package) for package in ("torch", "transformers")},
    }
    return _Wanted(folder() / f"{hash_of([canonical_json(rule)])}.safetensors", expert, requests)


def _collect(
    plan: Plan, weights: Weights, config: GramsConfig, missing: Sequence[_Wanted], tensors: Sequence[str]
) -> None:
    """Runs each expert on its requests by teacher forcing, and sums the Grams of its matrices' inputs."""
    settings = reference_config(
        dtype=config.dtype,
        device=config.device,
        context_tokens=plan.spec.fitness.max_model_len,
    )
    folder().mkdir(parents=True, exist_ok=True)
    with on_threads(_NUM_THREADS):
        engine = build_engine(settings, weights.host)
        assert isinstance(engine, Observable)
        try:
            for expert in missing:
                # in fp32, since an adapter is not a bf16 checkpoint
                recipe = weighted_deltas({expert.name: 1.0}, hashes=plan.structure.hashes, dtype="float32")
                sums = InputGramSums(max_columns=config.max_columns, rank=config.rank)
                engine.adopt(recipe, weights.materialize_once(recipe))
                add = partial(sums.add, weights.sources.experts[expert.name].hash)
                try:
                    engine.activations(expert.requests, tensors, add)
                except InvalidWeights as error:
                    raise InputError(
                        f"expert `{expert.name}` has no Grams: {error}",
                        expected=f"finite activations in {config.dtype}",
                        where=plan.spec.sources.told[1][expert.name],
                        fix="" if config.dtype == "float32" else "set `artifacts.grams.dtype: float32`",
                    ) from None
                weights.sources.require_unchanged()  # the file is believed by every later run of these sources
                sums.write(expert.path)
        finally:
            engine.close()
