"""The space of a regression's settings keeps the laws of spaces, and starts at the regression itself."""

from dataclasses import replace
from typing import Any

import pytest

from crossbreed.errors import InputError
from crossbreed.recipes.named import weighted_deltas
from crossbreed.search_spaces import RegressionSettings, SearchSpace, SpaceInputs
from crossbreed.search_spaces.regression_settings import RegressionSettingsConfig, RegressionSettingsSpace
from crossbreed.search_spaces.scales import ScalesConfig, ScaleSpace
from crossbreed.testing.spaces import SpaceConformance, make_structure
from crossbreed.types import REGRESSION

BEFORE = make_structure(experts=("french", "sums"))
STRUCTURE = replace(
    BEFORE,
    touched={**BEFORE.touched, REGRESSION: BEFORE.touched_by_any},
    hashes={**BEFORE.hashes, REGRESSION: "hash of what was made"},
)
GROUPS = {"layers": 2, "modules": ["attention", "mlp"]}
MADE = weighted_deltas({REGRESSION: 1.0}, hashes=STRUCTURE.hashes, dtype="bfloat16")


def space_of(structure: Any = STRUCTURE, modules: tuple[str, ...] = (), **settings: Any) -> RegressionSettingsSpace:
    reference = RegressionSettings(ridge=1.0, anchor_scale=0.85, own=0.5, modules=modules)
    inputs = SpaceInputs(
        structure=structure, dtype="bfloat16", regression=reference, artifacts={"statistics": "of a walk"}
    )
    return RegressionSettingsSpace(RegressionSettingsConfig.model_validate({"groups": GROUPS, **settings}), inputs)


class TestBands(SpaceConformance):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return space_of()


class TestOneSettingOfOneGroup(SpaceConformance):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return space_of(groups={}, own=None, anchor_scale=None)


def test_it_starts_at_the_regression_itself() -> None:
    space = space_of()
    start = space.encode(MADE)
    assert start is not None
    assert space.decode(start) == MADE
    moved = space.decode((*start[:-1], start[-1] + 0.1))
    assert [rule.params["own"] for rule in moved.rules[:-1]] == [0.5, 0.5, 0.5, 0.6]
    assert moved.rules[-1] == MADE.rules[0], "what has no coordinate stays the regression's"


def test_coordinates_are_known_before_the_regression_is_made() -> None:
    assert space_of(BEFORE).names == space_of().names
    first = [f"layers 0-2 / attention: {name}" for name in ("ln ridge", "anchor_scale", "own")]
    assert [*space_of().names[:3]] == first
    assert space_of(modules=("mlp",)).names == tuple(name for name in space_of().names if "mlp" in name)


def test_coarse_settings_start_a_finer_search() -> None:
    coarse = space_of(groups={"modules": ["attention", "mlp"]})
    recipe = coarse.decode((1.0, 0.5, 0.25, -1.0, 0.6, 0.75))
    point = space_of().encode(recipe)
    assert point == pytest.approx((1.0, 0.5, 0.25, -1.0, 0.6, 0.75) * 2, abs=1e-5)
    assert coarse.encode(space_of().decode(space_of().domain.low)) is not None
    assert coarse.encode(space_of().decode((*space_of().domain.low[:-1], 1.0))) is None, "not the same everywhere"


def test_scales_polish_what_it_finds() -> None:
    found = space_of().decode(space_of().domain.low)
    inputs = SpaceInputs(structure=STRUCTURE, dtype="bfloat16", around=found, artifacts=found.artifacts)
    polish = ScaleSpace(ScalesConfig.model_validate({"groups": GROUPS}), inputs)
    ones = (1.0,) * polish.domain.dim
    assert polish.decode(ones) == found
    scaled = polish.decode((0.9, *ones[1:]))
    assert {rule.params.get("lines_alpha") for rule in scaled.rules} == {0.9, None}
    assert scaled.artifacts == found.artifacts
    assert space_of().encode(scaled) is None, "a factor is none of the settings"


def test_without_a_regression_there_are_no_settings() -> None:
    inputs = SpaceInputs(structure=STRUCTURE, dtype="bfloat16")
    with pytest.raises(InputError, match="the run makes none"):
        RegressionSettingsSpace(RegressionSettingsConfig(), inputs)
