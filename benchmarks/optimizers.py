"""Which search finds most with so many trials? `python -m benchmarks.optimizers [--seeds 20] [--budgets 50 200]`.

Every search of a box with default options, beside plain pycma, Optuna's TPE and nevergrad's NGOpt used directly, on
`benchmarks/landscapes.py`; `--recorded RUN` adds the landscape of a run's trials. What is printed is the regret: how
far the true value of the point that measured best is below the best there is; the median over seeds, and quartiles.
"""

import argparse
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import optuna
from pydantic import TypeAdapter

from benchmarks.landscapes import LANDSCAPES, Landscape, recorded
from crossbreed.errors import CrossbreedError
from crossbreed.optimizer import AnyOptimizerConfig, OptimizerConfig, SearchInputs, build_optimizer
from crossbreed.types import Outcome, Point, Status

Measure: TypeAlias = Callable[[Point], float]
Search: TypeAlias = Callable[[Landscape, Measure, int, int], Iterable[None]]
"""Landscape, what measures a point, seed and budget; yields after each trial."""
CONFIG: TypeAdapter[OptimizerConfig] = TypeAdapter(AnyOptimizerConfig)


def ours(kind: str, **options: object) -> Search:
    def search(landscape: Landscape, measure: Measure, seed: int, budget: int) -> Iterator[None]:
        config = CONFIG.validate_python({"kind": kind, "budget": {"trials": budget}, "options": options})
        rng = np.random.default_rng(seed)
        inputs = SearchInputs(domain=landscape.box, num_objectives=1, start=landscape.start, rng=rng)
        optimizer = build_optimizer(config, inputs)
        for number in range(budget):
            point = optimizer.ask(number)
            assert isinstance(point, tuple), "one trial after the other, a search always has one to ask"
            optimizer.tell(Outcome(number=number, status=Status.OK, values=(measure(point),)))
            yield

    return search


def plain_pycma(landscape: Landscape, measure: Measure, seed: int, budget: int) -> Iterator[None]:
    import cma

    bounds = [list(landscape.box.low), list(landscape.box.high)]
    step = 0.25 * float(np.mean(np.subtract(bounds[1], bounds[0])))  # as its documentation recommends
    options = {"bounds": bounds, "seed": seed + 1, "verbose": -9}
    strategy, done = cma.CMAEvolutionStrategy(list(landscape.start), step, options), 0
    while done < budget:
        asked = strategy.ask()[: budget - done]
        losses = []
        for x in asked:
            losses.append(-measure(tuple(map(float, x))))
            yield
        done += len(asked)
        if done < budget:
            strategy.tell(asked, losses)


def plain_tpe(landscape: Landscape, measure: Measure, seed: int, budget: int) -> Iterator[None]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    box = landscape.box
    for _ in range(budget):
        trial = study.ask()
        x = (
            trial.suggest_float(str(i), low, high) for i, (low, high) in enumerate(zip(box.low, box.high, strict=True))
        )
        study.tell(trial, measure(tuple(x)))
        yield


def plain_ngopt(landscape: Landscape, measure: Measure, seed: int, budget: int) -> Iterator[None]:
    import nevergrad as ng

    space = ng.p.Array(init=np.array(landscape.start), lower=landscape.box.low, upper=landscape.box.high)
    space.random_state = np.random.RandomState(seed)
    optimizer = ng.optimizers.NGOpt(space, budget=budget, num_workers=1)
    for _ in range(budget):
        asked = optimizer.ask()
        optimizer.tell(asked, -measure(tuple(map(float, asked.value))))
        yield


SEARCHES: dict[str, tuple[Search, int]] = {
    "random": (ours("random"), 100_000),
    "cma_es": (ours("cma_es"), 100_000),
    "cma_es, separable": (ours("cma_es", separable=True), 100_000),
    "cma_es, surrogate lq": (ours("cma_es", surrogate="lq"), 1_000),
    "cma_es, learning rate adapted": (ours("cma_es", learning_rate="adapted"), 100_000),
    "cat_cma": (ours("cat_cma"), 100_000),
    "tpe": (ours("tpe"), 1_000),
    "gp": (ours("gp"), 50),
    "map": (ours("map"), 1_000),
    "nsga2": (ours("nsga2"), 100_000),
    "nevergrad NGOpt": (ours("nevergrad"), 100_000),
    "pycma itself": (plain_pycma, 100_000),
    "Optuna's TPE itself": (plain_tpe, 1_000),
    "nevergrad's NGOpt itself": (plain_ngopt, 100_000),
}
"""Name -> search, and the largest budget that it is run with: what takes a second a trial is not run with more."""


def regret(search: Search, landscape: Landscape, *, seed: int, budget: int) -> float:
    """Returns how far the true value of the point that measured best is below the best one."""
    found: list[tuple[float, Point]] = []

    def measure(point: Point) -> float:
        found.append((landscape.measured(point, seed=seed, number=len(found)), point))
        return found[-1][0]

    for _ in search(landscape, measure, seed, budget):
        pass
    _, chosen = max(found, key=lambda pair: pair[0])
    return landscape.best - landscape.value(chosen)


def cell(search: Search, landscape: Landscape, *, seeds: int, budget: int, most: int) -> str:
    """Returns a median with its quartiles; why there is none, where a search cannot be run."""
    if budget > most:
        return "not run"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = [regret(search, landscape, seed=seed, budget=budget) for seed in range(seeds)]
    except CrossbreedError as error:
        return error.problem.split(" (")[0]
    except ImportError as error:
        return f"lacks {error.name}"
    first, median, third = np.quantile(found, [0.25, 0.5, 0.75])
    return f"{median:.3f} [{first:.3f}, {third:.3f}]"


def table(landscape: Landscape, names: Sequence[str], *, seeds: int, budgets: Sequence[int]) -> Iterator[str]:
    """Yields the lines of a landscape's table."""
    yield "| search | " + " | ".join(f"{budget} trials" for budget in budgets) + " |"
    yield "|---" * (len(budgets) + 1) + "|"
    for name in names:
        search, most = SEARCHES[name]
        cells = (cell(search, landscape, seeds=seeds, budget=budget, most=most) for budget in budgets)
        yield f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    """Prints a table for each landscape."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--budgets", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--recorded", type=Path, nargs="*", default=[], metavar="RUN", help="folders of runs")
    parser.add_argument("--only", nargs="+", choices=list(SEARCHES), default=list(SEARCHES), metavar="SEARCH")
    given = parser.parse_args()
    landscapes = {name: make() for name, make in LANDSCAPES.items()}
    landscapes |= {f"recorded: {folder.name}": recorded(folder) for folder in given.recorded}
    for name, landscape in landscapes.items():
        print(f"\n{name}; the best is {landscape.best:.3f}, the start {landscape.value(landscape.start):.3f}\n")
        for line in table(landscape, given.only, seeds=given.seeds, budgets=given.budgets):
            print(line, flush=True)


if __name__ == "__main__":
    main()
