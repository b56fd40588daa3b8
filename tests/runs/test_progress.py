"""What a person sees of a search: which trial, the best, and the time that is left of what a trial takes."""

import io
from pathlib import Path

from simulated import MEAN, search

from crossbreed.runs.history import History
from crossbreed.runs.loop import Budget
from crossbreed.runs.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(tmp_path: Path, file: io.StringIO, *, elapsed_s: float) -> Progress:
    trials = search()[:5]
    history = History(item_ids={})
    history.trials.update({trial.number: trial for trial in trials})
    history.elapsed_s = elapsed_s
    budget = Budget(trials=11, seconds=None)
    progress = Progress(objectives=(MEAN,), budget=budget, num_firsts=4, log=tmp_path / "log.txt", file=file)
    progress(trials[-1], history)
    return progress


def test_a_trial_is_called_by_its_number_and_counted_apart(tmp_path: Path) -> None:
    file = io.StringIO()
    shown(tmp_path, file, elapsed_s=50)
    assert file.getvalue().startswith("[5 of 15]  trial 4  ")
    assert "about 1:40 left" in file.getvalue(), "ten trials of ten seconds, whatever the engine took to start"
    assert file.getvalue().strip() in (tmp_path / "log.txt").read_text()


def test_what_is_said_on_a_terminal_has_a_line_of_its_own(tmp_path: Path) -> None:
    file = Terminal()
    progress = shown(tmp_path, file, elapsed_s=50)
    assert "\n" not in file.getvalue()
    progress.note("select: 3 models ...")
    progress.note("report: 4 models ...")
    progress.close()
    assert file.getvalue().endswith("left\nselect: 3 models ...\nreport: 4 models ...\n")
