"""MAP against the laws, and its surrogate against quadratics and fronts that are known."""

import re
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import TypeAdapter

from crossbreed.errors import InputError
from crossbreed.optimizer import AnyOptimizerConfig, Map, MapOptions, OptimizerConfig, SearchInputs, build_optimizer
from crossbreed.optimizer.quadratic import LINKS, LinkName, features, fit, num_coefficients
from crossbreed.optimizer.surrogate_front import front_of
from crossbreed.testing.optimizers import MakeOptimizer, OptimizerConformance, Spheres, drive, make_inputs, ok
from crossbreed.types import Box, Outcome, Point, Status

CONFIG: TypeAdapter[OptimizerConfig] = TypeAdapter(AnyOptimizerConfig)
TWO = Spheres(optima=((0.0,) * 4, (1.0,) * 4))


class TestMap(OptimizerConformance):
    trials: ClassVar[int] = 40
    sphere_trials: ClassVar[int] = 84
    sphere_regret: ClassVar[float] = 1e-3
    reads_violations: ClassVar[bool] = True
    fenced_trials: ClassVar[int] = 80

    @pytest.fixture
    def make(self) -> MakeOptimizer:
        return partial(Map, options=MapOptions(samples=20, infill=16))  # a fit and its front take a tenth of a second


@pytest.mark.slow
class TestMapOnTwoObjectives(TestMap):
    num_objectives: ClassVar[int] = 2
    sphere_trials: ClassVar[int] = 130


def test_the_known_front_of_quadratics_is_recovered() -> None:
    """In the trials of the design and three rounds: nearly all of its hypervolume, and each chosen point is on it."""
    optimizer = Map(make_inputs(num_objectives=2), MapOptions(infill=20))
    points = drive(optimizer, partial(ok, TWO), trials=30 + 3 * 20)
    assert TWO.covered(points, (-4.0, -4.0)) > 0.97
    away = np.array(points[30:]).std(axis=1)  # the front is the diagonal between the optima
    assert np.median(away) < 0.05  # of a range of 2


def test_it_says_how_well_it_predicts() -> None:
    optimizer = Map(make_inputs(num_objectives=2))
    drive(optimizer, partial(ok, TWO), trials=30 + 8)
    fitted, measured, again = optimizer.remarks
    assert "4 coordinates, fitted to 30 trials; R2 on left-out trials: 1.00 (identity), 1.00 (identity)" in fitted
    assert re.search(r"8 points of its front, measured less predicted: mean \(RMS\) [-+]\S+ \(\S+\), ", measured)
    assert "fitted to 38 trials" in again


def test_of_a_landscape_that_is_no_quadratic_it_says_so() -> None:
    noise = np.random.default_rng(0)
    optimizer = Map(make_inputs())
    drive(optimizer, lambda n, _: Outcome(number=n, status=Status.OK, values=(noise.normal(),)), trials=30)
    found = re.search(r"left-out trials: (\S+) ", optimizer.remarks[0])
    assert found is not None
    assert float(found.group(1)) < 0.3


def values_of(link: LinkName, points: NDArray[np.float64]) -> NDArray[np.float64]:
    coefficients = np.random.default_rng(5).normal(size=num_coefficients(points.shape[1]))
    return LINKS[link].of(features(points) @ coefficients)


@pytest.mark.parametrize("link", LINKS)
def test_a_quadratic_under_its_link_is_fitted_and_the_link_found(link: LinkName) -> None:
    points = np.random.default_rng(1).uniform(-1, 1, (60, 3))
    fitted = fit(points, values_of(link, points))
    assert fitted.link == link
    assert fitted.r2 > 0.98
    others = np.random.default_rng(2).uniform(-1, 1, (40, 3))
    assert fitted.predict(others) == pytest.approx(values_of(link, others), abs=0.03)


def test_r2_is_that_of_fits_without_each_point() -> None:
    points = np.random.default_rng(1).uniform(-1, 1, (20, 2))
    values = values_of("identity", points) + np.random.default_rng(3).normal(size=20)
    left = [np.delete(np.arange(20), i) for i in range(20)]
    predicted = [
        np.linalg.lstsq(features(points[keep]), values[keep], rcond=None)[0] @ features(points[[i]])[0]
        for i, keep in enumerate(left)
    ]
    means = [values[keep].mean() for keep in left]
    wanted = 1 - np.sum((values - predicted) ** 2) / np.sum((values - means) ** 2)
    ridge = fit(points, values, links=["identity"])
    assert ridge.r2 >= wanted - 1e-6  # a larger ridge may predict better, none worse
    assert ridge.r2 < 1


def test_values_that_no_link_takes_are_fitted_as_they_are() -> None:
    points = np.random.default_rng(1).uniform(-1, 1, (20, 2))
    assert fit(points, 5 * values_of("identity", points), links=["logit"]).link == "identity"


def test_the_front_of_a_model_keeps_its_constraints() -> None:
    def predict(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        values = np.column_stack([points[:, 0], 1 - points[:, 0] ** 2 - (points[:, 1] - 0.5) ** 2])
        return values, np.clip(points[:, 0] - 0.7, 0, None)

    found = front_of(predict, np.full((1, 2), 0.5), rng=np.random.default_rng(0))
    assert found[:, 0].max() <= 0.7
    assert found[:, 0].max() > 0.68
    assert found[:, 0].min() < 0.05
    assert np.abs(found[:, 1] - 0.5).max() < 0.1


def test_it_stays_in_a_cube_around_the_start() -> None:
    start = (0.0, 1.4, 0.5, 0.5)
    optimizer = Map(make_inputs(num_objectives=2, start=start), MapOptions(spread=0.25))
    points = np.array(drive(optimizer, partial(ok, TWO), trials=60))
    assert points[0] == pytest.approx(start)
    assert points.min(axis=0) == pytest.approx([-0.25, 1.0, 0.25, 0.25], abs=0.03)
    assert points.max(axis=0) == pytest.approx([0.25, 1.5, 0.75, 0.75], abs=0.03)


def test_what_it_cannot_model_is_refused() -> None:
    config = CONFIG.validate_python({"kind": "map", "budget": {"trials": 30}})
    with pytest.raises(InputError, match="before its first fit") as caught:
        build_optimizer(config, make_inputs())
    advised = int(re.findall(r"trials: (\d+)", caught.value.fix)[0])
    build_optimizer(CONFIG.validate_python({"kind": "map", "budget": {"trials": advised}}), make_inputs())
    choice = Box(low=(0.0, 0.0), high=(3.0, 1.0), choices=3)
    inputs = SearchInputs(domain=choice, num_objectives=1, start=None, rng=np.random.default_rng(0))
    with pytest.raises(InputError, match="alternatives"):
        build_optimizer(CONFIG.validate_python({"kind": "map", "budget": {"minutes": 3}}), inputs)


def test_a_design_that_could_hardly_be_measured_is_followed_by_more_of_it() -> None:
    lost = lambda number, point: Outcome(number=number, status=Status.FAILED, values=None)  # noqa: E731
    optimizer = Map(make_inputs(num_objectives=2), MapOptions(samples=8))
    points: list[Point] = []
    for number in range(16):
        point = optimizer.ask(number)
        assert point is not None
        points.append(point)
        optimizer.tell(lost(number, point) if number < 8 else ok(TWO, number, point))
    assert len({*points}) == 16
    assert len(optimizer.remarks) == 1
