"""M2N2 against the laws, against its recorded trajectory, and against a slow transcription of the paper's formulas."""

import json
from collections.abc import Collection
from dataclasses import replace

import make_golden
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from crossbreed.errors import InputError
from crossbreed.optimizer import BudgetConfig, CmaEsConfig, M2n2, M2n2Config, M2n2Options, SearchInputs, build_optimizer
from crossbreed.optimizer.m2n2 import EPSILON, SEED_RETRIES, attraction, competition_fitness
from crossbreed.testing.breeders import BreederConformance, MakeBreeder, World, breed, failed, make_inputs, ok
from crossbreed.testing.optimizers import make_inputs as make_box_inputs
from crossbreed.types import Birth, Cross, Genomes, Outcome, Seed, Status


class TestM2n2(BreederConformance):
    @pytest.fixture
    def make(self) -> MakeBreeder:
        return M2n2


class TestM2n2WithWarmup(BreederConformance):
    @pytest.fixture
    def make(self) -> MakeBreeder:
        return lambda inputs: M2n2(inputs, M2n2Options(archive=5, warmup=20, alpha=2.0))


class TestM2n2WithoutCrossover(BreederConformance):
    @pytest.fixture
    def make(self) -> MakeBreeder:
        return lambda inputs: M2n2(inputs, M2n2Options(crossover=False, warmup=20, mutation=0.01))

    @pytest.mark.parametrize("workers", [1, 4])
    def test_it_finds_what_no_seed_has(self, make: MakeBreeder, workers: int) -> None:
        """Or rather: it never does, for a child has one parent, whatever the warm-up says of two."""

        def evaluate(number: int, world: World) -> Outcome:
            assert sum(world.items(number)) == World.num_items / World.num_seeds
            return ok(number, world)

        births = breed(make(make_inputs()), evaluate, trials=200, workers=workers)
        assert {len(set(birth.parents)) for birth in births if isinstance(birth, Cross)} == {1}


class _Forgetful(M2n2):
    """Lets every genome be freed, and crosses them all the same."""

    @property
    def parents(self) -> Collection[int]:
        return ()


class _Impatient(M2n2):
    """Draws when it is asked in vain, of which a journal says nothing."""

    def ask(self, number: int) -> Birth | None:
        birth = super().ask(number)
        if birth is None:
            self._rng.random()
        return birth


class _OfAnySpace(M2n2):
    """Takes a box for genomes."""

    def __init__(self, inputs: SearchInputs) -> None:
        super().__init__(replace(inputs, domain=Genomes(num_seeds=3, num_chromosomes=1)))


class _Presumptuous(M2n2):
    """Takes what FAILED for measured and bad, and crosses it."""

    def tell(self, outcome: Outcome) -> None:
        bad = replace(outcome, status=Status.OK, values=(0.0,), items=(0.0,) * World.num_items)
        super().tell(outcome if outcome.status is Status.OK else bad)


@pytest.mark.parametrize(
    ("make", "law"),
    [
        (_Forgetful, "test_the_seed_decides"),
        (_Impatient, "test_an_ask_without_an_answer_leaves_no_trace"),
        (_OfAnySpace, "test_it_is_a_breeder_and_refuses_a_box"),
    ],
)
def test_a_breeder_that_breaks_a_law_is_caught(make: MakeBreeder, law: str) -> None:
    with pytest.raises((AssertionError, ExceptionGroup, pytest.fail.Exception)):
        getattr(BreederConformance(), law)(make=make)


def test_a_breeder_that_crosses_what_failed_is_caught() -> None:
    law = BreederConformance.test_only_what_was_measured_becomes_a_parent.hypothesis.inner_test  # no time to shrink
    with pytest.raises(AssertionError):
        law(BreederConformance(), make=_Presumptuous, statuses=[Status.FAILED, Status.OK] * 30, workers=1)


def test_the_recorded_births_are_followed() -> None:
    recorded = json.loads(make_golden.path_of("m2n2").read_text())
    found = json.loads(json.dumps(make_golden.births()))
    assert len(found) == len(recorded) == 60
    for born, expected in zip(found, recorded, strict=True):
        assert born.keys() == expected.keys()
        for key, value in born.items():
            assert np.allclose(value, expected[key], rtol=1e-12), "M2N2 asks other births: old runs cannot be resumed"


# The formulas of arXiv 2508.16204, item by item


RIGHT_OR_WRONG = arrays(
    np.float64, st.tuples(st.integers(2, 6), st.integers(1, 8)), elements=st.sampled_from([0.0, 1.0])
)
GRADED = arrays(np.float64, st.tuples(st.integers(2, 6), st.integers(1, 8)), elements=st.floats(0, 3, width=16))
SCORES = RIGHT_OR_WRONG | GRADED
WEIGHTS = st.floats(0, 5, width=16)


def slow_fitness(scores: np.ndarray, alpha: float, weights: np.ndarray) -> list[float]:
    num_members, num_items = scores.shape
    fitness = []
    for i in range(num_members):
        total = 0.0
        for j in range(num_items):
            capacity = max(scores[k][j] for k in range(num_members))
            z = sum(scores[k][j] for k in range(num_members))
            total += weights[j] * capacity * scores[i][j] / (z**alpha + EPSILON)
        fitness.append(total)
    return fitness


def slow_attraction(scores: np.ndarray, a: int, weights: np.ndarray) -> list[float]:
    num_members, num_items = scores.shape
    found = []
    for b in range(num_members):
        total = 0.0
        for j in range(num_items):
            capacity = max(scores[k][j] for k in range(num_members))
            z = sum(scores[k][j] for k in range(num_members))
            total += weights[j] * capacity / (z + EPSILON) * max(scores[b][j] - scores[a][j], 0.0)
        found.append(total)
    return found


ALPHAS = st.sampled_from([0.0, 0.5, 1.0, 2.0])


@given(scores=SCORES, alpha=ALPHAS, data=st.data())
def test_fitness_and_attraction_are_the_papers(scores: np.ndarray, alpha: float, data: st.DataObject) -> None:
    for weights in (np.ones(scores.shape[1]), data.draw(arrays(np.float64, scores.shape[1], elements=WEIGHTS))):
        found = competition_fitness(scores, alpha, weights)
        assert np.allclose(found, slow_fitness(scores, alpha, weights), rtol=1e-9, atol=1e-12)
        for a in range(len(scores)):
            found = attraction(scores, a, weights)
            assert np.allclose(found, slow_attraction(scores, a, weights), rtol=1e-9, atol=1e-12)


@given(scores=SCORES, alpha=ALPHAS, times=st.integers(2, 4))
def test_an_item_of_a_weight_is_so_many_items_whatever_alpha(scores: np.ndarray, alpha: float, times: int) -> None:
    weights = np.ones(scores.shape[1])
    weights[0] = times
    repeated = np.concatenate([*[scores[:, :1]] * (times - 1), scores], axis=1)
    assert np.allclose(competition_fitness(scores, alpha, weights), competition_fitness(repeated, alpha))
    assert np.allclose(attraction(scores, 0, weights), attraction(repeated, 0))


@given(scores=RIGHT_OR_WRONG)
def test_without_competition_fitness_is_the_number_right(scores: np.ndarray) -> None:
    assert np.allclose(competition_fitness(scores, 0.0), scores.sum(axis=1))


@given(scores=RIGHT_OR_WRONG)
def test_every_item_that_somebody_knows_is_shared_out_once(scores: np.ndarray) -> None:
    assert competition_fitness(scores, 1.0).sum() == pytest.approx(scores.any(axis=0).sum())


@given(scores=SCORES, lifted=st.floats(0.5, 10))
def test_only_what_is_better_than_the_archives_worst_counts_where_less_is_better(
    scores: np.ndarray, lifted: float
) -> None:
    negative = scores - scores.max() - lifted
    assert np.allclose(competition_fitness(negative, 1.0), competition_fitness(negative + 5 * negative.min(), 1.0))
    assert (competition_fitness(negative, 1.0) >= 0).all()


# What makes it M2N2


def told(optimizer: M2n2, items: list[tuple[float, ...]]) -> M2n2:
    for number, scores in enumerate(items):
        assert optimizer.ask(number) is not None
        optimizer.tell(Outcome(number=number, status=Status.OK, values=(float(np.mean(scores)),), items=scores))
    return optimizer


def crosses(optimizer: M2n2, count: int, first: int = 100) -> list[Cross]:
    births = [optimizer.ask(first + i) for i in range(count)]
    assert all(isinstance(birth, Cross) for birth in births)
    return births


def test_seeds_come_first_and_a_parents_mate_is_right_where_it_is_wrong() -> None:
    optimizer = told(M2n2(make_inputs()), [(1.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)])
    pairs = {birth.parents for birth in crosses(optimizer, 300)}
    assert pairs == {(0, 2), (1, 2), (1, 0), (2, 0), (2, 1)}, "nothing that 1 knows is news to 0"


def test_parents_are_drawn_in_proportion_to_fitness() -> None:
    optimizer = told(M2n2(make_inputs(num_seeds=2)), [(1.0, 1.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0)])
    initial_candidates = [birth.parents[0] for birth in crosses(optimizer, 4000)]
    assert np.mean(initial_candidates) == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0])
def test_a_weight_counts_once_whatever_alpha(alpha: float) -> None:
    """Two specialists, each alone with its items: nobody competes, and fitness is the weighted number of them."""
    inputs = replace(make_inputs(num_seeds=2), item_weights=(1.5, 1.5, 0.5, 0.5))
    optimizer = told(M2n2(inputs, M2n2Options(alpha=alpha)), [(1.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 1.0)])
    initial_candidates = [birth.parents[0] for birth in crosses(optimizer, 4000)]
    assert np.mean(initial_candidates) == pytest.approx(0.25, abs=0.03)


def test_the_archive_and_attraction_know_weights_too() -> None:
    items = [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]
    heavy = replace(make_inputs(), item_weights=(2.5, 0.4, 0.1))
    assert sorted(told(M2n2(heavy, M2n2Options(archive=2)), items).parents) == [0, 1]
    mates = [birth.parents for birth in crosses(told(M2n2(heavy), items), 4000)]
    assert np.mean([b == 1 for a, b in mates if a == 0]) == pytest.approx(0.8, abs=0.03)


def test_where_nobody_attracts_mates_are_drawn_by_fitness() -> None:
    optimizer = told(M2n2(make_inputs()), [(1.0, 1.0), (1.0, 1.0), (1.0, 1.0)])
    assert {birth.parents for birth in crosses(optimizer, 200)} == {
        (a, b) for a in range(3) for b in range(3) if a != b
    }


def test_a_specialist_outlives_better_generalists_unless_alpha_is_0() -> None:
    items = [(1.0,) * 6 + (0.0,) * 2, (0.0,) * 6 + (1.0,) * 2, *[(1.0,) * 6 + (0.0,) * 2] * 3]
    for alpha, survives in ((1.0, True), (0.0, False)):
        optimizer = M2n2(make_inputs(num_seeds=5), M2n2Options(archive=4, alpha=alpha))
        assert (1 in told(optimizer, items).parents) is survives


def test_the_archive_is_never_larger_than_said_and_drops_the_least_fit() -> None:
    optimizer = told(
        M2n2(make_inputs(num_seeds=4), M2n2Options(archive=3)),
        [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.0,) * 3],
    )
    assert sorted(optimizer.parents) == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "tuned_scalar", "scale"), [({}, 1.5, 1.5), ({}, None, 1.0), ({"seed_scale": 1.0}, 1.5, 1.0)]
)
def test_seeds_are_as_large_as_the_best_tuned_scalar_says(
    options: dict[str, float], tuned_scalar: float | None, scale: float
) -> None:
    optimizer = M2n2(replace(make_inputs(), tuned_scalar=tuned_scalar), M2n2Options(**options))
    assert [optimizer.ask(i) for i in range(3)] == [Seed(index=i, scale=scale) for i in range(3)]


def test_the_old_name_of_seed_scale_is_read_and_the_new_one_named() -> None:
    with pytest.warns(FutureWarning, match="`vertex_scale` is now called `seed_scale`"):
        read = M2n2Options.model_validate({"vertex_scale": 1.5})
    assert read == M2n2Options(seed_scale=1.5)
    assert M2n2Options.model_validate({"vertex_scale": None}) == M2n2Options(), "as written with all defaults"
    with pytest.raises(ValidationError, match="`vertex_scale` is the old name of `seed_scale`"):
        M2n2Options.model_validate({"vertex_scale": 1.5, "seed_scale": 1.5})


def test_warmup_crosses_seeds_whatever_their_fitness() -> None:
    optimizer = told(M2n2(make_inputs(), M2n2Options(warmup=30)), [(1.0, 1.0), (0.0, 0.0), (0.0, 0.0)])
    warm = [birth.parents for birth in crosses(optimizer, 30)]
    assert set(warm) == {(a, b) for a in range(3) for b in range(3) if a != b}
    assert {birth.parents[0] for birth in crosses(optimizer, 50)} == {0}


def test_seeds_that_the_archive_dropped_are_crossed_until_the_warmup_ends() -> None:
    seeds, child = [(1.0, 0.0), (0.0, 0.0), (0.0, 0.0)], (1.0, 1.0)
    optimizer = told(M2n2(make_inputs(), M2n2Options(archive=2, warmup=30)), seeds)
    warm = []
    for number in range(3, 33):
        assert {0, 1, 2} <= set(optimizer.parents)
        [birth] = crosses(optimizer, 1, first=number)
        warm.append(birth.parents)
        optimizer.tell(Outcome(number=number, status=Status.OK, values=(1.0,), items=child))
    assert set(warm) == {(a, b) for a in range(3) for b in range(3) if a != b}
    [birth] = crosses(optimizer, 1, first=33)
    assert len(optimizer.parents) == 2
    assert min(*birth.parents, *optimizer.parents) > 2


def test_the_switches_turn_off_one_idea_each() -> None:
    items = [(1.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)]
    plain, *others = (
        crosses(told(M2n2(make_inputs(), M2n2Options(**options)), items), 200)
        for options in ({}, {"crossover": False}, {"attraction": False}, {"split": False}, {"mutation": 0.01})
    )
    alone, unattracted, whole, mutated = others
    assert all(birth.parents[0] == birth.parents[1] for birth in alone)
    assert (0, 1) in {birth.parents for birth in unattracted}
    assert all(birth.splits == (0.0,) for birth in whole)
    assert len({birth.splits for birth in plain}) == 200
    assert {birth.noise for birth in plain} == {0.0}
    assert {birth.noise for birth in mutated} == {0.01}


@pytest.mark.parametrize(
    ("num_failed", "expected"), [(0, "sssccccccc"), (1, "ssscsccccc"), (2, "sssscscccc"), (5, "ssssssscsc")]
)
def test_a_seed_that_failed_is_asked_again_between_children(num_failed: int, expected: str) -> None:
    """And at once where there is nothing to cross."""

    def evaluate(number: int, world: World) -> Outcome:
        return failed(number) if number < num_failed else ok(number, world)

    births = breed(M2n2(make_inputs()), evaluate, trials=10)
    assert "".join("s" if isinstance(birth, Seed) else "c" for birth in births) == expected


def test_a_seed_that_never_answers_does_not_take_the_budget() -> None:
    optimizer = M2n2(make_inputs())
    asked = []
    for number in range(50):
        asked.append(optimizer.ask(number))
        outcome = Outcome(number=number, status=Status.OK, values=(0.5,), items=(0.0, 1.0))
        optimizer.tell(failed(number) if asked[-1] == Seed(index=2) else outcome)
    assert asked.count(Seed(index=2)) == 1 + SEED_RETRIES
    assert sum(isinstance(birth, Cross) for birth in asked) == 50 - 3 - SEED_RETRIES


@pytest.mark.parametrize("warmup", [0, 2])
def test_without_crossover_one_seed_is_enough(warmup: int) -> None:
    options = M2n2Options(crossover=False, warmup=warmup, mutation=0.01)
    optimizer = told(M2n2(make_inputs(num_seeds=1), options), [(1.0, 0.0)])
    assert {birth.parents for birth in crosses(optimizer, 10)} == {(0, 0)}


def test_one_seed_is_refused_and_so_is_another_kind_of_space() -> None:
    with pytest.raises(InputError, match="crosses at least two"):
        M2n2(make_inputs(num_seeds=1))
    budget = BudgetConfig(trials=3)
    with pytest.raises(InputError, match="searches a box: cat_cma, cma_es"):
        build_optimizer(M2n2Config(budget=budget), make_box_inputs())
    with pytest.raises(InputError, match="searches genomes: m2n2"):
        build_optimizer(CmaEsConfig(budget=budget), make_inputs())
    assert isinstance(build_optimizer(M2n2Config(budget=budget), make_inputs()), M2n2)


def test_members_that_break_constraints_leave_first_and_are_mates_alone() -> None:
    optimizer, world = M2n2(make_inputs(), M2n2Options(archive=World.num_seeds)), World()
    for number in range(World.num_seeds):
        birth = optimizer.ask(number)
        assert isinstance(birth, Seed)
        world.create(number, birth)
        optimizer.tell(replace(ok(number, world), excesses=(0.1 * number if number else -1.0,)))
    births = [optimizer.ask(number) for number in range(World.num_seeds, World.num_seeds + 20)]
    assert {birth.parents[0] for birth in births if isinstance(birth, Cross)} == {0}
    assert len({birth.parents[1] for birth in births if isinstance(birth, Cross)}) > 1
    child = World.num_seeds
    world.create(child, births[0])
    optimizer.tell(replace(ok(child, world), excesses=(-1.0,)))
    assert {*optimizer.parents} == {*range(World.num_seeds - 1), child}  # the last seed was farthest off
