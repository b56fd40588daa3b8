"""Journal records for tests: a small valid journal, and Hypothesis strategies for every kind of record."""

from collections.abc import Sequence

from hypothesis import strategies as st

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
from crossbreed.types import ProposedBy, Recipe, Rule, Status

RUN = RunRecord(
    spec={"seed": 7},
    sources={"base": "0"},
    items={"search": {"sums": ("a", "é\n")}, "select": {}, "report": {}},
    clock=RunClock(versions={"crossbreed": "0"}),
)
RECIPE = Recipe(
    base="base",
    sources={"base": "0", "a": "1"},
    rules=(Rule(match=".*", operator="task_arithmetic", params={"weight": 0.5}),),
)
RECORDS: tuple[Record, ...] = (
    RUN,
    AskRecord(number=0, origin="random", point=(0.5,), recipe=None),
    TellRecord(
        number=0,
        split="search",
        status=Status.OK,
        objectives=(0.5,),
        tasks={"sums": (1.0, 0.0)},
        fingerprint="f",
        items=2,
        tokens=9,
        clock=TellClock(seconds={"answer": 0.5}, error=None, elapsed=1.0),
    ),
    EndRecord(),
)
"""A small valid journal."""


def lines(records: Sequence[Record]) -> bytes:
    """Returns the bytes of the journal that holds these records."""
    written, before = b"", b""
    for record in records:
        before = sealed(to_json(record), after=before)
        written += before + b"\n"
    return written


_NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
_TUPLES = st.lists(_NUMBERS, max_size=3).map(tuple)
_KINDS = st.text().filter(lambda text: not text.startswith(("baseline:", "warm_start:")))
_CROSSES = st.builds(CrossBirth, splits=_TUPLES, weights=_TUPLES, noise=_NUMBERS)


@st.composite
def asks(draw: st.DrawFn) -> AskRecord:
    """Ask records: points, seeds and crosses, with and without a recipe."""
    birth = draw(st.none() | st.builds(SeedBirth, seed=st.integers(0, 9), scale=_NUMBERS) | _CROSSES)
    origin = draw(st.sampled_from(["baseline:expert:a:b", "baseline:tuned_scalar:0.5", "warm_start:2"]) | _KINDS)
    is_bred = ProposedBy.parse(origin).kind == "optimizer"
    return AskRecord(
        number=draw(st.integers(0, 99)),
        origin=origin,
        point=draw(_TUPLES) if birth is None else None,
        parents=(1, 0) if isinstance(birth, CrossBirth) else (),
        birth=birth,
        recipe=draw(st.none() | st.just(RECIPE)),
        stage=draw(st.integers(0, 3)) if is_bred else 0,
    )


@st.composite
def tells(draw: st.DrawFn) -> TellRecord:
    """Tell records of every status and split."""
    status = draw(st.sampled_from(Status))
    digits = st.lists(st.sampled_from([0.0, 1.0]), max_size=5).map(tuple)
    return TellRecord(
        number=draw(st.integers(0, 99)),
        split=draw(st.sampled_from(["search", "select", "report"])),
        status=status,
        objectives=draw(_TUPLES) if status is Status.OK else None,
        tasks=draw(st.dictionaries(st.text(), digits | _TUPLES, max_size=2)),
        slopes=draw(st.none() | _TUPLES),
        fingerprint=draw(st.none() | st.text()),
        items=draw(st.integers(0, 99)),
        tokens=draw(st.integers(0, 99)),
        clock=TellClock(
            seconds=draw(st.dictionaries(st.sampled_from(["answer", "other"]), _NUMBERS)),
            error=draw(st.none() | st.text()),
            attempts=draw(st.none() | st.integers(1, 9)),
            worker=draw(st.none() | st.text(min_size=1)),
            elapsed=draw(_NUMBERS),
        ),
    )


def records() -> st.SearchStrategy[Record]:
    """Records of every kind but `run`, which only the first line has."""
    publish = st.builds(PublishRecord, number=st.integers(0, 99), fingerprint=st.text(), clock=_PUBLISH_CLOCKS)
    return st.one_of(asks(), tells(), publish, st.just(EndRecord()))


_PUBLISH_CLOCKS = st.builds(PublishClock, folder=st.text())
