"""The page as one file: markup, style and code of this folder, and the data of a run.

It loads nothing, and a policy keeps the browser to that: the only code that may run is ours, by its hash. Data is
written so that no text in it can end its element, and the code shows it as text.
"""

import json
from base64 import b64encode
from functools import cache
from hashlib import sha256
from html import escape
from importlib import resources
from string import Template
from typing import Any

from crossbreed.runs.results.numbers import row_label, with_interval
from crossbreed.runs.results.report import Report
from crossbreed.runs.results.report_text import caveats, how_measured, sentences
from crossbreed.runs.results.verdict import verdict_of
from crossbreed.runs.stages.text import HEADS, MEANING, stage_cells

_SCRIPTS = ("elements", "state", "charts", "plots", "result", "trial", "lists", "page")


def page_html(data: dict[str, Any], *, text: str = "") -> str:
    """Returns the page.

    Args:
        data: See `crossbreed.runs.page.data`.
        text: Markup of what it says, for browsers that run no code.
    """
    template, style, code = _files()
    return Template(template).substitute(
        policy=escape(policy(is_live=data["live"])),
        title=escape(data["name"]),
        style=style,
        text=text,
        data=json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        code=code,
    )


def policy(*, is_live: bool) -> str:
    """Returns the page's content security policy."""
    _, style, code = _files()
    rules = {
        "default-src": "'none'",
        "script-src": _source(code),
        "style-src": _source(style),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    if is_live:
        rules["connect-src"] = "'self'"
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def report_markup(report: Report) -> str:
    """Returns a report as plain markup: verdict, table and sentences."""
    tasks = list(report.winner.tasks)
    heads = "".join(f"<th>{escape(head)}</th>" for head in ["", report.scalar.name, *tasks])
    rows = "".join(
        f"<tr><th>{escape(row_label(row.name))}</th>"
        + "".join(f"<td>{with_interval(found)}</td>" for found in (row.value, *(row.tasks[task] for task in tasks)))
        + "</tr>"
        for row in report.rows
    )
    lines = "".join(f"<li>{escape(line)}</li>" for line in [*caveats(report), *sentences(report)])
    return (
        f"<p>{escape(str(verdict_of(report)))}</p><table><tr>{heads}</tr>{rows}</table>{_stages(report)}"
        f"<ul>{lines}</ul><p>{escape(how_measured(report))}</p>"
    )


def _stages(report: Report) -> str:
    """Returns the table of what each stage gave; nothing in a run without stages."""
    if not report.stages:
        return ""
    rows = [HEADS, *map(stage_cells, report.stages)]
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table>{lines}</table><p>{escape(MEANING)}</p>"


@cache
def _files() -> tuple[str, str, str]:
    """Returns markup, style and code, as they stand in the page."""
    folder = resources.files("crossbreed.runs.page")

    def read(name: str) -> str:
        return folder.joinpath(name).read_text(encoding="utf-8")

    return read("page.html"), read("page.css"), "".join(read(f"{name}.js") for name in _SCRIPTS)


def _source(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
