from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from crossbreed.errors import InputError
from crossbreed.runs.results.statistics import interval
from crossbreed.runs.spec.objectives import (
    Normalized,
    Objective,
    ObjectiveConfig,
    build_objectives,
    build_scalar,
    item_values,
    item_weights,
)
from crossbreed.types import ItemScores

MINIMIZED = {"sums": False, "french": False, "prose": True}


def one(**config: object) -> Objective:
    return build_objectives([ObjectiveConfig.model_validate(config)], MINIMIZED)[0]


def test_values_by_hand() -> None:
    means = {"sums": 0.5, "french": 0.9, "prose": 20.0}
    assert one(mean=["sums", "french"]).value(means) == pytest.approx(0.7)
    assert one(mean=["sums", "french"], weights=[3, 1]).value(means) == pytest.approx(0.6)
    assert one(worst=["sums", "french"]).value(means) == 0.5
    assert one(worst=["sums", "french"], minimize=True).value(means) == 0.9
    assert one(task="prose").value(means) == 20.0


def test_values_of_weights_below_0_quantiles_and_lengths_by_hand() -> None:
    means = {"sums": 0.5, "french": 0.9, "prose": 20.0, "length of sums": 7.0}
    unlearnt = one(mean=["sums", "french"], weights=[1, -0.5])
    assert unlearnt.value(means) == pytest.approx((0.5 - 0.45) / 1.5)
    assert not unlearnt.minimize
    assert unlearnt.lesser == {"french"}
    kept = one(mean=["sums", "prose"], weights=[1, -0.1])  # a loss among scores
    assert kept.value(means) == pytest.approx((0.5 - 2.0) / 1.1)
    assert not kept.minimize
    assert one(quantile=["sums", "french"], at=0.25).value(means) == pytest.approx(0.6)
    assert one(quantile=["sums", "french"], at=0.25, minimize=True).value(means) == pytest.approx(0.8)
    length = one(length="sums")
    assert (length.name, length.value(means), length.minimize) == ("length of sums", 7.0, True)


def test_values_relative_to_baselines_by_hand() -> None:
    means, base = {"sums": 0.5, "prose": 3.0}, {"sums": 0.25, "prose": 4.0}
    over = one(task="prose", relative_to="base")
    assert (over.value(means, base), over.minimize) == (-1.0, True)
    gain = one(mean=["sums", "prose"], relative_to="experts")
    assert not gain.minimize
    assert gain.lesser == {"prose"}
    gain = replace(gain, gains=(0.5, -2.0))
    assert gain.value(means, base) == pytest.approx((0.5 + 0.5) / 2)
    assert gain.value(base, base) == 0
    assert gain.plain.value(means) == pytest.approx(1.75)  # which a journal records


def test_a_relative_difference_is_paired_with_the_base() -> None:
    """Items that are hard for both are no noise: the interval is of the differences."""
    rng = np.random.default_rng(0)
    hard = rng.standard_normal(200)
    ids = tuple(map(str, range(200)))
    base = {"prose": ItemScores(item_ids=ids, values=tuple(hard + 3))}
    model = {"prose": ItemScores(item_ids=ids, values=tuple(hard + 3.1))}
    found = interval(model, one(task="prose", relative_to="base"), base=base)
    assert (found.mean, found.low, found.high) == (pytest.approx(0.1), pytest.approx(0.1), pytest.approx(0.1))
    alone = interval(model, one(task="prose"))
    assert alone.high - alone.low > 0.2


def test_direction_is_the_metrics_unless_given() -> None:
    assert one(task="prose").minimize
    assert not one(task="sums").minimize
    assert one(task="sums", minimize=True).minimize
    assert one(task="prose").improvement(10.0, over=12.0) == 2.0
    assert one(task="sums").improvement(0.9, over=0.7) == pytest.approx(0.2)


def test_over_arrays_is_value_at_every_position() -> None:
    means = {"sums": np.array([0.1, 0.9]), "french": np.array([0.5, 0.2]), "prose": np.array([3.0, 9.0])}
    objectives = build_objectives([ObjectiveConfig(worst=("sums", "french")), ObjectiveConfig(task="prose")], MINIMIZED)
    for measure in (*objectives, build_scalar(objectives, [(0.1, 9.0), (0.6, 3.0)])):
        values = [measure.value({task: float(column[i]) for task, column in means.items()}) for i in range(2)]
        np.testing.assert_allclose(measure.over(means), values)


def test_no_objective_is_the_mean_of_all() -> None:
    assert build_objectives([], {"a": False, "b": False})[0].tasks == ("a", "b")


def test_unknown_task_is_refused_with_a_suggestion() -> None:
    with pytest.raises(InputError, match=r"write `french`"):
        one(mean=["sums", "frnch"])


def test_opposite_directions_are_refused() -> None:
    with pytest.raises(InputError, match=r"less is better in prose"):
        one(mean=["sums", "prose"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "one of `mean`"),
        ({"mean": ["sums"], "task": "sums"}, "mean and task"),
        ({"mean": []}, "distinct tasks"),
        ({"worst": ["sums", "sums"]}, "distinct tasks"),
        ({"task": "sums", "weights": [1]}, "are for `mean`"),
        ({"mean": ["sums", "french"], "weights": [1]}, "2 numbers"),
        ({"mean": ["sums", "french"], "weights": [0, 0]}, "not all 0"),
        ({"mean": ["sums", "french"], "weights": [0, -1]}, "minimize: true"),
        ({"mean": ["sums"], "weights": [-1]}, "minimize: true"),
        ({"quantile": ["sums", "french"]}, "needs `at`"),
        ({"quantile": ["sums", "french"], "at": 1}, "less than 1"),
        ({"quantile": ["sums", "french"], "at": 0}, "greater than 0"),
        ({"worst": ["sums", "french"], "at": 0.5}, "takes none"),
        ({"length": "sums", "task": "sums"}, "task and length"),
        ({"task": "sums", "relative_to": "expert"}, "relative_to"),
        ({"mean": ["sums"], "weihgts": [1]}, "weihgts"),
    ],
)
def test_bad_configs(config: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ObjectiveConfig.model_validate(config)


def test_scalar_of_several_is_0_at_the_worst_baseline_and_1_at_the_best() -> None:
    objectives = build_objectives([ObjectiveConfig(task="sums"), ObjectiveConfig(task="prose")], MINIMIZED)
    scalar = build_scalar(objectives, [(0.2, 30.0), (0.6, 10.0), (0.4, 20.0)])
    assert isinstance(scalar, Normalized)
    assert not scalar.minimize
    assert scalar.value({"sums": 0.2, "prose": 30.0}) == pytest.approx(0.0)
    assert scalar.value({"sums": 0.6, "prose": 10.0}) == pytest.approx(1.0)
    assert scalar.value({"sums": 0.8, "prose": 10.0}) == pytest.approx(1.25)


def test_scalar_survives_equal_baselines() -> None:
    objectives = build_objectives([ObjectiveConfig(task="sums"), ObjectiveConfig(task="french")], MINIMIZED)
    assert build_scalar(objectives, [(0.5, 0.5), (0.5, 0.5)]).value({"sums": 0.75, "french": 0.5}) == 0.125


def test_scalar_keeps_its_direction_where_equal_baselines_are_to_be_undercut() -> None:
    objectives = build_objectives([ObjectiveConfig(task="sums"), ObjectiveConfig(task="prose")], MINIMIZED)
    scalar = build_scalar(objectives, [(0.25, 2.0), (0.75, 2.0)])
    values = [scalar.value({"sums": 0.5, "prose": nats}) for nats in (1.0, 2.0, 3.0)]
    assert values == [0.75, 0.25, -0.25]


def _scores(**values: tuple[float, ...]) -> dict[str, ItemScores]:
    return {
        task: ItemScores(item_ids=tuple(f"{task}-{i}" for i in range(len(given))), values=given)
        for task, given in values.items()
    }


def weighted_mean(objectives: list[Objective], scores: dict[str, ItemScores]) -> float:
    values = item_values(objectives, scores)
    weights = item_weights(objectives, {task: len(own.values) for task, own in scores.items()})
    assert weights == () or np.mean(weights) == pytest.approx(1)
    return float(np.mean(np.multiply(values, weights or 1.0)))


@pytest.mark.parametrize("num_tasks", [1, 2, 3, 7])
def test_items_of_equal_tasks_count_alike(num_tasks: int) -> None:
    objective = Objective(kind="mean", tasks=tuple("abcdefg"[:num_tasks]))
    assert item_weights([objective], dict.fromkeys("abcdefgh", 10)) == ()


def test_items_keep_their_plain_scores() -> None:
    objective = Objective(kind="mean", tasks=("a", "b"), weights=(3.0, 1.0))
    scores = _scores(a=(1.0, 0.0), b=(0.0, 1.0), unread=(1.0,))
    assert item_values([objective], scores) == (1.0, 0.0, 0.0, 1.0)
    assert item_weights([objective], {"a": 2, "b": 2, "unread": 1}) == (1.5, 1.5, 0.5, 0.5)


@pytest.mark.parametrize("weights", [None, (3.0, 1.0), (0.0, 1.0)])
def test_the_weighted_mean_of_the_items_is_the_objective(weights: tuple[float, float] | None) -> None:
    objective = Objective(kind="mean", tasks=("a", "b"), weights=weights)
    scores = _scores(a=(1.0, 0.0, 0.0), b=(0.25,))
    assert weighted_mean([objective], scores) == pytest.approx(objective.of(scores))


def test_items_of_several_objectives_count_as_often_as_they_are_read_and_less_is_negative() -> None:
    objectives = [
        Objective(kind="mean", tasks=("a", "b")),
        Objective(kind="task", tasks=("a",)),
        Objective(kind="task", tasks=("c",), minimize=True),
    ]
    scores = _scores(a=(1.0, 0.0), b=(1.0, 1.0), c=(8.0, 4.0))
    assert item_values(objectives, scores)[4:] == (-8.0, -4.0)
    assert weighted_mean(objectives, scores) == pytest.approx((0.75 + 0.5 - 6.0) / 3)
