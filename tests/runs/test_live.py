"""What is shown of a run that goes on: its phase and pace, the lead so far, what the baselines say; all of it live."""

import io
import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any, TypeAlias

import pytest
from simulated import MEAN, search, trial
from toy_runs import SKILLS, write_spec

from crossbreed.errors import InputError
from crossbreed.runs import load_spec, run
from crossbreed.runs.events import (
    EngineStarting,
    Event,
    Note,
    PhaseStarting,
    PlanDescribed,
    SplitStarting,
    TrialDone,
    ignore,
)
from crossbreed.runs.phases import phase_noted
from crossbreed.runs.record import followed
from crossbreed.runs.record.history import fold
from crossbreed.runs.record.journal import Journal, read
from crossbreed.runs.record.lock import this_process
from crossbreed.runs.record.phase import PHASE_FILE, Phase, PhaseNote, read_phase
from crossbreed.runs.results.lead import Leads
from crossbreed.runs.results.show import Run, open_run, show_json, show_text, show_trial, text_of
from crossbreed.runs.results.signal import findings
from crossbreed.runs.results.statistics import paired_difference
from crossbreed.runs.results.trial_table import trial_table
from crossbreed.runs.results.watch import Watched
from crossbreed.runs.spec.objectives import Objective
from crossbreed.sources import slow_reads
from crossbreed.stopping import Stop
from crossbreed.terminal import watch
from crossbreed.types import ItemScores, Status, Trial

Seen: TypeAlias = tuple[Path, list[tuple[Event, str, dict[str, Any]]]]
JOURNAL = Path(__file__).parents[1] / "golden/journal/schema-2.jsonl"
NUM_REPORT = {"sums": 60, "french": 60}


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory, toy_base: Path, toy_adapters: dict[str, Path]) -> Path:
    return write_spec(tmp_path_factory.mktemp("spec"), base=toy_base, experts=toy_adapters, trials=4)


@pytest.fixture(scope="module")
def watched(spec: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """A finished run, and what `show` and `show --json` said at each of its events."""
    out, seen = tmp_path_factory.mktemp("runs") / "run", list[tuple[Event, str, dict[str, Any]]]()
    run(load_spec(spec), out, on_event=lambda event: seen.append((event, show_text(out), show_json(out))))
    return out, seen


def test_show_names_the_phase_from_the_first_second_on(
    watched: Seen,
) -> None:
    out, seen = watched
    phases = list(dict.fromkeys(shown["phase"]["name"] for _, _, shown in seen if shown["phase"]))
    assert phases == ["opening sources", "baselines", "starting engine", "canary", "search", "finalists", "report"]
    first = seen[0]
    assert isinstance(first[0], PhaseStarting)
    assert first[1] == "run: running, opening sources, for 0:00; no trial yet"
    before = next(text for event, text, _ in seen if isinstance(event, EngineStarting))
    assert before.splitlines()[1:] == ["starting engine, for 0:00"], "no empty table"
    assert all(shown["state"] == "running" for _, _, shown in seen[:-1])
    assert not (out / PHASE_FILE).exists()
    assert show_json(out)["phase"] is None


def test_show_and_progress_have_a_column_for_each_task_and_the_pace(
    watched: Seen,
) -> None:
    out, seen = watched
    event, text, shown = next(s for s in seen if isinstance(s[0], TrialDone) and s[0].num_done == 10)
    assert "search, trial 11 of 12, for 0:0" in text
    assert " s a trial, about 0:0" in text
    assert (shown["trials_wanted"], len(shown["trials"])) == (12, 10)
    assert isinstance(event, TrialDone)
    for skill in SKILLS:
        assert f"{skill} {event.trial.score.tasks[skill].mean:.4f}" in str(event)
    head = next(line for line in text.splitlines() if line.startswith(" trial"))
    assert head.split()[-3:] == ["red", "blue", "seconds"]
    last = show_text(out)
    best = open_run(out).history.trials[show_json(out)["best"][0]]
    row = next(line for line in last.splitlines() if line.endswith("*"))
    assert [row.split()[3], row.split()[4]] == [f"{best.score.tasks[skill].mean:.4f}" for skill in SKILLS]


def test_the_baselines_tell_what_can_be_told_apart_and_how_long_it_takes(
    watched: Seen,
) -> None:
    out, seen = watched
    events = [event for event, _, _ in seen]
    last_baseline = next(i for i, event in enumerate(events) if isinstance(event, TrialDone) and event.num_done == 8)
    told = [str(event) for event in events if isinstance(event, Note)][:-1]
    assert isinstance(events[last_baseline + 1], Note)
    assert any("search items may miss differences below" in text for text in told)
    assert told[-1].startswith("the search takes about 0:0")
    assert all(text in (out / "log.txt").read_text() for text in told)
    assert told[0] in show_text(out)
    assert show_json(out)["outlook"] == told[:-1], "of a run that is over, nothing is to come"


def test_the_first_line_and_a_run_are_shown_without_what_takes_long_to_import(
    watched: Seen,
) -> None:
    program = """
import sys, crossbreed.cli
from crossbreed.terminal import Terminal
with Terminal(doing="reading"): pass
print(*sorted({"numpy", "pydantic", "rich", "yaml"} & sys.modules.keys()))
from pathlib import Path
from crossbreed.runs.results.show import show_text
show_text(Path(sys.argv[1]))
print(*sorted({"torch", "optuna", "cma", "moocore", "rich", "ray", "transformers"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", program, str(watched[0])], capture_output=True, text=True, check=True)
    assert done.stdout == "reading ...\n\n\n"


def test_a_driver_that_died_is_in_no_phase(tmp_path: Path) -> None:
    PhaseNote(phase=Phase.SOURCES).write(tmp_path)
    assert read_phase(tmp_path) is not None
    note = json.loads((tmp_path / PHASE_FILE).read_text())
    note["process"]["began"] = "another"
    (tmp_path / PHASE_FILE).write_text(json.dumps(note))
    assert read_phase(tmp_path) is None
    with pytest.raises(InputError, match="not a run folder"):
        show_text(tmp_path)


def test_a_driver_of_another_machine_goes_on_while_the_journal_is_locked(watched: Seen, tmp_path: Path) -> None:
    out = tmp_path / "run"
    copytree(watched[0], out)
    PhaseNote(phase=Phase.SEARCH).write(out)
    note = json.loads((out / PHASE_FILE).read_text())
    note["process"]["host"] += "-of-another"
    (out / PHASE_FILE).write_text(json.dumps(note))
    assert show_json(out)["state"] == "finished"
    assert not Watched(out).look()[1], "a look at it ends"
    with closing(Journal(out / "journal.jsonl")):
        assert (show_json(out)["state"], show_json(out)["phase"]["name"]) == ("running", "search")


def test_a_spec_that_is_refused_leaves_no_folder(spec: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        run(load_spec(spec, ["sources.experts.red=/nowhere/at/all"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_second_driver_does_not_speak_for_the_first(spec: Path, tmp_path: Path) -> None:
    seen = []

    def second(event: Event) -> None:
        if isinstance(event, SplitStarting) and not seen:
            with pytest.raises(InputError, match="another driver"):
                run(load_spec(spec), tmp_path / "run")
            seen.append(read_phase(tmp_path / "run"))

    run(load_spec(spec), tmp_path / "run", on_event=second)
    assert seen[0] is not None
    assert seen[0].phase is Phase.FINALISTS


def test_of_two_drivers_that_open_their_sources_the_first_speaks_and_a_refused_one_removes_nothing(
    spec: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with subprocess.Popen(["sleep", "60"]) as other:
        first = {"phase": "hashing", "began": 1.0, "process": process_of(other.pid)}

        def refused(event: Event) -> None:
            (out / PHASE_FILE).write_text(json.dumps(first))
            raise InputError("the sources are refused")

        try:
            with pytest.raises(InputError, match="the sources are refused"):
                run(load_spec(spec), out, on_event=refused)
            assert json.loads((out / PHASE_FILE).read_text()) == first, "neither folder nor note is removed"
            with phase_noted(out, ignore) as tell:
                tell(PhaseStarting(phase=Phase.SOURCES))
                assert json.loads((out / PHASE_FILE).read_text()) == first
            assert json.loads((out / PHASE_FILE).read_text()) == first
        finally:
            other.kill()
    with phase_noted(out, ignore) as tell:
        tell(PhaseStarting(phase=Phase.SOURCES))
        assert json.loads((out / PHASE_FILE).read_text())["process"] == this_process(), "the other has ended"
    assert not (out / PHASE_FILE).exists()


def process_of(pid: int) -> dict[str, str | int]:
    began = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return this_process() | {"pid": pid, "began": began}


def test_the_lead_is_the_paired_difference_to_the_best_baseline() -> None:
    trials = search()
    leads = Leads([MEAN])
    for one in trials[:6]:
        leads.add(one)
    assert leads.now() == (), "a tuned scalar, the best of the baselines, is none that was bred"
    for one in trials[6:]:
        leads.add(one)
    [lead] = leads.now()
    best = max(trials[6:], key=lambda t: (t.objectives, -t.number))
    baseline = max(trials[:4], key=lambda t: (t.objectives, -t.number))
    assert (lead.trial, lead.baseline) == (best.number, baseline.candidate.proposed_by.label)
    assert lead.by == paired_difference(best.score.tasks, baseline.score.tasks, MEAN)
    assert "on the 80 search items, on which it was chosen: optimistic" in str(lead)


def test_each_objective_has_its_lead_in_its_own_direction() -> None:
    objectives = (Objective(kind="task", tasks=("sums",)), Objective(kind="task", tasks=("french",), minimize=True))
    trials, leads = search(objectives=objectives), Leads(objectives)
    for one in trials:
        leads.add(one)
    sums, french = leads.now()
    assert sums.value == max(t.objectives[0] for t in trials if t.number >= 6 and t.objectives)
    assert french.value == min(t.objectives[1] for t in trials if t.number >= 6 and t.objectives)
    assert french.by.mean == pytest.approx(french.baseline_value - french.value)


def with_values(values: Mapping[str, float], number: int, origin: str, n: int = 24) -> Trial:
    """A trial with so many right answers, of `n`, in each task."""
    made = trial(number, origin, 0.5, 0.5)
    tasks = {
        task: ItemScores(
            item_ids=tuple(f"{task}-{i}" for i in range(n)), values=tuple(float(i < right) for i in range(n))
        )
        for task, right in values.items()
    }
    return replace(made, score=replace(made.score, tasks=tasks), objectives=(MEAN.of(tasks),))


@pytest.mark.parametrize(
    ("right", "said"),
    [
        ((24, 3, 9), "sums: the base is right on all 24 items: a merge can only lose here"),
        ((3, 24, 24), "sums: every expert is right on all 24 items: a merge can hardly gain here"),
        ((24, 24, 24), "sums: base, experts and their plain merges are right on all 24 items: the baselines do"),
        ((0, 0, 0), "sums: base, experts and their plain merges are wrong on all 24 items: the baselines do"),
        ((7, 7, 7), "sums: base, experts and their plain merges have the same values on all 24 items: the base"),
        ((0, 4, 2), "sums: the best baseline, expert:sums, is right on 4 of 24 items"),
    ],
)
def test_a_task_without_signal_is_pointed_out(right: tuple[int, ...], said: str) -> None:
    origins = ("baseline:base", "baseline:expert:sums", "baseline:expert:french")
    trials = [
        with_values({"sums": sums, "french": 6 * number + 6}, number, origin)
        for number, (origin, sums) in enumerate(zip(origins, right, strict=True))
    ]
    found = findings(trials, (MEAN,), num_report=NUM_REPORT)
    assert next(line for line in found if line.startswith("sums")).startswith(said)
    assert not [line for line in found if line.startswith("french")]


def test_more_items_show_smaller_differences() -> None:
    few, many = (
        [float(part.split()[0].rstrip(",")) for part in found.split("below ")[1:]]
        for n in (60, 6000)
        for found in findings(search(0), (MEAN,), num_report={"sums": n, "french": n})
    )
    assert few[0] == many[0] > few[1], "the 80 search items are the same, 120 show more than they"
    assert few[1] == pytest.approx(10 * many[1], rel=0.06)


@pytest.mark.parametrize("width", [60, 72, 80, 100, 200])
def test_a_narrow_terminal_gets_whole_columns_and_is_told_which_are_left_out(width: int) -> None:
    trials = search()
    wide = trial_table(trials, [MEAN], marked={3})
    narrow = trial_table(trials, [MEAN], marked={3}, width=width)
    text = " ".join(narrow)
    assert max(map(len, narrow)) <= width
    heads = narrow[0].partition("mean of sums, french")[2].split()
    left_out = ["sums", "french", "seconds"][len(heads) :]
    assert (f"no room for {', '.join(left_out)}: widen the terminal" in text) is bool(left_out)
    assert wide == trial_table(trials, [MEAN], marked={3}, width=200)


def test_sentences_are_wrapped_in_a_narrow_terminal(watched: Seen) -> None:
    wide, narrow = (show_text(watched[0], width=width) for width in (None, 50))
    prose = [line for line in wide.splitlines() if not line.startswith((" ", "trial"))]
    assert max(map(len, prose)) > 50
    for line in prose:
        assert " ".join(line.split()) in " ".join(narrow.split())


def test_a_run_is_watched_to_its_end_without_reading_it_twice(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, texts, read = tmp_path / "run", list[str](), list[int]()
    watcher = Watched(out)
    original = followed.records_after

    def counted(lines: list[bytes], *arguments: object, **options: object) -> object:
        read.append(len(lines))
        return original(lines, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(followed, "records_after", counted)

    def look(event: Event) -> None:
        if isinstance(event, PhaseStarting | PlanDescribed | EngineStarting | TrialDone):
            text, goes_on = watcher.look()
            assert goes_on
            texts.append(text)

    run(load_spec(spec), out, on_event=look)
    text, goes_on = watcher.look()
    monkeypatch.undo()
    assert not goes_on
    assert text == show_text(out)
    assert "opening sources" in texts[0]
    assert sum(read) == len((out / "journal.jsonl").read_bytes().splitlines())

    screen = io.StringIO()
    watch(watcher.look, file=screen)
    assert "finished, 12 trials" in screen.getvalue()
    looks = iter([("first", True), ("second", True), ("third", False)])
    screen = Screen()
    watch(lambda: next(looks), every_s=0, file=screen)
    assert [screen.getvalue().find(word) >= 0 for word in ("first", "second", "third")] == [True] * 3
    screen = io.StringIO()
    watch(lambda: ("word " * 40, False), file=screen)
    assert screen.getvalue() == "word " * 40 + "\n", "no terminal, no width"


@pytest.fixture
def odd(watched: Seen) -> Run:
    """A run of two objectives with a trial of every status, an array without a recipe, and one in flight."""
    red, blue = (Objective(kind="task", tasks=(skill,), minimize=skill == "blue") for skill in SKILLS)
    return replace(open_run(watched[0]), history=fold(read(JOURNAL)), objectives=(red, blue))


def test_what_failed_is_said(odd: Run) -> None:
    text = text_of(odd)
    assert "6 trials, 1 FAILED (not measured)\ntrial 3 FAILED: EngineError: it died" in text
    assert "without slopes" not in text
    number = next(trial.number for trial in odd.trials if trial.score.status is Status.OK)
    known = odd.history.trials[number]
    for error, is_missing in (("it lacks 0.20% of the change", False), ("no slopes: the gradient is NaN", True)):
        odd.history.trials[number] = replace(known, score=replace(known.score, error=error))
        assert ("1 without slopes" in text_of(odd)) is is_missing
    del odd.history.trials[number]
    for one in odd.history.ok_trials:
        del odd.history.trials[one.number]
    assert " origin " not in text_of(odd), "no empty table"


def test_a_task_that_is_an_objective_has_one_column(odd: Run) -> None:
    head = next(line for line in text_of(odd).splitlines() if line.startswith(" trial"))
    assert head.split() == ["trial", "origin", "red", "blue", "seconds"]
    assert len(trial_table(odd.history.ok_trials, odd.objectives[:1], marked={})[0].split()) == 5


def test_a_trial_that_is_in_flight_is_no_mistake(watched: Seen, tmp_path: Path) -> None:
    out = tmp_path / "run"
    copytree(watched[0], out)
    lines = (out / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (out / "journal.jsonl").write_bytes(b"".join(lines[:2]))
    with pytest.raises(InputError, match="trial 0 has not been answered yet"):
        show_trial(out, 0, answers=False)
    with pytest.raises(InputError, match=r"no trial 1\n.*it has none yet"):
        show_trial(out, 1, answers=False)
    with pytest.raises(InputError, match=r"no trial 12\n.*0 to 11"):
        show_trial(watched[0], 12, answers=False)


def test_a_large_file_that_is_hashed_is_named(spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSBREED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(slow_reads, "_LARGE_BYTES", 0)
    events = list[Event]()

    def until_planned(event: Event) -> None:
        events.append(event)
        if isinstance(event, PlanDescribed):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(load_spec(spec), tmp_path / "run", on_event=until_planned)
    hashed = [str(event) for event in events if isinstance(event, PhaseStarting) and event.phase is Phase.HASHING]
    assert hashed[0] == "hashing: model.safetensors, 0.0 GB ..."
    assert not (tmp_path / "run" / PHASE_FILE).exists()


def test_ctrl_c_is_the_ordinary_end_of_looking() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before, stop = {number: signal.getsignal(number) for number in numbers}, Stop()
    try:
        stop.listen()
        with stop.as_end():
            signal.raise_signal(signal.SIGINT)
            pytest.fail("it is not heard")
        stop.end()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
