"""A search of a run, ready to begin: its space, its optimizer, its own limits."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from crossbreed.errors import InputError
from crossbreed.fitness import AdapterEngineConfig, RecipeEngineConfig
from crossbreed.optimizer import (
    CalibrationLoss,
    CalibrationNeeds,
    Optimizer,
    OptimizerConfig,
    SearchInputs,
    build_optimizer,
)
from crossbreed.randomness import spawn
from crossbreed.runs.search.asking import Search
from crossbreed.runs.spec import Spec
from crossbreed.runs.spec.stages import SearchSettings
from crossbreed.search_spaces import SearchSpace, SpaceInputs, build_space
from crossbreed.sources.structure import Structure
from crossbreed.types import Box, Point, Recipe

if TYPE_CHECKING:
    from crossbreed.runs.weights import Weights


Calibrate: TypeAlias = Callable[[SearchSpace, CalibrationNeeds], CalibrationLoss]
"""Makes a loss over the points of a space."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A search, and all that its optimizer is built from but the start."""

    settings: SearchSettings
    inputs: SpaceInputs
    """What its space is built from."""
    space: SearchSpace
    """The space; of one around a recipe, that around its default, which has the same coordinates."""
    stream: tuple[str, ...]
    """The name of its optimizer's random stream."""
    num_objectives: int
    num_constraints: int
    item_weights: tuple[float, ...]
    seed: int

    @property
    def number(self) -> int:
        """As the journal has it."""
        return self.settings.number

    @property
    def optimizer(self) -> OptimizerConfig:
        """The settings of the optimizer."""
        return self.settings.optimizer

    def search(self, calibrate: Calibrate) -> Search:
        """Returns the search, as the proposer begins it."""
        return Search(
            number=self.number,
            optimizer=self.optimizer.kind,
            reads_violations=self.optimizer.reads_violations,
            space_around=self.space_around,
            make_optimizer=partial(self.make_optimizer, calibrate=calibrate),
        )

    def space_around(self, recipe: Recipe | None) -> SearchSpace:
        """Returns the space; around this recipe, if it is of that kind and can be."""
        if recipe is None or not self.settings.space.is_around:
            return self.space
        try:
            return build_space(self.settings.space, replace(self.inputs, around=recipe))
        except InputError:  # it is around others only, and cannot express this one either
            return self.space

    def examples_and_ends(self) -> Iterator[Recipe]:
        """Yields examples of its space, and the recipes at both ends of a box: its smallest and largest numbers."""
        yield from self.space.examples
        if isinstance(domain := self.space.domain, Box):
            decoder = self.space.decoder(seed=0)
            found = (decoder.create(number, point) for number, point in enumerate((domain.low, domain.high)))
            yield from (recipe for recipe in found if recipe is not None)

    def make_optimizer(
        self, space: SearchSpace, start: Point | None, tuned_scalar: float | None, *, calibrate: Calibrate | None = None
    ) -> Optimizer:
        """Returns a new optimizer.

        Args:
            space: The space.
            start: See `SearchInputs`; `tuned_scalar` too.
            tuned_scalar: The best tuned scalar.
            calibrate: Makes the loss that the optimizer asks for, if it does.

        Raises:
            InputError: it cannot search this space for these objectives.
        """
        needs = self.optimizer.calibration
        inputs = SearchInputs(
            domain=space.domain,
            num_objectives=self.num_objectives,
            num_constraints=self.num_constraints,
            start=start,
            rng=spawn(self.seed, *self.stream),
            tuned_scalar=tuned_scalar,
            item_weights=self.item_weights,
            calibration=None if needs is None or calibrate is None else calibrate(space, needs),
        )
        return build_optimizer(self.optimizer, inputs)


def build_stages(
    spec: Spec,
    structure: Structure,
    dtype: str,
    weights: "Weights | None",
    *,
    num_objectives: int,
    item_weights: tuple[float, ...],
    num_constraints: int = 0,
) -> tuple[Stage, ...]:
    """Builds the searches of a spec, and checks early, not after the baselines, that their operators can merge.

    Args:
        spec: The run's spec.
        structure: The structure of its sources.
        dtype: Of merges.
        weights: The sources, unless the engine takes recipes.
        num_objectives: Number of objectives.
        item_weights: See `SearchInputs`.
        num_constraints: Number of constraints.

    Raises:
        InputError: a space does not fit the sources.
    """
    engine = spec.fitness.engine
    told = engine.inner_products() if isinstance(engine, RecipeEngineConfig) else None
    inputs = SpaceInputs(
        structure=structure,
        dtype=dtype,
        inner_products=weights.inner_products if weights else told,
        artifacts=weights.artifact_hashes if weights else {},
        regression=None if spec.regression is None else spec.regression.reference,
    )
    built = []
    for place, settings in enumerate(spec.searches):
        with placed(spec, settings.number):
            space = build_space(settings.space, inputs)
        if weights and spec.artifact_names <= inputs.artifacts.keys():  # else artifacts are still to be made
            with placed(spec, settings.number):
                _check_examples(space, spec, weights)
        built.append(
            Stage(
                settings=settings,
                inputs=inputs,
                space=space,
                stream=("optimizer",) if place == 0 else ("optimizer", str(settings.number)),
                num_objectives=num_objectives,
                num_constraints=num_constraints,
                item_weights=item_weights,
                seed=spec.seed,
            )
        )
    return tuple(built)


@contextmanager
def placed(spec: Spec, number: int) -> Iterator[None]:
    """Says of an error in the block which of several stages it is of."""
    try:
        yield
    except InputError as error:
        if not spec.stages:
            raise
        where = ", ".join(filter(None, (f"stages.{number}", error.where)))
        raise type(error)(
            error.problem, expected=error.expected, got=error.got, where=where, fix=error.fix
        ) from error.__cause__


def _check_examples(space: SearchSpace, spec: Spec, weights: "Weights") -> None:
    for recipe in space.examples:
        weights.check(recipe)
        if isinstance(spec.fitness.engine, AdapterEngineConfig):
            weights.check_adapter(recipe, rank=spec.fitness.engine.max_rank)
