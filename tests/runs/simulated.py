"""A run that never happened: item scores drawn from known probabilities, for tests of what comes after a search."""

from collections.abc import Mapping

import numpy as np

from crossbreed.randomness import spawn
from crossbreed.runs.spec.objectives import Objective
from crossbreed.types import Candidate, ItemScores, ProposedBy, Recipe, Rule, Score, Status, Trial

SOURCES = {"base": "hash-base", "sums": "hash-sums", "french": "hash-french"}
MEAN = Objective(kind="mean", tasks=("sums", "french"))
BASELINES = {
    "baseline:base": (0.1, 0.1),
    "baseline:expert:sums": (0.95, 0.1),
    "baseline:expert:french": (0.1, 0.95),
    "baseline:uniform": (0.65, 0.65),
    "baseline:tuned_scalar:0.5": (0.4, 0.4),
    "baseline:tuned_scalar:1.5": (0.75, 0.75),
}


def recipe(weight: float) -> Recipe:
    rule = Rule(match=".*", operator="task_arithmetic", params={"weight": {"sums": weight, "french": 1 - weight}})
    return Recipe(base="base", sources=SOURCES, rules=(rule,))


def score(means: Mapping[str, float], *, split: str, number: int, n: int = 40) -> Score:
    """Items of a task are right with its probability; how hard an item is is common to all trials."""
    tasks = {}
    for task, mean in means.items():
        hardness = spawn(1, split, task).random(n)
        luck, share = spawn(2, split, task, str(number)).random((2, n))
        right = np.where(share < 0.7, hardness, luck) < mean
        ids = tuple(f"{split}-{task}-{i}" for i in range(n))
        tasks[task] = ItemScores(item_ids=ids, values=tuple(float(r) for r in right))
    return Score(status=Status.OK, tasks=tasks, fingerprint=f"weights-{number}")


def trial(number: int, origin: str, sums: float, french: float, objectives: tuple[Objective, ...] = (MEAN,)) -> Trial:
    found = score({"sums": sums, "french": french}, split="search", number=number)
    return Trial(
        candidate=Candidate(number=number, recipe=recipe(number / 100), proposed_by=ProposedBy.parse(origin)),
        score=found,
        objectives=tuple(objective.of(found.tasks) for objective in objectives),
    )


def failed(number: int, origin: str) -> Trial:
    score = Score(status=Status.FAILED, error="the engine died")
    return Trial(
        candidate=Candidate(number=number, recipe=recipe(number / 100), proposed_by=ProposedBy.parse(origin)),
        score=score,
        objectives=None,
    )


def search(num_bred: int = 20, objectives: tuple[Objective, ...] = (MEAN,)) -> list[Trial]:
    """The baselines, then trials that get better and better, up to 0.9 and 0.88."""
    initial_candidates = [trial(i, origin, *means, objectives) for i, (origin, means) in enumerate(BASELINES.items())]
    bred = []
    for i in range(num_bred):
        part = (i + 1) / num_bred
        bred.append(trial(len(initial_candidates) + i, "cma_es", 0.3 + 0.6 * part, 0.4 + 0.48 * part, objectives))
    return [*initial_candidates, *bred]


def scores_on(split: str, trials: list[Trial], n: int = 100) -> dict[int, Score]:
    """Scores on another split, from the same probabilities as in `search` (its means, nearly)."""
    return {
        t.number: score({task: found.mean for task, found in t.score.tasks.items()}, split=split, number=t.number, n=n)
        for t in trials
    }
