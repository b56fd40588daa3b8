"""Conformance tests of optimizers that search genomes, and a small world in which genomes can be crossed.

Subclass `BreederConformance` in a test module and override its one fixture, as with `OptimizerConformance`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossbreed.errors import InputError
from crossbreed.optimizer import Breeder, SearchInputs, replayed
from crossbreed.search_spaces import VectorSpace
from crossbreed.testing.global_random import check_it_is_left_alone
from crossbreed.types import Birth, Box, Cross, Genomes, Outcome, Seed, Status

MakeBreeder: TypeAlias = Callable[[SearchInputs], Breeder]
Evaluate: TypeAlias = Callable[[int, "World"], Outcome]


class World:
    """Holds genomes of 24 numbers; item j is right where number j is near 1. Three seeds solve eight items each.

    The best merges take each stretch whole, from the seed that solves it: two splits find them.
    """

    num_items = 24
    num_seeds = 3

    def __init__(self, seed: int = 7) -> None:
        knows = np.repeat(np.eye(self.num_seeds), self.num_items // self.num_seeds, axis=1)
        self._decoder = VectorSpace(list(knows)).decoder(seed=seed)

    def create(self, number: int, birth: Birth) -> None:
        """Makes the genome of a candidate; its parents must not have been freed."""
        self._decoder.create(number, birth)

    def retain(self, numbers: set[int]) -> None:
        """Frees all other genomes, as a run does."""
        self._decoder.retain(numbers)

    def items(self, number: int) -> tuple[float, ...]:
        """Returns the scores of a candidate: right or wrong."""
        return tuple((np.abs(self._decoder.genome(number) - 1) < 0.3).astype(float).tolist())


def make_inputs(*, num_seeds: int = World.num_seeds, num_chromosomes: int = 1, seed: int = 7) -> SearchInputs:
    """Returns the inputs of a search over a world's genomes."""
    return SearchInputs(
        domain=Genomes(num_seeds=num_seeds, num_chromosomes=num_chromosomes),
        num_objectives=1,
        start=None,
        rng=np.random.default_rng(seed),
    )


def ok(number: int, world: World) -> Outcome:
    """Returns the outcome of an evaluation that went well."""
    items = world.items(number)
    return Outcome(number=number, status=Status.OK, values=(float(np.mean(items)),), items=items)


def failed(number: int) -> Outcome:
    """Returns the outcome of a candidate that could not be measured."""
    return Outcome(number=number, status=Status.FAILED, values=None)


def ask_birth(breeder: Breeder, number: int) -> Birth | None:
    """Returns what the breeder asks, which must be a birth."""
    proposal = breeder.ask(number)
    assert not isinstance(proposal, tuple), "genomes are searched by births"
    return proposal


def breed(
    breeder: Breeder,
    evaluate: Evaluate = ok,
    *,
    trials: int,
    workers: int = 1,
    meanwhile: Callable[[], None] = lambda: None,
) -> list[Birth]:
    """Runs a search as a driver with `workers` does and returns the births in the order of the asks.

    Results arrive in a scrambled but fixed order. Genomes that can no longer be parents are freed, so that a birth of
    such parents fails. Ends early when the breeder has nothing to ask and no result is pending.
    """
    scrambled, world = np.random.default_rng(1), World()
    births: list[Birth] = []
    busy: list[int] = []
    while len(births) < trials or busy:
        meanwhile()
        birth = ask_birth(breeder, len(births)) if len(births) < trials and len(busy) < workers else None
        if birth is not None:
            world.create(len(births), birth)
            busy.append(len(births))
            births.append(birth)
            continue
        if not busy:
            break
        number = busy.pop(int(scrambled.integers(len(busy))))
        breeder.tell(evaluate(number, world))
        world.retain({*busy, *breeder.parents})
    return births


class BreederConformance:
    """Tests an optimizer over genomes; override `make`."""

    @pytest.fixture
    def make(self) -> MakeBreeder:
        """Override: returns what builds the optimizer."""
        raise NotImplementedError

    def test_it_is_a_breeder_and_refuses_a_box(self, make: MakeBreeder) -> None:
        """Lists the candidates that it may cross; `SearchInputs.genomes` refuses a box."""
        assert isinstance(make(make_inputs()), Breeder)
        with pytest.raises(InputError):
            make(replace(make_inputs(), domain=Box(low=(0.0,), high=(1.0,))))

    def test_the_seed_decides(self, make: MakeBreeder) -> None:
        """Same generator, same births; another generator, others."""
        births = breed(make(make_inputs()), trials=80)
        assert breed(make(make_inputs()), trials=80) == births
        assert breed(make(make_inputs(seed=8)), trials=80) != births

    @pytest.mark.parametrize("workers", [1, 4])
    @pytest.mark.parametrize("told", [1, 2, 17, 43])
    @pytest.mark.parametrize("failing", [0, 3, 7])
    def test_replaying_the_journal_brings_it_back(
        self, make: MakeBreeder, told: int, workers: int, failing: int
    ) -> None:
        """Repeating the recorded calls gives the same births.

        Results arrive out of order, the first few FAILED, some are pending. The journal has no ask that returned None.
        """
        first, world = make(make_inputs()), World()
        journal: list[Birth | Outcome] = []
        busy: list[int] = []
        number = 0
        while sum(isinstance(event, Outcome) for event in journal) < told:
            if len(busy) < workers and (birth := ask_birth(first, number)) is not None:
                world.create(number, birth)
                journal.append(birth)
                busy.append(number)
                number += 1
            else:
                outcome = failed(busy[-1]) if busy[-1] < failing else ok(busy[-1], world)
                busy.pop()
                journal.append(outcome)
                first.tell(outcome)
        again, asked = make(make_inputs()), 0
        for event in journal:
            if isinstance(event, Outcome):
                again.tell(event)
            else:
                assert replayed(again, asked, event) == event
                asked += 1
        assert list(again.parents) == list(first.parents)
        for later in range(number, number + 30):
            birth = ask_birth(first, later)
            assert again.ask(later) == birth
            if birth is not None:
                world.create(later, birth)
                for breeder in (first, again):
                    breeder.tell(ok(later, world))

    def test_what_was_asked_was_asked(self, make: MakeBreeder) -> None:
        """A journal from where chance or rounding fell out otherwise is taken as it is, and gone on with."""
        world, recorded = World(), breed(make(make_inputs(seed=8)), trials=40)
        breeder = make(make_inputs())
        for number, birth in enumerate(recorded):
            assert replayed(breeder, number, birth) is not None
            world.create(number, birth)
            breeder.tell(failed(number) if number == 1 else ok(number, world))
        later = [ask_birth(breeder, number) for number in range(40, 60)]
        seeds = {birth.index for birth in recorded if isinstance(birth, Seed)}
        assert all(birth is not None for birth in later)
        assert {birth.index for birth in later if isinstance(birth, Seed)} <= {1, *range(World.num_seeds)} - seeds | {1}

    def test_an_ask_without_an_answer_leaves_no_trace(self, make: MakeBreeder) -> None:
        """Drivers may ask any number of times while all seeds are pending; journals do not record how often."""
        (asked_once, asked_often), world = (make(make_inputs()), make(make_inputs())), World()
        for number in range(World.num_seeds):
            birth = ask_birth(asked_once, number)
            assert birth is not None
            assert asked_often.ask(number) == birth
            world.create(number, birth)
        assert asked_often.ask(World.num_seeds) is None
        for outcome in (ok(0, world), ok(1, world), failed(2)):
            asked_once.tell(outcome)
            asked_often.tell(outcome)
        later = range(World.num_seeds, 20)
        assert [asked_often.ask(number) for number in later] == [asked_once.ask(number) for number in later]

    @settings(
        max_examples=25,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    @given(statuses=st.lists(st.sampled_from(Status), min_size=60, max_size=60), workers=st.integers(1, 9))
    def test_only_what_was_measured_becomes_a_parent(
        self, make: MakeBreeder, statuses: list[Status], workers: int
    ) -> None:
        """Continues after late, FAILED, INVALID and STOPPED outcomes, and crosses only candidates that were OK."""

        def evaluate(number: int, world: World) -> Outcome:
            if statuses[number] is Status.OK:
                return ok(number, world)
            return Outcome(number=number, status=statuses[number], values=None)

        breeder = make(make_inputs())
        births = breed(breeder, evaluate, trials=60, workers=workers)
        parents = {parent for birth in births if isinstance(birth, Cross) for parent in birth.parents}
        assert all(statuses[number] is Status.OK for number in parents.union(breeder.parents))
        assert all(set(birth.parents) <= set(range(n)) for n, birth in enumerate(births) if isinstance(birth, Cross))

    def test_it_goes_on_asking_while_nothing_can_be_measured(self, make: MakeBreeder) -> None:
        """Asks for the seeds again when every evaluation FAILED: the run decides when to stop."""
        breeder = make(make_inputs())
        births = breed(breeder, lambda number, _: failed(number), trials=30)
        assert len(births) == 30
        assert all(isinstance(birth, Seed) for birth in births)

    @pytest.mark.parametrize("workers", [1, 4])
    def test_a_seed_that_failed_is_not_lost(self, make: MakeBreeder, workers: int) -> None:
        """Measures every seed after the first evaluations FAILED, though two seeds suffice to continue."""

        def evaluate(number: int, world: World) -> Outcome:
            return failed(number) if number < World.num_seeds else ok(number, world)

        measured = breed(make(make_inputs()), evaluate, trials=40, workers=workers)[World.num_seeds :]
        assert {birth.index for birth in measured if isinstance(birth, Seed)} == set(range(World.num_seeds))

    def test_it_ends_where_nothing_can_be_crossed(self, make: MakeBreeder) -> None:
        """Stops asking, without an exception, when every seed is INVALID."""
        breeder = make(make_inputs())
        births = breed(breeder, lambda number, _: Outcome(number=number, status=Status.INVALID, values=None), trials=30)
        assert len(births) == World.num_seeds

    @pytest.mark.parametrize("broken", [np.inf, -np.inf, np.nan])
    def test_undefined_items_are_no_skill(self, make: MakeBreeder, broken: float) -> None:
        """Takes no parent with undefined items: the perplexity of a broken model is infinite, its status OK."""

        def evaluate(number: int, world: World) -> Outcome:
            if number % 3 != 2:
                return ok(number, world)
            items = (*world.items(number)[1:], broken)
            return Outcome(number=number, status=Status.OK, values=(0.5,), items=items)

        breeder = make(make_inputs())
        breed(breeder, evaluate, trials=60)
        assert breeder.parents
        assert all(number % 3 != 2 for number in breeder.parents)

    def test_a_flat_landscape_does_not_stop_it(self, make: MakeBreeder) -> None:
        """Keeps asking for different births when all scores are equal."""
        items = (0.0,) * World.num_items
        births = breed(
            make(make_inputs()),
            lambda number, _: Outcome(number=number, status=Status.OK, values=(0.0,), items=items),
            trials=100,
        )
        assert len(set(births)) > 90

    @pytest.mark.parametrize("num_chromosomes", [1, 3])
    def test_births_are_what_a_space_can_carry_out(self, make: MakeBreeder, num_chromosomes: int) -> None:
        """Names existing seeds; gives one split and one weight in [0, 1) for each chromosome, as plain floats."""
        breeder, items = make(make_inputs(num_chromosomes=num_chromosomes)), np.random.default_rng(2).random((60, 9))
        for number in range(60):
            birth = ask_birth(breeder, number)
            assert birth is not None
            if isinstance(birth, Cross):
                assert len(birth.splits) == len(birth.weights) == num_chromosomes
                assert all(type(x) is float and 0 <= x < 1 for x in (*birth.splits, *birth.weights))
                assert set(birth.parents) <= set(breeder.parents)
            else:
                assert 0 <= birth.index < World.num_seeds
            scores = tuple(items[number].tolist())
            breeder.tell(Outcome(number=number, status=Status.OK, values=(0.5,), items=scores))

    def test_global_random_state_is_left_alone(self, make: MakeBreeder) -> None:
        """Neither advances nor reads the global generators."""
        check_it_is_left_alone(lambda meanwhile: breed(make(make_inputs()), trials=60, meanwhile=meanwhile))

    @pytest.mark.parametrize("workers", [1, 4])
    def test_it_finds_what_no_seed_has(self, make: MakeBreeder, workers: int) -> None:
        """Solves at least 22 of 24 items with one worker or several; each seed solves 8, merges without splits 16."""
        best = 0.0

        def evaluate(number: int, world: World) -> Outcome:
            nonlocal best
            best = max(best, float(np.mean(world.items(number))))
            return ok(number, world)

        breed(make(make_inputs()), evaluate, trials=600, workers=workers)
        assert best > 0.9
