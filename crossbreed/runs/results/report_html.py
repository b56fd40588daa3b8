"""report.html: a self-contained page. Numbers are readable without JavaScript; the plots use plotly."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from string import Template
from typing import Any

from crossbreed.errors import is_installed
from crossbreed.runs.record.archive import pareto_front
from crossbreed.runs.results.recipe_table import CoefficientMap, coefficient_map, setting_text
from crossbreed.runs.results.report import Report
from crossbreed.runs.results.report_text import caveats, how_measured, number, row_label, sentences, with_interval
from crossbreed.runs.results.statistics import Interval
from crossbreed.runs.spec.objectives import Objective
from crossbreed.sources.structure import Structure
from crossbreed.types import Trial

BRED, FRONT, BASELINE, WINNER = "#8b98a5", "#3b82c4", "#2f9e73", "#e8590c"
"""Mid-tones, readable on both white and near-black."""
_MARKERS: Mapping[str, Mapping[str, Any]] = {
    "bred": {"color": BRED, "size": 6, "opacity": 0.7},
    "front": {"color": FRONT, "size": 8},
    "baseline": {"color": BASELINE, "size": 9, "symbol": "diamond"},
    "winner": {"color": WINNER, "size": 14, "symbol": "star"},
}
_NO_PLOTS = (
    "plotly was not installed when this page was written. To add the plots, `pip install 'crossbreed[report]'` and run "
    "`crossbreed report` with this run's folder."
)
_DIVERGING = [[0.0, "#2166ac"], [0.5, "#e9ecef"], [1.0, "#d6604d"]]
_SEQUENTIAL = [[0.0, "#e9ecef"], [1.0, "#3b82c4"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A plot, in plotly's format."""

    id: str
    title: str
    caption: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]

    @property
    def html(self) -> str:
        """The HTML of the plot's place in the page."""
        return (
            f"<h2>{escape(self.title)}</h2><figure><div class=plot id={self.id}></div>"
            f"<figcaption>{escape(self.caption)}</figcaption></figure>"
        )


def report_html(report: Report, *, trials: Sequence[Trial], title: str, structure: Structure) -> str:
    """Returns the page.

    Args:
        report: The report.
        trials: The whole search, for the curve and the front.
        title: The run's name.
        structure: The sources' structure, for naming the recipe's groups.
    """
    scored = sorted((t for t in trials if t.objectives is not None), key=lambda t: t.number)
    figures = [
        *([_front(report, scored)] if len(report.objectives) > 1 else []),
        _curve(report, scored),
        *_coefficients(coefficient_map(report.winner.recipe, structure)),
    ]
    template = resources.files("crossbreed.runs.results").joinpath("report_template.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        title=escape(title),
        subtitle=escape(_subtitle(report)),
        lead=_lead(report),
        table=_table(report),
        how=escape(how_measured(report)),
        sentences="".join(f"<li>{escape(line)}</li>" for line in caveats(report) + sentences(report)),
        **_plots(figures),
        footer=f"crossbreed · trial {report.winner.number} · recipe {report.winner.recipe.id} · "
        f"weights {(report.winner.fingerprint or '')[:16]} {report.winner.vouching}",
    )


def _plots(figures: Sequence[Figure]) -> dict[str, str]:
    """Returns the template's values for the plots, or for a hint how to get them."""
    if not is_installed("plotly"):
        return {"figures": f"<h2>Plots</h2><p class=note>{escape(_NO_PLOTS)}</p>", "script": ""}
    from plotly.offline import get_plotlyjs

    drawn = {figure.id: {"data": figure.data, "layout": figure.layout} for figure in figures}
    code = resources.files("crossbreed.runs.results").joinpath("report_plots.js").read_text(encoding="utf-8")
    drawn_json = json.dumps(drawn, allow_nan=False).replace("<", "\\u003c")
    script = (
        f"<script>{get_plotlyjs()}</script>\n"
        f'<script type="application/json" id="figures">{drawn_json}</script>\n'
        f"<script>\n{code}</script>"
    )
    return {"figures": "".join(figure.html for figure in figures), "script": script}


def _subtitle(report: Report) -> str:
    counts = ", ".join(f"{n} {status.value}" for status, n in report.num_trials.items())
    return f"{sum(report.num_trials.values())} trials ({counts}) · {'; '.join(o.name for o in report.objectives)}"


def _lead(report: Report) -> str:
    cards = [("Winner", number(report.winner.value.mean), _bounds(report.winner.value))]
    for label, difference in (
        ("Better than the best without tuning", report.to_best_baseline),
        ("Better than the tuned scalar", report.to_tuned_scalar),
    ):
        if difference:
            name = f" · {row_label(difference.name)}" if difference is report.to_best_baseline else ""
            mean = number(difference.by.mean)
            cards.append((label + name, mean if difference.by.mean <= 0 else f"+{mean}", _bounds(difference.by)))
    if report.ideal:
        cards.append(("Gap to the ideal", number(report.ideal.gap.mean), _bounds(report.ideal.gap)))
    return "".join(
        f"<div><dt>{escape(label)}</dt><dd>{value} <small>{bounds}</small></dd></div>" for label, value, bounds in cards
    )


def _bounds(found: Interval) -> str:
    return with_interval(found).split(" ", 1)[1]


def _table(report: Report) -> str:
    tasks = list(report.winner.tasks)
    heads = ["", escape(report.scalar.name), *(f"{escape(t)}<br>n = {report.winner.tasks[t].n}" for t in tasks)]
    lines = ["<thead><tr>" + "".join(f"<th scope=col>{head}</th>" for head in heads) + "</tr></thead><tbody>"]
    for row in report.rows:
        cells = [_cell(row.value), *(_cell(row.tasks[task]) for task in tasks)]
        lines.append(f"<tr class={row.kind}><td>{escape(row_label(row.name))}</td>{''.join(cells)}</tr>")
    if report.ideal:
        best = report.ideal.tasks
        cells = [_cell(best[task]) if task in best else "<td></td>" for task in tasks]
        lines.append(f"<tr class=ideal><td>ideal</td>{_cell(report.ideal.value)}{''.join(cells)}</tr>")
    return f"<table>{''.join(lines)}</tbody></table>"


def _cell(found: Interval) -> str:
    return f"<td>{number(found.mean)}<small>{_bounds(found)}</small></td>"


def _curve(report: Report, scored: Sequence[Trial]) -> Figure:
    """Returns the plot of search scores in the order of trials, with the best so far."""
    values = {t.number: report.scalar.of(t.score.tasks) for t in scored}
    best_so_far: list[float] = []
    for value in values.values():
        best = best_so_far[-1] if best_so_far else value
        best_so_far.append(value if report.scalar.improvement(value, over=best) > 0 else best)
    dots = [
        _dots(kind, trials, [(t.number, values[t.number]) for t in trials]) for kind, trials in _kinds(report, scored)
    ]
    return Figure(
        id="curve",
        title="Search",
        caption="Each trial on its search items, in the order in which they were asked. The worst twentieth is outside "
        "the axis range.",
        data=[_line("best so far", list(zip(values, best_so_far, strict=True)), shape="hv"), *dots],
        layout={
            "height": 400,
            "margin": {"t": 10, "r": 10},
            "xaxis": {"title": {"text": "trial"}},
            "yaxis": {"title": {"text": report.scalar.name}, "range": _axis_range(list(values.values()), report)},
            "legend": {"orientation": "h", "y": 1.12},
        },
    )


def _axis_range(values: Sequence[float], report: Report) -> list[float]:
    """Returns the range without the worst twentieth, so that one broken merge does not flatten all others."""
    ordered = sorted(values, reverse=report.scalar.minimize)
    low, high = sorted((ordered[len(ordered) // 20], ordered[-1]))
    margin = 0.08 * (high - low) or 0.05
    return [low - margin, high + margin]


def _front(report: Report, scored: Sequence[Trial]) -> Figure:
    """Returns the plot of two objectives against each other, or of all pairs of more."""
    objectives, kinds = report.objectives, _kinds(report, scored)
    axes: dict[str, Any]
    if len(objectives) == 2:
        edge = sorted((t.objectives or ()) for t in pareto_front(scored, objectives))
        data = [
            _line("front", edge, shape="hv" if objectives[0].minimize else "vh"),
            *(_dots(kind, group, [t.objectives or () for t in group]) for kind, group in kinds),
        ]
        axes = {
            axis: {"title": {"text": _axis_title(o)}} for axis, o in zip(("xaxis", "yaxis"), objectives, strict=True)
        }
    else:
        data = [_matrix(kind, group, objectives) for kind, group in kinds]
        axes = {f"{axis}axis{i if i > 1 else ''}": {} for axis in "xy" for i in range(1, len(objectives) + 1)}
    return Figure(
        id="front",
        title="Pareto front",
        caption="Every trial on its search items; those on the front are not dominated by any other trial.",
        data=data,
        layout={
            "height": 460 if len(objectives) == 2 else 220 * len(objectives),
            "margin": {"t": 10, "r": 10},
            "legend": {"orientation": "h", "y": 1.1},
            **axes,
        },
    )


def _axis_title(objective: Objective) -> str:
    return f"{objective.name}{' (less is better)' if objective.minimize else ''}"


def _kinds(report: Report, scored: Sequence[Trial]) -> list[tuple[str, list[Trial]]]:
    """Returns the trials grouped by their marker; each is in one group."""
    front = {t.number for t in pareto_front(scored, report.objectives)} if len(report.objectives) > 1 else set()
    groups: dict[str, list[Trial]] = {"bred": [], "front": [], "baseline": [], "winner": []}
    for trial in scored:
        is_winner, is_baseline = trial.number == report.winner.number, trial.candidate.proposed_by.is_baseline
        kind = "winner" if is_winner else "baseline" if is_baseline else "front" if trial.number in front else "bred"
        groups[kind].append(trial)
    return [(kind, trials) for kind, trials in groups.items() if trials]


def _dots(kind: str, trials: Sequence[Trial], points: Sequence[tuple[float, ...]]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": kind,
        "x": [x for x, _ in points],
        "y": [y for _, y in points],
        "text": [_label(t) for t in trials],
        "hovertemplate": "%{text}<br>%{x:.4g}, %{y:.4g}<extra></extra>",
        "marker": _MARKERS[kind],
    }


def _line(name: str, points: Sequence[tuple[float, ...]], *, shape: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [x for x, _ in points],
        "y": [y for _, y in points],
        "hoverinfo": "skip",
        "showlegend": name not in _MARKERS,
        "line": {"shape": shape, "color": FRONT, "width": 2},
    }


def _matrix(kind: str, trials: Sequence[Trial], objectives: Sequence[Objective]) -> dict[str, Any]:
    columns = zip(*((t.objectives or ()) for t in trials), strict=True)
    return {
        "type": "splom",
        "name": kind,
        "dimensions": [
            {"label": _axis_title(o), "values": list(column)} for o, column in zip(objectives, columns, strict=True)
        ],
        "diagonal": {"visible": False},
        "showupperhalf": False,
        "text": [_label(t) for t in trials],
        "marker": _MARKERS[kind],
    }


def _label(trial: Trial) -> str:
    return f"trial {trial.number} · {escape(trial.candidate.proposed_by.label)}"


def _coefficients(found: CoefficientMap) -> list[Figure]:
    """Returns a heat map for each numeric parameter."""
    groups = [f"{group} · {operator}" for group, operator in zip(found.groups, found.operators, strict=True)]
    if len(set(found.operators)) == 1:
        groups = list(found.groups)
    shared = {
        param: [(None if isinstance(value, bool | str) else value,) for value in column]
        for param, column in found.settings.items()
        if not any(isinstance(value, bool | str) for value in column)
    }
    return [
        *(_heat_map(param, groups, found.sources, values) for param, values in found.values.items()),
        *(_heat_map(param, groups, ("all sources",), values) for param, values in shared.items()),
    ]


def _heat_map(
    param: str, groups: Sequence[str], sources: Sequence[str], values: Sequence[Sequence[float | None]]
) -> Figure:
    known = [value for row in values for value in row if value is not None]
    extent = max((abs(value) for value in known), default=0.0) or 1.0
    signed = min(known, default=0.0) < 0
    scale: Mapping[str, Any] = {
        "colorscale": _DIVERGING if signed else _SEQUENTIAL,
        "zmin": -extent if signed else 0.0,
        "zmax": extent,
    }
    return Figure(
        id=f"coefficients-{param}",
        title=f"The winner's {param}s" if param == "weight" else f"The winner's {param}",
        caption="Groups of tensors by sources, in the winner's recipe.",
        data=[
            {
                "type": "heatmap",
                "x": list(sources),
                "y": list(groups),
                "z": [list(row) for row in values],
                "text": [[setting_text(value) for value in row] for row in values],
                "texttemplate": "%{text}",
                "textfont": {"color": "#1c2024"},
                "hovertemplate": "%{y}<br>%{x}: %{z:.4f}<extra></extra>",
                "xgap": 2,
                "ygap": 2,
                "colorbar": {"thickness": 10, "outlinewidth": 0},
                **scale,
            }
        ],
        layout={
            "height": 110 + 34 * len(groups),
            "margin": {"t": 30, "r": 10, "b": 20},
            "xaxis": {"side": "top", "showgrid": False, "type": "category"},
            "yaxis": {"autorange": "reversed", "showgrid": False, "type": "category"},
        },
    )
