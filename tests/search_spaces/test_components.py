"""The space of rank components: the laws, what it can express, and the recipes that it is around."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from coefficient_spaces import STRUCTURE, make_space, one_rule

from crossbreed.errors import InputError
from crossbreed.recipes.named import weighted_deltas
from crossbreed.search_spaces import ComponentsConfig, ComponentSpace, SearchSpace, SpaceInputs
from crossbreed.sources.naming import is_projection
from crossbreed.sources.structure import Structure
from crossbreed.testing.spaces import SpaceConformance, make_structure
from crossbreed.types import REGRESSION, Recipe

SMALL = make_structure(num_layers=1)
MATRICES = [name for name, info in SMALL.tensors.items() if is_projection(name, info.shape)]
OF_ADAPTERS = replace(
    SMALL,
    touched=dict.fromkeys(("french", "sums"), frozenset(MATRICES)),
    hashes={name: SMALL.hashes[name] for name in ("base", "french", "sums")},
    ranks={"french": dict.fromkeys(MATRICES, 2), "sums": dict.fromkeys(MATRICES, 3)},
)
WITH_REGRESSION = replace(
    OF_ADAPTERS,
    touched={**OF_ADAPTERS.touched, REGRESSION: frozenset(SMALL.tensors)},
    hashes={**OF_ADAPTERS.hashes, REGRESSION: "hash of the regression"},
)


def components(structure: Structure = OF_ADAPTERS, around: Recipe | None = None, **config: Any) -> ComponentSpace:
    inputs = SpaceInputs(structure=structure, dtype="bfloat16", around=around)
    return ComponentSpace(ComponentsConfig.model_validate(config), inputs)


def weighted(structure: Structure = OF_ADAPTERS, **weights: float) -> Recipe:
    return weighted_deltas(weights, hashes=structure.hashes, dtype="bfloat16")


class TestFullExperts(SpaceConformance):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return components(SMALL, rank=2, modules=["mlp", "q_proj"])


class TestAroundComponents(SpaceConformance):
    @pytest.fixture
    def space(self) -> SearchSpace:
        first = components(rank=2)
        return components(around=first.decode((0.25,) * first.domain.dim), reach=0.5, modules=["mlp"])


def test_adapters_have_a_coordinate_for_each_rank() -> None:
    space = components(rank=7)
    assert space.domain.dim == len(MATRICES) * (2 + 3)
    assert space.names[:3] == tuple(
        f"{sorted(MATRICES)[0].removesuffix('.weight')} / {of}"
        for of in ("french: component 0", "french: component 1", "sums: component 0")
    )


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5])
def test_the_mean_of_adapters_has_a_point(scale: float) -> None:
    space = components()
    point = space.encode(weighted(french=scale / 2, sums=scale / 2))
    assert point == pytest.approx((scale / 2 - 0.5,) * space.domain.dim)


def test_a_regression_is_what_it_is_around() -> None:
    """And no weighted sum of the experts alone has a point near it."""
    space = components(WITH_REGRESSION)
    assert space.encode(weighted(WITH_REGRESSION, regression=1.0)) == (0.0,) * space.domain.dim
    moved = space.encode(weighted(WITH_REGRESSION, regression=1.0, french=0.25))
    assert moved is not None
    assert sorted({*moved}) == [0.0, 0.25]
    assert space.encode(weighted(WITH_REGRESSION, french=0.5, sums=0.5)) is None
    assert space.encode(weighted(WITH_REGRESSION, regression=0.9)) is None
    [*_, last] = space.decode(space.domain.low).rules
    assert (last.match, last.params) == (".*", {"weight": {REGRESSION: 1.0}})
    assert not any(REGRESSION in name for name in space.names)


def test_other_weights_of_full_checkpoints_have_no_point() -> None:
    """Their leading components are not all of them."""
    space = components(SMALL)
    assert space.encode(weighted(SMALL, french=1 / 3, sums=1 / 3, norms=1 / 3)) == (0.0,) * space.domain.dim
    assert space.encode(weighted(SMALL, french=0.5, sums=0.5, norms=0.5)) is None


def test_it_goes_on_around_its_own_recipes() -> None:
    first = components()
    point = tuple(np.random.default_rng(0).uniform(-1, 1, first.domain.dim).round(3).tolist())
    recipe = first.decode(point)
    second = components(around=recipe)
    assert second.decode((0.0,) * second.domain.dim) == recipe
    assert second.encode(recipe) == (0.0,) * second.domain.dim
    assert first.encode(second.decode((0.1,) * second.domain.dim)) == pytest.approx([x + 0.1 for x in point])


def test_components_beyond_those_searched_stay_as_they_are() -> None:
    """The coordinates are the same whatever the recipe around which they are."""
    around = components(SMALL, rank=5).decode((0.5,) * components(SMALL, rank=5).domain.dim)
    space = components(SMALL, around=around, rank=2)
    assert space.names == components(SMALL, rank=2).names
    moved = space.decode((0.25,) * space.domain.dim)
    assert moved.rules[0].params["components"]["norms"] == (0.75, 0.75, 0.5, 0.5, 0.5)
    assert space.encode(moved) == (0.25,) * space.domain.dim
    assert space.encode(components(SMALL, rank=5).decode((0.6,) * components(SMALL, rank=5).domain.dim)) is None


def test_recipes_of_coefficients_are_taken_with_their_depth_profile() -> None:
    bands = make_space(groups={"layers": 3}, params={"lines_beta": 0.5})
    recipe = bands.decode(tuple(0.1 * index for index in range(bands.domain.dim)))
    space = components(STRUCTURE, around=recipe)
    assert space.encode(recipe) == (0.0,) * space.domain.dim
    assert space.origin == recipe


def test_around_what_is_no_sum_is_refused() -> None:
    ties = replace(one_rule("ties", weight=0.5), sources=SMALL.hashes)
    with pytest.raises(InputError, match="around weighted sums"):
        components(SMALL, around=ties)


def test_modules_without_changes_are_refused() -> None:
    with pytest.raises(InputError, match="nothing to search"):
        components(modules=["embed"])
