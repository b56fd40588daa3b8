"""`crossbreed evaluate`: scores one checkpoint or recipe with the items and the engine of a spec."""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crossbreed.errors import InputError
from crossbreed.figures import Figure
from crossbreed.fitness import (
    AdapterEngineConfig,
    AnyItems,
    EndsAnswers,
    RecipeEngineConfig,
    Surroundings,
    Task,
    TeacherAnswers,
    begun_tasks,
    evaluate_tasks,
    load_tasks,
)
from crossbreed.recipes.named import weighted_deltas
from crossbreed.runs.objects import GivenEngine, GivenTask, with_objects
from crossbreed.runs.opening import described_sources, merge_dtype
from crossbreed.runs.record.records import SplitName
from crossbreed.runs.results.figures import figures_in, figures_json
from crossbreed.runs.results.judging import Judged, judged_in
from crossbreed.runs.results.statistics import Interval, task_intervals
from crossbreed.runs.search.warm_starts import require_sources
from crossbreed.runs.spec import Spec
from crossbreed.runs.spec.objectives import length_of
from crossbreed.runs.splits import split_tasks
from crossbreed.runs.teachers.answers import ask_teachers
from crossbreed.runs.teachers.checks import check_teachers, teacher_recipe, teacher_tasks
from crossbreed.runs.workers.candidate_engine import (
    CandidateEngine,
    CandidateEngineByWeights,
    start_candidate_engine,
)
from crossbreed.sources import Structure, require_tensors
from crossbreed.types import ItemScores, Recipe

if TYPE_CHECKING:
    from crossbreed.runs.weights import Weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """One model's scores on one split of a spec's items."""

    model: str
    """Folder or hub id; the hash of a recipe."""
    split: SplitName
    fingerprint: str | None
    """The fingerprint of the evaluated weights; from an engine that takes recipes, the one it vouches for."""
    tasks: Mapping[str, Interval]
    scores: Mapping[str, ItemScores]
    """Task -> the value of each item, to be paired with another model's."""
    judged: Mapping[str, Judged]
    """Task with a judge -> its verdicts, where there is something to tell."""
    figures: Mapping[str, Mapping[str, Figure]]
    """Task -> metric that only all its items together have, like BLEU -> its value; on the report split."""

    def to_json(self) -> dict[str, Any]:
        """Returns the shape that `evaluate --json` promises."""
        return {
            "schema": 1,
            "model": self.model,
            "split": self.split,
            "fingerprint": self.fingerprint,
            "tasks": {name: found.to_json() for name, found in self.tasks.items()},
            "judged": {name: found.to_json() for name, found in self.judged.items()},
            **({"figures": figures_json(self.figures)} if self.figures else {}),
        }


def evaluate(
    model: str | os.PathLike[str] | Recipe,
    spec: Spec | Mapping[str, Any],
    *,
    split: SplitName = "search",
    engine: GivenEngine | None = None,
    tasks: Sequence[GivenTask] | None = None,
) -> Evaluated:
    """Scores a checkpoint, or the merge of a recipe, on a spec's tasks.

    Args:
        model: Folder or hub id of a full checkpoint; or a recipe of the spec's sources.
        spec: The spec with tasks, splits and engine. Its sources are opened only for a recipe.
        split: The split. Looking at `report` spends it: a model selected by it can no longer be reported on it.
        engine: As for `run`.
        tasks: As for `run`.

    Raises:
        InputError: the model, the recipe or the spec is invalid, or a checkpoint is given to an engine of recipes.
        EngineError: the engine does not start, or could not answer.
        InvalidWeights: a weight or a log-probability is NaN or infinite.
    """
    spec = with_objects(spec, engine=engine, tasks=tasks)
    recipe, weights = _opened(model, spec)
    kind = spec.fitness.engine
    served = kind.served_items() if isinstance(kind, RecipeEngineConfig) else {}
    loaded = load_tasks(
        spec.fitness.tasks,
        served,
        engine=kind.kind,
        seed=spec.seed,
        host=weights.host if weights and kind.tokenizes_on_host else None,
        context_tokens=kind.context_tokens,
    )
    if weights:
        kind.check_base(weights.host, weights.shapes)
    if weights and kind.tokenizes_on_host:
        weights.check_lengths(loaded, context_tokens=kind.context_tokens)
    items = split_tasks(loaded, spec.fitness.split, seed=spec.seed)[split]
    check_teachers(loaded, spec.sources.experts, kind)
    teachers = _teachers(model, spec, weights) if teacher_tasks(loaded) else None
    around = Surroundings(seed=spec.seed)
    with ExitStack() as closing:
        begun = begun_tasks(loaded, around, closing)
        candidate_engine = start_candidate_engine(spec.fitness.engine, weights, around)
        closing.callback(candidate_engine.close)
        teacher_answers = teachers.answers(candidate_engine, begun, items) if teachers else {}
        adopted = candidate_engine.adopt(recipe)
        lengths = {task: length_of(task) for task in spec.fitness.criteria.lengths}
        found = evaluate_tasks(adopted.handle, begun, items, teacher_answers, lengths=lengths)
        if weights:
            weights.sources.require_unchanged()  # read before or after it changed, nobody knows what was scored
    return Evaluated(
        model=recipe.id if isinstance(model, Recipe) else os.fspath(model),
        split=split,
        fingerprint=adopted.fingerprint,
        tasks=task_intervals(found.tasks, seed=spec.seed),
        scores=found.tasks,
        judged=judged_in([found.tasks]),
        figures=figures_in(found.tasks),
    )


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class _Teachers:
    """The teachers of a spec's tasks, for an engine that was started for a model."""

    hashes: Mapping[str, str]
    """Of the spec's sources."""
    dtype: str
    """Of merges."""
    weights: "Weights | None"
    """Of the sources, where the engine's own are those of a checkpoint."""

    def answers(self, engine: CandidateEngine, tasks: Sequence[Task], items: Mapping[str, AnyItems]) -> TeacherAnswers:
        """Returns what the teachers answer, by the engine that then answers for the model."""
        if self.weights is not None:
            assert isinstance(engine, CandidateEngineByWeights), "only such engines evaluate checkpoints"
            if isinstance(engine.engine, EndsAnswers):
                engine.engine.end_at(self.weights.sources.end_token_ids)
            engine = CandidateEngineByWeights(engine.engine, self.weights)
        return ask_teachers(
            tasks,
            items,
            lambda teacher: teacher_recipe(teacher, self.hashes, dtype=self.dtype),
            lambda recipe: engine.adopt(recipe).handle,
        )


def _teachers(model: str | os.PathLike[str] | Recipe, spec: Spec, weights: "Weights | None") -> _Teachers:
    """Returns the teachers of the spec's tasks; raises InputError if a checkpoint reads texts otherwise than they."""
    if isinstance(model, Recipe):
        kind = spec.fitness.engine
        if weights:
            hashes = weights.structure.hashes
        else:
            assert isinstance(kind, RecipeEngineConfig), "all others have weights"
            hashes = described_sources(kind, *spec.sources.told).hashes
        return _Teachers(hashes=hashes, dtype=model.dtype, weights=None)
    from crossbreed.runs.weights import open_weights
    from crossbreed.sources.host import END_TOKENS

    found = open_weights(spec)
    own = weights.host_hashes if weights else {}
    if differing := [
        part for part, hash_ in found.host_hashes.items() if own.get(part) != hash_ and part != END_TOKENS
    ]:
        raise InputError(
            "the model cannot be compared with the teachers of the spec's tasks: it reads texts otherwise",
            expected="the configuration, tokenizer and templates of the spec's base",
            got=f"another {' and '.join(differing)}",
            where=os.fspath(model),
            fix="evaluate it with a spec without tasks of the kinds `agreement` and `entropy`",
        )
    return _Teachers(hashes=found.structure.hashes, dtype=merge_dtype(spec, found.structure), weights=found)


def _opened(model: str | os.PathLike[str] | Recipe, spec: Spec) -> tuple[Recipe, "Weights | None"]:
    engine, sources = spec.fitness.engine, spec.sources
    if isinstance(engine, RecipeEngineConfig):
        if isinstance(model, Recipe):
            structure = described_sources(engine, *sources.told)
            require_sources(model, structure, what="the recipe", where=f"recipe {model.id}")
            return model, None
        raise InputError(
            "the spec's engine takes recipes, so it cannot evaluate a checkpoint",
            expected="an engine that takes weights",
            got=f"fitness.engine.kind: {engine.kind}",
            fix="name another one: --set fitness.engine.kind=KIND",
        )
    if isinstance(engine, AdapterEngineConfig) and not isinstance(model, Recipe):
        raise InputError(
            "the spec's engine answers with a base of its own and adapters of it, so it cannot evaluate a checkpoint",
            expected="an engine that takes weights, or a recipe of the spec's sources",
            got=f"fitness.engine.kind: {engine.kind}",
            fix="name another one: --set fitness.engine.kind=KIND",
        )
    require_tensors()
    from crossbreed.runs.weights import checkpoint_weights, recipe_weights

    if isinstance(model, Recipe):
        return model, recipe_weights(model, spec)
    weights = checkpoint_weights(os.fspath(model))
    structure = weights.structure
    return weighted_deltas({}, hashes=structure.hashes, dtype=_exact_dtype(structure)), weights


def _exact_dtype(structure: Structure) -> str:
    """The dtype in which no weight of a checkpoint is rounded."""
    dtypes = {info.dtype for info in structure.tensors.values() if "float" in info.dtype}
    return structure.dtype if len(dtypes) == 1 else "float64" if "float64" in dtypes else "float32"
