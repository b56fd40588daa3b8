"""Passes a run's events to a logger, on a thread of its own: a run neither waits for it nor ends with it.

What was logged stands in `logged.jsonl` of the run folder, so that a run that goes on continues the logger's run, and
logs what was journalled but not logged before. Without the file, a new run of the logger is begun.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from queue import Queue
from threading import Event as Flag
from threading import Thread

from crossbreed.errors import first_line
from crossbreed.runs.events import Event, Listener, Note, ReportWritten, TrialDone
from crossbreed.runs.loggers.config import LogConfig, require_logger
from crossbreed.runs.loggers.sink import About, Sink, plain_names
from crossbreed.runs.loggers.starting import start_sink
from crossbreed.runs.plan import Plan
from crossbreed.runs.record.archive import best_trial
from crossbreed.runs.record.folder import RunFolder
from crossbreed.runs.record.history import fold
from crossbreed.runs.record.journal import read
from crossbreed.runs.results.report import Report
from crossbreed.runs.spec.objectives import Objective
from crossbreed.types import Status, Trial

LOGGED_FILE = "logged.jsonl"
_PATIENCE_S = 10.0
"""At the end of a run, for what still waits."""
_CREDENTIALS = re.compile(r"://[^/@\s]+@")


@contextmanager
def live_log(plan: Plan, folder: RunFolder, on_event: Listener) -> Iterator[Listener]:
    """Yields a listener that also logs to what the spec's `log` names; `on_event` itself if that is nothing."""
    if plan.spec.log is None:
        yield on_event
        return
    with closing(LiveLog(plan.spec.log, plan, folder, on_event)) as log:
        yield log


class LiveLog:
    """A listener that logs trials and the report."""

    def __init__(self, config: LogConfig, plan: Plan, folder: RunFolder, on_event: Listener) -> None:
        """Starts the thread."""
        self._config, self._plan, self._folder, self._on_event = config, plan, folder, on_event
        self._file = folder.path / LOGGED_FILE
        self._waiting: Queue[Event | None] = Queue()
        self._num_given, self._num_logged = 0, 0
        self._error, self._is_said = "", False
        self._is_over, self._is_open, self._is_done = False, False, Flag()
        Thread(target=self._serve, name="live-log", daemon=True).start()

    def __call__(self, event: Event) -> None:
        """Hands an event to the thread, and passes it on."""
        if isinstance(event, TrialDone | ReportWritten):
            self._num_given += 1
            self._waiting.put(event)
        if isinstance(event, ReportWritten):
            self._is_over = event.report.is_over
        self._on_event(event)
        if self._error and not self._is_said:
            self._is_said = True
            self._on_event(Note(text=f"logging to {self._config.to} failed, and the run goes on: {self._error}"))

    def close(self) -> None:
        """Waits a little for what is left, and says how much was not logged."""
        self._waiting.put(None)
        is_done = self._is_done.wait(_PATIENCE_S)
        num_lost = self._num_given - self._num_logged
        if num_lost or self._is_open or not is_done:
            slow = "" if is_done else f", which did not answer within {_PATIENCE_S:g} s of the end"
            why = f": {self._error}" if self._error else ""
            lost = f"{num_lost} of {self._num_given} entries were not logged to"
            what = lost if num_lost else "all entries were logged, but their run was not ended in"
            self._on_event(Note(text=f"{what} {self._config.to}{slow}{why} (the same command logs what is missing)"))

    def _serve(self) -> None:
        """Logs what comes, until None comes."""
        sink, logged, num_taken = None, dict[int, Status](), 0
        while (event := self._waiting.get()) is not None:
            num_taken += 1
            with self._failing():
                if sink is None:
                    sink, logged = self._start()
                    self._is_open, self._num_logged = True, num_taken - 1  # the trials before are in the journal
                if isinstance(event, TrialDone):
                    self._log(sink, event.num_done, event.trial, event.best, logged)
                elif isinstance(event, ReportWritten):
                    sink.summarize(plain_names(report_values(event.report)))
                self._num_logged += 1
        if sink is not None:
            with self._failing():
                sink.close(is_over=self._is_over)
                self._is_open = False
        self._is_done.set()

    def _start(self) -> tuple[Sink, dict[int, Status]]:
        """Starts or continues the logger's run, with all that is in the journal; returns it and its trials."""
        require_logger(self._config)
        resumed_id, logged = _remembered(self._file, self._config.to)
        sink = start_sink(self._config, About.of(self._plan, self._folder.path, resumed_id))
        if resumed_id is None:
            self._file.write_text(json.dumps({"to": self._config.to, "id": sink.id}) + "\n")
        best: Trial | None = None
        history = fold(read(self._folder.journal))
        history.measure_by(self._plan.criteria)
        for step, trial in enumerate(history.trials.values(), start=1):
            best = best_trial([trial, *([best] if best else [])], self._plan.objectives)
            self._log(sink, step, trial, best, logged)
        return sink, logged

    def _log(self, sink: Sink, step: int, trial: Trial, best: Trial | None, logged: dict[int, Status]) -> None:
        status = trial.score.status
        if trial.number in logged and (logged[trial.number] is not Status.FAILED or status is Status.FAILED):
            return
        sink.log(step, plain_names(trial_values(trial, best, self._plan.objectives)))
        logged[trial.number] = status
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"trial": trial.number, "status": status}) + "\n")

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Keeps what a logger's package raises, whatever it is, from ending the thread; the first is told."""
        try:
            yield
        except Exception as error:
            text = _CREDENTIALS.sub("://", first_line(error))
            self._error = self._error or f"{type(error).__name__}: {text}"


def trial_values(trial: Trial, best: Trial | None, objectives: Sequence[Objective]) -> dict[str, float]:
    """Returns the numbers of a trial by name: objectives, the best so far, tasks, seconds, whether it was scored."""
    names = [objective.name for objective in objectives]
    score = trial.score
    return {
        "trial": trial.number,
        "is_ok": float(score.status is Status.OK),
        "seconds": math.fsum(score.cost.seconds.values()),
        **{f"objective/{name}": v for name, v in zip(names, trial.objectives or (), strict=False)},
        **{f"best/{name}": v for name, v in zip(names, (best and best.objectives) or (), strict=False)},
        **{f"task/{task}": scores.mean for task, scores in score.tasks.items()},
    }


def report_values(report: Report) -> dict[str, float]:
    """Returns the numbers of a report by name."""
    winner = report.winner
    found = {"report/winner": float(winner.number), "report/optimism": report.optimism}
    known = {"score": winner.value, **{f"task {task}": value for task, value in winner.tasks.items()}}
    if report.to_best_baseline:
        known["over best baseline"] = report.to_best_baseline.by
    for name, value in known.items():
        found[f"report/{name}"] = value.mean
        if value.is_known:
            found |= {f"report/{name} low": value.low, f"report/{name} high": value.high}
    return found


def _remembered(file: Path, to: str) -> tuple[str | None, dict[int, Status]]:
    """Returns the id of the logger's run and what it has of trials; the id is None if it is not known."""
    try:
        begun, *trials = (json.loads(line) for line in file.read_text().splitlines() if line.endswith("}"))
        had = {int(line["trial"]): Status(line.get("status", Status.OK)) for line in trials}
        return (str(begun["id"]), had) if begun["to"] == to else (None, {})
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None, {}
