"""Is regression better than the anchor that it starts from? `python -m benchmarks.anchors OUT [--trials 40] [--show]`.

Bayesian model merging on the SmolLM2 zoo around two anchors, with the experts' own activations, and each anchor alone:
the same operator with a lambda at which nothing of the regression is left, its scales searched in the same ranges by
the same Gaussian process and as many trials. Prints report scores and their paired differences, on items that no search
saw; a run that is there already is gone on with or only read.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

from crossbreed.runs import Spec, parse_spec, run
from crossbreed.runs.show import open_run
from crossbreed.runs.statistics import Interval, interval, paired_difference
from crossbreed.types import ItemScores

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


def winner_of(folder: Path) -> dict[str, ItemScores]:
    """Returns what the winner scored on the report items."""
    found = open_run(folder)
    number = json.loads((folder / "report.json").read_text())["winner"]["number"]
    return dict(found.history.scores["report", number].tasks)


def main() -> None:
    """Runs what is not there, then prints what is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--show", action="store_true", help="only print the table")
    arguments = parser.parse_args()
    lines = ["| anchor | alone | with regression | better by |", "|---|---|---|---|"]
    for anchor in ANCHORS:
        folders = {kind: arguments.out / f"{anchor}-{kind}" for kind in ("alone", "data")}
        for kind, folder in folders.items():
            if not arguments.show:
                run(spec_of(anchor, alone=kind == "alone", trials=arguments.trials), folder)
        if all((folder / "report.json").exists() for folder in folders.values()):
            alone, bred = (winner_of(folders[kind]) for kind in ("alone", "data"))
            objective = open_run(folders["data"]).objectives[0]
            cells = (interval(alone, objective), interval(bred, objective), paired_difference(bred, alone, objective))
            lines.append(f"| {anchor} | {' | '.join(map(_shown, cells))} |")
    print("\n".join(lines))


def _shown(found: Interval) -> str:
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


if __name__ == "__main__":
    main()
