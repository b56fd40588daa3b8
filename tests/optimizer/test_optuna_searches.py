"""TPE and NSGA-III against the laws, and what is theirs."""

from dataclasses import replace
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
from mixed_problems import Mixed
from pydantic import ValidationError

from crossbreed.errors import InputError
from crossbreed.optimizer import Nsga2, Nsga3, Nsga3Options, SearchInputs, Tpe, TpeOptions, replayed
from crossbreed.testing.optimizers import MakeOptimizer, OptimizerConformance, Spheres, drive, make_inputs, ok
from crossbreed.types import Outcome, Point, Status


class TestTpe(OptimizerConformance):
    """On few trials: an ask costs some milliseconds, and grows with what was told."""

    trials: ClassVar[int] = 14
    sphere_trials: ClassVar[int] = 120
    sphere_regret: ClassVar[float] = 0.05
    reads_violations: ClassVar[bool] = True
    fenced_trials: ClassVar[int] = 80
    fenced_regret: ClassVar[float] = 0.15

    @pytest.fixture
    def make(self) -> MakeOptimizer:
        return partial(Tpe, options=TpeOptions(startup=6))


@pytest.mark.slow
class TestTpeOnTwoObjectives(TestTpe):
    num_objectives: ClassVar[int] = 2


class TestNsga3(OptimizerConformance):
    num_objectives: ClassVar[int] = 3
    trials: ClassVar[int] = 45
    sphere_trials: ClassVar[int] = 240
    front_covered: ClassVar[float] = 0.8
    reads_violations: ClassVar[bool] = True
    fenced_trials: ClassVar[int] = 120

    @pytest.fixture
    def make(self) -> MakeOptimizer:
        return Nsga3


@pytest.mark.parametrize("make", [partial(Tpe, options=TpeOptions(startup=20)), Nsga3, Nsga2])
def test_they_begin_at_the_start_and_stay_near_it(make: MakeOptimizer) -> None:
    optimizer = make(make_inputs(dim=30, num_objectives=2, start=(0.2,) * 30))
    first = [optimizer.ask(number) for number in range(20)]
    assert first[0] == pytest.approx((0.2,) * 30)
    assert 0.2 < np.std(np.array(first[1:]) - 0.2) < 0.35  # 0.15 of a range of 2, cut at the rim


@pytest.mark.parametrize("make", [partial(Tpe, options=TpeOptions(startup=5)), Nsga3, Nsga2])
def test_integers_and_alternatives_are_searched_as_such(make: MakeOptimizer) -> None:
    """Each proposal is at the middle of an interval, and the best one has every level right."""
    problem = Mixed()
    points = drive(make(problem.inputs()), problem.outcome, trials=400 if make in (Nsga2, Nsga3) else 120)
    assert all(problem.at_middles(point) for point in points)
    best = max(points, key=problem.value)
    assert problem.num_right(best) == problem.num_levels, "the best has another level somewhere"


@pytest.mark.parametrize("make", [partial(Tpe, options=TpeOptions(startup=5)), Nsga3, Nsga2])
def test_a_recorded_level_is_replayed_wherever_in_its_interval_it_was(make: MakeOptimizer) -> None:
    problem = Mixed()
    asked = drive(make(problem.inputs()), problem.outcome, trials=30)
    moved = [(*point[:-1], point[-1] + 0.05) for point in asked]  # the last coordinate has levels
    again = make(problem.inputs())
    for number, point in enumerate(moved):
        assert replayed(again, number, point) is not None
        again.tell(problem.outcome(number, point))
    assert again.ask(30) is not None


def test_tpe_models_all_coordinates_together_for_one_objective_only_unless_told() -> None:
    def asked(num_objectives: int, multivariate: bool | None) -> list[Point]:
        options = TpeOptions(startup=4, multivariate=multivariate)
        spheres = Spheres(optima=((0.1,) * 4, (0.9,) * 4)[:num_objectives])
        inputs = make_inputs(num_objectives=num_objectives)
        return drive(Tpe(inputs, options), partial(ok, spheres), trials=12)

    assert asked(1, None) == asked(1, True) != asked(1, False)
    assert asked(2, None) == asked(2, False) != asked(2, True)
    with pytest.raises(ValidationError, match="set both"):
        TpeOptions(group=True)
    grouped = Tpe(make_inputs(), TpeOptions(startup=4, multivariate=True, group=True))
    assert len(set(drive(grouped, partial(ok, Spheres(optima=((0.1,) * 4,))), trials=12))) == 12


def test_tpe_fits_nothing_while_it_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Spheres(optima=((0.1,) * 4,))
    recorded = drive(Tpe(make_inputs()), partial(ok, problem), trials=20)
    monkeypatch.setattr("crossbreed.optimizer.tpe.TPESampler", lambda **_: pytest.fail("a model was fitted"))
    again = Tpe(make_inputs())
    for number, point in enumerate(recorded):
        assert again.replay(number, point) == point
        again.tell(ok(problem, number, point))


@pytest.mark.parametrize(
    "make", [partial(Tpe, options=TpeOptions(startup=5)), partial(Nsga3, options=Nsga3Options(population=8))]
)
def test_what_could_not_be_measured_comes_after_what_breaks_a_constraint(make: MakeOptimizer) -> None:
    """Half of the box cannot be measured, all of the rest breaks the constraint."""

    def evaluate(number: int, point: Point) -> Outcome:
        if point[0] > 0.5:
            return Outcome(number=number, status=Status.INVALID, values=None)
        return Outcome(number=number, status=Status.OK, values=(0.0, 0.0), excesses=(2 + abs(point[0]),))

    inputs = make_inputs(dim=2, num_objectives=2, num_constraints=1, start=(0.5, 0.5))
    points = drive(make(inputs), evaluate, trials=100)
    assert sum(point[0] <= 0.5 for point in points[-30:]) > 20
    assert np.median([abs(point[0]) for point in points[-30:]]) < np.median([abs(point[0]) for point in points[:30]])


def test_nsga3_has_as_many_directions_as_members_and_says_when_that_is_too_few() -> None:
    with pytest.raises(InputError, match="a member for each objective") as caught:
        Nsga3(make_inputs(num_objectives=5), Nsga3Options(population=4))
    assert "population: 10" in caught.value.fix
    Nsga3(make_inputs(num_objectives=5), Nsga3Options(population=10))


def test_a_box_without_room_is_asked_nothing_else() -> None:
    inputs: SearchInputs = make_inputs(dim=2)
    still = replace(inputs, domain=replace(inputs.box, low=(0.3, 0.3), high=(0.3, 0.3)))
    assert Tpe(still).ask(0) == (0.3, 0.3)
