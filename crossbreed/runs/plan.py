"""The plan of a Spec: sources, tasks, splits, space, objectives. Building it finds errors of the input in seconds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from crossbreed.errors import Collector
from crossbreed.fitness import (
    AdapterEngineConfig,
    AnyItems,
    RecipeEngineConfig,
    RemoteTask,
    Request,
    Task,
    TaskLengths,
    load_tasks,
    own_split,
    require_code,
)
from crossbreed.optimizer import CalibrationLoss, CalibrationNeeds
from crossbreed.recipes.named import weighted_deltas
from crossbreed.runs.calibration.inputs import CalibrationInputs
from crossbreed.runs.events import Listener, ignore
from crossbreed.runs.making_time import making_s
from crossbreed.runs.opening import check_base, engine_depth, merge_dtype, open_spec
from crossbreed.runs.record.identity import check_same_run, run_record
from crossbreed.runs.record.migrations import migrated
from crossbreed.runs.record.records import ItemIds, RunRecord, SplitName
from crossbreed.runs.search.baselines import baselines
from crossbreed.runs.search.pace import Limits, limits_of
from crossbreed.runs.search.proposer import Proposer
from crossbreed.runs.search.warm_starts import check_warm_starts, recipe_at, warm_starts
from crossbreed.runs.spec import Spec
from crossbreed.runs.spec.criteria import Criteria
from crossbreed.runs.spec.objectives import Objective, item_weights, length_of
from crossbreed.runs.splits import require_items, require_losses, split_tasks, told_as_means
from crossbreed.runs.stages.naming import StageName, stage_names
from crossbreed.runs.stages.stage import Stage, build_stages, placed
from crossbreed.runs.teachers.checks import check_teachers, teacher_tasks
from crossbreed.search_spaces import SearchSpace, require_slopes
from crossbreed.sources import Structure
from crossbreed.types import ProposedBy, Recipe, SlopeKind

if TYPE_CHECKING:
    from crossbreed.kernels.artifacts.files import Artifact
    from crossbreed.runs.weights import Weights
    from crossbreed.sources import Sources


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The parts of a run, before any expensive step."""

    spec: Spec
    structure: Structure
    """Names, shapes and hashes of the sources."""
    weights: "Weights | None"
    """Their tensors; None if the engine takes recipes, since no tensor is on this machine."""
    tasks: list[Task]
    items: Mapping[SplitName, Mapping[str, AnyItems]]
    """Split -> task -> items."""
    stages: tuple[Stage, ...]
    """The searches, in their order."""
    objectives: tuple[Objective, ...]
    dtype: str
    warm_starts: tuple[tuple[ProposedBy, Recipe], ...]
    lengths: Mapping[str, TaskLengths] = field(default_factory=dict)
    """Task -> lengths of its items, once `measured`; empty if the engine does not use the base's tokenizer."""

    @property
    def criteria(self) -> Criteria:
        """What candidates are judged by."""
        return Criteria(objectives=self.objectives, constraints=self.spec.fitness.criteria.constraints)

    @property
    def lengths_measured(self) -> dict[str, str]:
        """Task of which the length of answers is measured -> the name under which it is."""
        return {task: length_of(task) for task in self.criteria.lengths}

    @property
    def most_tokens(self) -> dict[str, int]:
        """Task of which the length of answers is measured -> the most tokens of an answer."""
        known = {config.name: config.most_tokens for config in self.spec.fitness.tasks}
        return {task: most for task in self.lengths_measured if (most := known.get(task)) is not None}

    @property
    def limits(self) -> Limits:
        """The limits of the searches, together and alone."""
        return limits_of(self.spec)

    @property
    def stage_names(self) -> tuple[StageName, ...]:
        """The names of the stages; none in a run without a list of them."""
        return stage_names(self.spec.model_dump(mode="json", include={"stages"}))

    @property
    def item_ids(self) -> ItemIds:
        """The splits by item id, as the journal records them."""
        found = {
            split: {name: tuple(item.id for item in items.items) for name, items in tasks.items()}
            for split, tasks in self.items.items()
        }
        lengths = self.lengths_measured.items()
        return {split: ids | {name: ids[task] for task, name in lengths} for split, ids in found.items()}

    @property
    def mean_counts(self) -> dict[str, dict[str, int]]:
        """Task of which only means are told -> split -> number of its items."""
        names = [task.name for task in self.tasks if own_split(task) is not None]
        return {name: {split: tasks[name].count for split, tasks in self.items.items()} for name in names}

    @property
    def space(self) -> SearchSpace | None:
        """The space of the first search; None if nothing is searched."""
        return self.stages[0].space if self.stages else None

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Names of the coordinates of its box; empty for genomes."""
        return self.space.names if self.space else ()

    @property
    def experts(self) -> tuple[str, ...]:
        """The names of the experts, without what the run has made of them."""
        return tuple(name for name in self.structure.experts if name not in self.made_hashes)

    @property
    def base_recipe(self) -> Recipe:
        """The recipe of the base itself."""
        return weighted_deltas({}, hashes=self.structure.hashes, dtype=self.dtype)

    def initial_candidates(self) -> list[tuple[ProposedBy, Recipe]]:
        """Returns baselines, what the run has made, and warm starts: all before the optimizer's candidates."""
        plain = baselines(self.structure.hashes, dtype=self.dtype, experts=self.experts)
        return [*plain, *self._made(), *self.warm_starts]  # as given: one more source would make another merge of some

    @property
    def made_hashes(self) -> dict[str, str]:
        """What the run has made as sources: name -> content hash."""
        made = self.weights.sources.made if self.weights else ()
        return {name: self.structure.hashes[name] for name in made}

    @property
    def made_s(self) -> dict[str, float]:
        """What the run has made as sources: name -> seconds of making it, where that was noted."""
        sources = self.weights.sources if self.weights else None
        found = {name: making_s(sources.experts[name].path) for name in sources.made} if sources else {}
        return {name: seconds for name, seconds in found.items() if seconds is not None}

    def _made(self) -> Iterator[tuple[ProposedBy, Recipe]]:
        """Yields what the run has made before it searches, each alone."""
        for name in self.weights.sources.made if self.weights else ():
            recipe = weighted_deltas({name: 1.0}, hashes=self.structure.hashes, dtype=self.dtype)
            yield ProposedBy(kind="made", name=name), recipe

    @property
    def num_initial(self) -> int:
        """Their number, with what is still to be made."""
        is_missing = self.spec.regression is not None and not self.made_hashes
        return len(self.initial_candidates()) + is_missing

    def with_artifact(self, artifact: "Artifact") -> "Plan":
        """Returns the plan with one more artifact, for merging the candidates."""
        assert self.weights is not None, "artifacts are of weights"
        weights = replace(self.weights, artifacts=(*self.weights.artifacts, artifact))
        plan = replace(self, weights=weights)._restaged()
        plan._check_warm_starts()
        return plan

    def with_sources(self, sources: "Sources") -> "Plan":
        """Returns the plan with these sources: its own, and those that it has made of them."""
        assert self.weights is not None, "sources have weights"
        weights = replace(self.weights, sources=sources)
        return replace(self, structure=weights.structure, weights=weights)._restaged()

    def _restaged(self) -> "Plan":
        """Returns the plan with the searches of its present sources and artifacts."""
        stages = _stages(self.spec, self.structure, self.dtype, self.weights, self.items, self.tasks)
        return replace(self, stages=stages)

    @property
    def renamed_settings(self) -> dict[str, str]:
        """Keys of a run record that older versions wrote -> the keys that this one writes."""
        renamed = dict[str, str]()
        for search in self.spec.searches:
            at = f"spec.stages.{search.number}.optimizer" if self.spec.stages else "spec.optimizer"
            renamed |= {f"{at}.{old}": f"{at}.{new}" for old, new in search.optimizer.renamed.items()}
        return renamed

    def slope_kind(self, stage: int) -> SlopeKind | None:
        """Returns the kind of slopes that the optimizer of a search needs; None: none."""
        found = (one.optimizer.slope_kind for one in self.stages if one.number == stage)
        return next(found, None)

    def measured(self) -> "Plan":
        """Returns the plan with the lengths of its items.

        Refuses an engine that cannot start here, and items that no model of its context could be asked.

        Takes seconds, so the workers do without. The code of a cluster's workers is not this machine's.
        """
        engine = self.spec.fitness.engine
        if self.spec.workers.address is None:
            require_code(engine)
        return replace(self, lengths=_lengths(self.spec, self.weights, self.tasks))

    def check_optimizers(self, mistakes: Collector) -> None:
        """Notes, before the baselines, each optimizer that cannot search its space for these objectives."""
        means = told_as_means(self.objectives, self.tasks)
        for stage in self.stages:
            with mistakes.noted(), placed(self.spec, stage.number):
                require_items(stage.optimizer, means)
            with mistakes.noted(), placed(self.spec, stage.number):
                require_losses(stage.optimizer, self.criteria.objectives)
            with mistakes.noted(), placed(self.spec, stage.number):
                stage.make_optimizer(stage.space, None, None, calibrate=partial(self._calibration, ignore))

    def check_recipes(self) -> None:
        """Refuses, before a run, an engine that does not make its recipes: of baselines, warm starts and spaces."""
        if isinstance(engine := self.spec.fitness.engine, RecipeEngineConfig):
            of_spaces = (recipe for stage in self.stages for recipe in stage.examples_and_ends())
            engine.check_recipes([*(recipe for _, recipe in self.initial_candidates()), *of_spaces])

    @property
    def merged_bytes(self) -> int:
        """Size of one candidate's tensors on this machine; 0 where it is only an adapter, or made elsewhere."""
        if self.weights is None or isinstance(self.spec.fitness.engine, AdapterEngineConfig):
            return 0
        return self.weights.merged_bytes(self.dtype)

    def proposer(self, on_event: Listener = ignore) -> Proposer:
        """Returns a new proposer; what an optimizer computes between its proposals is told to the listener."""
        searches = [stage.search(partial(self._calibration, on_event)) for stage in self.stages]
        return Proposer(seed=self.spec.seed, initial_candidates=self.initial_candidates(), searches=searches)

    def run_record(self) -> RunRecord:
        """Returns the journal's first record, which identifies the run."""
        return run_record(
            self.spec,
            sources={name: hash_ for name, hash_ in self.structure.hashes.items() if name not in self.made_hashes},
            warm_starts=[recipe.id for _, recipe in self.warm_starts],
            coordinates=self.coordinates,
            more_coordinates={str(stage.number): stage.space.names for stage in self.stages[1:]},
            tasks=self.tasks,
            items=self.item_ids,
            counts=self.mean_counts,
            artifacts={**(self.weights.artifact_hashes if self.weights else {}), **self.made_hashes},
            host=self.weights.host_hashes if self.weights else {},
        )

    def require_begun(self, begun: RunRecord, *, where: Path) -> None:
        """Raises InputError unless a journal's first record, of whatever version, identifies this run."""
        recorded = migrated(begun, self.spec, renamed=self.renamed_settings)
        check_same_run(recorded, self.run_record(), where=where)

    def _check_warm_starts(self) -> None:
        are_complete = self.weights is None or self.spec.artifact_names <= self.weights.artifact_hashes.keys()
        recipes = dict(zip(self.spec.warm_start, (recipe for _, recipe in self.warm_starts), strict=True))
        depths = (engine_depth(self.spec, stage.settings.space, self.structure) for stage in self.stages)
        most_layers = max(filter(None, depths), default=None)
        check_warm_starts(recipes, self.weights, are_complete=are_complete, most_layers=most_layers)

    @property
    def calibration_inputs(self) -> CalibrationInputs:
        """What a calibration loss is made of."""
        return CalibrationInputs(
            tasks=self.tasks,
            items=self.items,
            objective=self.objectives[0],
            experts=self.experts,
            weights=self.weights,
            dtype=self.dtype,
            slopes=self.spec.fitness.slopes,
            context_tokens=self.spec.fitness.max_model_len,
            seed=self.spec.seed,
        )

    def _calibration(self, on_event: Listener, space: SearchSpace, needs: CalibrationNeeds) -> CalibrationLoss:
        """Returns the loss that an optimizer is built with; it starts no model before it is called."""
        from crossbreed.runs.calibration.loss import MergeLoss

        return MergeLoss(self.calibration_inputs, space, needs, on_event=on_event)


def build_plan(spec: Spec, *, searches: bool = True) -> Plan:
    """Builds every part of a run but the engine.

    Args:
        spec: The run's spec.
        searches: Whether its optimizer is needed; a worker needs none.

    Raises:
        MissingExtra: the engine takes weights, and the packages for merging them are not installed.
        InputError: the run would fail later, as far as this can be known now.
    """
    mistakes, weights, is_described = Collector(), None, False
    with mistakes.noted():
        structure, weights = open_spec(spec)
        is_described = True
        weights = _deep_enough(spec, structure, weights)
        dtype = merge_dtype(spec, structure)
        if weights and searches:
            check_base(spec, weights)
    tasks = _load_tasks(spec, mistakes, weights, is_described=is_described)
    with mistakes.noted():
        check_teachers(tasks, spec.sources.experts, spec.fitness.engine)
    with mistakes.noted():
        items = split_tasks(tasks, spec.fitness.split, seed=spec.seed)
    if weights:
        with mistakes.noted():
            weights.sources.require_changes()
        if any(request.prompt.chat for request in _first_requests(tasks)):
            with mistakes.noted():
                weights.sources.require_one_chat_template()
    _require_none(mistakes, spec, weights, tasks, searches=searches)
    with mistakes.noted():
        stages = _stages(spec, structure, dtype, weights, items, tasks)
    with mistakes.noted():
        given = tuple(warm_starts(spec.warm_start, structure, weights))
    if weights and spec.regression is not None and (path := spec.regression.anchor_recipe) is not None:
        with mistakes.noted():
            anchor = recipe_at(path, structure=structure, weights=weights, what="the anchor of the regression")
            weights.check(anchor)
    _require_none(mistakes, spec, weights, tasks, searches=searches)
    plan = Plan(
        spec=spec,
        structure=structure,
        weights=weights,
        tasks=tasks,
        items=items,
        stages=stages,
        objectives=spec.fitness.criteria.objectives,
        dtype=dtype,
        warm_starts=given,
    )
    if searches:
        plan.check_optimizers(mistakes)
        with mistakes.noted():
            plan.check_recipes()
    for stage in plan.stages:
        if stage.optimizer.slope_kind is not None:
            with mistakes.noted(), placed(spec, stage.number):
                require_slopes(stage.space)
    with mistakes.noted():
        plan._check_warm_starts()
    _require_none(mistakes, spec, weights, tasks, searches=searches)
    return plan


def _deep_enough(spec: Spec, structure: Structure, weights: "Weights | None") -> "Weights | None":
    """Returns the weights for engines of models that are as deep as any candidate of a search may be."""
    depths = []
    for search in spec.searches:
        with placed(spec, search.number):
            depth = engine_depth(spec, search.space, structure)
            if weights is not None and depth is not None:
                weights.with_depth(depth)
                depths.append(depth)
    is_filled_up = spec.fitness.engine.builds_model and depths
    return weights.with_depth(max(depths)) if weights and is_filled_up else weights


def _require_none(
    mistakes: Collector, spec: Spec, weights: "Weights | None", tasks: Sequence[Task], *, searches: bool
) -> None:
    """Raises what was noted, with what is wrong with the lengths of items: of a right plan, they are measured later."""
    if mistakes.errors and searches:
        with mistakes.noted():
            _lengths(spec, weights, tasks)
    mistakes.require_none()


def _load_tasks(spec: Spec, mistakes: Collector, weights: "Weights | None", *, is_described: bool) -> list[Task]:
    """Returns the tasks that can be loaded, and notes what is wrong with the others.

    Args:
        spec: The spec.
        mistakes: Where that is noted.
        weights: With the host whose tokenizer the engine uses.
        is_described: Whether the engine has described its sources: else nothing is known of its tasks.
    """
    engine, tasks = spec.fitness.engine, list[Task]()
    served = engine.served_items() if is_described and isinstance(engine, RecipeEngineConfig) else {}
    host = weights.host if weights and engine.tokenizes_on_host else None
    for config in spec.fitness.tasks:
        if is_described or not isinstance(config, RemoteTask):
            with mistakes.noted():
                tasks += load_tasks(
                    [config],
                    served,
                    engine=engine.kind,
                    seed=spec.seed,
                    host=host,
                    context_tokens=engine.context_tokens,
                )
    if is_described and isinstance(engine, RecipeEngineConfig):
        with mistakes.noted():
            first = {task.name: request for task in tasks for request in islice(_first_requests([task]), 1)}
            engine.check_requests(first)
    return tasks


def _lengths(spec: Spec, weights: "Weights | None", tasks: Sequence[Task]) -> dict[str, TaskLengths]:
    """Returns task -> lengths of its items; none if the engine does not use the base's tokenizer.

    Refuses items that no model of the engine's context could be asked.
    """
    engine = spec.fitness.engine
    if not weights or not engine.tokenizes_on_host:
        return {}
    return weights.check_lengths(
        tasks,
        context_tokens=engine.context_tokens,
        calibration=[
            task.name for task in tasks if spec.needs_golds or (spec.needs_reference and not teacher_tasks([task]))
        ],
    )


def _first_requests(tasks: Sequence[Task]) -> Iterator[Request]:
    for task in tasks:
        for item in task.items[:1]:
            yield from task.requests(item)


def _stages(
    spec: Spec,
    structure: Structure,
    dtype: str,
    weights: "Weights | None",
    items: Mapping[SplitName, Mapping[str, AnyItems]],
    tasks: Sequence[Task],
) -> tuple[Stage, ...]:
    """Builds the searches; see `build_stages`."""
    criteria = spec.fitness.criteria
    objectives, num_items = criteria.objectives, {task: len(found.items) for task, found in items["search"].items()}
    num_items |= {length_of(task): num_items[task] for task in criteria.lengths}
    weighted = () if told_as_means(objectives, tasks) else item_weights(objectives, num_items)
    return build_stages(
        spec,
        structure,
        dtype,
        weights,
        num_objectives=len(objectives),
        item_weights=weighted,
        num_constraints=len(criteria.constraints),
    )
