"""The report in a terminal: one table, then its interpretation in a few sentences."""

from collections.abc import Mapping
from textwrap import wrap
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from crossbreed.errors import printable
from crossbreed.runs.results.figures import figure_text
from crossbreed.runs.results.held import Held
from crossbreed.runs.results.numbers import number, row_label, with_interval
from crossbreed.runs.results.report import NEAR_A_TIE, Report
from crossbreed.runs.results.statistics import LEVEL
from crossbreed.runs.results.verdict import verdict_of
from crossbreed.runs.stages.text import stage_lines


def caveats(report: Report) -> list[str]:
    """Returns the caveats: a search that was stopped or went on, a winner not bred, weights not seen by crossbreed."""
    lines, num_trials = [], sum(report.num_trials.values())
    if report.has_gone_on:
        lines.append(
            f"The search has gone on since: this report is of its first {num_trials} trials, and its winner may not be "
            "the last. `crossbreed run` with the same spec and folder resumes it and writes a new report."
        )
    elif not report.is_over:
        lines.append(
            f"The search was interrupted after {num_trials} trials: "
            "`crossbreed run` with the same spec and folder resumes it."
        )
    if caveat := report.winner.vouching.caveat:
        lines.append(caveat)
    if not report.winner.is_bred:
        lines.append(f"No bred merge beat the baselines and warm starts: the winner is {report.winner.proposed_by}.")
    return lines


def sentences(report: Report) -> list[str]:
    """Returns the interpretation: differences, gap to the ideal, optimism, and unmeasured baselines."""
    lines = []
    for difference in (report.to_best_baseline, report.to_tuned_scalar):
        if difference and difference.name not in report.won:  # else it would be compared with itself
            role = "the best without tuning, " if difference is report.to_best_baseline else ""
            verdict = "" if difference.by.low > 0 else " (the interval includes 0 or less: not shown to be better)"
            verdict = verdict if difference.by.is_known else " (no interval is known: not shown to be better)"
            lines.append(
                f"Winner against {role}{row_label(difference.name)}: "
                f"{with_interval(difference.by, signed=True)}{verdict}."
            )
    if report.ideal:
        parents = ", ".join(f"{task} as {parent}" for task, parent in report.ideal.parents.items())
        short = (
            f"the winner is {with_interval(report.ideal.gap)} short of it"
            if report.ideal.gap.mean > 0
            else "the winner reaches it"
        )
        lines.append(f"Ideal ({parents}): {number(report.ideal.value.mean)}; {short}.")
    if report.num_keeping == 0:
        lines.append(
            "No trial keeps all constraints on the search items: the winner is the one that is least far off, and "
            "nothing says that any merge of these sources would."
        )
    lines += [_told(held) for held in report.winner.constraints]
    lines.append(f"Optimism (excess of the winner's score on its search items): {number(report.optimism)}.")
    if alike := _alike(report):
        lines.append(f"Every model here has the same score in {', '.join(alike)}, which tells nothing about the merge.")
    if report.base_rates:
        rates = (
            f"{rate.constant:.0%} of {task} by always taking option {rate.place}, {rate.chance:.0%} by chance"
            for task, rate in report.base_rates.items()
        )
        lines.append(f"Right without reading the question: {'; '.join(rates)}.")
    if report.thinking:
        thoughts = ", ".join(f"{tokens:.0f} in {task}" for task, tokens in report.thinking.items())
        lines.append(f"Tokens of thinking in an answer of the winner, on average: {thoughts}.")
    if cut := {task: pair for task, pair in report.cut.items() if pair[0]}:
        told = ", ".join(f"{some} of {n} in {task}" for task, (some, n) in cut.items())
        lines.append(f"Answers of the winner that were cut, and count as `max_tokens`: {told}.")
    lines += _figures(report)
    for whose, judged in (("the winner", report.judged), ("the baselines", report.judged_others)):
        lines += [f"Judge, of {whose}: {found.said(task)}." for task, found in judged.items()]
    if report.near_ties:
        near = ", ".join(f"{some} of {n} in {task}" for task, (some, n) in report.near_ties.items())
        lines.append(
            f"Answers of the winner within {NEAR_A_TIE:g} nats of a tie, which may differ in another engine, batch or "
            f"dtype: {near}."
        )
    lines += [f"No row for {row_label(name)}: {why}." for name, why in report.unmeasured.items()]
    return lines


def _figures(report: Report) -> list[str]:
    """Returns what only all items of a task together have, of each model."""
    return [
        f"{metric} of {task}, of all {figure.num_items} report items together: "
        + "; ".join(
            f"{row_label(row.name)} {figure_text(row.figures[task][metric])}"
            for row in reversed(report.rows)
            if metric in row.figures.get(task, {})
        )
        + "."
        for task, some in report.winner.figures.items()
        for metric, figure in some.items()
    ]


def _told(held: Held) -> str:
    """Returns what the items say of a constraint."""
    if held.inside is None or held.bound is None:
        return f"Constraint {held.name}: {held.answer}, since the base could not be measured on these items."
    side = "inside" if held.inside.mean >= 0 else "outside"
    inside = with_interval(held.inside, signed=True)
    return (
        f"Constraint {held.name} ({number(held.bound)}): {held.answer}; it has {with_interval(held.value)}, which is "
        f"{side} by {number(abs(held.inside.mean))} (inside: {inside})."
    )


def _alike(report: Report) -> list[str]:
    """Returns the tasks that do not tell the winner, the base and the experts apart: saturated, or beyond them all."""
    return [
        f"{task} ({number(mine.mean)})"
        for task, mine in report.winner.tasks.items()
        if len(report.rows) > 1 and {row.tasks[task].mean for row in report.rows} == {mine.mean}
    ]


def how_measured(report: Report) -> str:
    """Returns how the numbers were measured."""
    less = [o.name for o in report.objectives if o.minimize]
    parts = [f"{report.winner.value.n} report items not used in the search"]
    if report.winner.tasks.keys() - report.means.keys():
        parts.append(f"{LEVEL:.0%} paired bootstrap intervals, stratified by task")
    parts += means_notes(report.means)
    parts.append("differences are positive if the winner is better")
    return "; ".join([*parts, *([f"less is better in {', '.join(less)}"] if less else [])]) + "."


def means_notes(means: Mapping[str, bool]) -> list[str]:
    """Returns how intervals are known of tasks whose items are not told.

    Args:
        means: Task -> whether standard errors are told.
    """
    known, unknown = ([task for task, is_known in means.items() if is_known is told] for told in (True, False))
    notes = []
    if known:
        notes.append(
            f"of {', '.join(known)} the provider tells means and their standard errors, and no items: {LEVEL:.0%} "
            "intervals are by these errors, not paired"
        )
    if unknown:
        notes.append(f"of {', '.join(unknown)} the provider tells means alone: what they are part of has no interval")
    return notes


def words_json(report: Report) -> dict[str, Any]:
    """Returns what the report's numbers mean, as `report.json` has it."""
    return {
        "verdict": verdict_of(report).to_json(),
        "caveats": caveats(report),
        "notes": sentences(report),
        "measured": how_measured(report),
    }


def summary(report: Report) -> Group:
    """Returns the output of `crossbreed report`: the verdict, the table, and what it says."""
    tasks = list(report.winner.tasks)
    table = Table(title="Report split", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("", overflow="fold")  # a name that is cut may be another's
    objective = wrap(printable(report.scalar.name), len(with_interval(report.winner.value)))
    table.add_column(Text("\n".join(objective)), justify="right", no_wrap=True)
    for task in tasks:
        name = Text(printable(f"{task} (n={report.winner.tasks[task].n})"))
        table.add_column(name, justify="right", overflow="fold")
    for row in report.rows:
        style = "bold" if row.kind == "winner" else ""
        cells = [number(row.tasks[task].mean) for task in tasks]
        table.add_row(*map(Text, [printable(row_label(row.name)), with_interval(row.value), *cells]), style=style)
    if rates := report.base_rates:
        cells = [f"{number(rates[task].constant)} ({rates[task].place})" if task in rates else "" for task in tasks]
        table.add_row("always one option", "", *cells, style="dim")
    return Group(
        Text(printable(str(verdict_of(report))), style="bold"),
        Text(),
        table,
        Text(),
        *([Text("\n".join(["Stages", *stage_lines(report.stages)])), Text()] if report.stages else []),
        *(Text(printable(line)) for line in caveats(report) + sentences(report)),
        Text(printable(how_measured(report)), style="dim"),
    )
