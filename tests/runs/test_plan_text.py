"""The plan's text before a run says what will be done, in its true numbers."""

from pathlib import Path

import pytest
from toy_runs import write_spec

from crossbreed.runs import load_spec
from crossbreed.runs.plan import build_plan
from crossbreed.runs.plan_text import plan_text

GRAMS = ["space.operator=regmean", "space.groups={}"]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["artifacts.grams.items=48"], "20 items per task"),  # of 48 that were asked for, the split has 20
        (["artifacts.grams.items=6"], "6 items per task"),
        (["artifacts.grams={items: 48, tasks: {plain: [red], stabilised: [blue]}}"], "20 items per task"),
    ],
)
def test_no_more_items_are_named_than_there_are(
    overrides: list[str], told: str, toy_base: Path, toy_adapters: dict[str, Path], tmp_path: Path
) -> None:
    spec = write_spec(tmp_path, base=toy_base, experts=toy_adapters)
    text = plan_text(build_plan(load_spec(spec, [*GRAMS, *overrides]), searches=False))
    (line,) = [line for line in text.splitlines() if "prepare Grams" in line]
    assert line.endswith(f", {told}")


def test_what_is_searched_for_is_said(toy_base: Path, toy_adapters: dict[str, Path], tmp_path: Path) -> None:
    objectives = ["fitness.objectives=[{mean: [red, blue]}, {length: red}]"]
    objectives.append("optimizer={kind: nsga2, budget: {trials: 4}}")
    text = plan_text(build_plan(load_spec(write_spec(tmp_path, base=toy_base, experts=toy_adapters), objectives)))
    goals = [line for line in text.splitlines() if line.startswith("  goal")]
    assert goals == ["  goal    mean of red, blue: more is better", "  goal    length of red: less is better"]
