"""Starting the workers of a plan, each verified by the canary."""

import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from crossbreed.fitness import Surroundings
from crossbreed.runs.events import EngineStarting, Listener, Note, PhaseStarting, WorkersReady, ignore
from crossbreed.runs.objects import for_workers
from crossbreed.runs.plan import Plan, build_plan
from crossbreed.runs.record.identity import check_same_run
from crossbreed.runs.record.phase import Phase
from crossbreed.runs.record.records import RunRecord
from crossbreed.runs.record.worker_counts import WorkerCounts
from crossbreed.runs.search.pool import Evaluator, Pool
from crossbreed.runs.spec import Spec
from crossbreed.runs.workers.attempts import Log
from crossbreed.runs.workers.local_pool import LocalPool
from crossbreed.runs.workers.ray_pool import RayPool
from crossbreed.runs.workers.worker import Worker


def prepare_artifacts(
    plan: Plan, on_event: Listener = ignore, *, begun: RunRecord | None = None, kept: Path | None = None
) -> Plan:
    """Returns the plan with the artifacts of its spec; see `workers.grams` and `regression.artifact`.

    Args:
        plan: A new plan.
        on_event: Called before an artifact is made.
        begun: The first record of the run, if it is not new.
        kept: The folder in which the run keeps artifacts.
    """
    recorded = begun.artifacts if begun else {}
    if plan.spec.artifacts.grams is not None:
        from crossbreed.runs.workers.grams import prepare_grams  # needs torch

        plan = prepare_grams(plan, on_event=on_event, recorded=recorded.get("grams"), kept=kept)
    if plan.spec.regression is not None:
        from crossbreed.runs.regression.artifact import prepare_regression

        plan = prepare_regression(plan, on_event=on_event, recorded=recorded, kept=kept)
    return plan


def start_pool(plan: Plan, folder: Path, kept: Path, on_event: Listener, log: Log) -> Pool:
    """Starts the workers of the Spec, and returns when one of them is ready.

    Args:
        plan: The run's plan.
        folder: The run folder, for `workers.json`.
        kept: The folder in which the run keeps artifacts.
        on_event: Called when the engine starts.
        log: Receives the traceback of each failed attempt.

    Raises:
        MachineError: no worker could be started.
        InputError: a worker rejected the user's input.
    """
    workers, began_s = plan.spec.workers, time.monotonic()
    on_event(EngineStarting(executor=workers.executor))
    is_local = workers.executor == "local"
    around = Surroundings(
        seed=plan.spec.seed,
        folder=folder.resolve() / "requests",
        say=(lambda text: on_event(Note(text=text))) if is_local else log,
    )
    make = partial(start_worker, for_workers(plan.spec), plan.run_record(), kept.resolve(), around)

    def on_count(counts: WorkerCounts) -> None:
        with suppress(OSError):  # a full disk ends no run for a number that only `show` reads
            counts.write(folder)

    def on_phase(phase: Phase) -> None:
        on_event(PhaseStarting(phase=phase))

    pool: Pool
    if is_local:
        pool = LocalPool(
            make, retries=workers.retries, timeout_s=workers.timeout, log=log, on_count=on_count, on_phase=on_phase
        )
    else:
        pool = RayPool(
            make,
            count=None if workers.count == "auto" else workers.count,
            cpus=workers.cpus,
            gpus=workers.gpus,
            address=workers.address,
            retries=workers.retries,
            timeout_s=workers.timeout,
            log=log,
            say=lambda text: on_event(Note(text=text)),
            on_count=on_count,
            on_phase=on_phase,
        )
    on_event(WorkersReady(seconds=time.monotonic() - began_s))
    return pool


def start_worker(
    spec: Spec, planned: RunRecord, kept: Path | None = None, around: Surroundings | None = None
) -> Evaluator:
    """Builds the plan anew; refuses files that changed since the driver read them, or are others on this machine.

    The pool verifies the worker.
    """
    plan = prepare_artifacts(build_plan(spec, searches=False), begun=planned, kept=kept)
    check_same_run(planned, plan.run_record(), where=spec.sources.told[0] or "the engine's sources")
    ours = plan.run_record().clock.versions
    others = {name: version for name, version in ours.items() if planned.clock.versions.get(name) != version}
    return Worker(plan, other_versions=others, around=around, kept=kept)
