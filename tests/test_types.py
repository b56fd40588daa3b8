"""What proposed a candidate: a value whose text is what journals have held from the first version on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossbreed.runs.search.baselines import baselines
from crossbreed.types import Candidate, Cross, ProposedBy, Seed

TEXTS = {
    "baseline:base": ProposedBy(kind="base"),
    "baseline:expert:french": ProposedBy(kind="expert", name="french"),
    "baseline:expert:a:b": ProposedBy(kind="expert", name="a:b"),
    "baseline:uniform": ProposedBy(kind="uniform"),
    "baseline:tuned_scalar:0.5": ProposedBy(kind="tuned_scalar", scalar=0.5),
    "baseline:tuned_scalar:3": ProposedBy(kind="tuned_scalar", scalar=3.0),
    "warm_start:0": ProposedBy(kind="warm_start", index=0),
    "cma_es": ProposedBy(kind="optimizer", name="cma_es"),
    "uniform": ProposedBy(kind="optimizer", name="uniform"),
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_read_and_written(text: str) -> None:
    assert ProposedBy.parse(text) == TEXTS[text]
    assert str(TEXTS[text]) == text


@given(name=st.text(min_size=1), scalar=st.floats(0, 1e6).map(lambda x: float(f"{x:g}")), index=st.integers(0, 999))
def test_every_value_comes_back_from_its_text(name: str, scalar: float, index: int) -> None:
    for value in (
        ProposedBy(kind="expert", name=name),
        ProposedBy(kind="tuned_scalar", scalar=scalar),
        ProposedBy(kind="warm_start", index=index),
    ):
        assert ProposedBy.parse(str(value)) == value


@pytest.mark.parametrize(
    "text", ["baseline:", "baseline:best", "baseline:base:x", "baseline:tuned_scalar", "warm_start:x"]
)
def test_a_text_of_a_version_to_come_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"unknown baseline|could not convert|invalid literal"):
        ProposedBy.parse(text)


def test_what_the_kinds_are() -> None:
    assert [value.is_baseline for value in TEXTS.values()] == [True] * 6 + [False] * 3
    assert [value.is_single_model for value in TEXTS.values()] == [True] * 3 + [False] * 6
    assert [value.global_scalar for value in TEXTS.values()] == [None, None, None, 1.0, 0.5, 3.0, None, None, None]
    assert [value.label for value in TEXTS.values()][2:6] == [
        "expert:a:b",
        "uniform",
        "tuned_scalar:0.5",
        "tuned_scalar:3",
    ]


def test_the_texts_of_all_baselines_are_those_that_journals_hold() -> None:
    proposed = [str(by) for by, _ in baselines({"base": "0", "red": "1", "blue": "2"}, dtype="bfloat16")]
    assert proposed == [
        "baseline:base",
        "baseline:expert:red",
        "baseline:expert:blue",
        "baseline:uniform",
        *(f"baseline:tuned_scalar:{scalar}" for scalar in ("0.5", "1.5", "2", "3")),
    ]


def test_a_proposal_is_a_point_or_a_birth() -> None:
    cross = Cross(parents=(3, 4), splits=(0.5,), weights=(0.5,))
    by = ProposedBy(kind="optimizer", name="any")
    at, seed, child, given_ = (
        Candidate(number=5, recipe=None, proposed_by=by, proposal=proposal)
        for proposal in ((0.5, 1.0), Seed(index=0), cross, None)
    )
    assert [candidate.point for candidate in (at, seed, child, given_)] == [(0.5, 1.0), None, None, None]
    assert [candidate.birth for candidate in (at, seed, child, given_)] == [None, Seed(index=0), cross, None]
    assert [candidate.parents for candidate in (at, seed, child, given_)] == [(), (), (3, 4), ()]
