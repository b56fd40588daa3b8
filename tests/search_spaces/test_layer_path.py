"""The data-flow space: both encodings keep the laws of a box, and what is no path of theirs has no point."""

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from crossbreed.errors import InputError
from crossbreed.recipes.named import weighted_deltas
from crossbreed.search_spaces import SearchSpace, SpaceInputs
from crossbreed.search_spaces.layer_path import LayerPathConfig, LayerPathSpace
from crossbreed.testing.spaces import SpaceConformance, make_structure
from crossbreed.types import BASE, LayerStep, Recipe

STRUCTURE = make_structure(num_layers=4, experts=("french", "sums"))
BASE_RECIPE = weighted_deltas({}, hashes=STRUCTURE.hashes, dtype="bfloat16")
UNIFORM = weighted_deltas({"french": 0.5, "sums": 0.5}, hashes=STRUCTURE.hashes, dtype="bfloat16")


def make_space(*, around: Recipe | None = None, **settings: Any) -> LayerPathSpace:
    config = LayerPathConfig.model_validate(settings)
    return LayerPathSpace(config, SpaceInputs(structure=STRUCTURE, dtype="bfloat16", around=around))


def path(*steps: LayerStep) -> Recipe:
    return replace(BASE_RECIPE, layers=steps)


class TestIndicators(SpaceConformance):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return make_space(max_depth=6)


class TestFreeEnds(SpaceConformance):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return make_space(keep_ends=False, repetitions=1, scales="none", max_depth=5)


class TestHops(SpaceConformance):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return make_space(scales="hop", experts=["sums"], repetitions=1)


class TestPositions(SpaceConformance):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return make_space(encoding="position", max_depth=5)


class TestPositionsAroundAMerge(SpaceConformance):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return make_space(encoding="position", around=UNIFORM, keep_ends=False, scales="none")


@pytest.mark.parametrize("settings", [{}, {"encoding": "position"}, {"keep_ends": False}, {"scales": "hop"}])
def test_a_search_starts_on_the_base_s_own_layers(settings: dict[str, Any]) -> None:
    """Of whichever merge it is around: the path of a recipe without `layers` is the base's."""
    for around in (BASE_RECIPE, UNIFORM):
        space = make_space(around=around, **settings)
        start = space.encode(UNIFORM)
        assert start is not None
        assert space.decode(start) == around


def test_a_path_is_read_off_the_row() -> None:
    space = make_space(repetitions=2, scales="slot", max_depth=6)
    values = dict.fromkeys(space.names, -1.0) | {name: 1.0 for name in space.names if name.endswith("scale")}
    on = {"pass 1, base 2: in": 0.2, "pass 2, base 2: in": 0.1, "pass 2, sums 1: in": 0.9, "pass 2, sums 1: scale": 0.8}
    found = space.decode(tuple((values | on).values()))
    assert found.layers == ((BASE, 0, 1.0), (BASE, 2, 1.0), (BASE, 2, 1.0), ("sums", 1, 0.8), (BASE, 3, 1.0))


def test_of_more_slots_than_there_is_room_for_the_most_wanted_are_taken() -> None:
    space = make_space(max_depth=4, scales="none", repetitions=1)
    values = dict.fromkeys(space.names, 0.1) | {"pass 1, sums 3: in": 0.9, "pass 1, french 0: in": 0.8}
    found = space.decode(tuple(values.values()))
    assert [step[:2] for step in found.layers] == [(BASE, 0), ("french", 0), ("sums", 3), (BASE, 3)]


def test_a_hop_has_one_scale_wherever_it_is_made() -> None:
    space = make_space(scales="hop", experts=["sums"], max_depth=7)
    steps = [(BASE, 0, 1.0), (BASE, 1, 0.9), ("sums", 2, 0.8), (BASE, 1, 1.0), ("sums", 2, 0.8), (BASE, 3, 1.2)]
    point = space.encode(path(*steps))
    assert point is not None
    assert space.decode(point).layers == tuple(steps)
    assert dict(zip(space.names, point, strict=True))["base 1 to sums 2: scale"] == 0.8


def test_a_position_is_skipped_taken_or_repeated() -> None:
    space = make_space(encoding="position", scales="slot", max_depth=5)
    assert space.names[:3] == ("layer 1: source", "layer 1: times", "layer 1: scale")
    point = space.encode(path((BASE, 0, 1.0), ("sums", 2, 0.9), ("sums", 2, 0.9), (BASE, 3, 1.1)))
    assert point is not None
    assert dict(zip(space.names, point, strict=True)) == {
        "layer 1: source": 0.5,
        "layer 1: times": 0.5,
        "layer 1: scale": 1.0,
        "layer 2: source": 2.5,
        "layer 2: times": 2.5,
        "layer 2: scale": 0.9,
        "layer 3: scale": 1.1,
    }


def test_repeats_are_given_while_there_is_room() -> None:
    space = make_space(encoding="position", max_depth=5, scales="none")
    twice = tuple(3.0 if name.endswith("times") else 0.0 for name in space.names)
    assert [number for _, number, _ in space.decode(twice).layers] == [0, 1, 1, 2, 3]


def test_layers_that_are_the_base_s_have_no_coordinate() -> None:
    """A layer that an expert leaves as it is would be the same path twice."""
    touched = {
        "french": frozenset(name for name in STRUCTURE.tensors if ".layers.2." in name),
        "sums": frozenset[str](),
    }
    inputs = SpaceInputs(structure=replace(STRUCTURE, touched=touched), dtype="bfloat16")
    names = LayerPathSpace(LayerPathConfig(repetitions=1, scales="none"), inputs).names
    assert names == ("pass 1, base 1: in", "pass 1, base 2: in", "pass 1, french 2: in")


@pytest.mark.parametrize(
    "steps",
    [
        [("sums", 0, 1.0), (BASE, 1, 1.0), (BASE, 3, 1.0)],
        [(BASE, 0, 1.0), (BASE, 1, 1.0)],
        [(BASE, 0, 1.0), (BASE, 2, 1.0), (BASE, 1, 1.0), (BASE, 1, 1.0), (BASE, 3, 1.0)],
        [(BASE, 0, 1.0), *[(BASE, 1, 1.0)] * 8, (BASE, 3, 1.0)],
    ],
    ids=["another beginning", "another end", "another order", "too long"],
)
def test_a_path_that_it_cannot_express_has_no_point(steps: list[LayerStep]) -> None:
    for encoding in ("indicator", "position"):
        settings: dict[str, Any] = {"repetitions": 1} if encoding == "indicator" else {}
        assert make_space(encoding=encoding, max_depth=6, **settings).encode(path(*steps)) is None


def test_what_it_is_around_is_settled_by_the_settings() -> None:
    assert LayerPathConfig().is_around
    assert not LayerPathConfig(around="base").is_around
    assert make_space(around=UNIFORM).decode(make_space().domain.high).rules == UNIFORM.rules
    assert {make_space(around=around).names for around in (None, UNIFORM)} == {make_space().names}


@pytest.mark.parametrize("settings", [{}, {"encoding": "position"}, {"scales": "none"}, {"scale": [0.5, 2.0]}])
def test_settings_are_read_again_with_all_defaults(settings: dict[str, Any]) -> None:
    """As the spec of a run folder has them."""
    config = LayerPathConfig.model_validate(settings)
    assert LayerPathConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"encoding": "position", "scales": "hop"}, "goes with `encoding: indicator`"),
        ({"encoding": "position", "repetitions": 3}, "`repetitions` goes with"),
        ({"scales": "none", "scale": [0.5, 2]}, "remove one of them"),
        ({"scale": [-1, 2]}, "low < 1 < high"),
        ({"scale": [1, 2]}, "low < 1 < high"),
        ({"max_depth": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises((ValidationError, InputError), match=said):
        LayerPathConfig.model_validate(settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"max_depth": 3}, "max_depth: 4"), ({"experts": ["french", "summs"]}, "did you mean `sums`")],
)
def test_settings_that_do_not_fit_the_sources_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        make_space(**settings)


def test_a_base_of_two_layers_has_no_paths() -> None:
    inputs = SpaceInputs(structure=make_structure(num_layers=2), dtype="bfloat16")
    with pytest.raises(InputError, match="too few layers"):
        LayerPathSpace(LayerPathConfig(), inputs)
