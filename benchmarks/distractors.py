"""What do experts that know nothing cost a search? `python -m benchmarks.distractors OUT [--trials 30] [--only NAME]`.

Frank-Wolfe and CMA-ES on the SmolLM2 zoo, with its three experts and with eight random ones added
(`examples/smollm2/distractors.py` writes them), all four by vLLM and at equal items: those of Frank-Wolfe's gradients
count too. Prints a table of report scores; a run that is there already is gone on with.
"""

import argparse
from pathlib import Path
from typing import Any

import yaml

from crossbreed.runs import Report, Spec, parse_spec, report_json, run

EXAMPLE = Path(__file__).parents[1] / "examples/smollm2"
NUM_DISTRACTORS = 8
ROWS = {
    "frank_wolfe": ("frank_wolfe", 0),
    "frank_wolfe+8": ("frank_wolfe", NUM_DISTRACTORS),
    "cma_es": ("cma_es", 0),
    "cma_es+8": ("cma_es", NUM_DISTRACTORS),
}
"""Name -> optimizer, and how many distractors."""


def spec_of(name: str, *, trials: int, split: dict[str, int], engine: dict[str, Any] | None = None) -> Spec:
    """Returns the demo's spec, with another optimizer, other experts, and perhaps another engine."""
    kind, num_distractors = ROWS[name]
    raw: dict[str, Any] = yaml.safe_load((EXAMPLE / "demo.yaml").read_text())
    noise = {f"noise-{n}": f"models/distractors/noise-{n}" for n in range(1, num_distractors + 1)}
    raw["name"], raw["workers"] = name, {"executor": "local"}
    raw["sources"]["experts"] |= noise
    raw["fitness"]["split"] = split
    raw["fitness"]["engine"] = engine or raw["fitness"]["engine"]
    raw["fitness"]["slopes"] = {"items": min(32, split["search"])}
    if kind == "cma_es":  # no gradients: the items buy more trials
        trials = trials * (split["search"] + min(32, split["search"])) // split["search"]
    raw["optimizer"] = {"kind": kind, "budget": {"trials": trials}}
    return parse_spec(raw, folder=EXAMPLE)


def row(name: str, report: Report) -> str:
    """A line of the table."""
    winner = report_json(report)["winner"]
    per_task = "  ".join(f"{task} {found['mean']:.3f}" for task, found in winner["tasks"].items())
    return f"{name:<14} {winner['mean']:.4f} [{winner['low']:.4f}, {winner['high']:.4f}]  {per_task}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--only", choices=list(ROWS))
    parser.add_argument("--search", type=int, default=48)
    parser.add_argument("--report", type=int, default=250)
    args = parser.parse_args()
    if not (EXAMPLE / f"models/distractors/noise-{NUM_DISTRACTORS}").exists():
        raise SystemExit("first: python examples/smollm2/prepare.py && python examples/smollm2/distractors.py")
    split = {"search": args.search, "select": 40, "report": args.report}
    names = [args.only] if args.only else list(ROWS)
    lines = [row(name, run(spec_of(name, trials=args.trials, split=split), args.out / name)) for name in names]
    print("\n".join(lines))
