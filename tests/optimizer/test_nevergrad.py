"""nevergrad's optimizers against the laws; run where the extra `nevergrad` is installed."""

import threading
from dataclasses import replace
from functools import partial
from typing import ClassVar

import numpy as np
import pytest

pytest.importorskip("nevergrad")

from mixed_problems import Mixed

from crossbreed.errors import InputError
from crossbreed.optimizer import Nevergrad, NevergradOptions, replayed
from crossbreed.testing.global_random import check_it_is_left_alone
from crossbreed.testing.optimizers import MakeOptimizer, OptimizerConformance, Sphere, ask_point, drive, make_inputs, ok
from crossbreed.types import Box, Coordinate, Outcome, Point, Status

PROBLEM = Sphere(optimum=(0.1, 0.4, 0.7, 1.0))


class TestCma(OptimizerConformance):
    reads_violations: ClassVar[bool] = True

    @pytest.fixture
    def make(self) -> MakeOptimizer:
        return lambda inputs: Nevergrad(inputs, NevergradOptions(name="CMA"), trials=600)


class TestDifferentialEvolutionOfFour(OptimizerConformance):
    reads_violations: ClassVar[bool] = True
    sphere_regret: ClassVar[float] = 0.01
    fenced_trials: ClassVar[int] = 600
    fenced_regret: ClassVar[float] = 0.05

    @pytest.fixture
    def make(self) -> MakeOptimizer:
        return lambda inputs: Nevergrad(inputs, NevergradOptions(name="TwoPointsDE", num_workers=4), trials=600)


def weights_of(num: int) -> Box:
    coordinates = tuple(Coordinate(param="weight", owner=f"expert {i}") for i in range(num))
    return Box(low=(-1.5,) * num, high=(1.5,) * num, coordinates=coordinates)


def test_lorahub_s_search_is_the_start_and_a_step_along_each_axis_at_first() -> None:
    """NGOpt is COBYLA for 20 coordinates and 40 trials, one after the other, whatever the number of workers."""
    options = NevergradOptions(start=0.0, weight_penalty=0.05)

    def evaluate(number: int, point: Point) -> Outcome:
        return Outcome(number=number, status=Status.OK, values=(-sum((x - 0.3) ** 2 for x in point),))

    make = lambda: Nevergrad(replace(make_inputs(dim=20), domain=weights_of(20)), options, trials=40)  # noqa: E731
    points = drive(make(), evaluate, trials=40)
    assert points[0] == (0.0,) * 20
    steps = np.abs(np.subtract(points[1:21], points[0]))
    assert np.count_nonzero(steps, axis=1).min() == 1
    assert drive(make(), evaluate, trials=40, workers=3) == points
    again = make()
    for number, point in enumerate(points[:30]):
        assert replayed(again, number, point) == point
        again.tell(evaluate(number, point))
    assert again.ask(30) == points[30]
    assert again.ask(31) is None


def test_no_thread_of_an_algorithm_keeps_a_process_from_ending() -> None:
    before = {*threading.enumerate()}
    optimizer = Nevergrad(make_inputs(), NevergradOptions(name="Cobyla"), trials=40)
    assert optimizer.ask(0) is not None
    started = {*threading.enumerate()} - before
    assert started
    assert all(thread.daemon for thread in started)


def test_the_penalty_is_of_the_weights_alone() -> None:
    flat = lambda number, _: Outcome(number=number, status=Status.OK, values=(0.5,))  # noqa: E731
    box = weights_of(2)
    other = replace(box, coordinates=(box.coordinates[0], Coordinate(param="density", owner="expert 0")))
    options = NevergradOptions(name="CMA", start=1.0, weight_penalty=1.0)
    for domain, free in ((box, 0), (other, 1)):
        inputs = replace(make_inputs(dim=2), domain=domain)
        points = drive(Nevergrad(inputs, options, trials=200), flat, trials=200)
        assert abs(points[-1][0]) < 0.1
        assert (abs(points[-1][1]) < 0.1) is (free == 0)


@pytest.mark.parametrize("name", ["LhsDE", "QODE"])
def test_those_that_read_global_generators_get_their_own(name: str) -> None:
    def points_with(meanwhile: object) -> list[Point]:
        optimizer = Nevergrad(make_inputs(), NevergradOptions(name=name), trials=60)
        return drive(optimizer, partial(ok, PROBLEM), trials=60, meanwhile=meanwhile)  # type: ignore[arg-type]

    check_it_is_left_alone(points_with)


@pytest.mark.parametrize(
    ("options", "dim", "trials", "problem"),
    [
        ({"name": "NGOptt"}, 4, 40, "no optimizer `NGOptt`"),
        ({"name": "CmaFmin2"}, 4, 40, "cannot be repeated"),
        ({"name": "NGOpt"}, 6, 400, "cannot be repeated"),
        ({"name": "Cobyla", "num_workers": 2}, 4, 40, "one point after the other"),
    ],
)
def test_what_cannot_be_repeated_or_built_is_refused(
    options: dict[str, object], dim: int, trials: int, problem: str
) -> None:
    with pytest.raises(InputError, match=problem):
        Nevergrad(make_inputs(dim=dim), NevergradOptions.model_validate(options), trials=trials)
    Nevergrad(make_inputs(dim=6), NevergradOptions(name="CMA"), trials=400)


@pytest.mark.parametrize("name", ["OnePlusOne", "DE", "NGOpt"])
def test_integers_and_alternatives_are_nevergrad_s_own(name: str) -> None:
    problem = Mixed()
    options = NevergradOptions(name=name, num_workers=1 if name != "DE" else 4)

    def made(seed: int) -> Nevergrad:
        return Nevergrad(problem.inputs(seed=seed), options, trials=300)

    points = drive(made(7), problem.outcome, trials=300)
    assert all(problem.at_middles(point) for point in points)
    assert problem.num_right(max(points, key=problem.value)) >= problem.num_levels - 1
    again, other = made(7), made(8)
    for number, point in enumerate(points[:60]):
        assert replayed(again, number, point) == point
        assert replayed(other, number, point) is not None
        again.tell(problem.outcome(number, point))
        other.tell(problem.outcome(number, point))
    assert ask_point(again, 60) == points[60]
