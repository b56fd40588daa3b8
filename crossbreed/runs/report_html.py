"""report.html: one file that needs nothing else. Numbers are readable without JavaScript; the plots are plotly's."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from string import Template
from typing import Any

from crossbreed.errors import require
from crossbreed.runs.archive import pareto_front
from crossbreed.runs.coefficients import CoefficientMap, coefficient_map, setting_text
from crossbreed.runs.objectives import Objective
from crossbreed.runs.report import Report
from crossbreed.runs.report_text import caveats, how_measured, number, row_label, sentences, with_interval
from crossbreed.runs.selection import baseline_of
from crossbreed.runs.statistics import Interval
from crossbreed.sources.structure import Structure
from crossbreed.types import Trial

BRED, FRONT, BASELINE, WINNER = "#8b98a5", "#3b82c4", "#2f9e73", "#e8590c"
"""Mid-tones: each is readable on white and on near-black."""
_MARKERS: Mapping[str, Mapping[str, Any]] = {
    "bred": {"color": BRED, "size": 6, "opacity": 0.7},
    "front": {"color": FRONT, "size": 8},
    "baseline": {"color": BASELINE, "size": 9, "symbol": "diamond"},
    "winner": {"color": WINNER, "size": 14, "symbol": "star"},
}
_DIVERGING = [[0.0, "#2166ac"], [0.5, "#e9ecef"], [1.0, "#d6604d"]]
_SEQUENTIAL = [[0.0, "#e9ecef"], [1.0, "#3b82c4"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A plot, as plotly reads it."""

    id: str
    title: str
    caption: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]

    @property
    def html(self) -> str:
        """Where it goes in the page."""
        return (
            f"<h2>{escape(self.title)}</h2><figure><div class=plot id={self.id}></div>"
            f"<figcaption>{escape(self.caption)}</figcaption></figure>"
        )


def report_html(report: Report, *, trials: Sequence[Trial], title: str, structure: Structure) -> str:
    """Returns the page.

    Args:
        report: What it says.
        trials: The whole search, for the curve and the front.
        title: The run's name.
        structure: Of the sources, to name the recipe's groups.
    """
    require("plotly", extra="report")
    from plotly.offline import get_plotlyjs

    scored = sorted((t for t in trials if t.objectives is not None), key=lambda t: t.number)
    figures = [
        *([_front(report, scored)] if len(report.objectives) > 1 else []),
        _curve(report, scored),
        *_coefficients(coefficient_map(report.winner.recipe, structure)),
    ]
    drawn = {figure.id: {"data": figure.data, "layout": figure.layout} for figure in figures}
    template = resources.files("crossbreed.runs").joinpath("report_template.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        title=escape(title),
        subtitle=escape(_subtitle(report)),
        lead=_lead(report),
        table=_table(report),
        how=escape(how_measured(report)),
        sentences="".join(f"<li>{escape(line)}</li>" for line in caveats(report) + sentences(report)),
        figures="".join(figure.html for figure in figures),
        figures_json=json.dumps(drawn, allow_nan=False).replace("<", "\\u003c"),
        plotly_js=get_plotlyjs(),
        footer=f"crossbreed · trial {report.winner.number} · recipe {report.winner.recipe.id} · "
        f"weights {(report.winner.fingerprint or 'unknown')[:16]}",
    )


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
    """Search scores in the order of trials, with the best so far."""
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
        caption="Each trial on its search items, in the order in which they were asked. The axis leaves out the "
        "worst twentieth.",
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
    """From the worst but for a twentieth to the best: one broken merge does not flatten all others."""
    ordered = sorted(values, reverse=report.scalar.minimize)
    low, high = sorted((ordered[len(ordered) // 20], ordered[-1]))
    margin = 0.08 * (high - low) or 0.05
    return [low - margin, high + margin]


def _front(report: Report, scored: Sequence[Trial]) -> Figure:
    """Two objectives against each other, or all pairs of more."""
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
        caption="Every trial on its search items; those of the front are the ones that no other trial is better than.",
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
    """Trials by what they are marked as; each is one of them."""
    front = {t.number for t in pareto_front(scored, report.objectives)} if len(report.objectives) > 1 else set()
    groups: dict[str, list[Trial]] = {"bred": [], "front": [], "baseline": [], "winner": []}
    for trial in scored:
        is_winner, is_baseline = trial.number == report.winner.number, baseline_of(trial) is not None
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
    return f"trial {trial.number} · {escape(trial.candidate.origin.removeprefix('baseline:'))}"


def _coefficients(found: CoefficientMap) -> list[Figure]:
    """A heat map for each parameter that is a number."""
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
        caption="Groups of tensors by sources, as the winner's recipe has them.",
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
