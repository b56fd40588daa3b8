"""Frank-Wolfe against the laws, and against what is proven of it."""

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from crossbreed.errors import InputError
from crossbreed.optimizer import CmaEsOptions, FrankWolfe, FrankWolfeOptions, SearchInputs
from crossbreed.optimizer.polytope import Floats, blocks_of, probes_of, project_to_simplex
from crossbreed.testing.optimizers import MakeOptimizer, OptimizerConformance, drive, make_inputs
from crossbreed.types import Box, Outcome, Point, Status, WeightBlock

SCALE = 2.2
"""The optimum of the suite's sphere is a mixture of vertices of this scale."""


class TestFrankWolfe(OptimizerConformance):
    draws: ClassVar[bool] = False
    reads_violations: ClassVar[bool] = True
    fenced_regret: ClassVar[float] = 0.1
    sphere_regret: ClassVar[float] = 0.02  # 2 C / (t + 2) after 600 steps, with C the squared diameter

    @pytest.fixture
    def make(self) -> MakeOptimizer:
        return lambda inputs: FrankWolfe(inputs, FrankWolfeOptions(vertex_scale=SCALE, step_size=1.0))


class TestSoftFrankWolfe(OptimizerConformance):
    draws: ClassVar[bool] = False
    reads_violations: ClassVar[bool] = True
    fenced_regret: ClassVar[float] = 0.1
    sphere_regret: ClassVar[float] = 0.02

    @pytest.fixture
    def make(self) -> MakeOptimizer:
        return lambda inputs: FrankWolfe(inputs, FrankWolfeOptions(variant="soft", vertex_scale=SCALE))


class TestFrankWolfeByDifferences(OptimizerConformance):
    draws: ClassVar[bool] = False
    reads_violations: ClassVar[bool] = True
    fenced_regret: ClassVar[float] = 0.1
    sphere_regret: ClassVar[float] = 0.1  # 600 trials are 66 steps

    @pytest.fixture
    def make(self) -> MakeOptimizer:
        options = FrankWolfeOptions(slopes="differences", vertex_scale=SCALE, step_size=1.0)
        return lambda inputs: FrankWolfe(inputs, options)


class Quadratic:
    """A convex loss (x - a)^T Q (x - a) / 2 in several blocks of three experts, whose optimum is inside no block."""

    def __init__(self, num_blocks: int, *, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        dim = 3 * num_blocks
        root = rng.standard_normal((dim, dim))
        self.q, self.middle = root @ root.T / dim, rng.uniform(-0.2, 1.0, dim)
        self.weight_blocks = tuple({expert: 3 * b + i for i, expert in enumerate("abc")} for b in range(num_blocks))
        self.blocks = [np.array(list(block.values())) for block in self.weight_blocks]

    def loss(self, x: Floats) -> float:
        return float((x - self.middle) @ self.q @ (x - self.middle) / 2)

    def slopes(self, x: Floats) -> Floats:
        return np.asarray(self.q @ (x - self.middle))

    def gap(self, x: Floats) -> float:
        """Frank-Wolfe's: an upper bound on how far the loss is from its least in the product of simplices."""
        slopes = self.slopes(x)
        return float(slopes @ x - sum(slopes[block].min() for block in self.blocks))

    @property
    def curvature(self) -> float:
        """The constant C of the proof (Jaggi 2013): at most the largest eigenvalue times the squared diameter."""
        return float(np.linalg.eigvalsh(self.q)[-1] * 2 * len(self.blocks))

    def walk(self, options: FrankWolfeOptions, *, trials: int, slopes: bool = True) -> list[Floats]:
        def evaluate(number: int, point: Point) -> Outcome:
            x = np.array(point)
            found = tuple(map(float, self.slopes(x))) if slopes else None
            return Outcome(number=number, status=Status.OK, values=(-self.loss(x),), slopes=found)

        return [np.array(point) for point in drive(FrankWolfe(self.inputs(), options), evaluate, trials=trials)]

    def inputs(self) -> SearchInputs:
        dim = len(self.middle)
        rng = np.random.default_rng(0)
        return SearchInputs(
            domain=Box(low=(-0.5,) * dim, high=(1.5,) * dim, weight_blocks=self.weight_blocks),
            num_objectives=1,
            start=None,
            rng=rng,
        )


def in_box(inputs: SearchInputs, low: Point, high: Point) -> SearchInputs:
    return replace(inputs, domain=replace(inputs.box, low=low, high=high))


PAPER = FrankWolfeOptions(vertex_scale=1.0, base_vertex=False, step_size=1.0)


@pytest.mark.parametrize("num_blocks", [1, 4])
def test_the_gap_falls_at_the_proven_rate(num_blocks: int) -> None:
    """min over s <= t of the gap is at most 27/4 C / (t + 2) (Jaggi 2013, theorem 2, with his C half of ours)."""
    problem = Quadratic(num_blocks)
    xs = problem.walk(PAPER, trials=1000)
    assert all(np.isclose(x[block].sum(), 1) and (x >= -1e-12).all() for x in xs for block in problem.blocks)
    gaps = np.minimum.accumulate([problem.gap(x) for x in xs])
    bound = 27 / 4 * problem.curvature / (np.arange(len(xs)) + 2)
    assert (gaps <= bound).all()
    assert gaps[-1] < gaps[10] / 20, "it does not fall at all"


def test_differences_walk_where_the_gradient_does() -> None:
    """Central differences of a quadratic are exact, so the iterates are the same."""
    problem = Quadratic(2)
    exact = problem.walk(PAPER, trials=40)
    asked = problem.walk(PAPER.model_copy(update={"slopes": "differences"}), trials=40 * 13, slopes=False)
    assert np.allclose(asked[::13], exact, atol=1e-9)


def test_soft_mixes_what_is_equally_good() -> None:
    [block] = blocks_of(_weight_blocks(1), _box(3), scale=1.0, granularity="layer", base=False)
    x, slopes = np.full(3, 1 / 3), np.array([-1.0, -0.9, 2.0])
    hard = block.direction(x, slopes, towards=1, kind="inner")
    soft = block.direction(x, slopes, towards=3, kind="inner")
    assert x + hard == pytest.approx([1, 0, 0])
    assert x + soft == pytest.approx([0.5484, 0.4516, 0], abs=1e-4)  # descents 1.0333 and 0.9333
    assert (x + soft).sum() == pytest.approx(1)
    assert block.direction(x, slopes, towards=3, kind="cosine") @ slopes < 0


def test_a_block_without_a_vertex_downhill_stays() -> None:
    first, second = blocks_of(_weight_blocks(2), _box(6), scale=1.0, granularity="layer", base=False)
    corner = np.array([1.0, 0, 0])
    assert not first.direction(corner, np.array([-1.0, 2, 3]), towards=1, kind="inner").any()
    assert not second.direction(corner, np.array([0.5, 2, 3]), towards=1, kind="cosine").any()
    with_base = blocks_of(_weight_blocks(1), _box(3), scale=1.0, granularity="layer", base=True)[0]
    assert with_base.direction(corner, np.array([0.5, 2, 3]), towards=1, kind="inner").tolist() == [-1, 0, 0]


def test_where_the_box_begins_above_nothing_the_vertices_do_too() -> None:
    """All that is downhill is the corner of the least weights: no step is lost to the edge of the box."""
    inputs = in_box(make_inputs(dim=2, start=(0.75, 0.75)), (0.2, 0.2), (1.5, 1.5))
    points = _walk(inputs, FrankWolfeOptions(vertex_scale=2.0), lambda x: (2 * x[0], 2 * x[1]), trials=40)
    assert len(set(points)) == 40
    assert min(map(max, points)) < 0.35
    [block] = blocks_of(
        _weight_blocks(1), Box(low=(0.2, -1.0, 0.0), high=(1.1, 2.0, 0.5)), scale=2.0, granularity="layer", base=True
    )
    assert block.vertices.tolist() == [[2, 0, 0], [0.2, 2, 0], [0.2, 0, 2], [0.2, 0, 0]]
    assert block.caps == pytest.approx([0.5, 1, 0.25, 1])


def test_by_weight_cosine_the_least_is_taken_as_published() -> None:
    """Where all are positive no vertex is downhill, and one is best all the same."""
    inputs, options = (
        make_inputs(dim=3, start=(0.4, 0.4, 0.2)),
        FrankWolfeOptions(oracle="weight_cosine", vertex_scale=1),
    )
    points = _walk(inputs, options, lambda x: (0.9, 0.1, 0.8), trials=3)
    assert points[1] == pytest.approx((0.28, 0.58, 0.14))
    assert points[2] == pytest.approx((0.224, 0.664, 0.112))
    [block] = blocks_of(_weight_blocks(1), _box(3), scale=1.0, granularity="layer", base=False)
    soft = block.direction(np.zeros(3), np.array([0.9, 0.1, 0.8]), towards=2, kind="weight_cosine")
    assert soft.sum() == pytest.approx(1)
    assert soft[1] > soft[2] > soft[0] == 0


def test_a_cosine_is_its_expert_s_own_wherever_the_box_begins() -> None:
    box = Box(low=(0.2, 0.4, 0.0), high=(2.0,) * 3)
    [block] = blocks_of(_weight_blocks(1), box, scale=1.0, granularity="layer", base=True)
    point = np.array([0.3, 0.5, 0.1])
    cosines = np.array([0.5, -0.1, 0.2])
    assert (point + block.direction(point, cosines, towards=1, kind="cosine")).tolist() == [0.2, 1.0, 0.0]
    assert not block.direction(point, np.abs(cosines), towards=1, kind="cosine").any()
    [whole] = blocks_of(_weight_blocks(1), box, scale=1.0, granularity="layer", base=False)
    least = np.array([0.5, 0.6, 0.45])
    assert (point + whole.direction(point, least, towards=1, kind="weight_cosine")).tolist() == [0.2, 0.4, 1.0]


def test_what_the_box_does_not_let_one_have_goes_to_the_next() -> None:
    box = Box(low=(-0.5,) * 3, high=(1.5,) * 3)
    slopes = np.array([-3.0, -1.0, -2.0])
    [block] = blocks_of(_weight_blocks(1), box, scale=2.0, granularity="layer", base=True)
    assert block.direction(np.zeros(3), slopes, towards=1, kind="inner") == pytest.approx([1.5, 0, 0.5])
    assert block.direction(np.zeros(3), np.array([-3.0, 1, 2]), towards=1, kind="inner").tolist() == [1.5, 0, 0]


def test_a_task_is_one_expert_in_every_group_that_it_changes() -> None:
    weight_blocks: tuple[WeightBlock, ...] = ({"a": 0, "b": 1}, {"a": 2}, {"a": 3, "b": 4})
    [block] = blocks_of(weight_blocks, _box(5), scale=1.5, granularity="task", base=True)
    assert block.vertices.tolist() == [[1.5, 0, 1.5, 1.5, 0], [0, 1.5, 0, 0, 1.5], [0] * 5]
    assert list(probes_of(weight_blocks, "task")) == [[0, 2, 3], [1, 4]]
    assert list(probes_of(weight_blocks, "layer")) == [[0], [1], [2], [3], [4]]


def test_task_differences_ask_two_candidates_an_expert() -> None:
    problem = Quadratic(3)
    options = FrankWolfeOptions(slopes="differences", granularity="task", vertex_scale=1.0)
    optimizer = FrankWolfe(problem.inputs(), options)
    sizes, number = [], 0
    for _ in range(4):
        asked: list[Point] = []
        while (point := optimizer.ask(number + len(asked))) is not None:
            asked.append(point)
        for point in asked:
            value = -problem.loss(np.array(point))
            optimizer.tell(Outcome(number=number, status=Status.OK, values=(value,)))
            number += 1
        sizes.append(len(asked))
    assert sizes == [1, 6, 1, 6]


def test_the_published_schedule() -> None:
    """Steps of 0.3 x 2 / (t + 2), of the way to the same vertex."""
    inputs = make_inputs(dim=2, start=(0.5, 0.5))
    points = _walk(inputs, FrankWolfeOptions(vertex_scale=1.0), lambda x: (-1.0, 0.0), trials=4)
    left = np.array([1 - x for x, _ in points])
    assert left[1:] / left[:-1] == pytest.approx([1 - 0.3, 1 - 0.2, 1 - 0.15])


@pytest.mark.parametrize(
    ("tuned_scalar", "base_vertex", "scale"),
    [(None, True, 1.0), (0.5, True, 1.0), (2.0, True, 3.0), (None, False, 1.0), (2.0, False, 2.0)],
)
def test_the_tuned_merge_is_a_mixture_of_the_vertices_unless_told(
    tuned_scalar: float | None, base_vertex: bool, scale: float
) -> None:
    inputs = replace(make_inputs(dim=2, start=(0.5, 0.5)), tuned_scalar=tuned_scalar)
    inputs = in_box(inputs, (0.0, 0.0), (4.0, 4.0))
    options = FrankWolfeOptions(step_size=1.0, base_vertex=base_vertex)
    assert _walk(inputs, options, lambda x: (-1.0, 0.0), trials=2)[1] == (scale, 0.0)


def test_a_line_search_keeps_the_best_by_score() -> None:
    inputs = make_inputs(dim=2, start=(0.5, 0.5))
    options = FrankWolfeOptions(step_size=1.0, vertex_scale=1.0, steps=(0.25, 0.5, 1.0))
    points = _walk(inputs, options, lambda x: (2 * (x[0] - 0.74), 2 * (x[1] - 0.26)), trials=5)
    assert points[1:4] == [(0.625, 0.375), (0.75, 0.25), (1.0, 0.0)]
    assert points[4][0] < 0.75, "it went on from another point than the best"


def test_it_begins_again_at_the_best_point_with_half_the_step() -> None:
    """Slopes that say 'right' until 0.9, and nothing there; scores that are best at the second point."""
    inputs = make_inputs(dim=2, start=(0.0, 0.0))
    scores = iter([0.0, 1.0, 0.5, 0.0])
    options = FrankWolfeOptions(step_size=0.5, vertex_scale=1.0)

    def evaluate(number: int, point: Point) -> Outcome:
        slopes = (-1.0, 0.0) if number < 2 else (0.0, 0.0)
        return Outcome(number=number, status=Status.OK, values=(next(scores),), slopes=slopes)

    points = drive(FrankWolfe(inputs, options), evaluate, trials=4)
    assert [x for x, _ in points] == pytest.approx([0.0, 0.5, 0.5 + 0.5 / 3, 0.5 + 0.5 / 4])


LINE = FrankWolfeOptions(step_size=1.0, vertex_scale=1.0)
"""To the vertex at (1, 0) in one step from anywhere, by the slopes of `_rightwards`."""


def _rightwards(
    lost: Callable[[int, Point], Status | None], *, trials: int, options: FrankWolfeOptions = LINE
) -> list[float]:
    """The first coordinates that are asked where right is downhill, for what is `lost` (number, point -> status)."""

    def evaluate(number: int, point: Point) -> Outcome:
        if status := lost(number, point):
            return Outcome(number=number, status=status, values=None)
        return Outcome(number=number, status=Status.OK, values=(point[0],), slopes=(-1.0, 0.0))

    optimizer = FrankWolfe(make_inputs(dim=2, start=(0.5, 0.5)), options)
    return [x for x, _ in drive(optimizer, evaluate, trials=trials)]


@pytest.mark.parametrize("status", [Status.INVALID, Status.STOPPED])
def test_a_step_that_cannot_be_measured_is_halved(status: Status) -> None:
    asked = _rightwards(lambda _, point: status if point[0] > 0.7 else None, trials=4)
    assert asked == pytest.approx([0.5, 1.0, 0.75, 0.625])


def test_what_failed_is_asked_again_and_halved_where_it_always_fails() -> None:
    asked = _rightwards(lambda _, point: Status.FAILED if point[0] > 0.7 else None, trials=8)
    assert asked == pytest.approx([0.5, *[1.0] * 5, 0.75, 0.625])


def test_a_long_outage_shortens_a_step_and_keeps_its_direction() -> None:
    asked = _rightwards(lambda number, _: Status.FAILED if 1 <= number <= 8 else None, trials=10)
    assert asked == pytest.approx([0.5, *[1.0] * 5, 0.75, 0.625, 0.5625, 0.53125])


@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("num_failed", [1, 4])
def test_a_machine_that_is_out_for_a_while_does_not_turn_the_walk(first: int, num_failed: int) -> None:
    """At the start, and on the way: the same points as if nothing had been, once all are answered."""
    options = FrankWolfeOptions(vertex_scale=1.0)
    out = range(first, first + num_failed)
    asked = _rightwards(lambda number, _: Status.FAILED if number in out else None, trials=8, options=options)
    assert [x for number, x in enumerate(asked) if number not in out] == _rightwards(
        lambda *_: None, trials=8 - num_failed, options=options
    )
    assert len({asked[number] for number in (*out, out.stop)}) == 1


def test_of_several_steps_those_that_were_measured_are_enough() -> None:
    options = LINE.model_copy(update={"steps": (0.25, 0.5, 1.0)})
    asked = _rightwards(lambda number, _: Status.FAILED if number in (1, 3) else None, trials=5, options=options)
    assert asked == pytest.approx([0.5, 0.625, 0.75, 1.0, 0.75 + 0.25 * 0.25 * 2 / 3])


def test_a_score_without_slopes_halves_the_step() -> None:
    """An engine could not take the gradient there, and would not another time."""

    def evaluate(number: int, point: Point) -> Outcome:
        slopes = None if point[0] > 0.7 else (-1.0, 0.0)
        return Outcome(number=number, status=Status.OK, values=(point[0],), slopes=slopes)

    points = drive(FrankWolfe(make_inputs(dim=2, start=(0.5, 0.5)), LINE), evaluate, trials=4)
    assert [x for x, _ in points] == pytest.approx([0.5, 1.0, 0.75, 0.625])


def test_it_goes_on_where_slopes_never_come() -> None:
    optimizer = FrankWolfe(make_inputs(dim=2, start=(0.5, 0.5)), LINE)
    points = drive(optimizer, lambda number, _: Outcome(number=number, status=Status.OK, values=(1.0,)), trials=40)
    assert len(set(points)) == 40


def test_probes_that_all_failed_are_asked_again() -> None:
    """A machine that is out while slopes are taken: the walk is the one that would have been."""
    out = range(1, 13)
    asked = _by_differences(lambda number: number in out, trials=8 + len(out))
    assert asked[1:7] == asked[7:13] == asked[13:19]
    assert asked[19] == _by_differences(lambda _: False, trials=8)[7]


def test_where_one_of_a_pair_fails_the_place_itself_stands_in() -> None:
    asked = _by_differences(lambda number: number in (1, 4), trials=8)
    assert np.allclose(asked, _by_differences(lambda _: False, trials=8))


def _by_differences(failing: Callable[[int], bool], *, trials: int) -> list[Point]:
    problem, options = Quadratic(1), PAPER.model_copy(update={"slopes": "differences"})

    def evaluate(number: int, point: Point) -> Outcome:
        if failing(number):
            return Outcome(number=number, status=Status.FAILED, values=None)
        return Outcome(number=number, status=Status.OK, values=(-problem.loss(np.array(point)),))

    return drive(FrankWolfe(problem.inputs(), options), evaluate, trials=trials)


def test_options_say_which_slopes_they_need() -> None:
    """Without knowing this optimizer: a run asks any options, and those of an optimizer without slopes say none."""
    assert FrankWolfeOptions(oracle="cosine").slope_kind == "cosine"
    assert FrankWolfeOptions(slopes="differences").slope_kind is None
    assert CmaEsOptions().slope_kind is None


def test_what_it_cannot_walk_in_is_refused() -> None:
    box = Box(low=(0.0,), high=(1.0,))
    with pytest.raises(InputError, match="weights of their deltas and nothing else"):
        FrankWolfe(SearchInputs(domain=box, num_objectives=1, start=None, rng=np.random.default_rng(0)))
    with pytest.raises(InputError, match="one objective"):
        FrankWolfe(make_inputs(num_objectives=2))
    with pytest.raises(ValidationError, match="needs a gradient"):
        FrankWolfeOptions(slopes="differences", oracle="cosine")


@given(arrays(np.float64, st.integers(1, 6), elements=st.floats(-10, 10)))
def test_a_projection_onto_the_simplex_is_the_nearest_point(values: Floats) -> None:
    nearest = project_to_simplex(values)
    assert (nearest >= 0).all()
    assert nearest.sum() == pytest.approx(1)
    corners = np.eye(len(values))
    assert ((corners - nearest) @ (values - nearest) <= 1e-9).all()  # the variational inequality


def _weight_blocks(num_blocks: int) -> tuple[WeightBlock, ...]:
    return Quadratic(num_blocks).weight_blocks


def _box(dim: int) -> Box:
    return Box(low=(-2.0,) * dim, high=(2.0,) * dim)


def _walk(
    inputs: SearchInputs, options: FrankWolfeOptions, slopes: Callable[[Point], tuple[float, ...]], *, trials: int
) -> list[Point]:
    """The score is minus the distance to where the slopes of a sphere vanish, or 0."""

    def evaluate(number: int, point: Point) -> Outcome:
        found = slopes(point)
        return Outcome(number=number, status=Status.OK, values=(-sum(map(abs, found)),), slopes=found)

    return drive(FrankWolfe(inputs, options), evaluate, trials=trials)
