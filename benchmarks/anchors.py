"""Is regression better than the anchor it starts from? `python -m benchmarks.anchors OUT [--only ANCHOR] [--show]`.

Bayesian model merging on the SmolLM2 zoo around two anchors, with the experts' own activations, and each anchor alone:
the same operator with a lambda at which nothing of the regression is left, its scales searched in the same ranges by
the same Gaussian process and as many trials. Prints report scores and their paired differences, on items that no search
saw; a run that is there already is gone on with or only read.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.tables import is_done, name_of, report_of, shown
from crossbreed.runs import Spec, parse_spec, run
from crossbreed.runs.results.show import open_run
from crossbreed.runs.results.statistics import paired_difference

EXAMPLE = Path(__file__).parents[1] / "examples/smollm2"
ANCHORS = ("tsv_m", "task_arithmetic")
ALONE = 1e12
"""A lambda at which what regression adds is less than a rounding."""


def spec_of(anchor: str, *, alone: bool, trials: int) -> Spec:
    """Returns the example's spec around another anchor, or of the anchor alone."""
    raw: dict[str, Any] = yaml.safe_load((EXAMPLE / "bmm.yaml").read_text())
    raw["space"]["params"]["anchor"] = anchor
    raw["optimizer"]["budget"] = {"trials": trials}
    if alone:
        raw["space"]["params"] |= {"grams": "deltas", "lambda": ALONE}
        del raw["artifacts"]
    return parse_spec(raw, folder=EXAMPLE)


def row_of(anchor: str, folders: Sequence[Path]) -> str:
    """Returns an anchor's line of the table, from the run of it alone and that with regression."""
    winners = [report_of(folder)["winner"] for folder in folders]
    runs = [open_run(folder) for folder in folders]
    alone, bred = (
        found.history.scores["report", winner["number"]].tasks for found, winner in zip(runs, winners, strict=True)
    )
    better = paired_difference(bred, alone, runs[0].objectives[0])
    cells = [f"{shown(winner)} {name_of(winner)}" for winner in winners]
    return f"| {anchor} | {' | '.join(cells)} | {shown(better.to_json())} |"


def main() -> None:
    """Runs what is not there, then prints what is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument(
        "--only", nargs="+", choices=ANCHORS, default=ANCHORS, metavar="ANCHOR", help=", ".join(ANCHORS)
    )
    parser.add_argument("--show", action="store_true", help="only print the table")
    arguments = parser.parse_args()
    print("| anchor | alone | with regression | better by |\n|---|---|---|---|")
    for anchor in ANCHORS:
        folders = [arguments.out / f"{anchor}-{kind}" for kind in ("alone", "data")]
        for folder, alone in zip(folders, (True, False), strict=True):
            if anchor in arguments.only and not arguments.show:
                run(spec_of(anchor, alone=alone, trials=arguments.trials), folder)
        if all(map(is_done, folders)):
            print(row_of(anchor, folders))


if __name__ == "__main__":
    main()
