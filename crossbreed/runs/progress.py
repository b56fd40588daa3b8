"""What a person sees while a search runs: one line a trial, or one line that moves."""

import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from crossbreed.runs.archive import best_trial
from crossbreed.runs.history import History
from crossbreed.runs.loop import Budget
from crossbreed.runs.objectives import Objective
from crossbreed.types import Trial


class Progress:
    """Called after every trial. Writes in place on a terminal, elsewhere one plain line a trial; always to log.txt."""

    def __init__(
        self,
        *,
        objectives: tuple[Objective, ...],
        budget: Budget,
        num_firsts: int,
        log: Path,
        file: TextIO | None = None,
    ) -> None:
        self._objectives, self._budget, self._num_firsts = objectives, budget, num_firsts
        self._log, self._file = log, file or sys.stdout
        self._start = time.monotonic()
        self._num_seen = 0

    def __call__(self, trial: Trial, history: History) -> None:
        """Shows the trial, the best so far and the time left."""
        self._num_seen += 1
        line = f"{self._position(trial, history)}  {self._result(trial)}  {self._best(history)}  {self._eta(history)}"
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}  {line}\n")
        if self._file.isatty():
            self._file.write(f"\r\x1b[2K{line}")
        else:
            self._file.write(line + "\n")
        self._file.flush()

    def close(self) -> None:
        """Leaves the terminal's line."""
        if self._num_seen and self._file.isatty():
            self._file.write("\n")

    def _position(self, trial: Trial, history: History) -> str:
        total = "" if self._budget.trials is None else f"/{self._num_firsts + self._budget.trials}"
        return f"trial {len(history.trials)}{total}  {trial.candidate.origin}"

    def _result(self, trial: Trial) -> str:
        if trial.objectives is None:
            return f"{trial.score.status.value}: {trial.score.error}"
        values = " ".join(f"{value:.4f}" for value in trial.objectives)
        return f"{values} ({trial.score.error})" if trial.score.error else values

    def _best(self, history: History) -> str:
        best = best_trial(history.ok_trials, self._objectives)
        if best is None or best.objectives is None:
            return "nothing measured yet"
        return f"best {' '.join(f'{value:.4f}' for value in best.objectives)} (trial {best.number})"

    def _eta(self, history: History) -> str:
        per_trial_s = (time.monotonic() - self._start) / self._num_seen
        left_s = []
        if self._budget.trials is not None:
            left_s.append((self._num_firsts + self._budget.trials - len(history.trials)) * per_trial_s)
        if self._budget.seconds is not None:
            left_s.append(self._budget.seconds - history.elapsed_s)
        minutes, seconds = divmod(max(0, round(min(left_s))), 60) if left_s else (0, 0)
        return f"about {minutes}:{seconds:02d} left" if left_s else ""
