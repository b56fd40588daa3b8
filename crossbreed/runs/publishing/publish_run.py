"""Publishes the winner of a run as a folder with a model card."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from crossbreed.errors import InputError
from crossbreed.runs.driver import report_on
from crossbreed.runs.events import CheckpointWritten, Listener, Note, ignore
from crossbreed.runs.objects import GivenEngine, GivenOptimizer, GivenTask
from crossbreed.runs.plan import Plan
from crossbreed.runs.publishing.checkpoint import Merge, publish_checkpoint
from crossbreed.runs.publishing.folders import require_unused
from crossbreed.runs.publishing.hub_upload import published_fingerprint, push
from crossbreed.runs.publishing.model_card import CardInfo, choose_licence, source_infos
from crossbreed.runs.results.derived import note_published
from crossbreed.runs.weights import Weights


def publish_run(
    path: Path,
    out: Path,
    *,
    trial: int | None = None,
    licence: str | None = None,
    push_to: str | None = None,
    dry_run: bool = False,
    optimizer: GivenOptimizer | None = None,
    engine: GivenEngine | None = None,
    tasks: Sequence[GivenTask] | None = None,
    on_event: Listener = ignore,
) -> None:
    """Writes a run's winner (or another trial) as a checkpoint, after completing its report if necessary.

    Args:
        path: The run folder.
        out: A new or empty folder.
        trial: Number of the trial to publish instead of the winner.
        licence: The hub's id of the licence, if the parents do not state a common one.
        push_to: Hub repository to upload to; created as private.
        dry_run: With `push_to`: only list what would be uploaded.
        optimizer: As for `report_on`.
        engine: As for `report_on`.
        tasks: As for `report_on`.
        on_event: As for `run`.

    Raises:
        InputError: the run, the folder, the licence or the trial is invalid, or the run's engine takes recipes.
        MachineError: the weights to publish are not those that were scored.
    """

    def check(plan: Plan) -> None:  # raises input errors before an engine is started for the report
        choose_licence(source_infos(plan.initial_candidates()[-1][1], _weights_of(plan).sources), licence)
        if published_fingerprint(out) is None:
            require_unused(out)

    plan, report = report_on(
        path, trial=trial, before=check, optimizer=optimizer, engine=engine, tasks=tasks, on_event=on_event
    )
    winner, weights = report.winner, _weights_of(plan)
    assert winner.fingerprint is not None, "a scored trial has a fingerprint"
    if published_fingerprint(out) != winner.fingerprint:  # else it exists already: only push
        merge = Merge(
            recipe=winner.recipe,
            sources=weights.sources,
            stream_factory=partial(weights.materialize_once, winner.recipe),
            fingerprint=winner.fingerprint,
        )
        publish_checkpoint(merge, out, info=CardInfo.of(plan.spec, report), licence=licence)
        note_published(path, winner.number, winner.fingerprint, out)
    on_event(CheckpointWritten(folder=out, fingerprint=winner.fingerprint, trial=winner.number))
    if push_to:
        on_event(Note(text=push(out, push_to, dry_run=dry_run)))


def _weights_of(plan: Plan) -> Weights:
    if plan.weights is None:
        raise InputError(
            "the engine of this run takes recipes, so the weights are not on this machine",
            expected="a run whose engine takes weights",
            got=f"fitness.engine.kind: {plan.spec.fitness.engine.kind}",
            fix="publish where the weights are: the recipe is in the run's folder `recipes`",
        )
    return plan.weights
