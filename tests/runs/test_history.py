"""Records of candidates and scores: what is written is what is read."""

import json

import pytest
from simulated import recipe

from crossbreed.runs.history import ask_record, candidate_of, score_of, tell_record
from crossbreed.types import Candidate, Cross, ItemScores, Score, Seed, Status, canonical_json

CROSS = Cross(parents=(3, 4), splits=(0.25, 0.5), weights=(0.125, 1 / 3), noise=0.01)


@pytest.mark.parametrize(
    "candidate",
    [
        Candidate(number=0, recipe=recipe(0.3), origin="baseline:uniform"),
        Candidate(number=5, recipe=recipe(0.3), origin="cma_es", point=(0.1, 1 / 3)),
        Candidate(number=5, recipe=recipe(0.3), origin="m2n2", birth=Seed(index=1, scale=1.5)),
        Candidate(number=5, recipe=None, origin="m2n2", birth=CROSS),
    ],
)
def test_a_candidate_comes_back_whole(candidate: Candidate) -> None:
    assert candidate_of(json.loads(canonical_json(ask_record(candidate)))) == candidate


def test_a_cross_names_its_parents() -> None:
    record = ask_record(Candidate(number=5, recipe=None, origin="m2n2", birth=CROSS))
    assert record["parents"] == [3, 4]


def test_a_candidate_of_before_there_were_births_is_still_read() -> None:
    record = ask_record(Candidate(number=5, recipe=recipe(0.3), origin="cma_es", point=(0.5,)))
    del record["birth"]
    assert candidate_of(record).birth is None


@pytest.mark.parametrize(
    ("values", "written"),
    [((1.0, 0.0, 1.0), "101"), ((1.0, 0.5, 0.0), [1.0, 0.5, 0.0]), ((2.0,), [2.0]), ((-0.0, 1.0), "01")],
)
def test_right_and_wrong_are_digits(values: tuple[float, ...], written: str | list[float]) -> None:
    ids = {"sums": tuple(f"i{i}" for i in range(len(values)))}
    score = Score(status=Status.OK, tasks={"sums": ItemScores(item_ids=ids["sums"], values=values)})
    record = tell_record(1, "search", score, objectives=(0.5,), clock={})
    assert record["tasks"] == {"sums": written}
    assert score_of(json.loads(canonical_json(record)), ids).tasks == score.tasks
    assert score_of({**record, "tasks": {"sums": list(values)}}, ids).tasks == score.tasks  # as older journals have it
