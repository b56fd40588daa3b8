"""What a person sees while a search runs: one line a trial, or one line that moves."""

import sys
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
        self._is_inside_line = False

    def __call__(self, trial: Trial, history: History) -> None:
        """Shows the trial, the best so far and the time left."""
        line = f"{self._position(trial, history)}  {self._result(trial)}  {self._best(history)}  {self._eta(history)}"
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}  {line}\n")
        if self._file.isatty():
            self._file.write(f"\r\x1b[2K{line}")
            self._is_inside_line = True
        else:
            self._file.write(line + "\n")
        self._file.flush()

    def note(self, text: str) -> None:
        """Says something in a line of its own."""
        self.close()
        self._file.write(f"{text}\n")
        self._file.flush()

    def close(self) -> None:
        """Leaves the terminal's line."""
        if self._is_inside_line:
            self._file.write("\n")
            self._is_inside_line = False

    def _position(self, trial: Trial, history: History) -> str:
        total = "" if self._budget.trials is None else f" of {self._num_firsts + self._budget.trials}"
        return f"[{len(history.trials)}{total}]  trial {trial.number}  {trial.candidate.origin}"

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
        per_trial_s = history.elapsed_s / len(history.trials)  # not the engine's start
        left_s = []
        if self._budget.trials is not None:
            left_s.append((self._num_firsts + self._budget.trials - len(history.trials)) * per_trial_s)
        if self._budget.seconds is not None:
            left_s.append(self._budget.seconds - history.elapsed_s)
        minutes, seconds = divmod(max(0, round(min(left_s))), 60) if left_s else (0, 0)
        return f"about {minutes}:{seconds:02d} left" if left_s else ""
