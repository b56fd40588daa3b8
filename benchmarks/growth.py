"""What does a trial cost a long run? `python -m benchmarks.growth [OPTIMIZER TRIALS ...] [--out FOLDER]`.

Runs of a toy model, whose fake engine answers in microseconds, one worker in the driver's process. Each step is a
process of its own: the search, the same command on the finished run (resume), `show` and `show --json`, `report`.
Prints a line for each run. `driver` is what a new trial costs beside its merging and answering, which are the
worker's: optimizer, journal, progress, log; of the first 500 trials and of the last 500.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from crossbreed.runs import Spec, parse_spec, report_on, run
from crossbreed.runs.events import Event, TrialDone
from crossbreed.runs.results.show import show_json, show_text
from crossbreed.testing.toys import make_adapter, make_checkpoint

DEFAULT = ("cma_es", "1000", "cma_es", "10000", "nsga2", "2000", "m2n2", "1000", "gp", "150")
WINDOW = 500
WORKERS = ("materialize", "swap", "answer")
"""The phases of a trial that are the worker's."""
SKILLS = ("red", "blue")
COLUMNS = (
    *("optimizer", "trials", "driver, first, ms", "driver, last, ms", "worker, last, ms", "RSS, MB", "kB a trial"),
    *("resume, s", "show, s", "show --json, s", "report, s", "journal, MB", "report.html, MB"),
)
HEAD = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"


def spec_of(optimizer: str, trials: int, zoo: Path) -> Spec:
    """Returns the spec of a run of two experts on two skills, whose files are made in `zoo` if they are missing."""
    if not zoo.exists():
        base = make_checkpoint(zoo / "base", num_layers=2)
        for seed, skill in enumerate(SKILLS, start=1):
            make_adapter(zoo / skill, base=base, seed=seed)
            lines = [json.dumps({"id": f"{skill}-{i}", "q": f"{skill} {i}", "a": f"{i * 7 % 97}"}) for i in range(60)]
            (zoo / f"{skill}.jsonl").write_text("\n".join(lines) + "\n")
    box = {"kind": "coefficients", "operator": "linear", "groups": {"layers": 2, "modules": ["mlp"]}}
    raw: dict[str, Any] = {
        "name": f"growth-{optimizer}",
        "seed": 7,
        "sources": {"base": "base", "experts": {skill: skill for skill in SKILLS}},
        "space": {"kind": "lineage"} if optimizer == "m2n2" else box,
        "optimizer": {"kind": optimizer, "budget": {"trials": trials}},
        "fitness": {
            "engine": {"kind": "fake"},
            "tasks": [
                {"name": name, "kind": "generate", "items": f"{name}.jsonl", "prompt": name + "|{q}|{a}", "answer": "a"}
                for name in SKILLS
            ],
            "objectives": [{"task": name} for name in SKILLS] if optimizer == "nsga2" else [{"mean": list(SKILLS)}],
            "split": {"search": 20, "select": 16, "report": 24},
        },
        "workers": {"executor": "local"},
    }
    return parse_spec(raw, folder=zoo)


def searched(spec: Spec, folder: Path) -> dict[str, float]:
    """Searches, and returns what its trials cost, in ms, and the memory at the end."""
    began_s, driver_ms, worker_ms = [time.perf_counter()], list[float](), list[float]()
    rss_mb = [0.0]

    def listen(event: Event) -> None:
        if isinstance(event, TrialDone):
            seconds = event.trial.score.cost.seconds
            worker_ms.append(1e3 * sum(seconds.get(phase, 0.0) for phase in WORKERS))
            now_s = time.perf_counter()
            driver_ms.append(1e3 * (now_s - began_s[0]) - worker_ms[-1])
            began_s[0] = now_s
            if event.num_done in (100, WINDOW):
                rss_mb.append(_rss_mb())

    run(spec, folder, on_event=listen)
    end_mb = _rss_mb()
    num_since = len(driver_ms) - (WINDOW if len(rss_mb) > 2 else 100)
    return {
        "first": fmean(driver_ms[10 : 10 + WINDOW]),
        "last": fmean(driver_ms[-WINDOW:]),
        "worker": fmean(worker_ms[-WINDOW:]),
        "rss_mb": end_mb,
        "kb_a_trial": 1e3 * (end_mb - rss_mb[-1]) / num_since,
    }


def timed(work: Callable[[], object]) -> dict[str, float]:
    """Returns the seconds of a step."""
    began_s = time.perf_counter()
    work()
    return {"seconds": time.perf_counter() - began_s}


def step(name: str, spec: Spec, folder: Path) -> dict[str, float]:
    """Does one step of a benchmark in this process."""
    match name:
        case "search":
            return searched(spec, folder)
        case "resume":
            return timed(lambda: run(spec, folder))
        case "show":
            return timed(lambda: show_text(folder))
        case "show_json":
            return timed(lambda: json.dumps(show_json(folder)))
    return timed(lambda: report_on(folder))


def row_of(optimizer: str, trials: int, out: Path) -> str:
    """Runs every step in a process of its own, and returns the line of the table."""
    folder = out / f"{optimizer}-{trials}"
    found: dict[str, dict[str, float]] = {}
    for name in ("search", "resume", "show", "show_json", "report"):
        command = [sys.executable, "-m", "benchmarks.growth", optimizer, str(trials), "--out", str(out), "--step", name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
    searching = found.pop("search")
    sizes = [(folder / name).stat().st_size / 1e6 for name in ("journal.jsonl", "report.html")]
    cells = [
        *(f"{searching[key]:.1f}" for key in ("first", "last", "worker")),
        *(f"{searching[key]:.{digits}f}" for key, digits in (("rss_mb", 0), ("kb_a_trial", 1))),
        *(f"{step['seconds']:.2f}" for step in found.values()),
        *(f"{size:.1f}" for size in sizes),
    ]
    return f"| {optimizer} | {trials:,} | {' | '.join(cells)} |"


def _rss_mb() -> float:
    """Returns the memory that this process holds now; the most it ever held where the system does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return int(status.read_text().partition("VmRSS:")[2].split()[0]) / 1e3


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", default=DEFAULT, help="pairs of an optimizer and a number of trials")
    parser.add_argument("--out", type=Path, help="keeps the run folders there; a run that is there is gone on with")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    given = parser.parse_args()
    wanted = [(name, int(number)) for name, number in zip(given.runs[::2], given.runs[1::2], strict=True)]
    with tempfile.TemporaryDirectory() as scratch:
        out = given.out or Path(scratch)
        out.mkdir(parents=True, exist_ok=True)
        if given.step:
            [(name, number)] = wanted
            print(json.dumps(step(given.step, spec_of(name, number, out / "zoo"), out / f"{name}-{number}")))
        else:
            print(HEAD, flush=True)
            for name, number in wanted:
                print(row_of(name, number, out), flush=True)
