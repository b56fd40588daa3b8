"""docs/objectives.md: every example is parsed, bound to baselines and judges models."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from crossbreed.runs import parse_spec
from crossbreed.runs.spec.objectives import length_of
from crossbreed.types import ItemScores

PAGE = Path(__file__).parents[2] / "docs/objectives.md"
TASKS: list[dict[str, Any]] = [
    *(
        {"name": name, "kind": "generate", "items": "x", "prompt": "{q}", "answer": "a"}
        for name in ("sums", "french", "roman")
    ),
    {"name": "prose", "kind": "perplexity", "items": "x"},
]
EXAMPLES = [
    yaml.safe_load(block)
    for block in re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
]


def scores(sums: float, french: float, roman: float, prose: float, length: float) -> dict[str, ItemScores]:
    means = {"sums": sums, "french": french, "roman": roman, "prose": prose, length_of("sums"): length}
    ids = tuple(map(str, range(4)))
    return {name: ItemScores(item_ids=ids, values=(mean,) * 4) for name, mean in means.items()}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: str(example["objectives"]))
def test_an_example_judges_models(example: dict[str, Any]) -> None:
    spec = parse_spec(
        {
            "sources": {"base": "b", "experts": {"one": "e"}},
            "space": {"kind": "coefficients", "operator": "task_arithmetic"},
            "optimizer": {"kind": "nsga2", "budget": {"trials": 1}},
            "fitness": {
                "engine": {"kind": "fake"},
                "tasks": TASKS,
                "split": {"search": 1, "select": 1, "report": 1},
                **example,
            },
        }
    )
    base, best = scores(0.1, 0.1, 0.1, 4.0, 8.0), scores(0.9, 0.9, 0.9, 3.5, 2.0)
    criteria = spec.fitness.criteria.bound_to(base, {"one": best})
    values, excesses = criteria.judged(best, base)
    before, _ = criteria.judged(base, base)
    assert np.isfinite(values).all()
    assert all(excess <= 0 for excess in excesses)
    if "weights" not in example["objectives"][0]:
        assert all(o.improvement(v, over=b) > 0 for o, v, b in zip(criteria.objectives, values, before, strict=True))


def test_the_page_has_every_key() -> None:
    text = PAGE.read_text()
    for key in ("task", "mean", "worst", "quantile", "length", "weights", "relative_to", "at_least", "at_most"):
        assert f"{key}:" in text
