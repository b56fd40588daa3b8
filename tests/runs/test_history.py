"""Folding a journal: records are consistent with those before them, or the error names the line."""

from dataclasses import replace

import pytest
from simulated import recipe

from crossbreed.errors import InputError
from crossbreed.runs.record.history import History, fold
from crossbreed.runs.record.records import (
    AskRecord,
    EndRecord,
    Record,
    RunRecord,
    SplitName,
    TellClock,
    TellRecord,
)
from crossbreed.types import Candidate, ItemScores, ProposedBy, Score, Status

RUN = RunRecord(
    spec={}, sources={}, items={"search": {"sums": ("a", "b")}, "select": {"sums": ("c",)}, "report": {"sums": ()}}
)


def ask(number: int) -> AskRecord:
    return AskRecord.of(
        Candidate(number=number, recipe=recipe(0.3), proposed_by=ProposedBy.parse("cma_es"), proposal=(0.5,))
    )


def tell(
    number: int,
    *values: float,
    split: SplitName = "search",
    status: Status = Status.OK,
    task: str = "sums",
    elapsed: float = 1.0,
    fingerprint: str | None = "f",
) -> TellRecord:
    tasks = {task: ItemScores(item_ids=tuple(map(str, range(len(values)))), values=values)} if values else {}
    return TellRecord.of(
        Score(status=status, tasks=tasks, fingerprint=fingerprint),
        number=number,
        split=split,
        objectives=(0.5,) if status is Status.OK else None,
        clock=TellClock(seconds={}, error=None, elapsed=elapsed),
    )


def test_an_empty_journal_folds_to_an_empty_history() -> None:
    assert fold([]) == History(item_ids={})


def test_scores_may_come_out_of_order() -> None:
    history = fold([RUN, ask(0), ask(1), tell(1, 1.0, 0.0, elapsed=3.0), ask(2), tell(0, 1.0, 1.0, elapsed=4.0)])
    assert list(history.trials) == [1, 0]
    assert [trial.number for trial in history.ok_trials] == [0, 1]
    assert [candidate.number for candidate in history.pending] == [2]
    assert history.elapsed_s == 4.0


@pytest.mark.parametrize("status", [Status.FAILED, Status.INVALID, Status.STOPPED])
def test_a_candidate_without_a_value_is_a_trial_but_not_ok(status: Status) -> None:
    history = fold([RUN, ask(0), tell(0, 1.0, status=status)])
    assert history.trials[0].objectives is None
    assert history.ok_trials == history.pending == []


def test_scores_on_other_splits_are_not_trials_and_may_be_replaced() -> None:
    failed = tell(0, split="select", status=Status.FAILED)
    history = fold([RUN, ask(0), failed, tell(0, 1.0, split="select")])
    assert history.trials == {}
    assert history.scores["select", 0].tasks["sums"] == ItemScores(item_ids=("c",), values=(1.0,))


def test_an_end_holds_until_the_next_ask() -> None:
    records: list[Record] = [RUN, ask(0), tell(0, 1.0, 0.0), EndRecord(), tell(0, 1.0, split="select")]
    assert fold(records).is_finished
    assert not fold([*records, ask(1)]).is_finished


def test_an_end_holds_until_a_trial_that_failed_is_measured() -> None:
    """It may be the winner."""
    again = tell(0, status=Status.FAILED)
    records: list[Record] = [RUN, ask(0), again, ask(1), tell(1, 1.0, 0.0), EndRecord(), again]
    assert fold(records).is_finished
    assert not fold([*records, tell(0, 1.0, 1.0)]).is_finished
    assert fold([*records, tell(0, 1.0, 1.0), EndRecord()]).is_finished


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([ask(1)], "line 2: candidate 1, expected 0"),
        ([ask(0), ask(0)], "line 3: candidate 0, expected 1"),
        ([ask(0), ask(2)], "line 3: candidate 2, expected 1"),
        ([tell(0, 1.0, 0.0)], "line 2: a score of candidate 0, which was not asked"),
        ([ask(0), tell(1, 1.0, split="select")], "line 3: a score of candidate 1, which was not asked"),
        ([ask(0), tell(0, 1.0, 0.0), tell(0, 1.0, 0.0)], "line 4: a second score of candidate 0"),
        ([ask(0), tell(0, 1.0, 0.0, 1.0)], "line 3: 3 values of `sums` for 2 items"),
        ([ask(0), tell(0, 1.0)], "line 3: 1 values of `sums` for 2 items"),
        ([ask(0), tell(0, 1.0, 0.0, task="french")], "line 3: unknown task `french` on the search split"),
        ([ask(0), RUN], "line 3: a second record of kind `run`"),
    ],
)
def test_an_inconsistent_record_is_reported_as_damage(records: list[Record], message: str) -> None:
    line, _, got = message.partition(": ")
    with pytest.raises(InputError, match="the journal is damaged") as caught:
        fold([RUN, *records])
    assert caught.value.where == line
    assert got in caught.value.got


def test_other_weights_of_the_same_recipe_are_noticed() -> None:
    history = fold([RUN, ask(0), tell(0, 1.0, 0.0, fingerprint="f")])
    assert history.other_weights(0, Score(status=Status.OK, fingerprint="f")) is None
    assert history.other_weights(0, Score(status=Status.FAILED)) is None
    why = history.other_weights(0, Score(status=Status.OK, fingerprint="g"))
    assert why
    assert "the weights of trial 0 had fingerprint f" in why


def test_a_trial_that_failed_is_measured_later() -> None:
    records: list[Record] = [RUN, ask(0), tell(0, status=Status.FAILED), ask(1), tell(1, 1.0, 0.0)]
    history = fold(records)
    assert [candidate.number for candidate in history.unmeasured] == [0]
    assert history.pending == []
    history = fold([*records, tell(0, 1.0, 1.0)])
    assert history.unmeasured == []
    assert [trial.number for trial in history.ok_trials] == [0, 1]
    with pytest.raises(InputError, match="the journal is damaged"):
        fold([*records, tell(0, 1.0, 1.0), tell(0, 1.0, 1.0)])


def test_objectives_of_tasks_where_less_is_better_stand_beside_others() -> None:
    """`worst` is the least of some and the most of others; a reader knows of no task which it is."""
    objectives = [{"worst": ["sums", "french"]}, {"worst": ["texts", "poems"]}]
    names = ("sums", "french", "texts", "poems")
    begun = replace(
        RUN,
        spec={"fitness": {"tasks": [{"name": name} for name in names], "objectives": objectives}},
        items={"search": dict.fromkeys(names, ("i",)), "select": {}, "report": {}},
    )
    tasks = dict(zip(names, ((0.25,), (0.5,), (1.5,), (2.5,)), strict=True))
    told = replace(tell(0, 0.5), tasks=tasks, items=4)
    assert fold([begun, ask(0), replace(told, objectives=(0.25, 2.5))]).trials[0].objectives == (0.25, 2.5)
    for wrong in ((0.25, 2.0), (0.25,), (0.4, 2.5)):
        with pytest.raises(InputError, match="but the tasks give"):
            fold([begun, ask(0), replace(told, objectives=wrong)])
