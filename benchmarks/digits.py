"""M2N2 on its paper's first experiment, with its ablations: what the search is worth, and how fast it is.

python benchmarks/digits.py --minutes 8      goes on with the table where the last call stopped; one process, one core
python benchmarks/digits.py --show           writes the section of docs/results.md to stdout

A cell is one search: a method and a seed. Its journal is kept until it is done, so a call may be killed at any time.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # before numpy is imported: a search is one core's work

from crossbreed.optimizer import M2n2Options  # noqa: E402
from crossbreed.testing import digits  # noqa: E402

RESULTS = Path(__file__).with_suffix(".json")
INTRO = """## M2N2 on digits

The first experiment of arXiv 2508.16204 (`crossbreed/testing/digits.py`): archive 20, alpha 1; 50,000 evaluations from
scratch, 10,000 from two networks trained on half of the digits each. Test accuracy of the archive's best member on the
training pictures, in per cent, mean over seeds with its standard error; evaluations a second are the fastest seed's.
One core, journal on. Paper: read off its figures. GA is M2N2 with alpha 0 and without attraction. Each seed has two
networks of its own, so that the spread is that of the networks too; the paper has one pair for all of its runs.
`python benchmarks/digits.py` makes the table.
"""
SCRATCH, TRAINED = "from scratch", "two trained networks"
PAPER = {
    (SCRATCH, "M2N2"): 87,
    (SCRATCH, "no crossover"): 77,
    (SCRATCH, "GA"): 68,
    (TRAINED, "M2N2"): 68.3,
    (TRAINED, "no attraction"): 66.2,
    (TRAINED, "no split"): 57.8,
    (TRAINED, "GA"): 52,
}
"""Read off the figures of arXiv 2508.16204: approximate."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A row of the table."""

    start: str
    name: str
    trials: int
    options: M2n2Options


def methods() -> Iterator[Method]:
    switches: dict[str, dict[str, Any]] = {
        "M2N2": {},
        "no attraction": {"attraction": False},
        "no crossover": {"crossover": False},
        "no split": {"split": False},
        "alpha 0": {"alpha": 0.0},
        "GA": {"alpha": 0.0, "attraction": False},
    }
    starts = ((SCRATCH, 50_000, 0.01, "no split"), (TRAINED, 10_000, 0.0, "no crossover"))
    for start, trials, mutation, left_out in starts:
        for name, switch in switches.items():
            if name != left_out:
                options = M2n2Options(archive=20, mutation=mutation, **switch)
                yield Method(start=start, name=name, trials=trials, options=options)


def run_cells(folder: Path, *, seeds: range, only: str, until: float) -> None:
    """Runs cells seed by seed, so that a table that was not finished compares equal seeds."""
    for seed in seeds:
        for method in methods():
            key = f"{method.start} / {method.name} / {seed}"
            if only not in key or key in load():
                continue
            if time.monotonic() > until:
                return
            cell = folder / key.replace(" / ", "-").replace(" ", "_")
            networks = (digits.random_networks if method.start == SCRATCH else digits.trained_networks)(seed)
            bred = digits.breed(cell, networks, method.options, trials=method.trials, seed=seed)
            done = load() | {key: asdict(bred)}
            RESULTS.write_text(json.dumps(done, indent=1, sort_keys=True) + "\n")
            shutil.rmtree(cell)
            print(f"{key}: {bred.report_accuracy:.4f}, {bred.evaluations / bred.seconds:.0f} a second", flush=True)


def load() -> dict[str, Any]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def section() -> str:
    """Returns the part of docs/results.md."""
    done = load()
    lines = [
        INTRO,
        "| start | method | seeds | test accuracy | worst to best seed | paper | evaluations a second |",
        "|---|---|---|---|---|---|---|",
    ]
    for method in methods():
        cells = [cell for key, cell in done.items() if key.startswith(f"{method.start} / {method.name} / ")]
        if not cells:
            continue
        found = [100 * cell["report_accuracy"] for cell in cells]
        error = f" ± {statistics.stdev(found) / math.sqrt(len(found)):.1f}" if len(found) > 1 else ""
        rate = max(cell["evaluations"] / cell["seconds"] for cell in cells)
        lines.append(
            f"| {method.start} | {method.name} | {len(found)} | {statistics.fmean(found):.1f}{error} "
            f"| {min(found):.1f} to {max(found):.1f} | {PAPER.get((method.start, method.name), '')} | {rate:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=math.inf, help="no search is begun after that")
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 10), metavar=("FIRST", "END"))
    parser.add_argument("--only", default="", help="of the rows: part of `START / METHOD`, for example `trained`")
    parser.add_argument("--folder", type=Path, default=Path("out/digits"), help="of the journals")
    parser.add_argument("--show", action="store_true", help="only print the section")
    arguments = parser.parse_args()
    if not arguments.show:
        until = time.monotonic() + 60 * arguments.minutes
        run_cells(arguments.folder, seeds=range(*arguments.seeds), only=arguments.only, until=until)
    print(section())


if __name__ == "__main__":
    main()
