import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossbreed.randomness import spawn
from crossbreed.runs.results.numbers import with_interval
from crossbreed.runs.results.statistics import interval, paired_difference, pool, task_intervals
from crossbreed.runs.spec.objectives import Objective
from crossbreed.types import ItemScores, Means

MEAN = Objective(kind="mean", tasks=("a", "b"))
WORST = Objective(kind="worst", tasks=("a", "b"))
PERPLEXITY = Objective(kind="task", tasks=("a",), minimize=True)

unit = st.floats(0, 1, width=32)
values = st.lists(unit, min_size=1, max_size=12)
FEW = settings(max_examples=25, deadline=None)


def items(values: object, prefix: str = "i") -> ItemScores:
    column = [float(v) for v in values]  # type: ignore[attr-defined]
    return ItemScores(item_ids=tuple(f"{prefix}{i}" for i in range(len(column))), values=tuple(column))


@FEW
@given(values, values)
def test_a_model_against_itself_is_exactly_0(a: list[float], b: list[float]) -> None:
    scores = {"a": items(a), "b": items(b)}
    for objective in (MEAN, WORST, PERPLEXITY):
        difference = paired_difference(scores, scores, objective)
        assert (difference.mean, difference.low, difference.high) == (0.0, 0.0, 0.0)


@FEW
@given(values, values)
def test_an_interval_holds_its_mean(a: list[float], b: list[float]) -> None:
    scores = {"a": items(a), "b": items(b)}
    for objective in (MEAN, WORST):
        found = interval(scores, objective)
        assert found.low <= found.mean <= found.high
        assert found.is_known is (min(len(a), len(b)) > 1)
        assert found.mean == pytest.approx(objective.of(scores), abs=1e-12)
        assert found.n == len(a) + len(b)


@FEW
@given(values, st.randoms(use_true_random=False))
def test_the_order_of_items_changes_nothing(a: list[float], random: object) -> None:
    scores = items(a)
    order = list(range(len(a)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = ItemScores(
        item_ids=tuple(scores.item_ids[i] for i in order), values=tuple(scores.values[i] for i in order)
    )
    assert interval({"a": scores}, PERPLEXITY) == interval({"a": shuffled}, PERPLEXITY)


@FEW
@given(st.lists(st.tuples(unit, unit), min_size=1, max_size=12), st.booleans())
def test_the_difference_changes_sign_with_the_order_and_the_direction(
    pairs: list[tuple[float, float]], minimize: bool
) -> None:
    objective = Objective(kind="task", tasks=("a",), minimize=minimize)
    a, b = ({"a": items(column)} for column in zip(*pairs, strict=True))
    forth, back = paired_difference(a, b, objective), paired_difference(b, a, objective)
    assert (forth.mean, forth.low, forth.high) == pytest.approx((-back.mean, -back.high, -back.low), abs=1e-9)
    assert forth.mean == pytest.approx(objective.improvement(a["a"].mean, b["a"].mean), abs=1e-9)


def test_a_single_item_tells_nothing_of_how_items_differ() -> None:
    one, other = {"a": items([1.0]), "b": items([1.0, 0.0])}, {"a": items([0.0]), "b": items([1.0, 0.0])}
    assert not interval(one, MEAN).is_known
    assert not paired_difference(one, other, MEAN).is_known
    assert paired_difference(one, other, Objective(kind="task", tasks=("b",))).is_known
    assert interval(one, MEAN).to_json() == {"mean": 0.75, "low": None, "high": None, "n": 3}


def test_pairing_is_on_shared_items_by_id() -> None:
    a = ItemScores(item_ids=("x", "y", "z"), values=(1.0, 0.0, 1.0))
    b = ItemScores(item_ids=("z", "w", "y"), values=(0.5, 1.0, 0.0))
    difference = paired_difference({"a": a}, {"a": b}, Objective(kind="task", tasks=("a",)))
    assert (difference.mean, difference.n) == (0.25, 2)


def test_pairing_sees_what_independent_intervals_hide() -> None:
    rng = spawn(3, "test")
    hard = rng.normal(0, 1, 200)
    a, b = {"a": items(hard + 0.1)}, {"a": items(hard)}
    difference = paired_difference(a, b, Objective(kind="task", tasks=("a",)))
    assert (difference.low, difference.high) == pytest.approx((0.1, 0.1))


def test_a_seed_is_a_result_and_a_tasks_draws_are_its_own() -> None:
    rng = spawn(1, "test")
    scores = {"a": items(rng.random(50)), "b": items(rng.random(30))}
    assert interval(scores, MEAN, seed=5) == interval(scores, MEAN, seed=5)
    assert interval(scores, MEAN, seed=5) != interval(scores, MEAN, seed=6)
    assert task_intervals(scores)["a"] == task_intervals({"a": scores["a"]})["a"]


def test_width_matches_the_normal_theory_of_a_stratified_mean() -> None:
    rng = spawn(2, "test")
    a, b = rng.normal(0, 1, 400), rng.normal(0, 3, 100)
    found = interval({"a": items(a), "b": items(b)}, MEAN)
    half = 1.96 * 0.5 * np.sqrt(a.var() / 400 + b.var() / 100)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)


def test_coverage_is_about_95_percent() -> None:
    rng = spawn(4, "test")
    hits = 0
    for _ in range(300):
        scores = {"a": items(rng.random(60) < 0.7), "b": items(rng.random(60) < 0.4)}
        found = interval(scores, MEAN)
        hits += found.low <= 0.55 <= found.high
    assert 0.91 <= hits / 300 <= 0.985


def test_large_sets_are_drawn_in_blocks_of_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {"a": items(spawn(5, "test").random(40))}
    whole = interval(scores, PERPLEXITY)
    monkeypatch.setattr("crossbreed.runs.results.statistics._BLOCK", 1000)
    assert interval(scores, PERPLEXITY) == whole


def test_pool_joins_items_task_by_task() -> None:
    pooled = pool({"a": items([1, 0]), "b": items([1])}, {"a": items([1, 1], prefix="s")})
    assert pooled["a"] == ItemScores(item_ids=("i0", "i1", "s0", "s1"), values=(1.0, 0.0, 1.0, 1.0))
    assert pooled["b"].mean == 1.0


def means(value: float, *, error: float | None, count: int = 50, split: str = "report") -> ItemScores:
    return ItemScores(item_ids=(split,), values=(value,), means=Means(counts=(count,), errors=(error,)))


SECRET = Objective(kind="task", tasks=("a",))


def test_means_of_splits_are_pooled_by_their_items() -> None:
    searched, selected = means(0.5, error=0.03, count=30, split="search"), means(0.2, error=0.04, count=10)
    pooled = pool({"a": searched}, {"a": selected})["a"]
    assert pooled.mean == pytest.approx(0.425)
    assert pooled.num_items == 40
    assert pooled.standard_error == pytest.approx(((30 * 0.03) ** 2 + (10 * 0.04) ** 2) ** 0.5 / 40)
    assert pool({"a": means(0.5, error=None)}, {"a": selected})["a"].standard_error is None


def test_intervals_of_means_are_those_of_their_errors_and_pair_nothing() -> None:
    """As wide as if other items had been answered by each model; with the values of items they would be paired."""
    one, other = {"a": means(0.6, error=0.05)}, {"a": means(0.5, error=0.05)}
    alone = interval(one, SECRET)
    assert (alone.mean, alone.n) == (0.6, 50)
    assert (alone.low, alone.high) == (pytest.approx(0.6 - 1.96 * 0.05, abs=0.004), pytest.approx(0.698, abs=0.004))
    gap = paired_difference(one, other, SECRET)
    assert gap.mean == pytest.approx(0.1)
    assert gap.low == pytest.approx(0.1 - 1.96 * 0.05 * 2**0.5, abs=0.006)
    same = paired_difference(one, one, SECRET)
    assert (same.low, same.mean, same.high) == (0.0, 0.0, 0.0)
    equal = paired_difference(one, {"a": means(0.6, error=0.05)}, SECRET)
    assert equal.low < -0.1 < 0.1 < equal.high, "another model with the same mean is not the same model"


@pytest.mark.parametrize("objective", [MEAN, WORST], ids=["mean", "worst"])
def test_one_unknown_error_leaves_nothing_known(objective: Objective) -> None:
    scores = {"a": items([0.0, 1.0, 1.0]), "b": means(0.5, error=None)}
    found = interval(scores, objective)
    assert not found.is_known
    assert found.to_json() == {"mean": objective.of(scores), "low": None, "high": None, "n": 53}
    assert with_interval(found).endswith(" [not known]")
    known = interval({**scores, "b": means(0.5, error=0.01)}, objective)
    assert known.is_known
    assert known.n == 53
