"""Recorded journals fold to the expected state and are written again to the same bytes."""

import json
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossbreed.errors import InputError
from crossbreed.runs.record.history import fold
from crossbreed.runs.record.journal import read
from crossbreed.runs.record.records import PublishRecord, RunRecord, to_json
from crossbreed.types import (
    Candidate,
    Cost,
    Cross,
    ItemScores,
    ProposedBy,
    Recipe,
    Rule,
    Score,
    Seed,
    Status,
    canonical_json,
)

GOLDEN = Path(__file__).parents[1] / "golden"
JOURNAL = GOLDEN / "journal" / "schema-1.jsonl"
RECORDED = sorted((GOLDEN / "runs").glob("v*/*/*/journal.jsonl"))
SOURCES = {"base": "0" * 32, "red": "1" * 32, "blue": "2" * 32}


def recipe(operator: str = "task_arithmetic", blue: float = -0.5, **artifacts: str) -> Recipe:
    rule = Rule(match=r".*\.mlp\..*", operator=operator, params={"weight": {"red": 0.25, "blue": blue}})
    return Recipe(base="base", sources=SOURCES, rules=(rule,), artifacts=artifacts)


@pytest.mark.parametrize("path", [JOURNAL, *RECORDED], ids=lambda path: "/".join(path.parts[-3:-1]))
def test_records_are_written_as_they_were_read(path: Path) -> None:
    lines = [canonical_json(to_json(record)).encode() + b"\n" for record in read(path)]
    assert b"".join(lines) == path.read_bytes()


def test_a_journal_of_stages_folds_to_its_searches() -> None:
    path = GOLDEN / "journal" / "schema-2-stages.jsonl"
    assert runpy.run_path(str(GOLDEN / "journal" / "make_journal.py"))["lines_of_stages"]() == path.read_bytes()
    history = fold(read(path))
    assert [history.candidates[number].stage for number in range(2, 6)] == [0, 1, 1, 3]
    assert history.stage == 3
    assert history.num_asked == {0: 1, 1: 2, 3: 1}
    assert [history.num_measured(stage) for stage in (0, 1, 3)] == [1, 1, 1]
    assert history.began_s == {0: 1.0, 1: 4.0, 3: 6.0}


def test_there_are_recorded_runs() -> None:
    assert len(RECORDED) >= 14


def test_the_generator_writes_the_file() -> None:
    assert runpy.run_path(str(GOLDEN / "journal" / "make_journal.py"))["lines"]() == JOURNAL.read_bytes()


def test_a_journal_with_checksums_holds_the_same_records() -> None:
    path = GOLDEN / "journal" / "schema-2.jsonl"
    assert runpy.run_path(str(GOLDEN / "journal" / "make_journal.py"))["sealed_lines"]() == path.read_bytes()
    (begun, *records), (begun_2, *records_2) = read(JOURNAL), read(path)
    assert isinstance(begun_2, RunRecord)
    assert replace(begun_2, schema=1) == begun
    assert records_2 == records


def test_the_first_record_identifies_the_run() -> None:
    run = next(read(JOURNAL))
    assert isinstance(run, RunRecord)
    assert run.schema == 1
    assert run.spec["seed"] == 7
    assert run.sources == SOURCES
    assert run.warm_starts == (recipe("regmean", 0.5, grams="3" * 32).id,)
    assert run.coordinates == ("mlp / red: weight", "mlp / blue: weight")
    assert run.items["report"] == {"red": ("r4", "é\n"), "blue": ("b3",)}
    assert run.artifacts == {"grams": "3" * 32}
    assert run.clock.versions == {"crossbreed": "0.1.0", "python": "3.11.7"}


def test_candidates_of_the_golden_journal() -> None:
    cross = Cross(parents=(4, 3), splits=(0.125, 0.5), weights=(0.1, 0.7), noise=0.01)
    assert list(fold(read(JOURNAL)).candidates.values()) == [
        Candidate(number=0, recipe=recipe(), proposed_by=ProposedBy.parse("baseline:uniform")),
        Candidate(
            number=1, recipe=recipe("regmean", 0.5, grams="3" * 32), proposed_by=ProposedBy.parse("warm_start:0")
        ),
        Candidate(number=2, recipe=recipe(), proposed_by=ProposedBy.parse("frank_wolfe"), proposal=(0.25, -0.5)),
        Candidate(number=3, recipe=None, proposed_by=ProposedBy.parse("m2n2"), proposal=Seed(index=0)),
        Candidate(number=4, recipe=recipe(), proposed_by=ProposedBy.parse("m2n2"), proposal=Seed(index=1, scale=0.5)),
        Candidate(number=5, recipe=None, proposed_by=ProposedBy.parse("m2n2"), proposal=cross),
        Candidate(number=6, recipe=recipe(), proposed_by=ProposedBy.parse("random"), proposal=(1e-05, 1.5)),
    ]


def test_scores_of_the_golden_journal() -> None:
    history = fold(read(JOURNAL))
    trials = history.trials
    assert {number: trial.score.status.value for number, trial in trials.items()} == {
        1: "OK",
        0: "OK",
        2: "OK",
        3: "FAILED",
        4: "INVALID",
        5: "STOPPED",
    }
    assert [trials[number].objectives for number in range(6)] == [(0.5, 0.0), (0.25, 1.5), (0.5, 1.0), None, None, None]
    assert trials[0].score == Score(
        status=Status.OK,
        tasks={
            "red": ItemScores(item_ids=("r0", "r1", "r2"), values=(1.0, 0.0, 1.0)),
            "blue": ItemScores(item_ids=("b0", "b1"), values=(0.0, 0.0)),
        },
        fingerprint="d" * 32,
        cost=Cost(items=5, tokens=41, seconds={"answer": 0.5, "materialize": 0.25, "other": 0.0, "swap": 0.125}),
    )
    assert trials[1].score.tasks["blue"].values == (-0.25, 1e30)
    assert trials[1].provenance == {"attempts": "1", "worker": "host:12"}
    assert trials[2].score.slopes == (-0.125, 3e-07)
    assert trials[3].score.error == "EngineError: it died"
    assert trials[5].score.tasks == {"red": ItemScores(item_ids=("r0", "r1"), values=(1.0, 0.0))}
    assert [trial.number for trial in history.ok_trials] == [0, 1, 2]
    assert history.elapsed_s == 7.5
    assert [candidate.number for candidate in history.pending] == [6]


def test_other_splits_and_published_trials_of_the_golden_journal() -> None:
    history = fold(read(JOURNAL))
    assert history.scores_of("select").keys() == {0, 2}
    assert history.scores["select", 2].status is Status.OK, "a later score replaces a FAILED one"
    assert history.scores["report", 2].tasks["red"] == ItemScores(item_ids=("r4", "é\n"), values=(1.0, 0.5))
    [published] = history.published
    assert (published.number, published.fingerprint, published.clock.folder) == (2, "e" * 32, "/home/ann/merged")


def test_an_end_holds_until_the_next_ask() -> None:
    *before, last = read(JOURNAL)
    assert isinstance(before[-1], PublishRecord)
    assert fold(before).is_finished
    assert not fold([*before, last]).is_finished


LINES = [json.loads(line) for line in JOURNAL.read_text().splitlines()]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.floats() | st.text(max_size=3) | st.sampled_from(["OK", "ask"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=400)
@given(st.data())
def test_a_line_with_any_value_replaced_is_damaged_or_valid(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Replaces or removes a random value: the error is an InputError that names the line, never another exception."""
    lines = json.loads(json.dumps(LINES))
    number = data.draw(st.integers(0, len(lines) - 1))
    place, key = lines, number
    while children := _keys(place[key]):
        if data.draw(st.integers(0, 3)) == 0:
            break
        place, key = place[key], data.draw(st.sampled_from(children))
    if place is not lines and data.draw(st.booleans()):
        del place[key]
    else:
        place[key] = data.draw(ANYTHING)
    path = tmp_path_factory.mktemp("damaged") / "journal.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    try:
        fold(read(path))
    except InputError as error:
        assert "line " in error.where or "format" in error.problem  # noqa: PT017 - both outcomes are valid


def _keys(value: Any) -> list[Any]:
    return list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
