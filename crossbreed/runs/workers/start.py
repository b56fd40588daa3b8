"""Starting the workers of a plan, each verified by the canary."""

from functools import partial

from crossbreed.runs.events import EngineStarting, Listener, ignore
from crossbreed.runs.objects import for_workers
from crossbreed.runs.plan import Plan, build_plan
from crossbreed.runs.record.identity import check_same_run
from crossbreed.runs.record.records import RunRecord
from crossbreed.runs.search.pool import Evaluator, Pool
from crossbreed.runs.spec import Spec
from crossbreed.runs.workers.attempts import Log
from crossbreed.runs.workers.local_pool import LocalPool
from crossbreed.runs.workers.ray_pool import RayPool
from crossbreed.runs.workers.worker import Worker, closed_on_error


def prepare(plan: Plan, on_event: Listener = ignore) -> Plan:
    """Returns the plan with the artifacts of its spec, from this machine's cache or newly made; see `workers.grams`."""
    if plan.spec.artifacts.grams is None:
        return plan
    from crossbreed.runs.workers.grams import prepared  # needs torch

    return prepared(plan, on_event=on_event)


def start_pool(plan: Plan, on_event: Listener, log: Log) -> Pool:
    """Starts the workers of the Spec, and returns when one of them is ready.

    Args:
        plan: The run's plan.
        on_event: Called when the engine starts.
        log: Receives the traceback of each failed attempt.

    Raises:
        MachineError: no worker could be started.
        InputError: a worker rejected the user's input.
    """
    workers = plan.spec.workers
    on_event(EngineStarting(executor=workers.executor))
    make = partial(start_worker, for_workers(plan.spec), plan.run_record())
    if workers.executor == "local":
        return LocalPool(make, retries=workers.retries, log=log)
    return RayPool(
        make,
        count=None if workers.count == "auto" else workers.count,
        cpus=workers.cpus,
        gpus=workers.gpus,
        address=workers.address,
        retries=workers.retries,
        log=log,
    )


def start_worker(spec: Spec, planned: RunRecord) -> Evaluator:
    """Builds the plan anew; refuses files that changed since the driver read them, or are others on this machine."""
    plan = prepare(build_plan(spec, searches=False))
    check_same_run(planned, plan.run_record(), where=spec.sources.base)
    worker = Worker(plan)
    with closed_on_error(worker):
        worker.canary()
    return worker
