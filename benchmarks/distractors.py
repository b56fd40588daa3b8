"""What do experts that know nothing cost a search? `python -m benchmarks.distractors OUT [--only NAME ...] [--show]`.

Frank-Wolfe and CMA-ES on the SmolLM2 zoo, with its three experts and with eight random ones added
(`examples/smollm2/distractors.py` writes them), all four by vLLM and at equal items: those of Frank-Wolfe's gradients
count too. Prints a table of report scores; a run that is there already is gone on with.
"""

import argparse
from pathlib import Path
from typing import Any

import yaml

from benchmarks.tables import is_done, name_of, per_task, report_of, shown
from crossbreed.runs import Spec, parse_spec, run

EXAMPLE = Path(__file__).parents[1] / "examples/smollm2"
NUM_DISTRACTORS = 8
ROWS = {
    "frank_wolfe": ("frank_wolfe", 0),
    "frank_wolfe+8": ("frank_wolfe", NUM_DISTRACTORS),
    "cma_es": ("cma_es", 0),
    "cma_es+8": ("cma_es", NUM_DISTRACTORS),
}
"""Name -> optimizer, and how many distractors."""


def noise(number: int) -> dict[str, str]:
    """Returns the random experts, as a spec names them."""
    return {f"noise-{n}": f"models/distractors/noise-{n}" for n in range(1, number + 1)}


def spec_of(name: str, *, trials: int, split: dict[str, int], engine: dict[str, Any] | None = None) -> Spec:
    """Returns the example's spec, with another optimizer, other experts, and perhaps another engine."""
    kind, num_distractors = ROWS[name]
    raw: dict[str, Any] = yaml.safe_load((EXAMPLE / "cma_es.yaml").read_text())
    raw["name"], raw["workers"] = name, {"executor": "local"}
    raw["sources"]["experts"] |= noise(num_distractors)
    raw["fitness"]["split"] = split
    raw["fitness"]["engine"] = engine or raw["fitness"]["engine"]
    raw["fitness"]["slopes"] = {"items": min(32, split["search"])}
    if kind == "cma_es":  # no gradients: the items buy more trials
        trials = trials * (split["search"] + min(32, split["search"])) // split["search"]
    raw["optimizer"] = {"kind": kind, "budget": {"trials": trials}}
    return parse_spec(raw, folder=EXAMPLE)


def row_of(folder: Path) -> str:
    """Returns a run's line of the table."""
    winner = report_of(folder)["winner"]
    return f"| {folder.name} | {shown(winner)} | {per_task(winner)} | {name_of(winner)} |"


def main() -> None:
    """Runs what is named, then prints what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--trials", type=int, default=30, help="of Frank-Wolfe; the others have its items")
    parser.add_argument(
        "--only", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="NAME", help=", ".join(ROWS)
    )
    parser.add_argument("--search", type=int, default=48)
    parser.add_argument("--report", type=int, default=250)
    parser.add_argument("--show", action="store_true", help="only print the table")
    arguments = parser.parse_args()
    if not arguments.show and not (EXAMPLE / f"models/distractors/noise-{NUM_DISTRACTORS}").exists():
        raise SystemExit("first: python examples/smollm2/prepare.py && python examples/smollm2/distractors.py")
    split = {"search": arguments.search, "select": 40, "report": arguments.report}
    for name in () if arguments.show else arguments.only:
        run(spec_of(name, trials=arguments.trials, split=split), arguments.out / name)
    print("| run | mean of skills | sums / French / Roman | winner |\n|---|---|---|---|")
    for folder in (arguments.out / name for name in ROWS):
        if is_done(folder):
            print(row_of(folder))


if __name__ == "__main__":
    main()
