"""Opening what a spec merges: its sources, or what an engine of recipes says of its own."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from crossbreed.errors import InputError, first_line
from crossbreed.fitness import AdapterEngineConfig, RecipeEngineConfig
from crossbreed.recipes.grammar import DTYPES
from crossbreed.runs.spec import Spec
from crossbreed.search_spaces import SpaceConfig
from crossbreed.sources import Structure, require_tensors

if TYPE_CHECKING:
    from crossbreed.runs.weights import Weights


def open_spec(spec: Spec) -> tuple[Structure, "Weights | None"]:
    """Returns the structure of the sources of a spec, and their weights, unless its engine takes recipes."""
    engine = spec.fitness.engine
    if isinstance(engine, RecipeEngineConfig):
        for where, wanted in (("artifacts.grams", spec.artifacts.grams), (spec.place_of_regression, spec.regression)):
            if wanted is not None:
                raise _needs_weights(spec, f"`{where}` needs weights", where=where)
        for search in spec.searches:
            if search.optimizer.slope_kind is not None or search.optimizer.calibration is not None:
                where = f"stages.{search.number}.optimizer" if spec.stages else "optimizer.options"
                raise _needs_weights(spec, "the optimizer's gradients need weights", where=where)
        return described_sources(engine, *spec.sources.told), None
    require_tensors()
    from crossbreed.runs.weights import open_weights

    weights = open_weights(spec)
    return weights.structure, weights


def described_sources(engine: RecipeEngineConfig, base: str, experts: Mapping[str, str]) -> Structure:
    """Returns what an engine of recipes says of its sources, held to the rules for a service's JSON.

    Raises:
        InputError: it is no description; the message names what is wrong.
    """
    where = f"engine `{engine.kind}`, describe_sources"
    found: object = engine.describe_sources(base, experts)
    try:
        if isinstance(found, Structure):
            return Structure.from_json(found.to_json(), where=where)
        got = type(found).__name__
    except (AttributeError, KeyError, TypeError) as error:
        got = f"one of which a part is missing or of a wrong type: {type(error).__name__}: {first_line(error)}"
    raise InputError("an engine does not describe its sources", expected="a Structure", got=got, where=where)


def merge_dtype(spec: Spec, structure: Structure) -> str:
    """Returns the dtype of merges; raises InputError if it cannot be written."""
    dtype = structure.dtype if spec.dtype == "auto" else spec.dtype
    if dtype not in DTYPES:
        raise InputError(
            "merges cannot be written in the dtype of the base's weights",
            expected=" or ".join(DTYPES),
            got=dtype,
            where=spec.sources.base or "the engine's base",
            fix="set `dtype:` in the spec",
        )
    return dtype


def check_base(spec: Spec, weights: "Weights") -> None:
    """Refuses a base that no engine of the spec can start from."""
    spec.fitness.engine.check_base(weights.host, weights.shapes)
    if spec.needs_reference:
        weights.check_reference(observed=spec.artifacts.grams is not None)


def engine_depth(spec: Spec, space: SpaceConfig, structure: Structure) -> int | None:
    """Returns the most layers of a space's recipes; None: they have the base's.

    Raises:
        InputError: recipes of the space have depths of their own, and the engine takes no such ones.
    """
    engine, depth = spec.fitness.engine, space.depth(structure.num_layers)
    if depth is None:
        return None
    if isinstance(engine, RecipeEngineConfig | AdapterEngineConfig):
        takes = "recipes" if isinstance(engine, RecipeEngineConfig) else "adapters"
        raise InputError(
            f"recipes of this space have depths of their own, and an engine that takes {takes} makes none of those",
            expected="an engine that takes weights",
            got=f"fitness.engine.kind: {engine.kind}",
            where="space.kind",
            fix="use an engine that takes weights, or another space: `crossbreed list spaces`",
        )
    return depth


def _needs_weights(spec: Spec, problem: str, *, where: str) -> InputError:
    return InputError(
        f"{problem}, but the engine takes recipes",
        expected="an engine that takes weights",
        got=f"fitness.engine.kind: {spec.fitness.engine.kind}",
        where=where,
        fix="use an engine that takes weights, or remove this",
    )
