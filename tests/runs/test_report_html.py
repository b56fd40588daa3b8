import json
import re
from html.parser import HTMLParser

import plotly.graph_objects as go
import pytest
from simulated import MEAN, SOURCES, failed, scores_on, search

from crossbreed.runs.results.recipe_table import coefficient_map
from crossbreed.runs.results.report import make_report
from crossbreed.runs.results.report_html import report_html
from crossbreed.runs.results.winner import reported
from crossbreed.runs.spec.objectives import Objective
from crossbreed.sources.structure import Structure, TensorInfo
from crossbreed.types import Recipe, Rule

WINNER = 25
NAMES = [
    f"model.layers.{i}.{m}.weight" for i in range(4) for m in ("self_attn.q_proj", "mlp.up_proj", "input_layernorm")
]
STRUCTURE = Structure(
    tensors={name: TensorInfo(shape=(2, 2), dtype="bfloat16") for name in [*NAMES, "model.embed_tokens.weight"]},
    touched={"sums": frozenset(NAMES[:6]), "french": frozenset(NAMES)},
    hashes=SOURCES,
    tied=True,
)
OBJECTIVES = tuple(Objective(kind="task", tasks=(task,)) for task in ("sums", "french"))


def page(objectives: tuple[Objective, ...] = (MEAN,), title: str = "three skills") -> str:
    trials = [*search(objectives=objectives), failed(99, "cma_es")]
    scores = scores_on("report", reported(trials, objectives, WINNER))
    report = make_report(trials=trials, winner=WINNER, scores=scores, objectives=objectives)
    return report_html(report, trials=trials, title=title, structure=STRUCTURE)


def figures(html: str) -> dict[str, dict[str, object]]:
    found = re.search(r'id="figures">(.*?)</script>', html, re.DOTALL)
    assert found
    loaded: dict[str, dict[str, object]] = json.loads(found.group(1))
    return loaded


class Balance(HTMLParser):
    """Every element that is opened is closed, in order."""

    VOID = ("meta", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.rows += tag == "tr"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_self_contained_and_its_table_needs_no_javascript() -> None:
    html = page()
    without_js = re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)
    assert not re.search(r"(src|href)=", without_js)
    assert "<script src" not in html
    assert html.count("plotly.js v") == 1
    balance = Balance()
    balance.feed(without_js)
    assert balance.open == []
    assert balance.rows == 1 + 5 + 1 + 1  # head, baselines, winner, ideal
    lead = "Better than the best without tuning · uniform"
    for text in ("tuned scalar", "winner", "ideal", "n = 100", lead, "1 FAILED"):
        assert text in without_js


def test_figures_are_what_plotly_takes_and_every_one_has_its_place() -> None:
    for html in (page(), page(OBJECTIVES), page((*OBJECTIVES, MEAN))):
        for id_, figure in figures(html).items():
            go.Figure(figure)
            assert f"id={id_}>" in html


def test_best_so_far_never_falls_and_ends_at_the_best() -> None:
    best = figures(page())["curve"]["data"][0]["y"]  # type: ignore[index]
    assert best == sorted(best)
    assert best[-1] == max(t.objectives[0] for t in search())
    less = Objective(kind="task", tasks=("sums",), minimize=True)
    best = figures(page((less,)))["curve"]["data"][0]["y"]  # type: ignore[index]
    assert best == sorted(best, reverse=True)


def test_front_is_drawn_for_several_objectives_only() -> None:
    assert "front" not in figures(page())
    data = figures(page(OBJECTIVES))["front"]["data"]
    dots = [trace for trace in data if trace["mode"] == "markers"]  # type: ignore[attr-defined]
    assert sum(len(trace["x"]) for trace in dots) == 26
    edge = next(trace for trace in data if trace["mode"] == "lines")  # type: ignore[attr-defined]
    assert edge["x"] == sorted(edge["x"])
    assert edge["y"] == sorted(edge["y"], reverse=True)
    assert {trace["name"] for trace in data} >= {"winner", "baseline"}  # type: ignore[attr-defined]
    assert figures(page((*OBJECTIVES, MEAN)))["front"]["data"][0]["type"] == "splom"  # type: ignore[index]


def test_names_from_a_spec_cannot_break_the_page() -> None:
    html = page(title="</title><script>alert(1)</script>")
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)" in html


@pytest.fixture
def recipe() -> Recipe:
    return Recipe(
        base="base",
        sources=SOURCES,
        rules=(
            Rule(
                match=r"model\.layers\.[01]\..*",
                operator="ties",
                params={
                    "weight": {"sums": 0.5, "french": -0.2},
                    "density": {"sums": 0.3, "french": 0.6},
                    "scale": 0.5,
                    "normalize": False,
                    "consensus": "count",
                },
            ),
            Rule(match=r".*embed.*", operator="task_arithmetic", params={"weight": 1.0}),
            Rule(match=r".*", operator="linear", params={"weight": {"base": 0.2, "sums": 0.3, "french": 0.5}}),
        ),
    )


def test_coefficient_map_names_groups_and_knows_what_an_operator_has(recipe: Recipe) -> None:
    found = coefficient_map(recipe, STRUCTURE)
    assert found.groups == ("layers 0-1 · 3 kinds of module", "layers 2-3 · 3 kinds of module")
    assert found.operators == ("ties", "linear")  # nobody touches the embeddings: their rule says nothing
    assert found.sources == ("base", "sums", "french")
    assert found.values["weight"] == ((None, 0.5, -0.2), (0.2, 0.3, 0.5))
    assert found.values["density"] == ((None, 0.3, 0.6), (None, None, None))
    assert found.settings == {"scale": (0.5, None), "normalize": (False, None), "consensus": ("count", None)}


def test_a_base_without_a_weight_has_no_column() -> None:
    rule = Rule(match=r".*", operator="task_arithmetic", params={"weight": 0.5})
    found = coefficient_map(Recipe(base="base", sources=SOURCES, rules=(rule,)), STRUCTURE)
    assert (found.sources, found.values["weight"]) == (("sums", "french"), ((0.5, 0.5),))
