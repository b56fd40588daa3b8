"""The laws of optimizers that search a box, as tests; and problems whose optimum is known.

Subclass `OptimizerConformance` in a test module and override its one fixture; pytest then checks the laws:

    class TestMine(OptimizerConformance):
        @pytest.fixture
        def make(self) -> MakeOptimizer:
            return MyOptimizer
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Protocol, TypeAlias

import moocore
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from crossbreed.errors import InputError
from crossbreed.optimizer import Optimizer, SearchInputs, ordered, replayed
from crossbreed.testing.global_random import check_it_is_left_alone
from crossbreed.types import Box, Genomes, Outcome, Point, Status, WeightBlock

MakeOptimizer: TypeAlias = Callable[[SearchInputs], Optimizer]


class Problem(Protocol):
    """Something to maximise."""

    def __call__(self, point: Point) -> tuple[float, ...]:
        """Returns the objectives of a point."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sphere:
    """One objective: minus the squared distance to `optimum`, where it is 0."""

    optimum: Point

    def __call__(self, point: Point) -> tuple[float, ...]:
        """Returns the one objective."""
        return (-sum((x - best) ** 2 for x, best in zip(point, self.optimum, strict=True)),)

    def slopes(self, point: Point) -> tuple[float, ...]:
        """Returns the gradient of the squared distance, which is to be minimised."""
        return tuple(2 * (x - best) for x, best in zip(point, self.optimum, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spheres:
    """Several objectives, a sphere each. The Pareto set of two is the segment between their optima."""

    optima: tuple[Point, ...]

    def __call__(self, point: Point) -> tuple[float, ...]:
        """Returns one objective a sphere."""
        return tuple(Sphere(optimum=optimum)(point)[0] for optimum in self.optima)

    def covered(self, points: Sequence[Point], reference: tuple[float, ...]) -> float:
        """Returns the hypervolume of `points` above `reference`, as a share of what the segment has."""
        first, last = np.array(self.optima[0]), np.array(self.optima[-1])
        front = [tuple(map(float, first + t * (last - first))) for t in np.linspace(0, 1, 501)]
        volumes = (
            moocore.hypervolume(np.array([self(point) for point in chosen]), ref=reference, maximise=True)
            for chosen in (points, front)
        )
        return float(next(volumes) / next(volumes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fenced:
    """A problem with a constraint that its best points break: the last coordinate is at most `limit`."""

    problem: "Sphere | Spheres"
    limit: float

    def outcome(self, number: int, point: Point) -> Outcome:
        """Returns the outcome of an evaluation that went well."""
        return replace(ok(self.problem, number, point), excesses=(point[-1] - self.limit,))

    def keeps(self, point: Point) -> bool:
        """Returns whether a point keeps the constraint."""
        return point[-1] <= self.limit

    @property
    def best(self) -> float:
        """The value of the best point that keeps it, where there is one objective."""
        assert isinstance(self.problem, Sphere)
        return -(max(0.0, self.problem.optimum[-1] - self.limit) ** 2)


class Bowls:
    """A calibration loss over a box: each item has a bowl of its own, and their mean is around `optimum`.

    For optimizers that go down one: `replace(make_inputs(), calibration=Bowls(...))`.
    """

    def __init__(self, box: Box, *, optimum: Point, num_items: int = 12) -> None:
        """Places the bowls of two tasks."""
        self._optimum = np.array(optimum)
        noise = np.random.default_rng(3).standard_normal((num_items, box.dim))
        self._optima = self._optimum + 0.3 * (noise - noise.mean(0))

    @property
    def tasks(self) -> Sequence[Sequence[int]]:
        """See CalibrationLoss: two of equal size."""
        half = len(self._optima) // 2
        return [range(half), range(half, len(self._optima))]

    def slopes(self, point: Point, items: Sequence[int]) -> tuple[float, NDArray[np.float64]]:
        """See CalibrationLoss."""
        away = np.array(point) - self._optima[[*items]]
        return float((away**2).sum(1).mean()), 2 * away.mean(0)

    def held_out(self, point: Point) -> float | None:
        """See CalibrationLoss: the distance to the optimum of all items."""
        return float(((np.array(point) - self._optimum) ** 2).sum())


def make_inputs(
    *, dim: int = 4, num_objectives: int = 1, start: Point | None = None, seed: int = 7, num_constraints: int = 0
) -> SearchInputs:
    """Returns the inputs of a search over the box [-0.5, 1.5]^dim, all of it one weight block."""
    box = Box(low=(-0.5,) * dim, high=(1.5,) * dim, weight_blocks=(one_block(dim),))
    rng = np.random.default_rng(seed)
    return SearchInputs(
        domain=box, num_objectives=num_objectives, num_constraints=num_constraints, start=start, rng=rng
    )


def one_block(dim: int) -> WeightBlock:
    """Returns the weight block of all coordinates."""
    return {f"expert {index}": index for index in range(dim)}


def ask_point(optimizer: Optimizer, number: int) -> Point | None:
    """Returns what the optimizer asks, which must be a point."""
    proposal = optimizer.ask(number)
    assert proposal is None or isinstance(proposal, tuple), "a box is searched by points"
    return proposal


def ok(problem: Problem, number: int, point: Point) -> Outcome:
    """Returns the outcome of an evaluation that went well."""
    slopes = problem.slopes(point) if isinstance(problem, Sphere) else None
    return Outcome(number=number, status=Status.OK, values=problem(point), slopes=slopes)


def drive(
    optimizer: Optimizer,
    evaluate: Callable[[int, Point], Outcome],
    *,
    trials: int,
    workers: int = 1,
    meanwhile: Callable[[], None] = lambda: None,
) -> list[Point]:
    """Runs a search as a driver with some workers does, and returns the points in the order in which they were asked.

    Results come in a scrambled but fixed order. `meanwhile` is called between any two calls of the optimizer.
    """
    scrambled = np.random.default_rng(1)
    points: list[Point] = []
    busy: list[int] = []
    while len(points) < trials or busy:
        meanwhile()
        point = ask_point(optimizer, len(points)) if len(points) < trials and len(busy) < workers else None
        if point is not None:
            busy.append(len(points))
            points.append(point)
            continue
        assert busy, "nothing is out, and yet the optimizer has nothing to ask"
        number = busy.pop(int(scrambled.integers(len(busy))))
        optimizer.tell(evaluate(number, points[number]))
    return points


def calls(
    optimizer: Optimizer, evaluate: Callable[[int, Point], Outcome], *, workers: int
) -> Iterator[Point | Outcome]:
    """Yields what a journal records of a search without end: points as they are asked, outcomes as they are told.

    An ask that brings nothing is not recorded. The latest is told first, so that the earliest wait for long.
    """
    points: list[Point] = []
    busy: list[int] = []
    while True:
        if len(busy) < workers and (point := ask_point(optimizer, len(points))) is not None:
            busy.append(len(points))
            points.append(point)
            yield point
        else:
            number = busy.pop()
            outcome = evaluate(number, points[number])
            optimizer.tell(outcome)
            yield outcome


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    """Boxes of 1 to 20 coordinates: wide, narrow, and some that leave a coordinate no room."""
    dim = draw(st.integers(1, 20))
    low = draw(st.lists(st.floats(-1e6, 1e6), min_size=dim, max_size=dim))
    width = st.one_of(st.just(0.0), st.floats(1e-12, 1e-6), st.floats(0.1, 1e6))
    widths = draw(st.lists(width, min_size=dim, max_size=dim))
    high = tuple(x + w for x, w in zip(low, widths, strict=True))
    return Box(low=tuple(low), high=high, weight_blocks=(one_block(dim),))


_EXAMPLES = settings(
    max_examples=15,
    deadline=None,
    # `make` has no state, and every subclass is meant to meet the same examples
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)


class OptimizerConformance:
    """The laws. Class variables say what the optimizer is for; `make` is the one thing to override."""

    draws: ClassVar[bool] = True
    """Whether chance has a part in what it asks where all goes well."""
    num_objectives: ClassVar[int] = 1
    trials: ClassVar[int] = 60
    """Length of what is looked at call by call: fewer for an optimizer that takes its time to ask."""
    sphere_trials: ClassVar[int] = 600
    """Budget of the convergence tests."""
    sphere_regret: ClassVar[float] = 1e-6
    """One objective: largest distance to the optimum's value after that budget, in 4 coordinates."""
    front_covered: ClassVar[float] = 0.9
    """Several objectives: smallest share of the true front's hypervolume after that budget."""
    reads_violations: ClassVar[bool] = False
    """Whether it reads `Outcome.excesses` itself (`OptimizerConfig.reads_violations`)."""
    fenced_trials: ClassVar[int] = 300
    """Budget of the test with a constraint."""
    fenced_regret: ClassVar[float] = 0.01
    """One objective: largest distance to the value of the best point that keeps it, after that budget."""

    @pytest.fixture
    def make(self) -> MakeOptimizer:
        """Override: how the optimizer is built."""
        raise NotImplementedError

    @property
    def problem(self) -> Problem:
        """Optima inside the box of `make_inputs`, away from its middle and its rim."""
        if self.num_objectives == 1:
            return Sphere(optimum=(0.1, 0.4, 0.7, 1.0))
        return Spheres(optima=tuple((i / (self.num_objectives - 1),) * 4 for i in range(self.num_objectives)))

    def run(self, make: MakeOptimizer, *, trials: int | None = None, workers: int = 1, seed: int = 7) -> list[Point]:
        """Drives a new optimizer on `problem`."""
        optimizer = make(make_inputs(num_objectives=self.num_objectives, seed=seed))
        evaluate = partial(ok, self.problem)
        return drive(optimizer, evaluate, trials=trials or self.trials, workers=workers)

    def test_a_space_of_genomes_is_refused(self, make: MakeOptimizer) -> None:
        """When the optimizer is built: `SearchInputs.box` sees to it."""
        genomes = Genomes(num_seeds=2, num_chromosomes=1)
        with pytest.raises(InputError):
            make(replace(make_inputs(num_objectives=self.num_objectives), domain=genomes))

    def test_the_seed_decides(self, make: MakeOptimizer) -> None:
        """Same generator, same points; another generator, others."""
        assert self.run(make) == self.run(make)
        assert (self.run(make) != self.run(make, seed=8)) is self.draws

    @pytest.mark.parametrize("workers", [1, 4])
    def test_replaying_the_journal_brings_it_back(self, make: MakeOptimizer, workers: int) -> None:
        """Hearing the recorded calls again, and those alone, leads to the same points all along.

        Some candidates FAILED, and with several workers results are out of order and some still to come. What a run
        does that is interrupted anywhere is the beginning of this.
        """

        def evaluate(number: int, point: Point) -> Outcome:
            lost = Outcome(number=number, status=Status.FAILED, values=None)
            return lost if number % 5 == 2 else ok(self.problem, number, point)

        first = make(make_inputs(num_objectives=self.num_objectives))
        events = [*itertools.islice(calls(first, evaluate, workers=workers), 3 * self.trials + self.trials // 3)]
        again, numbers = make(make_inputs(num_objectives=self.num_objectives)), itertools.count()
        for event in events[: 3 * self.trials]:
            if isinstance(event, Outcome):
                again.tell(event)
            else:
                assert replayed(again, next(numbers), event) == event
        for event in events[3 * self.trials :]:
            if isinstance(event, Outcome):
                again.tell(event)
            else:
                assert again.ask(next(numbers)) == event

    @pytest.mark.parametrize("by", [1e-16, 0.01])
    def test_what_was_asked_was_asked(self, make: MakeOptimizer, by: float) -> None:
        """Recorded points that it would not ask itself are its own: to the last digit, or more.

        They come from another processor. It hears their outcomes, goes on inside the box, and does so alike each time.
        """
        inputs = partial(make_inputs, num_objectives=self.num_objectives)
        asked = drive(make(inputs()), partial(ok, self.problem), trials=self.trials)
        moved = [tuple(min(1.5, max(-0.5, x * (1 + 2 * by) + by)) for x in point) for point in asked]

        def went_on() -> list[Point | None]:
            optimizer = make(inputs())
            for number, point in enumerate(moved):
                assert replayed(optimizer, number, point) is not None
                optimizer.tell(ok(self.problem, number, point))
            return [ask_point(optimizer, number) for number in range(self.trials, self.trials + 2)]

        later = went_on()
        assert later[0] is None or all(-0.5 <= x <= 1.5 for x in later[0])
        assert went_on() == later

    @_EXAMPLES
    @given(box=boxes(), data=st.data())
    def test_every_point_is_in_the_box(self, make: MakeOptimizer, box: Box, data: st.DataObject) -> None:
        """Whatever the box, and wherever in it the search starts."""
        share = data.draw(st.none() | st.floats(0, 1))
        start = None if share is None else tuple(x + share * (y - x) for x, y in zip(box.low, box.high, strict=True))
        rng = np.random.default_rng(0)
        optimizer = make(SearchInputs(domain=box, num_objectives=self.num_objectives, start=start, rng=rng))
        far = Spheres(optima=(box.high, box.low, *[box.high] * 8)[: self.num_objectives])  # pulls it to the rim
        for point in drive(optimizer, lambda number, point: ok(far, number, point), trials=self.trials * 3 // 4):
            assert len(point) == box.dim
            assert all(type(x) is float for x in point)
            assert all(low <= x <= high for low, x, high in zip(box.low, point, box.high, strict=True))

    @_EXAMPLES
    @given(statuses=st.lists(st.sampled_from(Status), min_size=60, max_size=60), workers=st.integers(1, 9))
    def test_no_outcome_stops_it(self, make: MakeOptimizer, statuses: list[Status], workers: int) -> None:
        """Late, FAILED, INVALID and STOPPED: it goes on asking points of the box."""

        def evaluate(number: int, point: Point) -> Outcome:
            status = statuses[number]
            lost = Outcome(number=number, status=status, values=None)
            return ok(self.problem, number, point) if status is Status.OK else lost

        optimizer = make(make_inputs(num_objectives=self.num_objectives))
        points = drive(optimizer, evaluate, trials=self.trials, workers=workers)
        assert all(-0.5 <= x <= 1.5 for point in points for x in point)

    @pytest.mark.parametrize("status", [Status.FAILED, Status.INVALID, Status.STOPPED])
    def test_it_goes_on_when_nothing_works(self, make: MakeOptimizer, status: Status) -> None:
        """An engine that never answers is the run's concern, not a crash in here."""
        optimizer = make(make_inputs(num_objectives=self.num_objectives))
        points = drive(optimizer, lambda number, _: Outcome(number=number, status=status, values=None), trials=40)
        assert len(set(points)) > 35

    def test_endless_or_undefined_values_do_not_stop_it(self, make: MakeOptimizer) -> None:
        """The perplexity of a broken model is infinite, and its evaluation still OK."""

        def evaluate(number: int, point: Point) -> Outcome:
            broken = {0: -np.inf, 1: np.nan}.get(number % 3)
            found = ok(self.problem, number, point)
            return found if broken is None else replace(found, values=(broken,) * self.num_objectives)

        optimizer = make(make_inputs(num_objectives=self.num_objectives))
        assert np.isfinite(drive(optimizer, evaluate, trials=self.trials)).all()

    def test_a_flat_landscape_does_not_stop_it(self, make: MakeOptimizer) -> None:
        """Every score the same, for many generations: points still come, and still differ."""
        optimizer = make(make_inputs(num_objectives=self.num_objectives))
        values = (0.5,) * self.num_objectives

        def flat(number: int, point: Point) -> Outcome:
            return Outcome(number=number, status=Status.OK, values=values)

        points = drive(optimizer, flat, trials=5 * self.trials)
        assert len(set(points[-100:])) > 0.9 * len(points[-100:])

    def test_global_random_state_is_left_alone(self, make: MakeOptimizer) -> None:
        """It neither moves nor reads the global generators."""
        problem = self.problem

        def points_with(meanwhile: Callable[[], None]) -> list[Point]:
            optimizer = make(make_inputs(num_objectives=self.num_objectives))
            return drive(optimizer, lambda number, p: ok(problem, number, p), trials=self.trials, meanwhile=meanwhile)

        check_it_is_left_alone(points_with)

    @pytest.mark.parametrize("workers", [2, 4])
    def test_the_number_of_workers_does_not_matter(self, make: MakeOptimizer, workers: int) -> None:
        """If the optimizer says so (`in_order`): the same points, though results come in another order."""
        if not make(make_inputs(num_objectives=self.num_objectives)).in_order:
            pytest.skip("this optimizer does not promise it")
        assert self.run(make, workers=workers) == self.run(make)

    def test_it_finds_the_known_optimum(self, make: MakeOptimizer) -> None:
        """Within the stated budget, as near as stated."""
        points = self.run(make, trials=self.sphere_trials)
        problem = self.problem
        if isinstance(problem, Spheres):
            assert problem.covered(points, (-16.0,) * self.num_objectives) > self.front_covered
        else:
            assert -max(problem(point)[0] for point in points) < self.sphere_regret

    def run_fenced(self, make: MakeOptimizer, fenced: Fenced, *, start: Point | None, trials: int) -> list[Point]:
        """Drives a new optimizer as a run with a constraint does; what it asked, another one replays."""

        def evaluate(number: int, point: Point) -> Outcome:
            found = fenced.outcome(number, point)
            return found if self.reads_violations else ordered(found)

        def made() -> Optimizer:
            return make(make_inputs(num_objectives=self.num_objectives, start=start, num_constraints=1))

        points, again = drive(made(), evaluate, trials=trials), made()
        for number, point in enumerate(points):
            assert replayed(again, number, point) == point
            again.tell(evaluate(number, point))
        return points

    def test_it_ends_at_the_best_that_keeps_a_constraint(self, make: MakeOptimizer) -> None:
        """Where the unconstrained optimum breaks it: what comes first by Deb's rules keeps it, and is near the best.

        The start keeps it, as the base does where a bound is relative to the base.
        """
        problem = self.problem
        assert isinstance(problem, Sphere | Spheres)
        fenced, start = Fenced(problem=problem, limit=0.6), (0.2,) * 4
        points = self.run_fenced(make, fenced, start=start, trials=self.fenced_trials)
        kept = [point for point in points if fenced.keeps(point)]
        assert any(map(fenced.keeps, points[-20:])), "the search has left what keeps the constraint"
        if isinstance(problem, Sphere):
            assert fenced.best - max(problem(point)[0] for point in kept) < self.fenced_regret

    @pytest.mark.parametrize("status", [Status.FAILED, Status.INVALID])
    def test_what_could_not_be_measured_does_not_attract(self, make: MakeOptimizer, status: Status) -> None:
        """Where nothing can be measured there is nothing to find: the search stays where scores are.

        All scores are negative, so that an optimizer that takes silence for a zero goes there.
        """
        problem = self.problem

        def evaluate(number: int, point: Point) -> Outcome:
            if point[-1] > 1.1:
                return Outcome(number=number, status=status, values=None)
            found = ok(problem, number, point)
            return replace(found, values=tuple(v - 10 for v in problem(point)))

        optimizer = make(make_inputs(num_objectives=self.num_objectives))
        points = drive(optimizer, evaluate, trials=self.sphere_trials)
        silent = sum(point[-1] > 1.1 for point in points[-100:])
        assert silent <= 30  # a fifth of the box is silent
