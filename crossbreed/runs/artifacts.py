"""What a run prepares before it searches: Grams of the inputs that each expert's matrices see.

They are kept in the cache folder of the machine (`CROSSBREED_CACHE`), an expert's in a file that is named by the rule
which makes it again: base, expert, the tokens that it is fed, what they are computed with and by. So runs of the same
experts share them, a resumed run finds them, and a worker on another machine makes them there. A recipe names them by
their content: where the same rule gave other bits (another processor, another version of torch), the run is refused.
"""

from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from crossbreed.durable import write_atomically
from crossbreed.errors import InputError, InvalidWeights, require
from crossbreed.fitness import Loglikelihood, Observable, TransformersConfig, build_engine
from crossbreed.kernels import materialize
from crossbreed.kernels.artifacts import Grams, GramSums
from crossbreed.kernels.blas import on_threads
from crossbreed.runs.baselines import weighted
from crossbreed.runs.plan import Plan
from crossbreed.runs.spec import GramsConfig
from crossbreed.sources import ModuleType, module_of
from crossbreed.sources.hashes import cache_folder, hash_of
from crossbreed.types import Recipe, canonical_json

_SCHEMA = 1
"""Of the rule that names a file. It rises with every change of what is summed or how (`GramSums`, the sketch, what an
engine observes), so that sums of older code are not taken for those of this."""
_NUM_THREADS = 2
"""Of the sums: how they are rounded depends on it."""


class _Wanted(NamedTuple):
    """An expert's Grams: where they are, or what they are made from."""

    path: Path
    name: str
    requests: Sequence[Loglikelihood]


def prepared(plan: Plan) -> Plan:
    """Returns the plan with the artifacts that its spec wants, found on this machine or made.

    Raises:
        InputError: an expert's activations are NaN or infinite.
        EngineError: transformers could not start.
    """
    config = plan.spec.artifacts.grams
    if config is None:
        return plan
    require("transformers", extra="torch")
    tensors = _projections(plan)
    wanted = [_wanted(plan, config, name, tensors) for name in plan.sources.experts]
    if missing := [expert for expert in wanted if _opened(expert.path) is None]:
        _collect(plan, config, missing, tensors)
    grams = Grams.open(*dict.fromkeys(expert.path for expert in wanted))
    _note(grams)
    return plan.with_grams(grams)


def artifacts_of(recipe: Recipe) -> tuple[Grams, ...]:
    """Returns the artifacts that a recipe names, from the cache of this machine.

    Raises:
        InputError: they are not there.
    """
    found = []
    for name, wanted in recipe.artifacts.items():
        note = _folder() / f"{wanted}.files"
        paths = [_folder() / file for file in note.read_text().split()] if note.exists() else []
        grams = _opened(*paths)
        if grams is None or grams.hash != wanted:
            raise InputError(
                f"the recipe's artifact `{name}` is not on this machine",
                expected=f"content hash {wanted}",
                where=str(_folder()),
                fix="`crossbreed report RUN` of the run that bred the recipe makes it again; or name the folder of "
                "the machine that has it by CROSSBREED_CACHE",
            )
        found.append(grams)
    return tuple(found)


def _opened(*paths: Path) -> Grams | None:
    """None where one of the files is not there, or was cut off: what can be made again is made again."""
    try:
        return Grams.open(*paths)
    except InputError:
        return None


def _folder() -> Path:
    return cache_folder() / "artifacts"


def _projections(plan: Plan) -> list[str]:
    """The matrices that some expert changes: what is no projection is not regressed on."""
    tensors = plan.sources.structure.tensors
    touched = frozenset[str]().union(*plan.sources.structure.touched.values())
    return [
        name
        for name in sorted(touched)
        if len(tensors[name].shape) == 2 and module_of(name) is not ModuleType.EMBEDDING
    ]


def _wanted(plan: Plan, config: GramsConfig, expert: str, tensors: Sequence[str]) -> _Wanted:
    from crossbreed.fitness.engines.encoder import Encoder

    encoder = Encoder(plan.sources.base.path, max_model_len=plan.spec.fitness.max_model_len)
    names = config.tasks_of(expert, [task.name for task in plan.tasks])
    requests = [
        task.calibration(item)
        for task in plan.tasks
        if task.name in names
        for item in plan.items["search"][task.name].items[: config.items]
    ]
    rule: dict[str, Any] = {
        "schema": _SCHEMA,
        "base": plan.sources.base.hash,
        "config": plan.sources.base.config,
        "expert": plan.sources.experts[expert].hash,
        "tensors": tensors,
        "tokens": [encoder.encode(request).token_ids for request in requests],
        "settings": config.model_dump(mode="json", exclude={"items", "tasks"}),
        "threads": _NUM_THREADS,
        "versions": {package: version(package) for package in ("torch", "transformers")},
    }
    return _Wanted(_folder() / f"{hash_of([canonical_json(rule)])}.safetensors", expert, requests)


def _collect(plan: Plan, config: GramsConfig, missing: Sequence[_Wanted], tensors: Sequence[str]) -> None:
    """Lets each expert answer its requests by teacher forcing, and adds up what its matrices get."""
    settings = TransformersConfig(
        kind="transformers",
        dtype=config.dtype,
        device=config.device,
        max_model_len=plan.spec.fitness.max_model_len,
    )
    names = ", ".join(expert.name for expert in missing)
    print(f"collecting Grams of {names}, to be kept in {_folder()} ...", flush=True)
    _folder().mkdir(parents=True, exist_ok=True)
    with on_threads(_NUM_THREADS):
        engine = build_engine(settings, plan.sources.base.path)
        assert isinstance(engine, Observable)
        try:
            for expert in missing:
                # in fp32, for an adapter is no bf16 checkpoint
                recipe = weighted({expert.name: 1.0}, hashes=plan.sources.structure.hashes, dtype="float32")
                sums = GramSums(max_columns=config.max_columns, rank=config.rank)
                engine.adopt(recipe, materialize(recipe, plan.sources, once=True))
                add = partial(sums.add, plan.sources.experts[expert.name].hash)
                try:
                    engine.activations(expert.requests, tensors, add)
                except InvalidWeights as error:
                    raise InputError(
                        f"expert `{expert.name}` has no Grams: {error}",
                        expected=f"finite activations in {config.dtype}",
                        where=plan.spec.sources.experts[expert.name],
                        fix="" if config.dtype == "float32" else "set `artifacts.grams.dtype: float32`",
                    ) from None
                sums.write(expert.path)
        finally:
            engine.close()


def _note(grams: Grams) -> None:
    """Leaves word of which files make up an artifact, for merges of its recipes without their run."""
    write_atomically(_folder() / f"{grams.hash}.files", "\n".join(path.name for path in grams.shards).encode())
