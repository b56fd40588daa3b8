"""Writes journals of schema 1 and 2 with every kind of record: `python tests/golden/journal/make_journal.py`.

`tests/runs/test_golden_journal.py` has the state that it folds to. Never change the file: users have such journals. Add
a new file for a new schema or a new optional key.
"""

from dataclasses import replace
from pathlib import Path

from crossbreed.runs.record.checksum import sealed
from crossbreed.runs.record.records import (
    AskRecord,
    CrossBirth,
    EndRecord,
    PublishClock,
    PublishRecord,
    Record,
    RunClock,
    RunRecord,
    SeedBirth,
    TellClock,
    TellRecord,
    to_json,
)
from crossbreed.types import Recipe, Rule, Status, canonical_json

PATH, PATH_2 = (Path(__file__).parent / f"schema-{schema}.jsonl" for schema in (1, 2))
PATH_OF_STAGES = Path(__file__).parent / "schema-2-stages.jsonl"
SOURCES = {"base": "0" * 32, "red": "1" * 32, "blue": "2" * 32}
GRAMS = {"grams": "3" * 32}


def recipe(operator: str = "task_arithmetic", blue: float = -0.5, **artifacts: str) -> Recipe:
    rule = Rule(match=r".*\.mlp\..*", operator=operator, params={"weight": {"red": 0.25, "blue": blue}})
    return Recipe(base="base", sources=SOURCES, rules=(rule,), artifacts=artifacts)


RUN = RunRecord(
    schema=1,
    spec={"seed": 7, "space": {"kind": "coefficients"}, "fitness": {"objectives": [{"mean": ["red", "blue"]}]}},
    sources=SOURCES,
    warm_starts=(recipe("regmean", 0.5, **GRAMS).id,),
    coordinates=("mlp / red: weight", "mlp / blue: weight"),
    contents={"red": "aaaaaaaaaaaa", "blue": "bbbbbbbbbbbb"},
    items={
        "search": {"red": ("r0", "r1", "r2"), "blue": ("b0", "b1")},
        "select": {"red": ("r3",), "blue": ("b2",)},
        "report": {"red": ("r4", "é\n"), "blue": ("b3",)},
    },
    artifacts=GRAMS,
    clock=RunClock(versions={"crossbreed": "0.1.0", "python": "3.11.7"}),
)
ASKS = (
    AskRecord(number=0, origin="baseline:uniform", point=None, recipe=recipe()),
    AskRecord(number=1, origin="warm_start:0", point=None, recipe=recipe("regmean", 0.5, **GRAMS)),
    AskRecord(number=2, origin="frank_wolfe", point=(0.25, -0.5), recipe=recipe()),
    AskRecord(number=3, origin="m2n2", point=None, birth=SeedBirth(seed=0, scale=1.0), recipe=None),
    AskRecord(number=4, origin="m2n2", point=None, birth=SeedBirth(seed=1, scale=0.5), recipe=recipe()),
    AskRecord(
        number=5,
        origin="m2n2",
        point=None,
        parents=(4, 3),
        birth=CrossBirth(splits=(0.125, 0.5), weights=(0.1, 0.7), noise=0.01),
        recipe=None,
    ),
    AskRecord(number=6, origin="random", point=(1e-05, 1.5), recipe=recipe()),
)
OK, FAILED, INVALID, STOPPED = Status.OK, Status.FAILED, Status.INVALID, Status.STOPPED
SECONDS = {"answer": 0.5, "materialize": 0.25, "other": 0.0, "swap": 0.125}
TELLS = (
    TellRecord(
        number=1,  # before 0: results may come out of order
        split="search",
        status=OK,
        objectives=(0.25, 1.5),
        tasks={"red": (0.5, 1.0, 0.0), "blue": (-0.25, 1e30)},
        fingerprint="c" * 32,
        items=5,
        tokens=40,
        clock=TellClock(seconds=SECONDS, error=None, attempts=1, worker="host:12", elapsed=0.75),
    ),
    TellRecord(
        number=0,
        split="search",
        status=OK,
        objectives=(0.5, 0.0),
        tasks={"red": (1.0, 0.0, 1.0), "blue": (0.0, 0.0)},
        fingerprint="d" * 32,
        items=5,
        tokens=41,
        clock=TellClock(seconds=SECONDS, error=None, attempts=1, worker="host:11", elapsed=1.0),
    ),
    TellRecord(
        number=2,
        split="search",
        status=OK,
        objectives=(0.5, 1.0),
        tasks={"red": (0.0, 0.0, 1.0), "blue": (1.0, 1.0)},
        slopes=(-0.125, 3e-07),
        fingerprint="e" * 32,
        items=9,
        tokens=42,
        clock=TellClock(seconds=SECONDS | {"slopes": 2.0}, error=None, attempts=2, elapsed=4.0),
    ),
    TellRecord(
        number=3,
        split="search",
        status=FAILED,
        objectives=None,
        tasks={},
        fingerprint=None,
        items=0,
        tokens=0,
        clock=TellClock(seconds={"other": 1.0}, error="EngineError: it died", attempts=2, elapsed=5.0),
    ),
    TellRecord(
        number=4,
        split="search",
        status=INVALID,
        objectives=None,
        tasks={},
        fingerprint=None,
        items=0,
        tokens=0,
        clock=TellClock(seconds={"other": 0.5}, error="NaN in `lm_head.weight`", attempts=1, elapsed=6.0),
    ),
    TellRecord(
        number=5,
        split="search",
        status=STOPPED,
        objectives=None,
        tasks={"red": (1.0, 0.0)},
        fingerprint="f" * 32,
        items=2,
        tokens=9,
        clock=TellClock(seconds=SECONDS, error="no slopes: the gradient is NaN", elapsed=7.5),
    ),
)


def other_split(number: int, split: str, status: Status, red: tuple[float, ...], fingerprint: str | None) -> TellRecord:
    assert split in ("select", "report")
    return TellRecord(
        number=number,
        split=split,
        status=status,
        objectives=(sum(red), 1.0) if status is OK else None,
        tasks={"red": red, "blue": (1.0,)} if status is OK else {},
        fingerprint=fingerprint,
        items=len(red) + 1 if status is OK else 0,
        tokens=3 * len(red),
        clock=TellClock(seconds=SECONDS, error=None if status is OK else "EngineError: it died", attempts=1),
    )


RECORDS: tuple[Record, ...] = (
    RUN,
    *ASKS[:2],
    *TELLS[:2],
    *(record for pair in zip(ASKS[2:6], TELLS[2:6], strict=True) for record in pair),
    other_split(2, "select", FAILED, (), None),
    other_split(2, "select", OK, (1.0,), "e" * 32),  # replaces the FAILED one
    other_split(0, "select", OK, (0.0,), "d" * 32),
    other_split(2, "report", OK, (1.0, 0.5), "e" * 32),
    EndRecord(),
    PublishRecord(number=2, fingerprint="e" * 32, clock=PublishClock(folder="/home/ann/merged")),
    ASKS[6],  # after `end`, with a larger budget; never told
)


STAGED = tuple(replace(ask, stage=stage) for ask, stage in zip(ASKS[2:5], (0, 1, 1), strict=True))
RECORDS_OF_STAGES: tuple[Record, ...] = (
    replace(RUN, schema=2, more_coordinates={"1": (), "3": ("mlp: factor",)}),
    *ASKS[:2],
    *TELLS[:2],
    *(record for pair in zip(STAGED, TELLS[2:5], strict=True) for record in pair),
    AskRecord(number=5, origin="cma_es", point=(1.25,), stage=3, recipe=recipe()),
)
"""Of a run with several searches: new optional keys of an ask and of the first record."""


def lines() -> bytes:
    return b"".join(canonical_json(to_json(record)).encode() + b"\n" for record in RECORDS)


def sealed_lines() -> bytes:
    """Of schema 2: each line with a checksum over all up to there."""
    return _sealed((replace(RUN, schema=2), *RECORDS[1:]))


def lines_of_stages() -> bytes:
    """Of schema 2, with stages."""
    return _sealed(RECORDS_OF_STAGES)


def _sealed(records: tuple[Record, ...]) -> bytes:
    written, before = [], b""
    for record in records:
        before = sealed(to_json(record), after=before)
        written.append(before + b"\n")
    return b"".join(written)


if __name__ == "__main__":
    PATH.write_bytes(lines())
    PATH_2.write_bytes(sealed_lines())
    PATH_OF_STAGES.write_bytes(lines_of_stages())
