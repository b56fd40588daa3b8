"""The identity of a run: the journal's first record, and the check on resume that it has not changed."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from crossbreed.errors import InputError
from crossbreed.fitness import Task, looks_hashed
from crossbreed.parsing import any_of
from crossbreed.runs.record.records import ItemIds, RunClock, RunRecord, without_clock
from crossbreed.runs.record.versions import versions
from crossbreed.runs.spec import Spec
from crossbreed.runs.stages.naming import stage_labels
from crossbreed.types import canonical_json, content_id

_MOST_OF_A_VALUE = 60
_PLANNED = re.compile(r"spec\.(optimizer|stages\[\d+\])\.budget\.trials")
"""The budget of an optimizer that plans by it."""
_NOT_IDENTITY: Any = {
    "name": True,
    "workers": True,
    "log": True,
    "serve": True,
    "optimizer": {"budget"},
    "budget": True,
    "stages": {"__all__": {"budget"}},
    "sources": {"base", "experts"},  # identified by content hashes, not by paths
    "warm_start": True,  # identified by the recipes' hashes
    "fitness": {"tasks"},  # replaced by each task's own identity; items are hashed
}
"""The settings of a Spec that may change on resume."""


def run_record(
    spec: Spec,
    *,
    sources: Mapping[str, str],
    warm_starts: Sequence[str],
    coordinates: tuple[str, ...],
    more_coordinates: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    tasks: Sequence[Task],
    items: ItemIds,
    counts: Mapping[str, Mapping[str, int]],
    artifacts: Mapping[str, str],
    host: Mapping[str, str],
) -> RunRecord:
    """Returns the first line of a run's journal.

    Args:
        spec: The run's spec.
        sources: Name -> content hash.
        warm_starts: Hashes of the user's warm-start recipes.
        coordinates: Names of the coordinates of the first search's space.
        more_coordinates: Stage -> those of a later search's.
        tasks: The tasks.
        items: Split -> task -> item ids.
        counts: Task of which only means are told -> split -> number of its items.
        artifacts: The artifacts for merging candidates: name -> content hash.
        host: Hashes of the base's files other than weights that affect answers: part -> content hash.
    """
    return RunRecord(
        spec=identity_of(spec),
        sources=sources,
        warm_starts=tuple(warm_starts),
        coordinates=coordinates,
        more_coordinates=more_coordinates,
        contents={task.name: task.contents_id for task in tasks},
        own_ids=tuple(task.name for task in tasks if any(map(looks_hashed, task.items))),
        items=items,
        counts=counts,
        artifacts=artifacts,
        host=host,
        clock=RunClock(versions=versions()),
    )


def check_same_run(
    recorded: RunRecord, planned: RunRecord, *, where: Path | str, renamed: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Checks that a run folder is resumed with the Spec that started it.

    Args:
        recorded: The first record of its journal.
        planned: The first record that a new run would have.
        where: The folder.
        renamed: Dotted keys of older versions -> their current names.

    Raises:
        InputError: they differ; the message lists the first few settings.
    """
    if recorded.host:
        _check_host(recorded.host, planned.host, where=where)
    before, now = (_comparable(record) for record in (recorded, planned))
    before = {renamed.get(key, key): value for key, value in before.items()}
    keys = sorted(before.keys() | now.keys(), key=lambda key: (not key.startswith("spec."), key))  # causes first
    differing = [key for key in keys if before.get(key) != now.get(key)]
    differing.sort(key=lambda key: key.startswith("spec.") and key not in before)  # settings that did not exist, last
    if differing and all(key.startswith("artifacts.") and key in before and key in now for key in differing):
        raise InputError(
            f"the {differing[0].removeprefix('artifacts.')} made here are not those with which this run started",
            expected=f"content hash {before[differing[0]]}",
            got=f"{now[differing[0]]}: another processor or version of torch rounds differently",
            where=str(where),
            fix="set CROSSBREED_CACHE to the cache folder of the machine that started the run, or choose another --out",
        )
    changed = [key.removeprefix("contents.") for key in differing if key.startswith("contents.")]
    if changed and all(key.startswith(("contents.", "items.")) for key in differing):
        raise InputError(
            "this run folder was started with other items",
            expected="the items of each task as they were",
            got=f"those of {any_of(changed)} have changed",
            where=str(where),
            fix="put them back as they were, or choose another --out",
        )
    if differing and all(map(_PLANNED.fullmatch, differing)) and differing[0] in before.keys() & now.keys():
        changed_budget, at = differing[0], differing[0].removesuffix(".budget.trials")
        kind = before.get(f"{at}.kind" if at.endswith("optimizer") else f"{at}.optimizer.kind")
        raise InputError(
            f"the optimizer `{kind}` plans by its budget, which stays as it was at the start",
            expected=f"{changed_budget.removeprefix('spec.')}: {before[changed_budget]}",
            got=f"{now[changed_budget]}",
            where=str(where),
            fix="set it back; or choose another --out for a new run, and add the recipe of this run's winner "
            "(in its folder `recipes`) to `warm_start`",
        )
    stages = [stage_labels(record.spec) for record in (recorded, planned)]
    if stages[0] != stages[1] and any(key.startswith("spec.stages") for key in before.keys() | now.keys()):
        raise InputError(
            "this run folder was started with other stages",
            expected=", ".join(stages[0]) or "none",
            got=", ".join(stages[1]) or "none",
            where=str(where),
            fix="put them back (their budgets may change), or choose another --out for a new run, and add the recipe "
            "of this run's winner (in its folder `recipes`) to `warm_start`",
        )
    if differing:
        lines = [
            f"{key.removeprefix('spec.')}: {_short(before.get(key, 'nothing'))} -> {_short(now.get(key, 'nothing'))}"
            for key in differing[:5]
        ]
        raise InputError(
            "this run folder was started with another spec",
            expected="the same sources, space, optimizer, tasks, splits and seed (budget and workers may change)",
            got="\n            ".join(lines) + (f"\n            and {len(differing) - 5} more" * (len(differing) > 5)),
            where=str(where),
            fix="choose another --out, or undo the change",
        )


def _short(value: Any) -> str:  # any JSON value
    """Returns a value for a line with another: both must be seen."""
    text = str(value)
    return text if len(text) <= _MOST_OF_A_VALUE else f"{text[:_MOST_OF_A_VALUE]} ..."


def _check_host(before: Mapping[str, str], now: Mapping[str, str], *, where: Path | str) -> None:
    changed = [part for part in before if before[part] != now.get(part)]
    if changed:
        raise InputError(
            f"the base's {' and '.join(changed)} changed since this run was started, so answers would differ",
            expected=", ".join(f"{part} {before[part]}" for part in changed),
            got=", ".join(f"{part} {now.get(part, 'none')}" for part in changed),
            where=str(where),
            fix="put the files back (for a hub id, name the revision: ID@COMMIT), or choose another --out",
        )


def _comparable(record: RunRecord) -> dict[str, Any]:
    return dict(_leaves(without_clock(replace(record, host={}, own_ids=(), counts={})) | {"schema": None}))


def identity_of(spec: Spec) -> dict[str, Any]:
    """Returns the settings that must not change on resume."""
    identity = spec.model_dump(mode="json", exclude=_NOT_IDENTITY)
    for key in ("space", "optimizer") if spec.stages else ("stages",):
        del identity[key]
    for search in spec.searches:
        if search.optimizer.reads_budget:
            section = identity["stages"][search.number] if spec.stages else identity["optimizer"]
            section["budget"] = {"trials": search.optimizer.budget.trials}
    identity["fitness"]["engine"] = spec.fitness.engine.identity()
    identity["fitness"]["tasks"] = [task.identity() for task in spec.fitness.tasks]
    return identity


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:  # any JSON value
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and path.startswith("items."):
        yield path, f"{len(value)} items ({content_id(canonical_json(value))})"
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{index}]")
    else:
        yield path, value  # an empty mapping or list too: it is not the same as null
