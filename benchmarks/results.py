"""All four methods on the SmolLM2 zoo: `python -m benchmarks.results OUT [--minutes 5] [--only NAME ...] [--show]`.

Every preset searches the demo's zoo twice, for the mean over skills and for the worst skill, with the demo's engine,
items and seed and the same minutes. A run that is there already is gone on with or only read. Prints the table of
docs/results.md from the reports of those that are done, whose items were seen by no search, and copies the winners'
recipes to docs/recipes.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

import yaml

from benchmarks.tables import is_done, name_of, report_of, shown
from crossbreed.runs import Spec, parse_spec, run
from crossbreed.runs.record.history import fold
from crossbreed.runs.record.journal import read
from crossbreed.runs.spec.presets import PRESETS, fill_in

EXAMPLE = Path(__file__).parents[1] / "examples/smollm2"
OBJECTIVES = ("mean", "worst")
METHODS = tuple(preset for preset in PRESETS if preset not in ("evo_merging", "lorahub"))
"""What can be compared by the minutes: the others plan by a number of trials."""
NAMES = tuple(f"{preset}-{objective}" for preset in METHODS for objective in OBJECTIVES)
RECIPES = Path(__file__).parents[1] / "docs/recipes"
HEAD = """| method | for | mean of skills | worst skill | over the best baseline | items | minutes | bred | winner |
|---|---|---|---|---|---|---|---|---|"""


def spec_of(name: str, minutes: float) -> Spec:
    """Returns the example's spec with a preset's search, and as long as `minutes` allow."""
    preset, objective = name.rsplit("-", 1)
    raw: dict[str, Any] = yaml.safe_load((EXAMPLE / "cma_es.yaml").read_text())
    tasks = [task["name"] for task in raw["fitness"]["tasks"]]
    del raw["space"], raw["optimizer"]
    budget = {"budget": {"minutes": minutes}}
    raw |= {"name": name, "preset": preset}
    raw |= budget if "stages" in fill_in(raw) else {"optimizer": budget}
    raw["fitness"]["objectives"] = [{objective: tasks}]
    return parse_spec(raw, folder=EXAMPLE)


def row_of(folder: Path) -> str:
    """Returns a run's line of the table; `bred` is what its optimizer asked for and the engine scored."""
    report, history = report_of(folder), fold(read(folder / "journal.jsonl"))
    given = {number for number, asked in history.candidates.items() if asked.proposed_by.is_baseline}
    winner = report["winner"]
    gained = [report[f"difference_to_{other}"] for other in ("best_baseline", "tuned_scalar")]
    means = {task: found["mean"] for task, found in winner["tasks"].items()}
    worst = min(means, key=lambda task: means[task])
    preset, objective = folder.name.rsplit("-", 1)
    cells = (
        preset,
        objective,
        shown(winner) if objective == "mean" else f"{sum(means.values()) / len(means):.3f}",
        f"{shown(winner['tasks'][worst])} {worst}",
        "it is one" if winner["number"] in given else shown(min(gained, key=lambda difference: difference["mean"])),
        str(sum(trial.score.cost.items for trial in history.trials.values())),
        f"{history.elapsed_s / 60:.1f}",
        str(sum(trial.number not in given for trial in history.ok_trials)),
        f"[{name_of(winner)}](recipes/{folder.name}.yaml)",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Runs what is named, then prints what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=5, help="of each search; the report comes on top")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--show", action="store_true", help="only print the table")
    arguments = parser.parse_args()
    for name in () if arguments.show else arguments.only:
        run(spec_of(name, arguments.minutes), arguments.out / name)
    RECIPES.mkdir(exist_ok=True)
    print(HEAD)
    for folder in (arguments.out / name for name in NAMES):
        if is_done(folder):
            number = report_of(folder)["winner"]["number"]
            shutil.copyfile(folder / f"recipes/{number:06d}.yaml", RECIPES / f"{folder.name}.yaml")
            print(row_of(folder))


if __name__ == "__main__":
    main()
