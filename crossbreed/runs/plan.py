"""What a Spec builds: sources, tasks, splits, space, objectives. What can be wrong is found here, in seconds."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from crossbreed.errors import InputError, require
from crossbreed.fitness import AnyItems, Task, check_disjoint, load_tasks, split_items
from crossbreed.kernels import check_recipe, inner_products
from crossbreed.kernels.artifacts import GRAMS, Grams
from crossbreed.optimizer import Box, Breeder, Genomes, Optimizer, Setting, build_optimizer
from crossbreed.randomness import spawn
from crossbreed.recipes import load_recipe, require_matches
from crossbreed.runs.baselines import WARM_START, baselines
from crossbreed.runs.history import ItemIds, SplitName
from crossbreed.runs.journal import CLOCK, JOURNAL_SCHEMA, Record
from crossbreed.runs.loop import Budget
from crossbreed.runs.nursery import Nursery
from crossbreed.runs.objectives import Objective, build_objectives, item_weights
from crossbreed.runs.proposer import Proposer
from crossbreed.runs.provenance import versions
from crossbreed.runs.selection import NUM_FINALISTS
from crossbreed.runs.spec import Spec
from crossbreed.search_spaces import LineageConfig, LineageSpace, SearchSpace, build_space
from crossbreed.sources import Sources, Structure, open_sources
from crossbreed.types import Point, Recipe, SlopeKind, canonical_json, content_id

_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
_NOT_IDENTITY: Any = {
    "name": True,
    "workers": True,
    "optimizer": {"budget"},
    "sources": True,  # their content hashes say it better than their paths
    "warm_start": True,  # their recipes are asked
    "fitness": {"tasks": {"__all__": {"items"}}},  # their items' contents are hashed
}
"""What of a Spec may differ between the run that began a folder and the one that goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The parts of a run, before anything heavy starts."""

    spec: Spec
    sources: Sources
    tasks: list[Task]
    items: Mapping[SplitName, Mapping[str, AnyItems]]
    """Split -> task -> items."""
    space: SearchSpace | LineageSpace
    objectives: tuple[Objective, ...]
    dtype: str
    warm_starts: tuple[tuple[str, Recipe], ...]
    grams: Grams | None = None
    """Of the experts' inputs, if the spec wants some: see `crossbreed.runs.artifacts`. None in a plan just built."""

    @property
    def budget(self) -> Budget:
        """When the search ends."""
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
    def coordinates(self) -> tuple[str, ...]:
        """Names of the box's coordinates; none where genomes are crossed."""
        return () if isinstance(self.space, LineageSpace) else self.space.names

    def firsts(self) -> list[tuple[str, Recipe]]:
        """Baselines and warm starts: answered before the optimizer asks."""
        return [*baselines(self.sources.structure.hashes, dtype=self.dtype), *self.warm_starts]

    def with_grams(self, grams: Grams) -> "Plan":
        """Returns the plan of a run whose candidates are merged with these Grams."""
        plan = replace(self, space=_space(self.spec, self.sources, self.dtype, grams), grams=grams)
        _check_warm_starts(plan)
        return plan

    @property
    def artifacts(self) -> tuple[Grams, ...]:
        """What the candidates are merged with, opened."""
        return () if self.grams is None else (self.grams,)

    @property
    def slope_kind(self) -> SlopeKind | None:
        """By what the optimizer compares experts, where it needs gradients."""
        return self.spec.optimizer.options.slope_kind

    def check_lengths(self) -> None:
        """Refuses items that no model of this context could be asked; takes seconds, so the workers do without."""
        engine = self.spec.fitness.engine
        if engine.kind != "fake":
            from crossbreed.fitness.engines.encoder import check_tasks  # needs transformers

            check_tasks(
                self.tasks,
                self.sources.base.path,
                max_model_len=engine.max_model_len,
                calibration=self.slope_kind is not None or self.spec.artifacts.grams is not None,
            )

    def describe(self) -> str:
        """What the run will cost, for a person to agree to before it starts."""
        num_items = {split: sum(len(items.items) for items in tasks.values()) for split, tasks in self.items.items()}
        experts, kind = len(self.sources.experts), self.spec.optimizer.kind
        budget = self.spec.optimizer.budget
        limits = {"trials": budget.trials, "minutes": budget.minutes}
        until = " or ".join(f"{limit:g} {unit}" for unit, limit in limits.items() if limit is not None)
        searched = f"{len(self.coordinates)} coordinates"
        if isinstance(self.space, LineageSpace):
            searched = f"chromosomes: {', '.join(self.space.chromosomes)}"
        firsts = f"{len(self.firsts()) - len(self.warm_starts)} baselines"
        if self.warm_starts:
            firsts += f", {len(self.warm_starts)} warm starts"
        prepare, grams, slopes = "", self.spec.artifacts.grams, self.spec.fitness.slopes
        if grams is not None:
            prepare += f"  prepare Grams of each expert by transformers in {grams.dtype}, {grams.items} items a task\n"
        if self.slope_kind is not None:
            prepare += f"  slopes  a gradient a trial by transformers in {slopes.dtype}, {slopes.items} items a task\n"
        return (
            f"{self.spec.name}: {experts} experts, {searched}, {kind}\n{prepare}"
            f"  search  {firsts} and {until}, {num_items['search']} items each\n"
            f"  select  up to {NUM_FINALISTS} finalists, {num_items['select']} items each\n"
            f"  report  {experts + 4} models, {num_items['report']} items each\n"
            f"  weights {self.merged_bytes / 1e9:.2f} GB a candidate, in memory only"
        )

    @property
    def merged_bytes(self) -> int:
        """Size of one candidate's tensors."""
        return sum(math.prod(info.shape) for info in self.sources.structure.tensors.values()) * _BYTES[self.dtype]

    def proposer(self) -> Proposer:
        """A new proposer, at its beginning."""
        return Proposer(
            space=Nursery(self.space, seed=self.spec.seed) if isinstance(self.space, LineageSpace) else self.space,
            firsts=self.firsts(),
            make_optimizer=self._make_optimizer,
            origin=self.spec.optimizer.kind,
        )

    def run_record(self) -> Record:
        """The journal's first line: what makes this run this run."""
        return {
            "kind": "run",
            "schema": JOURNAL_SCHEMA,
            "spec": self.spec.model_dump(mode="json", exclude=_NOT_IDENTITY),
            "sources": dict(self.sources.structure.hashes),
            "warm_starts": [recipe.id for _, recipe in self.warm_starts],
            "coordinates": list(self.coordinates),
            "contents": {task.name: _contents_id(task) for task in self.tasks},
            "items": {s: {t: list(ids) for t, ids in tasks.items()} for s, tasks in self.item_ids.items()},
            **({"artifacts": {GRAMS: self.grams.hash}} if self.grams else {}),
            CLOCK: {"versions": versions()},
        }

    def _make_optimizer(self, start: Point | None, tuned_scalar: float | None) -> Optimizer | Breeder:
        space, genomes = self.space, None
        num_items = {task: len(ids) for task, ids in self.item_ids["search"].items()}
        if isinstance(space, LineageSpace):
            genomes = Genomes(num_seeds=space.num_seeds, num_chromosomes=len(space.chromosomes))
            box, hulls, why_no_hulls = Box(low=(), high=()), None, None
        else:
            box, hulls, why_no_hulls = Box(low=space.low, high=space.high), space.hulls, space.why_no_hulls
        setting = Setting(
            box=box,
            num_objectives=len(self.objectives),
            start=start,
            rng=spawn(self.spec.seed, "optimizer"),
            hulls=hulls,
            why_no_hulls=why_no_hulls,
            genomes=genomes,
            tuned_scalar=tuned_scalar,
            item_weights=item_weights(self.objectives, num_items),
        )
        return build_optimizer(self.spec.optimizer, setting)


def build_plan(spec: Spec) -> Plan:
    """Builds every part of a run but the engine.

    Raises:
        InputError: anything that would make the run fail later, where it can be known now.
    """
    require("plotly", extra="report")  # not after hours of search
    sources = open_sources(spec.sources.base, spec.sources.experts)
    tasks = load_tasks(spec.fitness.tasks)
    dtype = sources.structure.dtype if spec.dtype == "auto" else spec.dtype
    if dtype not in _BYTES:
        raise InputError(
            "the base's weights are in a dtype that merges are not written in",
            expected=" or ".join(_BYTES),
            got=dtype,
            where=str(sources.base.path),
            fix="set `dtype:` in the spec",
        )
    plan = Plan(
        spec=spec,
        sources=sources,
        tasks=tasks,
        items=split_tasks(spec, tasks),
        space=_space(spec, sources, dtype),
        objectives=build_objectives(spec.fitness.objectives, spec.fitness.minimized),
        dtype=dtype,
        warm_starts=tuple(_warm_starts(spec, sources.structure)),
    )
    plan._make_optimizer(None, None)  # refuses what it cannot do now, not after the baselines
    _check_warm_starts(plan)
    return plan


def _space(spec: Spec, sources: Sources, dtype: str, grams: Grams | None = None) -> SearchSpace | LineageSpace:
    """Builds the space, and refuses operators that cannot merge these sources: not after the baselines."""
    if isinstance(spec.space, LineageConfig):
        return LineageSpace(spec.space, sources.structure, dtype, partial(inner_products, sources=sources))
    artifacts = {} if grams is None else {GRAMS: grams.hash}
    space = build_space(spec.space, sources.structure, dtype, artifacts=artifacts)
    if grams is not None or spec.artifacts.grams is None:  # else they are still to be made
        for recipe in space.examples:
            check_recipe(recipe, sources, () if grams is None else (grams,))
    return space


def split_tasks(spec: Spec, tasks: Sequence[Task]) -> dict[SplitName, dict[str, AnyItems]]:
    """Parts every task's items once, by the spec's seed: split -> task -> items."""
    splits = {
        task.name: split_items(
            task.items, spec.fitness.split, seed=spec.seed, task=task.name, stratify=task.kind.stratify
        )
        for task in tasks
    }
    check_disjoint(splits)
    return {
        "search": {name: split.search for name, split in splits.items()},
        "select": {name: split.select for name, split in splits.items()},
        "report": {name: split.report for name, split in splits.items()},
    }


def _contents_id(task: Task) -> str:
    by_id = sorted((item.id, dict(item.fields)) for item in task.items)
    return content_id(canonical_json(by_id))


def check_same_run(recorded: Record, planned: Record, *, where: Path) -> None:
    """Refuses to go on with another Spec than the one that began the folder.

    Raises:
        InputError: naming the first few settings that differ.
    """
    before, now = (dict(_leaves({k: v for k, v in r.items() if k != CLOCK})) for r in (recorded, planned))
    keys = sorted(before.keys() | now.keys(), key=lambda key: (not key.startswith("spec."), key))  # causes first
    differing = [key for key in keys if before.get(key) != now.get(key)]
    if differing == [f"artifacts.{GRAMS}"]:
        raise InputError(
            "the Grams made here are not those that this run began with",
            expected=f"content hash {before[differing[0]]}",
            got=f"{now[differing[0]]}: other bits of the same sums, by another processor or version of torch",
            where=str(where),
            fix="name the folder of the machine that began the run by CROSSBREED_CACHE, or choose another --out",
        )
    if differing:
        lines = [
            f"{key.removeprefix('spec.')}: {before.get(key, 'absent')} -> {now.get(key, 'absent')}"[:160]
            for key in differing[:5]
        ]
        raise InputError(
            "this run folder was begun with another spec",
            expected="the same sources, space, optimizer, tasks, splits and seed (budget and workers may change)",
            got="\n            ".join(lines) + (f"\n            and {len(differing) - 5} more" * (len(differing) > 5)),
            where=str(where),
            fix="choose another --out, or undo the change",
        )


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:  # any JSON value
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and path.startswith("items."):
        yield path, f"{len(value)} items ({content_id(canonical_json(value))})"
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{index}]")
    else:
        yield path, value


def _warm_starts(spec: Spec, structure: Structure) -> Iterator[tuple[str, Recipe]]:
    hashes = structure.hashes
    for index, path in enumerate(spec.warm_start):
        recipe = load_recipe(Path(path))
        if dict(recipe.sources) != dict(hashes):
            raise InputError(
                "a warm start merges other sources than this spec",
                expected=_listed(hashes),
                got=_listed(recipe.sources),
                where=path,
            )
        require_matches(recipe, structure.tensors, where=path)
        yield f"{WARM_START}{index}", recipe


def _check_warm_starts(plan: Plan) -> None:
    """Refuses recipes that the workers of this run could not merge: not after the baselines."""
    ours = {} if plan.grams is None else {GRAMS: plan.grams.hash}
    for (_, recipe), path in zip(plan.warm_starts, plan.spec.warm_start, strict=True):
        if recipe.artifacts and plan.grams is None and plan.spec.artifacts.grams is not None:
            continue  # which ones this run has is known when they are made
        if not recipe.artifacts.items() <= ours.items():
            raise InputError(
                "a warm start is merged with artifacts that this run does not have",
                expected=_listed(ours),
                got=_listed(recipe.artifacts),
                where=path,
                fix="give `artifacts`, tasks, items and seed as the run that bred the recipe had them, or leave it out",
            )
        check_recipe(recipe, plan.sources, plan.artifacts)


def _listed(hashes: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {hash_[:12]}" for name, hash_ in hashes.items()) or "none"
