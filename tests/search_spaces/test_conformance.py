"""The conformance suites catch spaces that break a law, one space for each."""

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pytest

from crossbreed.search_spaces import (
    CoefficientsConfig,
    CoefficientSpace,
    Decoder,
    Genome,
    GenomeSpace,
    SpaceInputs,
    VectorSpace,
)
from crossbreed.testing.spaces import GenomeConformance, SpaceConformance, make_structure
from crossbreed.types import Box, Point, Proposal, Recipe


class Coefficients(CoefficientSpace):
    def __init__(self) -> None:
        super().__init__(CoefficientsConfig(), SpaceInputs(structure=make_structure(), dtype="bfloat16"))


class WithADeadCoordinate(Coefficients):
    def decode(self, point: Point) -> Recipe:
        return super().decode((0.0, *point[1:]))


class ThatEncodesNothing(Coefficients):
    def encode(self, recipe: Recipe) -> Point | None:
        return self.domain.low


class ThatEncodesOutside(Coefficients):
    def encode(self, recipe: Recipe) -> Point | None:
        point = super().encode(recipe)
        return point and tuple(x + 3 for x in point)


class ThatTakesAnySources(Coefficients):
    def encode(self, recipe: Recipe) -> Point | None:
        return super().encode(replace(recipe, sources=self._hashes))


class WithTwoCoordinatesOfAName(Coefficients):
    @property
    def names(self) -> tuple[str, ...]:
        return ("weight",) * self.domain.dim


class WithAWeightInNoBlock(Coefficients):
    @property
    def domain(self) -> Box:
        [block] = super().domain.weight_blocks or ()
        return replace(super().domain, weight_blocks=({"french": block["french"]},))


class WithoutSlopes(Coefficients):
    slopes = None  # type: ignore[assignment]


class WithoutAReason(Coefficients):
    @property
    def domain(self) -> Box:
        return replace(super().domain, weight_blocks=None)


class OfRecipesThatCannotBeParsed(Coefficients):
    def decode(self, point: Point) -> Recipe:
        return replace(super().decode(point), dtype="int3")


class ThatRemembers(Coefficients):
    """Its decoder moves away from what was proposed before."""

    def decoder(self, *, seed: int) -> Decoder:
        return Remembering(self)


class Remembering:
    def __init__(self, space: Coefficients) -> None:
        self._space, self._calls = space, 0

    def create(self, number: int, proposal: Proposal) -> Recipe:
        assert isinstance(proposal, tuple)
        self._calls += 1
        return self._space.decode(tuple(x + 0.1 * (self._calls - 1) for x in proposal))

    def genome(self, number: int) -> Genome:
        raise AssertionError

    def retain(self, numbers: Collection[int]) -> None:
        pass


@pytest.mark.parametrize(
    ("space", "law"),
    [
        (WithADeadCoordinate, "test_every_coordinate_has_an_effect"),
        (ThatEncodesNothing, "test_encode_inverts_decode"),
        (ThatEncodesOutside, "test_encode_inverts_decode"),
        (ThatTakesAnySources, "test_recipes_of_other_sources_have_no_point"),
        (WithTwoCoordinatesOfAName, "test_the_box_is_a_box"),
        (WithAWeightInNoBlock, "test_weight_blocks_have_every_coordinate_once"),
        (WithoutSlopes, "test_weight_blocks_have_every_coordinate_once"),
        (WithoutAReason, "test_weight_blocks_have_every_coordinate_once"),
        (OfRecipesThatCannotBeParsed, "test_its_examples_are_valid_recipes"),
        (ThatRemembers, "test_every_point_has_a_valid_recipe"),
    ],
)
def test_a_box_that_breaks_a_law_is_caught(space: type[Coefficients], law: str) -> None:
    getattr(SpaceConformance(), law)(space=Coefficients())
    with pytest.raises((AssertionError, ExceptionGroup, ValueError, TypeError)):
        getattr(SpaceConformance(), law)(space=space())


class Vectors(VectorSpace):
    def __init__(self) -> None:
        super().__init__([np.random.default_rng(index).standard_normal(20) for index in range(3)])


class ThatWritesIntoParents(Vectors):
    def cross(self, a: Genome, b: Genome, splits: tuple[float, ...], weights: tuple[float, ...]) -> Genome:
        child = super().cross(a, b, splits, weights)
        a[:] = child
        return child


class ThatDrawsByItself(Vectors):
    def perturb(self, genome: Genome, std: float, rng: np.random.Generator) -> Genome:
        return super().perturb(genome, std, np.random.default_rng())


class ThatAlwaysPerturbs(Vectors):
    def perturb(self, genome: Genome, std: float, rng: np.random.Generator) -> Genome:
        return super().perturb(genome, std or 0.01, rng)


class ThatForgetsOneParent(Vectors):
    def cross(self, a: Genome, b: Genome, splits: tuple[float, ...], weights: tuple[float, ...]) -> Genome:
        return a.copy()


class ThatShrinks(Vectors):
    def cross(self, a: Genome, b: Genome, splits: tuple[float, ...], weights: tuple[float, ...]) -> Genome:
        return 0.9 * super().cross(a, b, splits, weights)


class WithCoordinates(Vectors):
    @property
    def names(self) -> tuple[str, ...]:
        return ("first",)


class OfOneSeedForAllRuns(Vectors):
    def decoder(self, *, seed: int) -> Decoder:
        return super().decoder(seed=0)


class ThatFreesNothing(Vectors):
    def decoder(self, *, seed: int) -> Decoder:
        decoder = super().decoder(seed=seed)
        decoder.retain = lambda numbers: None  # type: ignore[method-assign]
        return decoder


@pytest.mark.parametrize(
    ("space", "law"),
    [
        (ThatWritesIntoParents, "test_a_child_is_a_pure_function_of_its_birth"),
        (ThatDrawsByItself, "test_noise_is_the_streams_and_as_large_as_said"),
        (ThatAlwaysPerturbs, "test_noise_is_the_streams_and_as_large_as_said"),
        (ThatForgetsOneParent, "test_the_ends_of_the_interpolation_are_the_parents"),
        (ThatShrinks, "test_a_genome_crossed_with_itself_is_itself"),
        (WithCoordinates, "test_the_domain_is_genomes"),
        (OfOneSeedForAllRuns, "test_births_are_carried_out_alike_in_every_run_of_a_seed"),
        (ThatFreesNothing, "test_what_is_retained_can_be_crossed"),
    ],
)
def test_genomes_that_break_a_law_are_caught(space: type[GenomeSpace], law: str) -> None:
    getattr(GenomeConformance(), law)(space=Vectors())
    with pytest.raises((AssertionError, ExceptionGroup, pytest.fail.Exception)):
        getattr(GenomeConformance(), law)(space=space())
