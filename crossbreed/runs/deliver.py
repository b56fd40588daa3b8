"""The winner of a run becomes a folder with its card."""

from functools import partial
from pathlib import Path

from crossbreed.kernels import materialize
from crossbreed.runs.card import Origins, choose_licence, parents_of
from crossbreed.runs.driver import note_published, report_on
from crossbreed.runs.plan import Plan
from crossbreed.runs.publish import publish_checkpoint, published_fingerprint, push, require_unused


def publish_run(
    path: Path,
    out: Path,
    *,
    trial: int | None = None,
    licence: str | None = None,
    push_to: str | None = None,
    dry_run: bool = False,
) -> None:
    """Writes a run's winner (or another trial) as a checkpoint, after reporting on it if that was not done.

    Args:
        path: The run folder.
        out: A new or empty folder.
        trial: Number of the trial to publish instead of the winner.
        licence: Hub's id of the licence, when the parents do not state a common one.
        push_to: Hub repository to upload to, private.
        dry_run: With `push_to`: say what would be uploaded.

    Raises:
        InputError: the run, the folder, the licence or the trial is wrong.
        MachineError: what would be published is not what was scored.
    """

    def check(plan: Plan) -> None:  # what can be refused is refused before an engine is started for a report
        choose_licence(parents_of(plan.firsts()[-1][1], plan.sources), licence)
        if published_fingerprint(out) is None:
            require_unused(out)

    plan, report = report_on(path, trial=trial, before=check)
    winner = report.winner
    assert winner.fingerprint is not None, "a scored trial has a fingerprint"
    if published_fingerprint(out) != winner.fingerprint:  # else it is there: only the push is to be done (again)
        publish_checkpoint(
            recipe=winner.recipe,
            sources=plan.sources,
            out=out,
            stream_factory=partial(materialize, winner.recipe, plan.sources, artifacts=plan.artifacts, once=True),
            expected_fingerprint=winner.fingerprint,
            origins=Origins.of(plan.spec, report),
            licence=licence,
        )
        note_published(path, winner.number, winner.fingerprint, out)
    print(f"published trial {winner.number} to {out}")
    if push_to:
        print(push(out, push_to, dry_run=dry_run))
