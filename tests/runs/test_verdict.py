"""The first line of a report follows from its intervals, and never calls worse what is better, or the reverse."""

import io
import math
import re
from dataclasses import replace
from itertools import product
from statistics import NormalDist

import pytest
from rich.console import Console
from simulated import MEAN, scores_on, search

from crossbreed.runs.results.report import Difference, Report, make_report
from crossbreed.runs.results.report_text import summary, words_json
from crossbreed.runs.results.statistics import Interval
from crossbreed.runs.results.verdict import verdict_of
from crossbreed.runs.results.winner import reported

WINNER = 25


def report_on(winner: int = WINNER) -> Report:
    trials = search()
    scores = scores_on("report", reported(trials, [MEAN], winner))
    return make_report(trials=trials, winner=winner, scores=scores, objectives=[MEAN])


@pytest.fixture(scope="module")
def found() -> Report:
    return report_on()


def by(mean: float, low: float, high: float, n: int = 120) -> Interval:
    return Interval(mean=mean, low=low, high=high, n=n)


def with_differences(report: Report, best: Interval | None, tuned: Interval | None = None) -> Report:
    return replace(
        report,
        to_best_baseline=best and Difference(name="french", by=best),
        to_tuned_scalar=tuned and Difference(name="tuned_scalar", by=tuned),
    )


def test_a_winner_that_is_better_is_taken(found: Report) -> None:
    verdict = verdict_of(found)
    assert (verdict.kind, verdict.line) == ("take", "Take the winner, trial 25.")
    assert verdict.why.startswith("It is better than uniform, the best without tuning: +0.")


def test_a_winner_that_is_not_better_is_not_taken(found: Report) -> None:
    """Row 27 of a first hour: the winner lost to a lone expert by 0.017."""
    verdict = verdict_of(with_differences(found, by(-0.017, -0.06, 0.03)))
    assert (verdict.kind, verdict.line) == ("keep", "Keep french.")
    assert verdict.why == (
        "On 120 report items the winner of the search is not shown to be better: -0.017 [-0.060, +0.030]."
    )
    assert "is worse: -0.200" in verdict_of(with_differences(found, by(-0.2, -0.3, -0.1))).why
    assert "is no better: 0.000" in verdict_of(with_differences(found, by(0.0, -0.1, 0.1))).why


def test_where_the_tuned_scalar_is_better_it_is_kept(found: Report) -> None:
    verdict = verdict_of(with_differences(found, by(0.2, 0.1, 0.3), by(-0.1, -0.15, -0.05)))
    assert verdict.line == "Keep tuned scalar."
    told = verdict_of(with_differences(found, by(0.2, 0.1, 0.3), by(-0.01, -0.1, 0.08)))
    assert told.kind == "take"
    assert told.why.endswith(
        "It is not told apart from the tuned scalar, which needs no search: -0.010 [-0.100, +0.080]."
    )
    assert "tuned" not in verdict_of(with_differences(found, by(0.2, 0.1, 0.3), by(0.1, 0.05, 0.15))).why


@pytest.mark.parametrize(
    ("interval", "more"),
    [
        (by(0.05, -0.05, 0.15), "about 860 more would"),  # twice as wide as it may be: four times the items, twice
        (by(0.05, -0.001, 0.1), "about 140 more would"),
        (by(0.003, -0.5, 0.5), "not even 100 times as many would show a difference as small as 0.003"),
    ],
)
def test_too_few_items_are_counted(found: Report, interval: Interval, more: str) -> None:
    verdict = verdict_of(with_differences(found, interval))
    assert verdict.kind == "unclear"
    assert verdict.line == f"Not enough items to tell trial 25 from french: {more}."


@pytest.mark.parametrize("winner", [17, 18, 19, 21])
def test_so_many_more_items_do_tell(winner: int) -> None:
    """The advice holds in 80 % of the cases: an interval narrows with the root of its items, and its mean varies."""
    trials = search()
    few = scores_on("report", reported(trials, [MEAN], winner), n=40)
    report = make_report(trials=trials, winner=winner, scores=few, objectives=[MEAN])
    verdict, best = verdict_of(report), report.to_best_baseline
    assert best is not None
    assert (verdict.kind == "unclear") is (best.by.low <= 0 < best.by.mean)
    if told := re.search(r"about (\d+) more would", verdict.line):
        errors = [best.by.mean * ((80 + times * int(told[1])) / 80) ** 0.5 for times in (1, 0.8)]
        half = best.by.mean - best.by.low
        power, of_less = (NormalDist().cdf(1.96 * mean / half - 1.96) for mean in errors)
        assert of_less < 0.81, "not many too many"
        assert power >= 0.799


def test_a_baseline_that_wins_is_kept() -> None:
    uniform = verdict_of(report_on(3))
    assert (uniform.kind, uniform.line) == ("keep", "Keep uniform.")
    assert "No bred merge beat it" in uniform.why
    tuned = report_on(5)
    assert tuned.winner.number == next(row.number for row in tuned.baselines if row.kind == "tuned_scalar")
    assert verdict_of(tuned).line == "Take tuned scalar, trial 5."
    lone = verdict_of(report_on(1))
    assert lone.line == "Keep uniform.", "an expert won on search items; on the report items another baseline is better"


def test_without_baselines_there_is_nothing_to_say(found: Report) -> None:
    assert verdict_of(with_differences(found, None)).kind == "unclear"


@pytest.mark.parametrize(
    ("low", "high"), [(low, high) for low, high in product((-0.3, -0.1, 0.0, 0.1), repeat=2) if low <= high]
)
def test_better_is_said_of_no_difference_that_may_be_none(found: Report, low: float, high: float) -> None:
    for mean in (low, (low + high) / 2, high):
        verdict = verdict_of(with_differences(found, by(mean, low, high)))
        assert (verdict.kind == "take") is (low > 0)
        assert ("It is better than" in verdict.why) is (low > 0)


def test_it_is_the_first_line_of_the_report(found: Report) -> None:
    stopped = replace(found, is_over=False)
    file = io.StringIO()
    Console(file=file, width=200).print(summary(stopped))
    assert file.getvalue().splitlines()[0] == str(verdict_of(found))
    words = words_json(stopped)
    assert words["verdict"]["line"] == "Take the winner, trial 25."
    assert words["caveats"][0].startswith("The search was interrupted")


def test_nothing_is_taken_where_no_interval_is_known(found: Report) -> None:
    unknown = replace(with_differences(found, by(0.2, -math.inf, math.inf)), means={"secret": False})
    verdict = verdict_of(unknown)
    assert (verdict.kind, verdict.line) == (
        "unclear",
        "Trial 25 measures better than french, and nothing tells whether that is chance.",
    )
    assert verdict.why.endswith("is 0.200; of secret the provider tells means without standard errors.")
    worse = verdict_of(with_differences(found, by(-0.2, -math.inf, math.inf)))
    assert (worse.kind, "not shown to be better: -0.200 [not known]" in worse.why) == ("keep", True)
