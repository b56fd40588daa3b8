"""An open run: its locked journal, a loop that has replayed it, and workers that start at the first job."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from traceback import format_exc

from crossbreed.durable import write_atomically
from crossbreed.errors import CrossbreedError, InputError, MachineError
from crossbreed.runs.events import Event, Listener, Note, PhaseStarting, ReportWritten, SplitStarting
from crossbreed.runs.loggers.live_log import live_log
from crossbreed.runs.plan import Plan
from crossbreed.runs.plan_text import plan_text
from crossbreed.runs.record.folder import RunFolder
from crossbreed.runs.record.history import History
from crossbreed.runs.record.journal import Journal
from crossbreed.runs.record.phase import Phase
from crossbreed.runs.record.records import RunRecord, SplitName
from crossbreed.runs.record.worker_counts import forgetting_counts
from crossbreed.runs.results.base_rates import base_rates
from crossbreed.runs.results.derived import write_derived
from crossbreed.runs.results.outlook import outlook
from crossbreed.runs.results.progress import Progress
from crossbreed.runs.results.report import Report, make_report
from crossbreed.runs.results.vouching import takes_of
from crossbreed.runs.results.winner import choose_winner, finalists, recorded_winner, reported, search_scalar
from crossbreed.runs.search.loop import Loop
from crossbreed.runs.search.pace import Pace
from crossbreed.runs.search.pool import LazyPool, Pool
from crossbreed.runs.spec import dump_spec
from crossbreed.runs.stages.table import stage_bests, stage_rows
from crossbreed.runs.workers.start import start_pool
from crossbreed.types import Trial


class Session:
    """An open run, for searching, selecting the winner and reporting."""

    def __init__(self, plan: Plan, folder: RunFolder, journal: Journal, pool: Pool, on_event: Listener) -> None:
        """Restores the state of the search at the end of the journal."""
        self._plan, self._folder, self._pool, self._on_event = plan, folder, pool, on_event
        self.history = History(item_ids=plan.item_ids, counts=plan.mean_counts, objectives=(plan.objectives,))
        self.history.measure_by(plan.criteria)
        proposer = plan.proposer(on_event)
        self._num_initial, self._proposer = proposer.num_initial, proposer
        self._num_remarks = 0
        """How many remarks of optimizers have been told."""
        self._pace, self._stages = Pace(plan.limits, self._num_initial), plan.stage_names
        self._progress = Progress(self._pace, plan.objectives, self._stages)
        self._loop = Loop(
            journal=journal,
            history=self.history,
            proposer=proposer,
            objectives=plan.objectives,
            limits=plan.limits,
            keep_answers=folder.keep_answers,
            watch=self._watch,
            turned=self._turned,
        )
        self._loop.replay(journal.records[1:])

    def search(self) -> None:
        """Searches until the budget is spent, or the (last) optimizer has nothing left to ask."""
        is_spent = self._loop.search(self._pool, resumed=self._resumed)
        if not is_spent and self._is_limited:
            text = "the search ends before its budget: the optimizer has nothing left to ask"
            self._on_event(Note(text=text))

    @property
    def _is_limited(self) -> bool:
        """Whether the last search has a budget, which an optimizer may end before."""
        limits = self._plan.limits
        last = [limits.whole, *limits.own.values()][-1]
        return any(limit is not None for budget in (limits.whole, last) for limit in (budget.trials, budget.seconds))

    def _watch(self, trial: Trial, history: History) -> None:
        """Tells of each trial, and after the last baseline what they say of the rest."""
        self._on_event(self._progress.after(trial, history))
        self._tell_remarks()
        if len(history.trials) == self._num_initial and trial.number < self._num_initial:
            for text in outlook(history, self._plan.objectives, self._pace):
                self._on_event(Note(text=text))
            self._on_event(self._searching(next(iter(self._plan.limits.own), None)))

    def _turned(self, ended: int, begun: int) -> None:
        """Tells that one stage is over, and why, and that another begins."""
        is_spent = self._plan.limits.is_stage_spent(ended, self.history, self.history.elapsed_s)
        why = "its budget is spent" if is_spent else "its optimizer has nothing left to ask"
        self._on_event(Note(text=f"{self._stages[ended]}, ends: {why}"))
        self._on_event(self._searching(begun))

    def _searching(self, stage: int | None) -> PhaseStarting:
        is_named = stage is not None and stage < len(self._stages)
        return PhaseStarting(phase=Phase.SEARCH, detail=str(self._stages[stage or 0]) if is_named else "")

    def _resumed(self, differing: Sequence[int]) -> None:
        self._tell_differing(differing)
        self._num_remarks = len(self._proposer.remarks)  # log.txt has those of before
        self._date_report()
        if len(self.history.trials) < self._num_initial:
            self._on_event(PhaseStarting(phase=Phase.BASELINES))
        else:
            first = next(iter(self._plan.limits.own), None)
            self._on_event(self._searching(first if self.history.stage is None else self.history.stage))

    def _date_report(self) -> None:
        """Has the report of a search that goes on say so: else it would be taken for one of all trials after a stop."""
        objectives = self.history.bound(self._plan.objectives)
        if self.history.is_finished and (winner := recorded_winner(self.history, objectives)):
            report = replace(self._report(winner.number), is_over=False, has_gone_on=True)
            write_derived(self._plan, self._folder, self.history, report)

    def tell(self, event: Event) -> None:
        """Passes an event on to the listener and to log.txt."""
        self._on_event(event)

    def _tell_remarks(self) -> None:
        """Tells what the optimizers say of their searches."""
        remarks = self._proposer.remarks
        for remark in remarks[self._num_remarks :]:
            self._on_event(Note(text=remark))
        self._num_remarks = len(remarks)

    def _tell_differing(self, numbers: Sequence[int]) -> None:
        """Says which recorded candidates this machine or version would have proposed otherwise."""
        if numbers:
            shown = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
            text = (
                f"{len(numbers)} recorded trials ({shown}) are not what the optimizer proposes here, on another "
                "processor or with other versions: they stand as recorded, and the search goes on from them"
            )
            self._on_event(Note(text=text))

    def judge(self) -> Report:
        """Selects the winner on the selection split, measures it on the report split, writes the derived files.

        A finalist that cannot be measured on either does not win, and a baseline that cannot on the second has no row
        in the report, which says so; both are tried again whenever the report is made.
        """
        plan = self._plan
        self._require_measured()
        objectives, relative_criteria = self.history.bound(plan.objectives), self.history.relative_criteria
        scalar = search_scalar(self.history.ok_trials, objectives)
        chosen = finalists(self.history.ok_trials, objectives)
        bests = [trial for trial in stage_bests(self.history, self._stages, scalar) if trial not in chosen]
        base_number = None if relative_criteria is None else relative_criteria.base_number
        base = None if base_number is None else self.history.trials[base_number]
        others = [] if base is None or base in (*chosen, *bests) else [base]
        self._evaluate("select", [*chosen, *bests, *others])
        while True:
            unmeasurable = self._loop.unmeasurable("report")
            selection = {n: score for n, score in self.history.scores_of("select").items() if n not in unmeasurable}
            winner = choose_winner(self._reproducible, objectives, selection, relative_criteria=relative_criteria)
            self._evaluate("report", reported(self._reproducible, objectives, winner.number))
            if winner.number not in {**self._loop.irreproducible, **self._loop.unmeasurable("report")}:
                break
        self._loop.end()
        report = self._report(winner.number)
        write_derived(plan, self._folder, self.history, report)
        self._on_event(ReportWritten(report=report, path=self._folder.report_html))
        return report

    def report_trial(self, number: int) -> Report:
        """Returns the run's report as if this trial were the winner: only it and the baselines answer what is missing.

        It does not end the run: which of the finalists wins may still be open.

        Raises:
            InputError: the trial has no value.
        """
        self.history.publishable(number, where=str(self._folder.path))
        self._evaluate("report", reported(self._reproducible, self.history.bound(self._plan.objectives), number))
        if why := {**self._loop.irreproducible, **self._loop.unmeasurable("report")}.get(number):
            raise MachineError(why)
        return self._report(number)

    def _evaluate(self, split: SplitName, wanted: Sequence[Trial]) -> None:
        if num_models := len(self._loop.missing(split, wanted)):
            num_items = sum(items.count for items in self._plan.items[split].values())
            self._on_event(SplitStarting(split=split, num_models=num_models, num_items=num_items))
        before = {**self._loop.irreproducible, **self._loop.unmeasurable(split)}
        self._loop.evaluate_split(split, wanted, self._pool)
        for number, why in {**self._loop.irreproducible, **self._loop.unmeasurable(split)}.items():
            if number not in before:
                self._on_event(Note(text=f"trial {number} is left out of the result: {why}"))

    @property
    def _reproducible(self) -> list[Trial]:
        return [trial for trial in self.history.ok_trials if trial.number not in self._loop.irreproducible]

    def _require_measured(self) -> None:
        relative_criteria = self.history.relative_criteria
        if self.history.ok_trials and relative_criteria is not None and relative_criteria.criteria is None:
            raise relative_criteria.missing()
        if not self.history.ok_trials:
            raise InputError(
                "there is nothing to report: no trial of this run has been measured yet",
                expected="at least one trial whose status is OK",
                got=f"{len(self.history.candidates)} asked, {len(self.history.trials)} answered",
                where=str(self._folder.path),
                fix="`crossbreed run` with the run's spec and this folder as --out goes on with the search",
            )

    def _report(self, winner: int) -> Report:
        return make_report(
            trials=self.history.all_trials,
            winner=winner,
            scores=self.history.scores_of("report"),
            objectives=self.history.bound(self._plan.objectives),
            relative_criteria=self.history.relative_criteria,
            seed=self._plan.spec.seed,
            is_over=self._loop.is_over,
            takes=takes_of(self._plan.spec.fitness.engine),
            left_out={**self._loop.irreproducible, **self._loop.unmeasurable("report")},
            margins=self._folder.margins("report", winner, item_ids=self._plan.item_ids["report"]),
            thinking=self._folder.thinking("report", winner, item_ids=self._plan.item_ids["report"]),
            most_tokens=self._plan.most_tokens,
            base_rates=base_rates(self._plan.tasks, self._plan.items["report"]),
            stages=stage_rows(
                self.history,
                self._stages,
                search_scalar(self.history.ok_trials, self.history.bound(self._plan.objectives)),
                made_s=self._plan.made_s,
            ),
        )


@contextmanager
def open_session(plan: Plan, folder: RunFolder, on_event: Listener) -> Iterator[Session]:
    """Opens a new or existing run folder, and writes log.txt while it is open.

    Raises:
        InputError: another driver has it open, it belongs to another spec, or its journal is damaged.
    """
    planned = plan.run_record()
    with closing(Journal(folder.journal, versions=planned.clock.versions)) as journal:
        if journal.run:
            plan.require_begun(journal.run, where=folder.path)
        else:
            journal.append(planned)
        folder.clear()
        if plan.weights:
            plan.weights.keep_artifacts(folder.artifacts)
        folder.keep_structure(plan.structure)
        kept = folder.keep_warm_starts([recipe for _, recipe in plan.warm_starts])
        frozen = plan.spec.model_copy(update={"warm_start": kept})
        write_atomically(folder.spec, dump_spec(frozen).encode())
        with (
            forgetting_counts(folder.path),
            _logged(folder, plan, journal, on_event) as heard,
            live_log(plan, folder, heard) as tell,
            closing(_pool(plan, folder, tell)) as pool,
        ):
            if others := _other_versions(journal.run, planned):
                tell(Note(text=f"this run was started with other versions: {others}"))
            yield Session(plan, folder, journal, pool, tell)


def _other_versions(begun: RunRecord | None, planned: RunRecord) -> str:
    """Returns in which packages and threads this driver differs from the one that started the run."""
    if begun is None or not begun.clock.versions:
        return ""
    before, now = begun.clock.versions, planned.clock.versions
    return ", ".join(
        f"{name} {before.get(name, 'none')} (now {now.get(name, 'none')})"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and (name in before or name != "threads")  # older ones did not tell
    )


def _pool(plan: Plan, folder: RunFolder, tell: Listener) -> Pool:
    return LazyPool(partial(start_pool, plan, folder.path, folder.artifacts, tell, folder.append_log))


@contextmanager
def _logged(folder: RunFolder, plan: Plan, journal: Journal, on_event: Listener) -> Iterator[Listener]:
    """Yields a listener that also writes to log.txt; an error that ends the run is logged too, if it can be.

    Where a file cannot be written since the run folder is gone, the journal says so.
    """

    def tell(event: Event) -> None:
        folder.append_log(str(event))
        on_event(event)

    try:
        folder.append_log(plan_text(plan))
        yield tell
    except (MachineError, OSError) as error:
        with suppress(OSError):
            folder.append_log(format_exc())
        if isinstance(error, OSError):
            journal.require_untouched()
        raise
    except CrossbreedError as error:
        with suppress(OSError):
            folder.append_log(str(error))
        raise
