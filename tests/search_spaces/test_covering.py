"""A list of operators: each is asked in the first trials, whatever the optimizer, and the search starts at the best."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from coefficient_spaces import make_space
from pydantic import TypeAdapter

from crossbreed.errors import InputError
from crossbreed.optimizer import Optimizer, SearchInputs, build_optimizer, covering, replayed
from crossbreed.optimizer.build import AnyOptimizerConfig
from crossbreed.optimizer.covering import Covering, alternatives
from crossbreed.types import Outcome, Point, Status

KINDS = ("cma_es", "gp", "nsga2", "random")
OPERATORS = ["task_arithmetic", "ties", "sce"]
SPACE = make_space(operator=OPERATORS, groups={"layers": 2})


def optimizer(kind: str, *, seed: int = 0, start: Point | None = None, num_objectives: int = 1) -> Optimizer:
    config = TypeAdapter(AnyOptimizerConfig).validate_python({"kind": kind, "budget": {"trials": 30}})
    rng = np.random.default_rng(seed)
    return build_optimizer(
        config, SearchInputs(domain=SPACE.domain, num_objectives=num_objectives, start=start, rng=rng)
    )


def operator_of(point: Point) -> str:
    return SPACE.decode(point).rules[0].operator


def driven(searched: Optimizer, trials: int, best: str) -> Iterator[Point]:
    """Asks and tells; the operator `best` is worth the most."""
    for number in range(trials):
        point = searched.ask(number)
        assert isinstance(point, tuple)
        yield point
        searched.tell(outcome(number, point, best))


def outcome(number: int, point: Point, best: str) -> Outcome:
    value = (operator_of(point) == best) - sum(abs(x) for x in point[1:]) / 100
    return Outcome(number=number, status=Status.OK, values=(value,), items=(value,))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("start", [None, (0.5, *[0.25] * (SPACE.domain.dim - 1))])
def test_every_operator_is_asked_first(kind: str, seed: int, start: Point | None) -> None:
    asked = [*driven(optimizer(kind, seed=seed, start=start), 4, "ties")]
    assert [operator_of(point) for point in asked[:3]] == OPERATORS
    if start is not None:
        assert [point[1:] for point in asked[:3]] == [start[1:]] * 3


@pytest.mark.parametrize("kind", ["cma_es", "gp", "nsga2"])
@pytest.mark.parametrize("best", OPERATORS[1:])
def test_the_search_starts_at_the_best_of_them(kind: str, best: str) -> None:
    asked = [*driven(optimizer(kind, start=SPACE.encode(SPACE.examples[0])), 15, best)]
    chosen = [operator_of(point) for point in asked[3:]]
    assert chosen.count(best) > len(chosen) / 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_replay_goes_on_as_the_run_would_have(kind: str) -> None:
    asked = [*driven(optimizer(kind), 12, "ties")]
    again, resumed = optimizer(kind), list[Point]()
    for number, point in enumerate(asked[:8]):
        assert replayed(again, number, point) == point
        again.tell(outcome(number, point, "ties"))
    for number in range(8, 12):
        point = again.ask(number)
        assert isinstance(point, tuple)
        resumed.append(point)
        again.tell(outcome(number, point, "ties"))
    assert resumed == asked[8:]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", [None, SPACE.encode(SPACE.examples[0])])
def test_a_run_that_was_recorded_without_them_is_replayed_as_it_was(kind: str, start: Point | None) -> None:
    asked = [*driven(make_plain(kind, start), 10, "ties")]
    again = optimizer(kind, start=start)
    for number, point in enumerate(asked):
        assert replayed(again, number, point) == point
        again.tell(outcome(number, point, "ties"))


def make_plain(kind: str, start: Point | None) -> Optimizer:
    """The optimizer itself, as it searched such boxes before."""
    config = TypeAdapter(AnyOptimizerConfig).validate_python({"kind": kind, "budget": {"trials": 30}})
    domain = replace(SPACE.domain, choices=1)
    return build_optimizer(
        config, SearchInputs(domain=domain, num_objectives=1, start=start, rng=np.random.default_rng(0))
    )


def test_nothing_is_asked_while_they_are_out_and_failures_do_not_stop_it() -> None:
    searched = optimizer("cma_es")
    for number in range(3):
        assert searched.ask(number) is not None
    assert searched.ask(3) is None
    for number in range(3):
        searched.tell(Outcome(number=number, status=Status.FAILED, values=None))
    assert searched.ask(3) is not None


@pytest.mark.parametrize("kind", KINDS)
def test_an_alternative_that_failed_is_asked_again_and_may_be_the_start(kind: str) -> None:
    searched = optimizer(kind)
    asked = [searched.ask(number) for number in range(3)]
    for number, point in enumerate(asked):
        assert isinstance(point, tuple)
        lost = Outcome(number=number, status=Status.FAILED, values=None)
        searched.tell(lost if number == 1 else outcome(number, point, "ties"))
    again = searched.ask(3)
    assert again == asked[1]
    assert searched.ask(4) is None
    assert isinstance(again, tuple)
    searched.tell(outcome(3, again, "ties"))
    chosen = [operator_of(point) for number in range(4, 12) if isinstance(point := searched.ask(number), tuple)]
    assert kind == "random" or chosen.count("ties") > len(chosen) / 2


def test_one_that_always_fails_is_given_up() -> None:
    searched = optimizer("cma_es")
    asked = []
    for number in range(8):
        point = searched.ask(number)
        assert isinstance(point, tuple)
        asked.append(operator_of(point))
        is_lost = asked[-1] == "ties" and number < 5
        lost = Outcome(number=number, status=Status.FAILED, values=None)
        searched.tell(lost if is_lost else outcome(number, point, "sce"))
    assert asked[:5] == [*OPERATORS, "ties", "ties"]
    assert asked[5:].count("sce") >= 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("differing", [0, 1, 2])
def test_a_point_that_differs_does_not_make_a_run_one_of_before(kind: str, differing: int) -> None:
    again = optimizer(kind, start=SPACE.encode(SPACE.examples[0]))
    found = [*driven(optimizer(kind, start=SPACE.encode(SPACE.examples[0])), 3, "ties")]
    for number, point in enumerate(found):
        recorded = (*point[:-1], point[-1] + 0.01) if number == differing else point
        assert replayed(again, number, recorded) == point
        again.tell(outcome(number, recorded, "ties"))
    following = again.ask(3)
    assert isinstance(following, tuple)
    assert kind == "random" or operator_of(following) == "ties"


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_did_not_ask_again_is_replayed_as_it_was(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Outcome(number=1, status=Status.FAILED, values=None)
    asked = list[Point]()
    with monkeypatch.context() as patch:
        patch.setattr(covering, "_MOST_ASKS", 1)
        plain = optimizer(kind)
        for number in range(5):  # the last two are asked together
            point = plain.ask(number)
            assert isinstance(point, tuple)
            asked.append(point)
            if number < 3:
                plain.tell(lost if number == 1 else outcome(number, point, "sce"))
    again = optimizer(kind)
    for number, point in enumerate(asked):
        assert replayed(again, number, point) == point
        if number < 3:
            again.tell(lost if number == 1 else outcome(number, point, "sce"))
    assert again.ask(5) == plain.ask(5)


class Listening:
    """Asks some points, and keeps the numbers that it is told."""

    in_order = True

    def __init__(self, points: Sequence[Point]) -> None:
        self.points, self.told = iter(points), list[int]()

    def ask(self, number: int) -> Point:
        return next(self.points)

    def tell(self, outcome: Outcome) -> None:
        self.told.append(outcome.number)


def test_a_run_of_before_is_told_in_order() -> None:
    """Its first points may be the alternatives too; the numbers 15 and 16 stand in a set as 16, 15."""
    first, second, _ = alternatives(SPACE.domain, None)
    points, made = [first, second, first], list[Listening]()

    def make(inputs: SearchInputs) -> Listening:
        made.append(Listening(points))
        return made[-1]

    inputs = SearchInputs(domain=SPACE.domain, num_objectives=1, start=None, rng=np.random.default_rng(0))
    again = Covering(inputs, make)
    for number, point in enumerate(points, start=15):
        if number == 17:
            for told in (15, 16):
                again.tell(outcome(told, point, "ties"))
        assert replayed(again, number, point) == point
    again.tell(outcome(17, first, "ties"))
    assert [one.told for one in made if one.told] == [[15, 16, 17]]


def test_what_the_optimizer_refuses_is_refused_at_once() -> None:
    with pytest.raises(InputError, match="one objective only"):
        optimizer("cma_es", num_objectives=2)
    assert optimizer("nsga2", num_objectives=2) is not None
