"""The merge of a regression as an artifact: a checkpoint that a run makes before it searches, and a source of its own.

It is a folder like any other full checkpoint's, with the base's configuration and tokenizer, and `regression.json`, the
rule that it was made by. It lies in the cache folder of the machine (`CROSSBREED_CACHE`) under its content hash, and
the run's folder has a copy: forward passes round otherwise on other processors, and it cannot be made again there.
Recipes name it `regression`, by its content hash, beside base and experts: so every space, operator and engine takes it
as one more expert.
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from types import MappingProxyType

from crossbreed.cache import is_ours
from crossbreed.durable import scratch_folder, write_atomically
from crossbreed.errors import MachineError, require
from crossbreed.kernels.artifacts.walk_statistics import STATISTICS, WalkStatistics
from crossbreed.runs.artifact_files import folder, install, stored
from crossbreed.runs.events import Listener, ignore
from crossbreed.runs.made_sources import keep_made, made_source
from crossbreed.runs.plan import Plan
from crossbreed.runs.regression.making import Made, Making
from crossbreed.runs.regression.texts import Asked, golds_of, prompts_of
from crossbreed.runs.spec.regression import RegressionConfig
from crossbreed.sources.hashes import hash_of
from crossbreed.types import REGRESSION, canonical_json


def prepare_regression(
    plan: Plan,
    *,
    on_event: Listener = ignore,
    recorded: Mapping[str, str] = MappingProxyType({}),
    kept: Path | None = None,
) -> Plan:
    """Returns the plan with the regression of its spec as a source: that of the run, this machine's, or a new one.

    Args:
        plan: A new plan.
        on_event: Called before it is made, and as layers are solved.
        recorded: The content hashes of what the run was begun with; none for a new run.
        kept: The folder of the run's artifacts.

    Raises:
        InputError: there are no texts for an expert, or the model cannot be walked over.
        EngineError: transformers could not run the model.
    """
    config = plan.spec.regression
    if config is None:
        return plan
    assert plan.weights is not None, "a plan with a regression has weights"
    made = _recorded(plan, recorded, kept) or regression_of(making_of(plan, config), on_event)
    plan = plan.with_sources(made.sources)
    return plan if made.statistics is None else plan.with_artifact(made.statistics)


def _recorded(plan: Plan, recorded: Mapping[str, str], kept: Path | None) -> Made | None:
    """Returns what the run was begun with, of this machine or its folder; None if it has to be made."""
    assert plan.weights is not None, "a plan with a regression has weights"
    source, statistics = recorded.get(REGRESSION), recorded.get(STATISTICS)
    found = made_source(plan.weights.sources, source, folder(), kept) if source else None
    held = stored(WalkStatistics, statistics, kept=kept) if statistics else None
    if found is None or (plan.spec.keeps_statistics and held is None):
        return None
    keep_made(found, folder())
    if held is not None:
        install(held)
    return Made(found, held)


def making_of(plan: Plan, config: RegressionConfig) -> Making:
    """Returns what the regression of a plan is made from."""
    assert plan.weights is not None, "a plan with a regression has weights"
    return Making(
        weights=plan.weights,
        config=config,
        asked={name: asked_of(plan, config, name) for name in plan.spec.sources.experts},
        dtype=plan.dtype,
        max_model_len=plan.spec.fitness.max_model_len,
        keeps_statistics=plan.spec.keeps_statistics,
    )


def asked_of(plan: Plan, config: RegressionConfig, expert: str) -> Asked:
    """Returns what an expert is asked for.

    Raises:
        InputError: prompts are given for a task that asks none, or are among the selection or report items.
    """
    every = [task.name for task in plan.tasks]
    names = config.tasks_of(expert, every)
    where = "artifacts.regression.prompts"
    golds = (
        golds_of(
            task,
            plan.items["search"][task.name].items[: config.items],
            prompts_of(task, path, where, items=plan.items) if (path := config.prompts.get(task.name)) else (),
        )
        for task in plan.tasks
        if task.name in names
    )
    return Asked(
        golds=tuple(one for one in golds if one.requests or one.prompts),
        samples=config.samples,
        seed=plan.spec.seed,
        is_given=config.says_tasks_of(expert, every),
    )


def regression_of(making: Making, on_event: Listener) -> Made:
    """Returns the sources with their regression: from the cache of this machine, or newly made."""
    require("transformers", extra="torch")
    if (found := _cached(making)) is not None:
        return found
    _require_folder()
    with scratch_folder(folder()) as new:
        made = making.make(new, on_event)
        keep_made(made.sources, folder())
        notes = {REGRESSION: made.sources.structure.hashes[REGRESSION]}
        if made.statistics is not None:
            install(made.statistics)
            notes[STATISTICS] = made.statistics.hash
    for name, content in notes.items():
        write_atomically(_note(making, name), content.encode())
    found = _cached(making)
    assert found is not None, "it was written a moment ago"
    return found


def _require_folder() -> None:
    """Makes the folder, if need be.

    Raises:
        MachineError: it cannot be made or written.
    """
    try:
        folder().mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder()):
            pass
    except OSError as error:
        raise MachineError(
            f"the regression cannot be kept in {folder()}: {error.strerror}\n"
            "set CROSSBREED_CACHE to a folder that can be written, and give the same command"
        ) from error


def _cached(making: Making) -> Made | None:
    """Returns what the same rule has made before on this machine."""
    notes = {name: _note(making, name) for name in (REGRESSION, STATISTICS)}
    known = {name: note.read_text() for name, note in notes.items() if note.exists() and is_ours(note)}
    found = made_source(making.weights.sources, known[REGRESSION], folder()) if REGRESSION in known else None
    if found is None or not making.keeps_statistics:
        return None if found is None else Made(found, None)
    statistics = stored(WalkStatistics, known[STATISTICS]) if STATISTICS in known else None
    return None if statistics is None else Made(found, statistics)


def _note(making: Making, name: str) -> Path:
    """Returns the file that says which content a rule has made."""
    return folder() / f"{hash_of([canonical_json(making.rule())])}.{name}"
