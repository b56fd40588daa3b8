from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import pytest

from crossbreed.errors import CrossbreedError, InputError
from crossbreed.optimizer import BudgetConfig, CmaEsConfig, Optimizer, SearchInputs, build_optimizer
from crossbreed.randomness import spawn
from crossbreed.runs.search.asking import Search
from crossbreed.runs.search.proposer import Proposer
from crossbreed.search_spaces import CoefficientsConfig, SearchSpace, SpaceInputs, VectorSpace, build_space
from crossbreed.sources.structure import Structure, TensorInfo
from crossbreed.types import (
    Birth,
    Box,
    Candidate,
    Cross,
    Outcome,
    Point,
    ProposedBy,
    Recipe,
    Rule,
    Seed,
    Status,
)

NAMES = [f"model.layers.{i}.{m}.weight" for i in range(2) for m in ("self_attn.q_proj", "mlp.up_proj")]
STRUCTURE = Structure(
    tensors={name: TensorInfo(shape=(4, 4), dtype="bfloat16") for name in NAMES},
    touched={"a": frozenset(NAMES), "b": frozenset(NAMES)},
    hashes={"base": "0", "a": "1", "b": "2"},
    tied=True,
)


@pytest.fixture
def space() -> SearchSpace:
    return build_space(CoefficientsConfig(), SpaceInputs(structure=STRUCTURE, dtype="bfloat16"))


def proposer(
    space: SearchSpace,
    starts: list[Point | None] | None = None,
    origins: tuple[str, ...] = ("baseline:uniform", "baseline:tuned_scalar:2"),
) -> Proposer:
    def make(space: SearchSpace, start: Point | None, tuned_scalar: float | None) -> Optimizer:
        if starts is not None:
            starts.append(start)
        inputs = SearchInputs(domain=space.domain, num_objectives=1, start=start, rng=spawn(1, "optimizer"))
        return build_optimizer(CmaEsConfig(kind="cma_es", budget=BudgetConfig(trials=9)), inputs)

    recipes = [uniform(0.25 * (number + 1)) for number in range(len(origins))]
    initial_candidates = [(ProposedBy.parse(text), recipe) for text, recipe in zip(origins, recipes, strict=True)]
    return Proposer(seed=1, initial_candidates=initial_candidates, searches=[searching(space, make, "cma_es")])


def searching(space: SearchSpace, make: Callable[..., Optimizer], optimizer: str, number: int = 0) -> Search:
    return Search(optimizer=optimizer, space_around=lambda recipe: space, make_optimizer=make, number=number)


def uniform(weight: float) -> Recipe:
    rule = Rule(match=".*", operator="task_arithmetic", params={"weight": {"a": weight, "b": weight}})
    return Recipe(base="base", sources=STRUCTURE.hashes, rules=(rule,))


def outcome(number: int) -> Outcome:
    return Outcome(number=number, status=Status.OK, values=(float(number % 5),))


def asked(proposer: Proposer) -> Iterator[Candidate]:
    while candidate := proposer.propose():
        yield candidate


def test_the_optimizer_waits_for_the_firsts_and_starts_at_the_best(space: SearchSpace) -> None:
    starts: list[Point | None] = []
    proposing = proposer(space, starts)
    assert [str(c.proposed_by) for c in asked(proposing)] == ["baseline:uniform", "baseline:tuned_scalar:2"]
    proposing.tell(outcome(0))
    assert proposing.propose() is None
    proposing.tell(outcome(1))
    bred = proposing.propose()
    assert bred is not None
    assert bred.number == 2
    assert bred.proposed_by == ProposedBy(kind="optimizer", name="cma_es")
    assert starts == [space.encode(uniform(0.5))]


def test_a_lone_expert_starts_no_search_however_good(space: SearchSpace) -> None:
    starts: list[Point | None] = []
    proposing = proposer(space, starts, origins=("baseline:expert:a", "baseline:uniform"))
    list(asked(proposing))
    for number, value in ((0, 0.9), (1, 0.1)):
        proposing.tell(Outcome(number=number, status=Status.OK, values=(value,)))
    proposing.propose()
    assert starts == [space.encode(uniform(0.5))]


@pytest.mark.parametrize(("excesses", "weight"), [((0.0, -1.0), 0.5), ((0.1, 0.0), 0.5), ((0.1, 0.2), 0.25)])
def test_what_keeps_the_constraints_starts_a_search_before_what_does_not(
    excesses: tuple[float, float], weight: float, space: SearchSpace
) -> None:
    starts: list[Point | None] = []
    proposing = proposer(space, starts)
    for candidate, value, excess in zip(list(asked(proposing)), (0.1, 0.9), excesses, strict=True):
        proposing.tell(Outcome(number=candidate.number, status=Status.OK, values=(value,), excesses=(excess,)))
    proposing.propose()
    assert starts == [space.encode(uniform(weight))]


def test_a_merge_far_off_the_constraints_sets_no_scale(space: SearchSpace) -> None:
    origins = ("baseline:uniform", *(f"baseline:tuned_scalar:{scalar}" for scalar in (0.5, 1.5, 2)))
    proposing = proposer(space, origins=origins)
    found = (((0.9, -20.0), -0.1), ((0.2, -10.0), -0.1), ((0.6, -14.0), -0.1), ((1.0, -1e4), 5.0))
    for candidate, (values, excess) in zip(list(asked(proposing)), found, strict=True):
        proposing.tell(Outcome(number=candidate.number, status=Status.OK, values=values, excesses=(excess,)))
    assert proposing._ranked() == [2, 0, 1, 3]


@pytest.mark.parametrize(
    ("origins", "weight"),
    [
        (("baseline:uniform", "baseline:tuned_scalar:3"), 0.25),
        (("baseline:uniform", "warm_start:0"), 0.5),
        (("warm_start:0", "warm_start:1"), 0.25),
    ],
)
def test_of_equals_a_warm_start_comes_first_and_then_the_plainest_baseline(
    origins: tuple[str, str], weight: float, space: SearchSpace
) -> None:
    starts: list[Point | None] = []
    proposing = proposer(space, starts, origins=origins)
    for candidate in list(asked(proposing)):
        proposing.tell(Outcome(number=candidate.number, status=Status.OK, values=(0.5,)))
    proposing.propose()
    assert starts == [space.encode(uniform(weight))]


def test_the_order_of_results_changes_nothing_for_an_optimizer_told_in_order(space: SearchSpace) -> None:
    one, other = proposer(space), proposer(space)
    for proposing, order in ((one, 1), (other, -1)):
        for _ in range(3):
            for candidate in list(asked(proposing))[::order]:
                proposing.tell(outcome(candidate.number))
    following = one.propose()
    assert following == other.propose()
    assert following is not None
    assert following.number > 10


class Couples:
    """Two seeds, then their children: the smallest breeder that is told in order."""

    in_order: ClassVar[bool] = True

    def __init__(self) -> None:
        self.parents: tuple[int, ...] = ()

    def ask(self, number: int) -> Birth | None:
        if number < 2:
            return Seed(index=number)
        return Cross(parents=self.parents, splits=(0.5,), weights=(0.5,)) if len(self.parents) == 2 else None

    def tell(self, outcome: Outcome) -> None:
        assert outcome.number == len(self.parents)
        self.parents += (outcome.number,)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_genomes_whose_outcome_waits_for_earlier_ones_are_kept(order: tuple[int, int]) -> None:
    search = searching(VectorSpace([np.zeros(2), np.ones(2)]), lambda *_: Couples(), "couples")
    proposing = Proposer(seed=1, initial_candidates=[], searches=[search])
    assert [candidate.number for candidate in asked(proposing)] == [0, 1]
    for number in order:
        proposing.tell(outcome(number))
    child = proposing.propose()
    assert child is not None
    assert child.parents == (0, 1)


class Asking:
    """Asks what it is given."""

    in_order: ClassVar[bool] = True

    def __init__(self, proposal: Any) -> None:
        self._proposal = proposal

    def ask(self, number: int) -> Any:
        return self._proposal

    def tell(self, outcome: Outcome) -> None:
        raise NotImplementedError


def ask_for(proposal: Any, space: SearchSpace) -> Candidate | None:
    search = searching(space, lambda *_: Asking(proposal), "mine")
    return Proposer(seed=1, initial_candidates=[], searches=[search]).propose()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda low, high: low[:-1], ValueError, r"a point of \d+ coordinates, in a box of \d+"),
        (lambda low, high: np.array(low), TypeError, "asked ndarray array.*, not a tuple of floats"),
        (lambda low, high: (*low[:1], high[1] + 1e-9, *low[2:]), ValueError, r"coordinate 1 is \S+, not from \S+ to"),
        (lambda low, high: (low[0] - 1, *low[1:]), ValueError, "coordinate 0 is"),
        (lambda low, high: (float("nan"), *low[1:]), ValueError, "coordinate 0 is nan"),
        (lambda low, high: (int(high[0]), *low[1:]), TypeError, "coordinate 0 is int 1, not a float"),
        (lambda low, high: (np.float32(0.5), *low[1:]), TypeError, "coordinate 0 is float32 .*, not a float"),
        (lambda low, high: Seed(index=0), TypeError, "asked Seed .*, not a tuple of floats"),
    ],
)
def test_a_point_that_is_not_in_the_box_is_a_bug_of_the_optimizer(
    change: Callable[..., Any], error: type[Exception], message: str, space: SearchSpace
) -> None:
    assert isinstance(space.domain, Box)
    with pytest.raises(error, match=f"optimizer `mine`, candidate 0: .*{message}") as caught:
        ask_for(change(space.domain.low, space.domain.high), space)
    assert not isinstance(caught.value, CrossbreedError)
    for corner in (space.domain.low, space.domain.high):
        assert ask_for(corner, space)


def test_a_point_in_a_space_of_genomes_is_a_bug_of_the_optimizer() -> None:
    with pytest.raises(TypeError, match=r"optimizer `mine`, candidate 0: asked tuple .*, not a Seed or a Cross"):
        ask_for((0.5,), VectorSpace([np.zeros(2), np.ones(2)]))


def test_a_journal_of_another_run_is_refused(space: SearchSpace) -> None:
    proposing = proposer(space)
    with pytest.raises(InputError, match="trial 0 of the journal"):
        proposing.replay(Candidate(number=0, recipe=uniform(0.75), proposed_by=ProposedBy(kind="uniform")))
