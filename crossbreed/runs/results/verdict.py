"""The first line of a report: take the winner, keep what there was, or there are not enough items to tell.

The words follow from the report's intervals alone, and are about the report items. "Better" and "worse" need one that
excludes 0. A winner that measures no better than the best without tuning is not taken, whatever the interval.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from crossbreed.runs.results.numbers import number, row_label, with_interval
from crossbreed.runs.results.report import Difference, Report
from crossbreed.runs.results.statistics import DETECTED, EXCLUDED, LEVEL, Interval
from crossbreed.runs.results.winner import TUNED_SCALAR

_MOST_TIMES = 100
"""More than as many times the items as there were: not worth a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What to do with the winner, and why."""

    kind: Literal["take", "keep", "unclear"]
    line: str
    """One sentence."""
    why: str
    """Its reason, in one sentence or two."""

    def to_json(self) -> dict[str, Any]:
        """Returns the documented JSON."""
        return {"kind": self.kind, "line": self.line, "why": self.why}

    def __str__(self) -> str:
        return f"{self.line} {self.why}"


def verdict_of(report: Report) -> Verdict:
    """Returns the verdict of a report."""
    if (broken := _broken(report)) is not None:
        return broken
    judged = _by_differences(report)
    unsure = [held.name for held in report.winner.constraints if held.answer == "cannot be told"]
    if judged.kind == "take" and unsure:
        told = f" Whether it keeps {'; '.join(unsure)} cannot be told from {report.winner.value.n} report items."
        return replace(judged, why=judged.why + told)
    return judged


def _broken(report: Report) -> Verdict | None:
    """Returns the verdict on a winner that breaks constraints; None if it is not known to."""
    won, failing = report.winner.number, [h for h in report.winner.constraints if h.answer == "does not hold"]
    if report.num_keeping == 0:
        return Verdict(
            kind="keep",
            line="Take none: no trial keeps all constraints.",
            why=f"The nearest on the search items is trial {won}. On the report items: {_answers(report)}.",
        )
    if failing:
        return Verdict(
            kind="keep",
            line=f"Do not take trial {won}: on the report items it breaks {'; '.join(h.name for h in failing)}.",
            why=f"On the report items: {_answers(report)}.",
        )
    return None


def _answers(report: Report) -> str:
    return "; ".join(
        f"{held.name} {held.answer}" + (f" ({with_interval(held.inside, signed=True)} inside)" if held.inside else "")
        for held in report.winner.constraints
    )


def _by_differences(report: Report) -> Verdict:
    """Returns the verdict of what the winner gains."""
    won, tuned = report.winner.number, report.to_tuned_scalar
    if report.to_best_baseline is None:
        why = "No baseline could be measured on the report items."
        return Verdict(kind="unclear", line=f"Trial {won} has nothing to be compared with.", why=why)
    best = report.to_best_baseline
    kept = {row.name: not row.num_broken for row in report.baselines}
    if not kept[best.name] and report.winner.constraints and not report.winner.num_broken:
        why = f"It keeps the constraints on the report items, and {row_label(best.name)}, as all baselines, does not."
        return Verdict(kind="take", line=f"Take the winner, trial {won}.", why=why)
    if best.name in report.won:
        why = "No bred merge beat it on the search and selection items."
        return Verdict(kind="keep", line=f"Keep {row_label(best.name)}.", why=why)
    if best.by.mean <= 0:
        return _keep(best)
    if tuned and tuned.by.high < 0 and kept[tuned.name]:
        return _keep(tuned)
    name, by = row_label(best.name), with_interval(best.by, signed=True)
    if not best.by.is_known:
        return Verdict(
            kind="unclear",
            line=f"Trial {won} measures better than {name}, and nothing tells whether that is chance.",
            why=f"On {best.by.n} report items the difference is {number(best.by.mean)}; {_unknown(report)}.",
        )
    is_tuned_scalar = tuned is not None and tuned.name in report.won
    if best.by.low > 0:
        also = "" if tuned is None or is_tuned_scalar or tuned.by.low > 0 else _not_told_from(tuned)
        why = f"It is better than {name}, the best without tuning: {by}.{also}"
        chosen = f"Take {row_label(TUNED_SCALAR)}" if is_tuned_scalar else "Take the winner"
        return Verdict(kind="take", line=f"{chosen}, trial {won}.", why=why)
    winner = f"the {row_label(TUNED_SCALAR)}, trial {won}," if is_tuned_scalar else f"trial {won}"
    return Verdict(
        kind="unclear",
        line=f"Not enough items to tell {winner} from {name}: {_more(best.by)}.",
        why=f"On {best.by.n} report items the difference is {by}: the {LEVEL:.0%} interval includes 0.",
    )


def _unknown(report: Report) -> str:
    """Returns why an interval is not known."""
    untold = [task for task, is_known in report.means.items() if not is_known]
    if untold:
        return f"of {', '.join(untold)} the provider tells means without standard errors"
    single = [task for task, found in report.winner.tasks.items() if found.n == 1]
    return f"{', '.join(single)} has a single report item, which says nothing of how others differ"


def _keep(difference: Difference) -> Verdict:
    by = difference.by
    found = "worse" if by.high < 0 else "not shown to be better" if by.mean < 0 else "no better"
    why = f"On {by.n} report items the winner of the search is {found}: {with_interval(by, signed=True)}."
    return Verdict(kind="keep", line=f"Keep {row_label(difference.name)}.", why=why)


def _not_told_from(tuned: Difference) -> str:
    by = with_interval(tuned.by, signed=True)
    return f" It is not told apart from the {row_label(tuned.name)}, which needs no search: {by}."


def _more(by: Interval) -> str:
    """Returns how many more items would show a difference of this size in 80 % of cases.

    An interval narrows with the root of the items. One that just excludes 0 on average does so in half of the cases.
    """
    wanted = by.n * ((by.mean - by.low) / by.mean * DETECTED / EXCLUDED) ** 2
    if wanted > _MOST_TIMES * by.n:
        return f"not even {_MOST_TIMES} times as many would show a difference as small as {number(by.mean)}"
    more = wanted - by.n
    unit = 10 ** max(0, math.floor(math.log10(more)) - 1)
    return f"about {math.ceil(more / unit) * unit} more would"
