"""The options of CMA-ES and its mixed-gene variant against the laws, and what is theirs."""

from collections import Counter
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
from mixed_problems import Mixed
from pydantic import TypeAdapter, ValidationError

from crossbreed.errors import MissingExtra
from crossbreed.optimizer import (
    AnyOptimizerConfig,
    CatCma,
    CatCmaOptions,
    CmaEs,
    CmaEsOptions,
    OptimizerConfig,
    build_optimizer,
    replayed,
)
from crossbreed.optimizer.cma_surrogate import LqCmaEs
from crossbreed.testing.optimizers import MakeOptimizer, OptimizerConformance, Sphere, drive, make_inputs, ok
from crossbreed.types import Outcome, Point, Status

CONFIG: TypeAdapter[OptimizerConfig] = TypeAdapter(AnyOptimizerConfig)
SPHERE = Sphere(optimum=(0.1, 0.4, 0.7, 1.0))


@pytest.mark.slow
class TestSeparable(OptimizerConformance):
    @pytest.fixture
    def make(self) -> MakeOptimizer:
        return partial(CmaEs, options=CmaEsOptions(separable=True))


class TestLq(OptimizerConformance):
    trials: ClassVar[int] = 30
    sphere_trials: ClassVar[int] = 150
    fenced_regret: ClassVar[float] = 0.02  # no quadratic has an edge

    @pytest.fixture
    def make(self) -> MakeOptimizer:
        return LqCmaEs


class TestAdapted(OptimizerConformance):
    trials: ClassVar[int] = 30
    sphere_trials: ClassVar[int] = 900

    @pytest.fixture
    def make(self) -> MakeOptimizer:
        pytest.importorskip("cmaes")
        return partial(CmaEs, options=CmaEsOptions(learning_rate="adapted"))


class TestCatCma(OptimizerConformance):
    @pytest.fixture
    def make(self) -> MakeOptimizer:
        pytest.importorskip("cmaes")
        return CatCma


def test_lq_measures_fewer_points_than_cma_es_until_it_is_as_near() -> None:
    """A smooth bowl of four coordinates: half as many, at most."""

    def needed(make: MakeOptimizer) -> int:
        points = drive(make(make_inputs()), partial(ok, SPHERE), trials=400)
        return next(i for i, point in enumerate(points) if SPHERE(point)[0] > -1e-6)

    assert 2 * needed(LqCmaEs) < needed(CmaEs)


def test_lq_asks_what_it_needs_at_once() -> None:
    """Batches grow: three for the first model, then few at a time while the model is right."""
    optimizer, batches, number = LqCmaEs(make_inputs()), list[int](), 0
    while number < 40:
        batch = list[tuple[int, Point]]()
        while (point := optimizer.ask(number + len(batch))) is not None:
            batch.append((number + len(batch), point))
        for index, point in batch:
            optimizer.tell(ok(SPHERE, index, point))
        number += len(batch)
        batches.append(len(batch))
    assert batches[0] >= 3
    assert Counter(batches).most_common(1)[0][0] <= 2


def test_separable_learns_variances_alone() -> None:
    """On a bowl that is turned by 45 degrees and a thousand times as steep across, it is the slower one."""

    def turned(number: int, point: Point) -> Outcome:
        along, across = point[0] + point[1] - 1, point[0] - point[1]
        return Outcome(number=number, status=Status.OK, values=(-(along**2) - 1000 * across**2,))

    def found(*, separable: bool) -> float:
        optimizer = CmaEs(make_inputs(dim=2, start=(1.4, 1.4)), CmaEsOptions(separable=separable))
        points = drive(optimizer, turned, trials=300)
        return max((turned(0, point).values or (0.0,))[0] for point in points)

    assert found(separable=True) < 10 * found(separable=False)


def test_options_that_no_library_has_together_are_refused() -> None:
    for other in ({"separable": True}, {"surrogate": "lq"}):
        with pytest.raises(ValidationError, match="learning_rate: adapted"):
            CmaEsOptions.model_validate({"learning_rate": "adapted", **other})


def test_they_name_the_package_that_they_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cmaes", None)
    for make in (CatCma, partial(CmaEs, options=CmaEsOptions(learning_rate="adapted"))):
        with pytest.raises(MissingExtra, match=r"crossbreed\[searches\]"):
            make(make_inputs())


@pytest.mark.parametrize("start", [None, (0.2, 0.2, 1.5, 0.25, 0.25, 2.5)])
def test_cat_cma_searches_integers_and_alternatives_as_such(start: Point | None) -> None:
    pytest.importorskip("cmaes")
    problem = Mixed()
    points = drive(CatCma(problem.inputs(start=start)), problem.outcome, trials=400)
    assert all(problem.at_middles(point) for point in points)
    assert problem.num_right(max(points, key=problem.value)) == problem.num_levels
    assert np.median([problem.value(point) for point in points[-40:]]) > -0.01


def test_cat_cma_keeps_the_alternatives_of_its_start_for_most_of_its_first_points() -> None:
    pytest.importorskip("cmaes")
    problem, start = Mixed(), (0.2, 0.2, 1.5, 0.25, 0.25, 2.5)
    optimizer = CatCma(problem.inputs(start=start), CatCmaOptions(popsize=200, sigma0=0.1))
    first = [point for number in range(200) if (point := optimizer.ask(number))]
    for index in (2, 3, 4):
        kept = sum(problem.level(index, point) == problem.level(index, start) for point in first)
        assert 165 < kept < 195
    assert np.std([point[0] for point in first]) == pytest.approx(0.2, rel=0.2)  # 0.1 of a range of 2


def test_cat_cma_learns_from_a_recorded_point() -> None:
    """Of a journal whose every point was another: it goes on from where those were good."""
    pytest.importorskip("cmaes")
    problem = Mixed()
    recorded = drive(CatCma(problem.inputs()), problem.outcome, trials=300)
    other = CatCma(problem.inputs(seed=8))
    for number, point in enumerate(recorded):
        assert replayed(other, number, point) is not None
        other.tell(problem.outcome(number, point))
    asked = [other.ask(number) for number in range(300, 304)]
    assert all(point is not None and problem.value(point) > -0.65 for point in asked)


def test_cat_cma_of_alternatives_alone_has_no_normal_distribution() -> None:
    pytest.importorskip("cmaes")
    problem = Mixed()
    inputs = problem.inputs(of=(2, 3, 4))
    points = drive(CatCma(inputs), lambda n, point: problem.outcome(n, (0.9, 0.9, *point, 4.5)), trials=200)
    best = Counter(points[-30:]).most_common(1)[0]
    assert best[0] == (2.5, 0.75, 0.25)
    assert best[1] > 12


def test_an_option_of_a_spec_chooses_the_search() -> None:
    pytest.importorskip("cmaes")
    for kind, options, built in (
        ("cma_es", {"surrogate": "lq"}, LqCmaEs),
        ("cma_es", {"learning_rate": "adapted"}, CmaEs),
        ("cat_cma", {"popsize": 5}, CatCma),
    ):
        config = CONFIG.validate_python({"kind": kind, "budget": {"trials": 3}, "options": options})
        assert type(build_optimizer(config, make_inputs())) is built
