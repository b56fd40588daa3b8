"""A run with MAP: what it says of its surrogates is told and logged once, also after a stop."""

from pathlib import Path

from toy_runs import write_spec

from crossbreed.runs import Event, load_spec, run
from crossbreed.runs.events import Note, TrialDone


class _Stopped(Exception):
    pass


def test_what_map_says_of_its_surrogates_is_logged_once(
    tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]
) -> None:
    spec = write_spec(
        tmp_path,
        base=toy_base,
        experts=toy_adapters,
        optimizer={"kind": "map", "budget": {"trials": 14}, "options": {"samples": 8, "infill": 3}},
        space={"kind": "coefficients", "operator": "task_arithmetic"},
        fitness__objectives=[{"task": "red"}, {"task": "blue"}],
    )
    trials = list[int]()

    def stop(event: Event) -> None:
        if isinstance(event, TrialDone):
            trials.append(event.trial.number)
            if len(trials) == 18:
                raise _Stopped

    out = tmp_path / "run"
    try:
        run(load_spec(spec), out, on_event=stop)
    except _Stopped:
        before = (out / "log.txt").read_text()
    assert "map: quadratics of 2 coordinates, fitted to 8 trials; R2 on left-out trials: " in before
    events = list[Event]()
    run(load_spec(spec), out, on_event=events.append)
    told = [event.text for event in events if isinstance(event, Note) and event.text.startswith("map: ")]
    assert [text.partition(";")[0].partition(",")[0] for text in told] == [
        "map: 3 points of its front",
        "map: quadratics of 2 coordinates",
    ] * (len(told) // 2)
    assert told
    logged = [line for line in (out / "log.txt").read_text().splitlines() if "map: " in line]
    assert sum("fitted to 8 trials" in line for line in logged) == 1
    assert all(sum(text in line for line in logged) == 1 for text in told)
