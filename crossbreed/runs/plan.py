"""The plan of a Spec: sources, tasks, splits, space, objectives. Building it finds errors of the input in seconds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from crossbreed.errors import Collector, InputError
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
from crossbreed.optimizer import Optimizer, SearchInputs, build_optimizer
from crossbreed.randomness import spawn
from crossbreed.recipes.grammar import DTYPES
from crossbreed.recipes.named import weighted_deltas
from crossbreed.runs.plan_parts import described_sources, recipes_of, split_tasks
from crossbreed.runs.plan_text import plan_text
from crossbreed.runs.record.identity import check_same_run, run_record
from crossbreed.runs.record.migrations import migrated
from crossbreed.runs.record.records import ItemIds, RunRecord, SplitName
from crossbreed.runs.search.baselines import baselines
from crossbreed.runs.search.pace import Budget
from crossbreed.runs.search.proposer import Proposer
from crossbreed.runs.search.warm_starts import check_warm_starts, warm_starts
from crossbreed.runs.spec import Spec
from crossbreed.runs.spec.objectives import Objective, build_objectives, item_weights
from crossbreed.search_spaces import SearchSpace, SpaceInputs, build_space, require_slopes
from crossbreed.sources import Structure, require_tensors
from crossbreed.types import Point, ProposedBy, Recipe, SlopeKind

if TYPE_CHECKING:
    from crossbreed.kernels.input_grams import InputGrams
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
    space: SearchSpace
    objectives: tuple[Objective, ...]
    dtype: str
    warm_starts: tuple[tuple[ProposedBy, Recipe], ...]
    lengths: Mapping[str, TaskLengths] = field(default_factory=dict)
    """Task -> lengths of its items, once `measured`; empty if the engine does not use the base's tokenizer."""

    @property
    def budget(self) -> Budget:
        """The limits of the search."""
        budget = self.spec.optimizer.budget
        return Budget(trials=budget.trials, seconds=None if budget.minutes is None else budget.minutes * 60)

    @property
    def item_ids(self) -> ItemIds:
        """The splits by item id, as the journal records them."""
        return {
            split: {name: tuple(item.id for item in items.items) for name, items in tasks.items()}
            for split, tasks in self.items.items()
        }

    @property
    def mean_counts(self) -> dict[str, dict[str, int]]:
        """Task of which only means are told -> split -> number of its items."""
        names = [task.name for task in self.tasks if own_split(task) is not None]
        return {name: {split: tasks[name].count for split, tasks in self.items.items()} for name in names}

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Names of the box's coordinates; empty for genomes."""
        return self.space.names

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
        given = (
            (by, replace(recipe, sources={**recipe.sources, **self.made_hashes})) for by, recipe in self.warm_starts
        )
        return [*plain, *self._made(), *given]

    @property
    def made_hashes(self) -> dict[str, str]:
        """What the run has made as sources: name -> content hash."""
        made = self.weights.sources.made if self.weights else ()
        return {name: self.structure.hashes[name] for name in made}

    def _made(self) -> Iterator[tuple[ProposedBy, Recipe]]:
        """Yields what the run has made before it searches, each alone."""
        for name in self.weights.sources.made if self.weights else ():
            recipe = weighted_deltas({name: 1.0}, hashes=self.structure.hashes, dtype=self.dtype)
            yield ProposedBy(kind="made", name=name), recipe

    @property
    def num_initial(self) -> int:
        """Their number, with what is still to be made."""
        is_missing = self.spec.artifacts.regression is not None and not self.made_hashes
        return len(self.initial_candidates()) + is_missing

    def with_grams(self, grams: "InputGrams") -> "Plan":
        """Returns the plan with these Grams, for merging the candidates."""
        assert self.weights is not None, "Grams are of weights"
        weights = replace(self.weights, grams=grams)
        plan = replace(self, space=_space(self.spec, self.structure, self.dtype, weights), weights=weights)
        plan._check_warm_starts()
        return plan

    def with_sources(self, sources: "Sources") -> "Plan":
        """Returns the plan with these sources: its own, and those that it has made of them."""
        assert self.weights is not None, "sources have weights"
        weights = replace(self.weights, sources=sources)
        space = _space(self.spec, weights.structure, self.dtype, weights)
        return replace(self, space=space, structure=weights.structure, weights=weights)

    @property
    def renamed_settings(self) -> dict[str, str]:
        """Keys of a run record that older versions wrote -> the keys that this one writes."""
        renamed = self.spec.optimizer.renamed.items()
        return {f"spec.optimizer.{old}": f"spec.optimizer.{new}" for old, new in renamed}

    @property
    def slope_kind(self) -> SlopeKind | None:
        """The kind of slopes that the optimizer needs; None: none."""
        return self.spec.optimizer.slope_kind

    def measured(self) -> "Plan":
        """Returns the plan with the lengths of its items.

        Refuses an engine that cannot start here, and items that no model of its context could be asked.

        Takes seconds, so the workers do without. The code of a cluster's workers is not this machine's.
        """
        engine = self.spec.fitness.engine
        if self.spec.workers.address is None:
            require_code(engine)
        return replace(self, lengths=_lengths(self.spec, self.weights, self.tasks))

    def check_optimizer(self) -> None:
        """Refuses, before the baselines, an optimizer that cannot search this space for these objectives."""
        means = self._told_as_means
        if means and self.spec.optimizer.reads_items:
            raise InputError(
                f"optimizer `{self.spec.optimizer.kind}` needs the value of each item, and a task tells only means",
                expected="tasks whose items are told",
                got=f"{', '.join(f'`{task}`' for task in means)}, one value for each split",
                where="optimizer.kind",
                fix="use another optimizer, such as `kind: cma_es`, or ask the provider for values of items "
                "(`serve.detail: items`)",
            )
        self._make_optimizer(None, None)

    def check_recipes(self) -> None:
        """Refuses, before a run, an engine that does not make its recipes: those without a search, and of the space."""
        if isinstance(engine := self.spec.fitness.engine, RecipeEngineConfig):
            engine.check_recipes([*(recipe for _, recipe in self.initial_candidates()), *recipes_of(self.space)])

    def describe(self) -> str:
        """Returns the plan and cost of the run as text, to show before it starts."""
        return plan_text(self)

    @property
    def merged_bytes(self) -> int:
        """Size of one candidate's tensors on this machine; 0 where it is only an adapter, or made elsewhere."""
        if self.weights is None or isinstance(self.spec.fitness.engine, AdapterEngineConfig):
            return 0
        return self.weights.merged_bytes(self.dtype)

    def proposer(self) -> Proposer:
        """Returns a new proposer."""
        return Proposer(
            space=self.space,
            seed=self.spec.seed,
            initial_candidates=self.initial_candidates(),
            make_optimizer=self._make_optimizer,
            optimizer=self.spec.optimizer.kind,
        )

    def run_record(self) -> RunRecord:
        """Returns the journal's first record, which identifies the run."""
        return run_record(
            self.spec,
            sources={name: hash_ for name, hash_ in self.structure.hashes.items() if name not in self.made_hashes},
            warm_starts=[recipe.id for _, recipe in self.warm_starts],
            coordinates=self.coordinates,
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

    @property
    def _told_as_means(self) -> list[str]:
        """The tasks of the objectives of which only means are told."""
        tasks = dict.fromkeys(task for objective in self.objectives for task in objective.tasks)
        return [task for task in tasks if task in self.mean_counts]

    def _check_warm_starts(self) -> None:
        are_complete = self.spec.artifacts.grams is None or bool(self.weights and self.weights.grams)
        recipes = dict(zip(self.spec.warm_start, (recipe for _, recipe in self.warm_starts), strict=True))
        check_warm_starts(recipes, self.weights, are_complete=are_complete)

    def _make_optimizer(self, start: Point | None, tuned_scalar: float | None) -> Optimizer:
        num_items = {task: len(ids) for task, ids in self.item_ids["search"].items()}
        inputs = SearchInputs(
            domain=self.space.domain,
            num_objectives=len(self.objectives),
            start=start,
            rng=spawn(self.spec.seed, "optimizer"),
            tuned_scalar=tuned_scalar,
            item_weights=() if self._told_as_means else item_weights(self.objectives, num_items),
        )
        return build_optimizer(self.spec.optimizer, inputs)


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
        structure, weights = _open(spec)
        is_described = True
        dtype = _dtype(spec, structure)
        if weights and searches:
            _check_base(spec, weights)
    tasks = _load_tasks(spec, mistakes, is_described=is_described)
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
        space = _space(spec, structure, dtype, weights)
    with mistakes.noted():
        given = tuple(warm_starts(spec.warm_start, structure, weights))
    _require_none(mistakes, spec, weights, tasks, searches=searches)
    plan = Plan(
        spec=spec,
        structure=structure,
        weights=weights,
        tasks=tasks,
        items=items,
        space=space,
        objectives=build_objectives(spec.fitness.objectives, spec.fitness.minimized),
        dtype=dtype,
        warm_starts=given,
    )
    if searches:
        with mistakes.noted():
            plan.check_optimizer()
        with mistakes.noted():
            plan.check_recipes()
    if plan.slope_kind is not None:
        with mistakes.noted():
            require_slopes(plan.space)
    with mistakes.noted():
        plan._check_warm_starts()
    _require_none(mistakes, spec, weights, tasks, searches=searches)
    return plan


def _require_none(
    mistakes: Collector, spec: Spec, weights: "Weights | None", tasks: Sequence[Task], *, searches: bool
) -> None:
    """Raises what was noted, with what is wrong with the lengths of items: of a right plan, they are measured later."""
    if mistakes.errors and searches:
        with mistakes.noted():
            _lengths(spec, weights, tasks)
    mistakes.require_none()


def _dtype(spec: Spec, structure: Structure) -> str:
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


def _check_base(spec: Spec, weights: "Weights") -> None:
    """Refuses a base that no engine of the spec can start from."""
    spec.fitness.engine.check_base(weights.host, weights.shapes)
    if spec.needs_reference:
        weights.check_reference(observed=spec.artifacts.grams is not None)


def _load_tasks(spec: Spec, mistakes: Collector, *, is_described: bool) -> list[Task]:
    """Returns the tasks that can be loaded, and notes what is wrong with the others.

    Args:
        spec: The spec.
        mistakes: Where that is noted.
        is_described: Whether the engine has described its sources: else nothing is known of its tasks.
    """
    engine, tasks = spec.fitness.engine, list[Task]()
    served = engine.served_items() if is_described and isinstance(engine, RecipeEngineConfig) else {}
    for config in spec.fitness.tasks:
        if is_described or not isinstance(config, RemoteTask):
            with mistakes.noted():
                tasks += load_tasks([config], served, engine=engine.kind)
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
        calibration=spec.needs_reference,
    )


def _first_requests(tasks: Sequence[Task]) -> Iterator[Request]:
    for task in tasks:
        for item in task.items[:1]:
            yield from task.requests(item)


def _open(spec: Spec) -> tuple[Structure, "Weights | None"]:
    engine = spec.fitness.engine
    if isinstance(engine, RecipeEngineConfig):
        for name in spec.artifacts.wanted:
            raise _needs_weights(spec, f"`artifacts.{name}` needs weights", where=f"artifacts.{name}")
        if spec.optimizer.slope_kind is not None:
            raise _needs_weights(spec, "the optimizer's gradients need weights", where="optimizer.options")
        return described_sources(engine, *spec.sources.told), None
    require_tensors()
    from crossbreed.runs.weights import open_weights

    weights = open_weights(spec)
    return weights.structure, weights


def _space(spec: Spec, structure: Structure, dtype: str, weights: "Weights | None") -> SearchSpace:
    """Builds the space, and checks early, not after the baselines, that its operators can merge these sources."""
    engine = spec.fitness.engine
    told = engine.inner_products() if isinstance(engine, RecipeEngineConfig) else None
    inputs = SpaceInputs(
        structure=structure,
        dtype=dtype,
        inner_products=weights.inner_products if weights else told,
        artifacts=weights.artifact_hashes if weights else {},
    )
    space = build_space(spec.space, inputs)
    if weights and (inputs.artifacts or spec.artifacts.grams is None):  # else artifacts are still to be made
        for recipe in space.examples:
            weights.check(recipe)
            if isinstance(engine, AdapterEngineConfig):
                weights.check_adapter(recipe, rank=engine.max_rank)
    return space


def _needs_weights(spec: Spec, problem: str, *, where: str) -> InputError:
    return InputError(
        f"{problem}, but the engine takes recipes",
        expected="an engine that takes weights",
        got=f"fitness.engine.kind: {spec.fitness.engine.kind}",
        where=where,
        fix="use an engine that takes weights, or remove this",
    )
