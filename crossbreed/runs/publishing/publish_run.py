"""Publishes the winner of a run, or another trial, as a folder with a model card."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypedDict

from crossbreed.errors import InputError
from crossbreed.fitness import ENGINES, AdapterEngineConfig
from crossbreed.runs.adapter import check_adapter, recipe_adapter
from crossbreed.runs.driver import report_on
from crossbreed.runs.events import CheckpointWritten, Listener, Note, ignore
from crossbreed.runs.made_sources import made_source
from crossbreed.runs.objects import GivenEngine, GivenOptimizer, GivenTask, with_objects
from crossbreed.runs.plan import Plan, build_plan
from crossbreed.runs.publishing.adapter_contents import AdapterContents, Form, require_form
from crossbreed.runs.publishing.checkpoint import Merge, card_adapter, card_contents, write_contents
from crossbreed.runs.publishing.contents import Contents
from crossbreed.runs.publishing.folders import require_unused
from crossbreed.runs.publishing.hub_upload import push, upload_listing
from crossbreed.runs.publishing.manifest import PublishedFolder, published_folder
from crossbreed.runs.publishing.model_card import CardInfo, choose_licence, source_infos
from crossbreed.runs.publishing.questions import of_all_experts
from crossbreed.runs.record.folder import RunFolder
from crossbreed.runs.record.history import fold
from crossbreed.runs.record.journal import read
from crossbreed.runs.record.records import PublishClock, PublishRecord, RunRecord
from crossbreed.runs.results.base_rates import base_rates
from crossbreed.runs.results.derived import publishing
from crossbreed.runs.results.report import Report, make_report
from crossbreed.runs.results.vouching import takes_of
from crossbreed.runs.results.winner import recorded_winner, reported
from crossbreed.runs.spec import load_spec
from crossbreed.runs.weights import Weights
from crossbreed.runs.workers.start import prepare_artifacts
from crossbreed.types import REGRESSION, Status, Trial


def publish_run(
    path: Path,
    out: Path,
    *,
    trial: int | None = None,
    with_scores: bool = True,
    licence: str | None = None,
    push_to: str | None = None,
    dry_run: bool = False,
    form: Form = "checkpoint",
    rank: int | None = None,
    optimizer: GivenOptimizer | None = None,
    engine: GivenEngine | None = None,
    tasks: Sequence[GivenTask] | None = None,
    on_event: Listener = ignore,
) -> None:
    """Writes a run's winner (or another trial) as a checkpoint, after completing its report if necessary.

    Args:
        path: The run folder.
        out: A new or empty folder; or one that holds this trial already, which is then only verified and uploaded.
        trial: Number of the trial to publish instead of the winner.
        with_scores: False: evaluate nothing, and publish a card without held-out scores.
        licence: The hub's id of the licence, if the parents do not state a common one.
        push_to: Hub repository to upload to; created as private.
        dry_run: With `push_to`: evaluate, write and upload nothing; only say what would be answered and uploaded.
        form: What is written: a checkpoint, or a LoRA adapter of the base.
        rank: Of an adapter: the largest rank of a matrix. None: what the sum of the experts' adapters has, or what
            the run's own adapters were cut to.
        optimizer: As for `report_on`.
        engine: As for `report_on`.
        tasks: As for `report_on`.
        on_event: As for `run`.

    Raises:
        InputError: the run, the folder, the licence or the trial is invalid, the run's engine takes recipes or makes
            up its answers, or a driver has the journal open: then nothing is written.
        MachineError: the weights to publish are not those that were scored.
    """
    if dry_run and not push_to:
        raise InputError("--dry-run lists what --push would upload", expected="--push ORG/NAME", got="no --push")
    require_form(form, rank)
    order = _Order(
        path=path,
        out=out,
        trial=trial,
        with_scores=with_scores,
        licence=licence,
        dry_run=dry_run,
        form=form,
        rank=rank,
        on_event=on_event,
        objects={"optimizer": optimizer, "engine": engine, "tasks": tasks},
    )
    plan, number, report = _chosen(order)
    records = list(read(RunFolder(path).journal))
    made = _made(order, plan, CardInfo.of(plan, records, number, report))
    noted = PublishRecord(number=number, fingerprint=made.fingerprint, clock=PublishClock(folder=str(out.resolve())))
    published = published_folder(out)
    if published and published.fingerprint == made.fingerprint:
        made.require_written(published, [one for one in records if isinstance(one, PublishRecord)])
        if noted not in records and not dry_run:  # a kill came between folder and journal, or the folder was moved
            with publishing(path) as note:
                note(noted)
    else:
        require_unused(out)
        if dry_run and push_to:
            on_event(Note(text=upload_listing(made.contents.sizes(made.fingerprint), push_to)))
            return
        with publishing(path) as note:
            write_contents(made.contents, made.merge, out)
            note(noted)
    if not dry_run:
        on_event(CheckpointWritten(folder=out, fingerprint=made.fingerprint, trial=number))
    if push_to:
        on_event(Note(text=push(out, push_to, dry_run=dry_run, is_verified=True)))


class _Objects(TypedDict):
    """What a run's spec names as an object in Python."""

    optimizer: GivenOptimizer | None
    engine: GivenEngine | None
    tasks: Sequence[GivenTask] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """What is to be published, and how; see `publish_run`."""

    path: Path
    out: Path
    trial: int | None
    with_scores: bool
    licence: str | None
    dry_run: bool
    form: Form
    rank: int | None
    on_event: Listener
    objects: _Objects

    def check(self, plan: Plan) -> None:
        """Raises the user's mistakes, before an engine is started for the report."""
        of_all = of_all_experts(plan)
        choose_licence(source_infos(of_all, _weights_of(plan).sources), self.licence)
        require_scored_form(plan, self.form, self.rank)
        if self.form == "adapter":
            weights = _weights_of(plan)
            check_adapter(of_all, weights.sources, rank=rank_of(plan, self.rank), artifacts=weights.artifacts)
        if self.with_scores:
            _require_real_scores(plan)
        if published_folder(self.out) is None:
            require_unused(self.out)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """The contents of the folder, and of which weights."""

    merge: Merge
    contents: Contents | AdapterContents
    fingerprint: str
    has_scores: bool
    titled: Callable[[str], Contents | AdapterContents]
    """Makes the contents under another title."""

    def require_written(self, published: PublishedFolder, earlier: Sequence[PublishRecord]) -> None:
        """Raises InputError unless a folder of these weights is whole and says what would be written now."""
        published.require_says(self.contents.record, has_scores=self.has_scores)
        published.verify()
        contents = self.contents
        names = dict.fromkeys(Path(one.clock.folder).name for one in earlier if one.fingerprint == self.fingerprint)
        for title in names if contents.has_other_card(published) else ():  # renamed since: its card has its first name
            renamed = self.titled(title)
            contents = contents if renamed.has_other_card(published) else renamed
        contents.require_written(published, self.fingerprint)


def _chosen(order: _Order) -> tuple[Plan, int, Report | None]:
    """Returns the plan, the number of the trial to publish and, where its scores are wanted, the report of it."""
    if order.with_scores and not order.dry_run:
        plan, report = report_on(
            order.path, trial=order.trial, before=order.check, on_event=order.on_event, **order.objects
        )
        return plan, report.winner.number, report
    folder = RunFolder(order.path).existing()
    plan = build_plan(with_objects(load_spec(folder.spec), **order.objects), searches=False)
    order.check(plan)
    if order.dry_run:  # nothing is made; what the run has made is in its folder
        plan = _with_made(plan, folder)
    else:
        plan = prepare_artifacts(plan, order.on_event, begun=folder.begun(), kept=folder.artifacts)
    number = _recorded(plan, order.path, order.trial, is_dry=order.dry_run)
    shows_report = order.dry_run and order.with_scores
    return plan, number, _report_or_cost(plan, order.path, number, order.on_event) if shows_report else None


def _made(order: _Order, plan: Plan, info: CardInfo) -> _Made:
    """Returns the contents of the folder for a trial: a checkpoint, or an adapter, whose weights may be others."""
    merge, fingerprint = _merge_of(plan, info.trial), info.trial.score.fingerprint
    assert fingerprint is not None, "a scored trial has a fingerprint"
    has_scores = order.with_scores
    make: Callable[..., Contents | AdapterContents] = card_contents
    if order.form == "adapter":
        artifacts = _weights_of(plan).artifacts
        adapter = recipe_adapter(merge.recipe, merge.sources, rank=rank_of(plan, order.rank), artifacts=artifacts)
        order.on_event(Note(text=adapter.summary))
        is_scored = takes_of(plan.spec.fitness.engine) == "adapter"
        if not (adapter.is_exact or is_scored):
            order.on_event(Note(text="the scores of the merge are not the adapter's, and its card has none"))
            info, fingerprint, has_scores = replace(info, report=None), adapter.fingerprint, False
        make = partial(card_adapter, adapter, is_scored=is_scored)
    titled = partial(make, merge, order.out, info=info, licence=order.licence)
    return _Made(
        merge=merge,
        contents=titled(),
        fingerprint=fingerprint,
        has_scores=has_scores,
        titled=lambda title: titled(title=title),
    )


def _with_made(plan: Plan, folder: RunFolder) -> Plan:
    begun, sources = folder.begun(), _weights_of(plan).sources
    wanted = begun.artifacts.get(REGRESSION) if begun else None
    found = None if wanted is None else made_source(sources, wanted, folder.artifacts)
    return plan if found is None else plan.with_sources(found)


def rank_of(plan: Plan, rank: int | None) -> int | None:
    """Returns the rank of the adapter to publish: the run's own, if adapters were scored."""
    engine = plan.spec.fitness.engine
    return engine.max_rank if isinstance(engine, AdapterEngineConfig) else rank


def require_scored_form(plan: Plan, form: Form, rank: int | None) -> None:
    """Refuses to publish something else than what the run's engine was given."""
    engine = plan.spec.fitness.engine
    if isinstance(engine, AdapterEngineConfig) and (form != "adapter" or rank not in (None, engine.max_rank)):
        raise InputError(
            "the engine of this run answered with adapters, so it is an adapter that was scored",
            expected="--as adapter, without --rank",
            got=f"--as {form}" + (f" --rank {rank}" if rank else ""),
            where="fitness.engine.kind",
            fix="crossbreed publish RUN --as adapter --out DIR; for a checkpoint, which no engine has scored: "
            "crossbreed merge DIR/recipe.yaml",
        )


def _merge_of(plan: Plan, trial: Trial) -> Merge:
    weights = _weights_of(plan)
    return Merge(
        recipe=trial.recipe,
        sources=weights.sources,
        stream_factory=partial(weights.materialize_once, trial.recipe),
        fingerprint=trial.score.fingerprint,
    )


def _report_or_cost(plan: Plan, path: Path, number: int, on_event: Listener) -> Report | None:
    """Returns the report with this trial as the winner; None, after saying what is missing, if it is not complete."""
    history = fold(read(RunFolder(path).journal))
    history.measure_by(plan.criteria)
    scores = history.scores_of("report")
    wanted = reported(history.ok_trials, history.bound(plan.objectives), number)
    if missing := [t.number for t in wanted if t.number not in scores or scores[t.number].status is Status.FAILED]:
        num_items = sum(items.count for items in plan.items["report"].values())
        shown = f"would first answer {num_items} report items with each of {len(missing)} models"
        on_event(Note(text=f"{shown} (trials {', '.join(map(str, missing))}), for the scores in README.md"))
        return None
    return make_report(
        trials=history.all_trials,
        winner=number,
        scores=scores,
        objectives=history.bound(plan.objectives),
        relative_criteria=history.relative_criteria,
        most_tokens=plan.most_tokens,
        seed=plan.spec.seed,
        is_over=history.is_finished,
        takes=takes_of(plan.spec.fitness.engine),
        base_rates=base_rates(plan.tasks, plan.items["report"]),
    )


def _recorded(plan: Plan, path: Path, trial: int | None, *, is_dry: bool) -> int:
    """Returns the number of the trial to publish, without evaluating; a dry run compares no artifacts."""
    records = list(read(RunFolder(path).journal))
    if records and isinstance(records[0], RunRecord):
        made = plan.run_record().artifacts
        plan.require_begun(replace(records[0], artifacts=made) if is_dry else records[0], where=path)
    history = fold(records)
    history.measure_by(plan.criteria)
    if trial is None:
        if winner := recorded_winner(history, history.bound(plan.objectives)):
            return winner.number
        raise InputError(
            "the run has no winner yet",
            expected="a trial, or a run whose report is complete",
            where=str(path),
            fix="give --trial N, or run `crossbreed report` first",
        )
    return history.publishable(trial, where=str(path)).number


def _require_real_scores(plan: Plan) -> None:
    kind = plan.spec.fitness.engine.kind
    if ENGINES[kind].is_fake:
        raise InputError(
            f"the answers of the engine `{kind}` are made up, so a card with its scores would be false",
            expected="a run whose engine evaluates the weights",
            where="fitness.engine.kind",
            fix="run with another engine, or publish without scores: --no-report",
        )


def _weights_of(plan: Plan) -> Weights:
    if plan.weights is None:
        raise InputError(
            "the engine of this run takes recipes, so the weights are not on this machine",
            expected="a run whose engine takes weights",
            got=f"fitness.engine.kind: {plan.spec.fitness.engine.kind}",
            fix="publish where the weights are: the recipe is in the run's folder `recipes`",
        )
    return plan.weights
