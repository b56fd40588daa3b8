"""M2N2 against the laws, against its recorded trajectory, and against a slow transcription of the paper's formulas."""

import json
from dataclasses import replace

import make_golden
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from crossbreed.errors import InputError
from crossbreed.optimizer import BudgetConfig, CmaEsConfig, M2n2, M2n2Config, M2n2Options, build_optimizer
from crossbreed.optimizer.m2n2 import EPSILON, attraction, competition_fitness
from crossbreed.testing.breeders import BreederConformance, MakeBreeder, World, breed, make_setting, ok
from crossbreed.testing.optimizers import make_setting as make_box_setting
from crossbreed.types import Cross, Outcome, Seed, Status


class TestM2n2(BreederConformance):
    @pytest.fixture
    def make(self) -> MakeBreeder:
        return M2n2


class TestM2n2WithWarmup(BreederConformance):
    @pytest.fixture
    def make(self) -> MakeBreeder:
        return lambda setting: M2n2(setting, M2n2Options(archive=5, warmup=20, alpha=2.0))


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


def slow_fitness(scores: np.ndarray, alpha: float) -> list[float]:
    num_members, num_items = scores.shape
    fitness = []
    for i in range(num_members):
        total = 0.0
        for j in range(num_items):
            capacity = max(scores[k][j] for k in range(num_members))
            z = sum(scores[k][j] for k in range(num_members))
            total += capacity * scores[i][j] / (z**alpha + EPSILON)
        fitness.append(total)
    return fitness


def slow_attraction(scores: np.ndarray, a: int) -> list[float]:
    num_members, num_items = scores.shape
    found = []
    for b in range(num_members):
        total = 0.0
        for j in range(num_items):
            capacity = max(scores[k][j] for k in range(num_members))
            z = sum(scores[k][j] for k in range(num_members))
            total += capacity / (z + EPSILON) * max(scores[b][j] - scores[a][j], 0.0)
        found.append(total)
    return found


@given(scores=SCORES, alpha=st.sampled_from([0.0, 0.5, 1.0, 2.0]))
def test_fitness_and_attraction_are_the_papers(scores: np.ndarray, alpha: float) -> None:
    assert np.allclose(competition_fitness(scores, alpha), slow_fitness(scores, alpha), rtol=1e-9, atol=1e-12)
    for a in range(len(scores)):
        assert np.allclose(attraction(scores, a), slow_attraction(scores, a), rtol=1e-9, atol=1e-12)


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
    optimizer = told(M2n2(make_setting()), [(1.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)])
    pairs = {birth.parents for birth in crosses(optimizer, 300)}
    assert pairs == {(0, 2), (1, 2), (1, 0), (2, 0), (2, 1)}, "nothing that 1 knows is news to 0"


def test_parents_are_drawn_in_proportion_to_fitness() -> None:
    optimizer = told(M2n2(make_setting(num_seeds=2)), [(1.0, 1.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0)])
    firsts = [birth.parents[0] for birth in crosses(optimizer, 4000)]
    assert np.mean(firsts) == pytest.approx(0.25, abs=0.03)


def test_where_nobody_attracts_mates_are_drawn_by_fitness() -> None:
    optimizer = told(M2n2(make_setting()), [(1.0, 1.0), (1.0, 1.0), (1.0, 1.0)])
    assert {birth.parents for birth in crosses(optimizer, 200)} == {
        (a, b) for a in range(3) for b in range(3) if a != b
    }


def test_a_specialist_outlives_better_generalists_unless_alpha_is_0() -> None:
    items = [(1.0,) * 6 + (0.0,) * 2, (0.0,) * 6 + (1.0,) * 2, *[(1.0,) * 6 + (0.0,) * 2] * 3]
    for alpha, survives in ((1.0, True), (0.0, False)):
        optimizer = M2n2(make_setting(num_seeds=5), M2n2Options(archive=4, alpha=alpha))
        assert (1 in told(optimizer, items).parents) is survives


def test_the_archive_is_never_larger_than_said_and_drops_the_least_fit() -> None:
    optimizer = told(
        M2n2(make_setting(num_seeds=4), M2n2Options(archive=3)),
        [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.0,) * 3],
    )
    assert sorted(optimizer.parents) == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "tuned_scalar", "scale"), [({}, 1.5, 1.5), ({}, None, 1.0), ({"vertex_scale": 1.0}, 1.5, 1.0)]
)
def test_seeds_are_as_large_as_the_best_tuned_scalar_says(
    options: dict[str, float], tuned_scalar: float | None, scale: float
) -> None:
    optimizer = M2n2(replace(make_setting(), tuned_scalar=tuned_scalar), M2n2Options(**options))
    assert [optimizer.ask(i) for i in range(3)] == [Seed(index=i, scale=scale) for i in range(3)]


def test_warmup_crosses_seeds_whatever_their_fitness() -> None:
    optimizer = told(M2n2(make_setting(), M2n2Options(warmup=30)), [(1.0, 1.0), (0.0, 0.0), (0.0, 0.0)])
    warm = [birth.parents for birth in crosses(optimizer, 30)]
    assert set(warm) == {(a, b) for a in range(3) for b in range(3) if a != b}
    assert {birth.parents[0] for birth in crosses(optimizer, 50)} == {0}


def test_the_switches_turn_off_one_idea_each() -> None:
    items = [(1.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)]
    plain, *others = (
        crosses(told(M2n2(make_setting(), M2n2Options(**options)), items), 200)
        for options in ({}, {"crossover": False}, {"attraction": False}, {"split": False}, {"mutation": 0.01})
    )
    alone, unattracted, whole, mutated = others
    assert all(birth.parents[0] == birth.parents[1] for birth in alone)
    assert (0, 1) in {birth.parents for birth in unattracted}
    assert all(birth.splits == (0.0,) for birth in whole)
    assert len({birth.splits for birth in plain}) == 200
    assert {birth.noise for birth in plain} == {0.0}
    assert {birth.noise for birth in mutated} == {0.01}


def test_a_seed_that_failed_is_asked_again_only_where_there_is_nothing_to_cross() -> None:
    def run(num_failed: int) -> list[bool]:
        def evaluate(number: int, world: World) -> Outcome:
            if number < num_failed:
                return Outcome(number=number, status=Status.FAILED, values=None)
            return ok(number, world)

        return [isinstance(birth, Seed) for birth in breed(M2n2(make_setting()), evaluate, trials=12)]

    assert run(1) == [True] * 3 + [False] * 9
    assert run(2) == [True] * 4 + [False] * 8


def test_one_seed_is_refused_and_so_is_another_kind_of_space() -> None:
    with pytest.raises(InputError, match="crosses two"):
        M2n2(make_setting(num_seeds=1))
    budget = BudgetConfig(trials=3)
    with pytest.raises(InputError, match="lineage"):
        build_optimizer(M2n2Config(budget=budget), make_box_setting())
    with pytest.raises(InputError, match="m2n2"):
        build_optimizer(CmaEsConfig(budget=budget), make_setting())
    assert isinstance(build_optimizer(M2n2Config(budget=budget), make_setting()), M2n2)
