"""Conformance tests of search spaces, and a structure to build a space from.

Subclass `SpaceConformance` (a box) or `GenomeConformance` in a test module and override its one fixture:

    class TestMine(SpaceConformance):
        @pytest.fixture
        def space(self) -> SearchSpace:
            return MySpace(make_structure())
"""

import json
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossbreed.randomness import spawn
from crossbreed.recipes import parse_recipe
from crossbreed.search_spaces import Genome, GenomeSpace, SearchSpace, TakesSlopes
from crossbreed.sources.structure import Structure, TensorInfo
from crossbreed.types import BASE, Birth, Box, Cross, Genomes, Point, Recipe, Seed, canonical_json

_EXAMPLES = settings(
    max_examples=50,
    deadline=None,
    # `space` has no state, and every subclass is meant to meet the same examples
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)
_TRIED_POINTS = 200
SHARES = st.lists(st.floats(0, 1) | st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=40)
"""Positions of a point along each coordinate, repeated as often as the space has coordinates."""


def make_structure(*, num_layers: int = 6, experts: tuple[str, ...] = ("french", "sums", "norms")) -> Structure:
    """Returns a Qwen3-like base and experts of three kinds.

    The first changes every projection (as LoRA does), the second those of the MLPs alone, the third everything.
    """
    names = ["model.embed_tokens.weight", "model.norm.weight"]
    for layer in range(num_layers):
        attention = ["q_proj", "k_proj", "v_proj", "o_proj", "q_norm"]
        blocks = [f"self_attn.{name}" for name in attention] + ["mlp.up_proj", "mlp.down_proj", "input_layernorm"]
        names += [f"model.layers.{layer}.{block}.weight" for block in blocks]
    projections = frozenset(name for name in names if "_proj" in name)
    kinds = (projections, frozenset(name for name in projections if "mlp" in name), frozenset(names))
    return Structure(
        tensors={name: TensorInfo(shape=(8, 8), dtype="bfloat16") for name in sorted(names)},
        touched={expert: kinds[index % 3] for index, expert in enumerate(experts)},
        hashes={name: f"hash of {name}" for name in (BASE, *experts)},
        tied=True,
    )


class _SharedLaws:
    """Tests of every space."""

    def test_its_examples_are_valid_recipes(self, space: SearchSpace) -> None:
        """A run ends before it starts if one of them cannot be merged."""
        for recipe in space.examples:
            assert parse_recipe(recipe.to_json()) == recipe

    def test_what_is_searched_is_said_in_one_line(self, space: SearchSpace) -> None:
        """For `check`, and for the first line of a run."""
        assert len(space.describe().splitlines()) == 1


class SpaceConformance(_SharedLaws):
    """Tests a space over a box; override `space`."""

    @pytest.fixture
    def space(self) -> SearchSpace:
        """Override: returns a space."""
        raise NotImplementedError

    def test_the_box_is_a_box(self, space: SearchSpace) -> None:
        """Something to search, in finite ranges, each with a name of its own."""
        box = box_of(space)
        assert len(space.names) == len(box.low) == len(box.high) > 0
        assert all(-1e9 < low < high < 1e9 for low, high in zip(box.low, box.high, strict=True))
        assert len(set(space.names)) == len(space.names)

    def test_weight_blocks_have_every_coordinate_once(self, space: SearchSpace) -> None:
        """And slopes along all of them can be had. A box without blocks says why it has none."""
        box = box_of(space)
        assert (box.weight_blocks is None) is (box.why_no_weight_blocks is not None)
        if box.weight_blocks is not None:
            indices = [index for block in box.weight_blocks for index in block.values()]
            assert sorted(indices) == list(range(box.dim))
            assert isinstance(space, TakesSlopes)
            assert space.slopes({}) == (0.0,) * box.dim

    @_EXAMPLES
    @given(shares=SHARES)
    def test_every_point_has_a_valid_recipe(self, space: SearchSpace, shares: list[float]) -> None:
        """Corners and rim included; and it is the same recipe every time, whatever was proposed before."""
        point = point_at(space, shares)
        recipe = decoded(space, point)
        assert parse_recipe(recipe.to_json()) == recipe
        decoder = space.decoder(seed=1)
        decoder.create(0, box_of(space).high)
        decoder.retain(())
        again = decoder.create(7, point)
        assert again is not None
        assert again.id == recipe.id

    @_EXAMPLES
    @given(shares=SHARES)
    def test_encode_inverts_decode(self, space: SearchSpace, shares: list[float]) -> None:
        """`decode(encode(r)) == r` to the last digit, by way of a point in the box."""
        box, recipe = box_of(space), decoded(space, point_at(space, shares))
        point = space.encode(recipe)
        assert point is not None
        assert all(low <= x <= high for low, x, high in zip(box.low, point, box.high, strict=True))
        assert decoded(space, point) == recipe

    @_EXAMPLES
    @given(shares=SHARES)
    def test_recipes_survive_json(self, space: SearchSpace, shares: list[float]) -> None:
        """The journalled recipe is the merged one, with the same id."""
        recipe = decoded(space, point_at(space, shares))
        again = parse_recipe(json.loads(canonical_json(recipe.to_json())))
        assert again == recipe
        assert again.id == recipe.id

    def test_every_coordinate_has_an_effect(self, space: SearchSpace) -> None:
        """Somewhere in the box, moving it alone changes the recipe: a dead coordinate costs as much as a live one.

        A coordinate may be read in a part of the box alone, so it is tried at many points.
        """
        rng, size = spawn(0, "points"), len(space.names)
        corners = [point_at(space, [share, *[0.3] * (size - 1)]) for share in (0.0, 0.5, 1.0)]
        points = [*corners, *(point_at(space, rng.random(size).tolist()) for _ in range(_TRIED_POINTS))]
        for index, name in enumerate(space.names):
            assert any(len(set(_ids_along(space, point, index))) > 1 for point in points), f"{name} changes nothing"

    def test_recipes_of_other_sources_have_no_point(self, space: SearchSpace) -> None:
        """Returns None for coefficients of other weights."""
        recipe = decoded(space, box_of(space).low)
        sources = {name: f"not {digest}" for name, digest in recipe.sources.items()}
        assert space.encode(Recipe(base=recipe.base, sources=sources, rules=recipe.rules)) is None


class GenomeConformance(_SharedLaws):
    """Tests a space over genomes; override `space`."""

    @pytest.fixture
    def space(self) -> GenomeSpace:
        """Override: returns a space with at least two seeds."""
        raise NotImplementedError

    def test_the_domain_is_genomes(self, space: GenomeSpace) -> None:
        """Two seeds at least, and a chromosome; there are no coordinates, and no recipe has a point."""
        domain = space.domain
        assert isinstance(domain, Genomes)
        assert domain.num_seeds == space.num_seeds > 1
        assert domain.num_chromosomes == len(set(space.chromosomes)) > 0
        assert space.names == ()
        assert all(space.encode(recipe) is None for recipe in space.examples)

    @_EXAMPLES
    @given(data=st.data())
    def test_a_child_is_a_pure_function_of_its_birth(self, space: GenomeSpace, data: st.DataObject) -> None:
        """The same every time, a genome of its own, and its parents are left as they were."""
        a, b = space.seed(0, 1.0), space.seed(1, 1.5)
        before = a.copy(), b.copy()
        shares = [st.floats(0, 1, exclude_max=True)] * len(space.chromosomes)
        splits, weights = data.draw(st.tuples(*shares)), data.draw(st.tuples(*shares))
        child = space.cross(a, b, splits, weights)
        assert np.array_equal(space.cross(a, b, splits, weights), child)
        assert np.array_equal(a, before[0])
        assert np.array_equal(b, before[1])
        assert child.shape == a.shape
        assert np.isfinite(child).all()
        recipe = space.decode(child)
        assert recipe is None or parse_recipe(recipe.to_json()) == recipe

    def test_a_genome_crossed_with_itself_is_itself(self, space: GenomeSpace) -> None:
        """Returns the parent up to rounding, wherever it is split."""
        a, num = space.seed(1, 1.0), len(space.chromosomes)
        child = space.cross(a, a, (0.4,) * num, (0.3,) * num)
        assert np.allclose(child, a, rtol=1e-12, atol=1e-14)

    def test_the_ends_of_the_interpolation_are_the_parents(self, space: GenomeSpace) -> None:
        """At 0 before the split the child is A; split at the very beginning, it is B instead."""
        a, b, num = space.seed(0, 1.0), space.seed(1, 1.0), len(space.chromosomes)
        assert np.allclose(space.cross(a, b, (0.0,) * num, (0.0,) * num), b, rtol=1e-12, atol=1e-14)
        first = space.cross(a, b, (0.99,) * num, (0.0,) * num)
        assert not np.allclose(first, b)

    def test_noise_is_the_streams_and_as_large_as_said(self, space: GenomeSpace) -> None:
        """Equal streams, equal noise; none of standard deviation 0."""
        a = space.seed(0, 1.0)
        noisy = space.perturb(a, 0.01, spawn(7, "noise"))
        assert np.array_equal(noisy, space.perturb(a, 0.01, spawn(7, "noise")))
        assert not np.array_equal(noisy, space.perturb(a, 0.01, spawn(8, "noise")))
        assert np.array_equal(space.perturb(a, 0.0, spawn(7, "noise")), a)
        assert 0 < np.abs(noisy - a).max() < 0.1

    def test_births_are_carried_out_alike_in_every_run_of_a_seed(self, space: GenomeSpace) -> None:
        """Noise and all; another seed gives other noise, and the same child without it."""
        num, seeds = len(space.chromosomes), (Seed(index=0), Seed(index=1, scale=1.5))
        cross = Cross(parents=(0, 1), splits=(0.4,) * num, weights=(0.3,) * num, noise=0.01)
        silent = Cross(parents=(0, 1), splits=(0.4,) * num, weights=(0.3,) * num)
        noisy, again, other = (_born(space, (*seeds, silent, cross), seed=seed) for seed in (7, 7, 8))
        for child, repeated in zip(noisy, again, strict=True):
            assert np.array_equal(child, repeated)
        assert np.array_equal(noisy[2], space.cross(space.seed(0, 1.0), space.seed(1, 1.5), (0.4,) * num, (0.3,) * num))
        assert np.array_equal(noisy[2], other[2])
        assert not np.array_equal(noisy[3], other[3])
        assert not np.array_equal(noisy[3], noisy[2])

    def test_what_is_retained_can_be_crossed(self, space: GenomeSpace) -> None:
        """Refuses parents that were freed or never created."""
        num, decoder = len(space.chromosomes), space.decoder(seed=7)
        for number in range(2):
            decoder.create(number, Seed(index=number))
        decoder.retain({1, 5})
        decoder.create(2, Cross(parents=(1, 1), splits=(0.4,) * num, weights=(0.3,) * num))
        for lost in (0, 5):
            with pytest.raises(AssertionError):
                decoder.genome(lost)


def box_of(space: SearchSpace) -> Box:
    """Returns the domain of a space over a box."""
    assert isinstance(space.domain, Box)
    return space.domain


def decoded(space: SearchSpace, point: Point) -> Recipe:
    """Returns the recipe of a point."""
    recipe = space.decoder(seed=0).create(0, point)
    assert recipe is not None, "a point has a recipe"
    return recipe


def point_at(space: SearchSpace, shares: list[float]) -> Point:
    """Returns the point at these shares of each coordinate's range; `shares` is repeated as needed."""
    box = box_of(space)
    return tuple(
        min(max(low + shares[i % len(shares)] * (high - low), low), high)
        for i, (low, high) in enumerate(zip(box.low, box.high, strict=True))
    )


def _ids_along(space: SearchSpace, point: Point, index: int) -> Iterator[str]:
    box = box_of(space)
    for end in (box.low, box.high):
        yield decoded(space, (*point[:index], end[index], *point[index + 1 :])).id


def _born(space: GenomeSpace, births: tuple[Birth, ...], *, seed: int) -> list[Genome]:
    """Returns the genomes of births, numbered from 0."""
    decoder = space.decoder(seed=seed)
    for number, birth in enumerate(births):
        decoder.create(number, birth)
    return [decoder.genome(number) for number in range(len(births))]
