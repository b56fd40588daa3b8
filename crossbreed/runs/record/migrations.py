"""Older journals in this version: the first record as this version would have written it.

A setting that did not exist then has its default now; a setting that was renamed has its new name; a section that this
run does not use is not compared. So a version that adds a setting shuts out no run.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from crossbreed.errors import InputError
from crossbreed.runs.record.identity import identity_of
from crossbreed.runs.record.records import JOURNAL_SCHEMA, RunRecord, to_json
from crossbreed.runs.spec import Spec


def migrated(recorded: RunRecord, spec: Spec, *, renamed: Mapping[str, str] = MappingProxyType({})) -> RunRecord:
    """Returns the first record of a journal as this version writes it.

    Args:
        recorded: The first record.
        spec: The spec that the run is opened with: what identifies no run (paths, budget, workers) is taken from it.
        renamed: Dotted keys of older versions -> their current names, both beginning with `spec.`.
    """
    said: Any = to_json(recorded)["spec"]
    for old, new in renamed.items():
        _rename(said, old.split(".")[1:], new.split(".")[1:])
    now = identity_of(spec)
    with suppress(ValidationError, InputError, TypeError):  # else the differences are shown as they are recorded
        said = identity_of(Spec.model_validate(_completed(said, spec.model_dump(mode="json"), now)))
    if all(search.optimizer.slope_kind is None for search in spec.searches) and isinstance(said.get("fitness"), dict):
        said["fitness"]["slopes"] = now["fitness"]["slopes"]
    return replace(recorded, spec=said, schema=JOURNAL_SCHEMA)


def _completed(said: Any, whole: Any, identity: Any) -> Any:  # JSON values
    """Returns recorded settings with those of the whole spec that are no part of a run's identity."""
    if isinstance(said, dict) and isinstance(whole, dict) and isinstance(identity, dict):
        completed = {key: _completed(value, whole.get(key), identity.get(key)) for key, value in said.items()}
        for key in whole.keys() - said.keys():
            if key not in identity:
                completed[key] = whole[key]
            elif isinstance(whole[key], dict) and (rest := _completed({}, whole[key], identity[key])):
                completed[key] = rest  # a section in which nothing identified a run yet
        return completed
    lists = [value for value in (said, whole, identity) if isinstance(value, list)]
    if len(lists) == 3 and len({len(value) for value in lists}) == 1:
        return [_completed(*values) for values in zip(*lists, strict=True)]
    return said


def _rename(settings: Any, old: list[str], new: list[str]) -> None:
    before = _parent(settings, old)
    if before is None or old[-1] not in before:
        return
    value = before.pop(old[-1])
    after = _parent(settings, new)
    if after is not None:
        after.setdefault(new[-1], value)


def _parent(settings: Any, path: list[str]) -> dict[str, Any] | None:
    for key in path[:-1]:
        if isinstance(settings, list):
            settings = settings[int(key)] if key.isdecimal() and int(key) < len(settings) else None
        else:
            settings = settings.get(key) if isinstance(settings, dict) else None
    return settings if isinstance(settings, dict) else None
