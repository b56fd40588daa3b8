"""Records: reading returns what was written, and malformed lines are refused."""

import json
from typing import Any

import pytest
from simulated import recipe

from crossbreed.runs.record.records import (
    AskRecord,
    EndRecord,
    Record,
    RunRecord,
    TellClock,
    TellRecord,
    from_json,
    to_json,
    without_clock,
)
from crossbreed.types import Candidate, Cross, ItemScores, ProposedBy, Score, Seed, Status, canonical_json

CROSS = Cross(parents=(3, 4), splits=(0.25, 0.5), weights=(0.125, 1 / 3), noise=0.01)
ASK = AskRecord.of(Candidate(number=5, recipe=recipe(0.3), proposed_by=ProposedBy.parse("cma_es"), proposal=(0.5,)))
CLOCK = TellClock(seconds={"answer": 0.5}, error=None, attempts=1, elapsed=2.0)


def tell(values: tuple[float, ...] = (1.0, 0.5), status: Status = Status.OK, clock: TellClock = CLOCK) -> TellRecord:
    ids = tuple(f"i{index}" for index in range(len(values)))
    score = Score(status=status, tasks={"sums": ItemScores(item_ids=ids, values=values)})
    objectives = (0.5,) if status is Status.OK else None
    return TellRecord.of(score, number=1, split="search", objectives=objectives, clock=clock)


def line(record: Record, **changes: Any) -> str:
    return canonical_json(to_json(record) | changes)


@pytest.mark.parametrize(
    "candidate",
    [
        Candidate(number=0, recipe=recipe(0.3), proposed_by=ProposedBy.parse("baseline:uniform")),
        Candidate(number=5, recipe=recipe(0.3), proposed_by=ProposedBy.parse("cma_es"), proposal=(0.1, 1 / 3)),
        Candidate(
            number=5, recipe=recipe(0.3), proposed_by=ProposedBy.parse("m2n2"), proposal=Seed(index=1, scale=1.5)
        ),
        Candidate(number=5, recipe=None, proposed_by=ProposedBy.parse("m2n2"), proposal=CROSS),
    ],
)
def test_a_candidate_comes_back_whole(candidate: Candidate) -> None:
    record = from_json(line(AskRecord.of(candidate)))
    assert isinstance(record, AskRecord)
    assert record.candidate == candidate


def test_a_cross_names_its_parents() -> None:
    assert AskRecord.of(
        Candidate(number=5, recipe=None, proposed_by=ProposedBy.parse("m2n2"), proposal=CROSS)
    ).parents == (3, 4)


def test_a_candidate_without_birth_and_parents_is_read() -> None:
    old = {key: value for key, value in to_json(ASK).items() if key not in ("birth", "parents")}
    assert from_json(json.dumps(old)) == ASK


@pytest.mark.parametrize(
    ("values", "written"),
    [((1.0, 0.0, 1.0), "101"), ((1.0, 0.5, 0.0), [1.0, 0.5, 0.0]), ((2.0,), [2.0]), ((-0.0, 1.0), "01"), ((), "")],
)
def test_zeros_and_ones_are_written_as_digits(values: tuple[float, ...], written: str | list[float]) -> None:
    record = tell(values)
    assert to_json(record)["tasks"] == {"sums": written}
    assert from_json(line(record)) == record
    assert from_json(line(record, tasks={"sums": list(values)})) == record, "as older journals have it"


def test_a_score_comes_back_whole() -> None:
    score = Score(
        status=Status.OK,
        tasks={"b": ItemScores(item_ids=("x", "y"), values=(1.0, 0.5)), "a": ItemScores(item_ids=("z",), values=(1,))},
        slopes=(0.25, -1.0),
        fingerprint="f" * 32,
        error="no slopes",
    )
    clock = TellClock(seconds={}, error=score.error)
    record = from_json(line(TellRecord.of(score, number=1, split="report", objectives=(0.5,), clock=clock)))
    assert isinstance(record, TellRecord)
    found = record.score({"b": ("x", "y"), "a": ("z",)})
    assert found == score
    assert list(found.tasks) == ["b", "a"], "in the run's order, though a journal's keys are sorted"


def test_unknown_clock_fields_are_not_written() -> None:
    assert to_json(tell())["clock"] == {"seconds": {"answer": 0.5}, "error": None, "attempts": 1, "elapsed": 2.0}


def test_empty_artifacts_are_not_written() -> None:
    run = RunRecord(spec={}, sources={}, items={})
    assert "artifacts" not in to_json(run)
    assert from_json(line(run)) == run
    assert to_json(RunRecord(spec={}, sources={}, items={}, artifacts={"grams": "1"}))["artifacts"] == {"grams": "1"}


def test_equal_runs_differ_only_in_their_clock() -> None:
    slower = tell(clock=TellClock(seconds={}, error=None, attempts=2, worker="b", elapsed=9.0))
    assert to_json(slower) != to_json(tell())
    assert without_clock(slower) == without_clock(tell())


@pytest.mark.parametrize("record", [ASK, tell(), EndRecord(), RunRecord(spec={}, sources={}, items={})])
def test_unknown_keys_are_ignored(record: Record) -> None:
    assert from_json(line(record, mood="good")) == record


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Invalid JSON"),
        ("[]", "should be an object"),
        ("{}", "kind"),
        ('{"kind":"asks"}', "'asks' .* does not match"),
        (line(ASK, number=-1), "ask.number: .* greater than or equal to 0"),
        (line(ASK, number="5"), "ask.number: .* valid integer"),
        (line(ASK, number=True), "ask.number: .* valid integer"),
        (line(ASK, point=[0.5, None]), r"ask.point.1: .* valid number"),
        (line(ASK, point=0.5), r"ask.point: .* valid array"),
        (line(ASK, recipe={"schema": 1}), "ask.recipe: .*`base` is missing"),
        (line(ASK, recipe=to_json(ASK)["recipe"] | {"base": []}), "ask.recipe: .*`base` is not one of the sources"),
        (line(ASK, birth={"seed": 1}), "ask.birth.*scale"),
        (line(ASK, parents=[3, 4]), "a cross needs two parents"),
        (line(ASK, birth={"splits": [0.5], "weights": [0.5], "noise": 0.0}), "a cross needs two parents"),
        (line(tell(), split="test"), "tell.split: .* 'search', 'select' or 'report'"),
        (line(tell(), status="FINE"), "tell.status: .* 'OK', 'INVALID', 'FAILED' or 'STOPPED'"),
        (line(tell(), tasks={"sums": "012"}), "tell.tasks.sums: .*only 0 and 1"),
        (line(tell(), tasks={"sums": ["1", "0"]}), "tell.tasks.sums.0: .* valid number"),
        (line(tell(), tasks={"sums": 1}), "tell.tasks.sums: .* valid array"),
        (line(tell(), objectives=None), "status OK with objectives None"),
        (line(tell(status=Status.FAILED), objectives=[0.5]), "status FAILED with objectives .*0.5"),
        (line(tell(), clock={"seconds": {}, "error": None}), "`clock.elapsed` is missing"),
        (line(tell(), clock=None), "tell.clock"),
        ('{"kind":"publish","number":1,"fingerprint":"f"}', "publish.clock: Field required"),
    ],
)
def test_a_malformed_record_is_refused_with_the_key(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_json(text)


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tell.objectives.0: .* finite number"):
        from_json(line(tell()).replace('"objectives":[0.5]', '"objectives":[NaN]'))
