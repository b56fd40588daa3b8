"""What else is wrong with an invalid spec: behind keys and values that are refused, and in the files of its items.

pydantic checks what concerns several keys (`objectives` and the names of tasks) only where each of them is valid. So an
invalid spec is parsed once more as it is probably meant: with the suggested names, and without what is wrong.
"""

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from crossbreed.config import InputPath
from crossbreed.errors import Collector
from crossbreed.fitness import AnyTaskConfig, FileTaskConfig, TaskConfig, load_items, load_tasks
from crossbreed.runs.spec.messages import Keys, cause_of, is_unknown_key, keys_of
from crossbreed.runs.spec.presets import PRESET, RawSpec

_TASK: TypeAdapter[TaskConfig] = TypeAdapter(AnyTaskConfig)
_PATH: TypeAdapter[str] = TypeAdapter(InputPath)


@dataclass(frozen=True, slots=True, kw_only=True)
class Meant:
    """An invalid spec as it is probably meant."""

    spec: RawSpec
    gone: frozenset[Keys]
    """The keys of what it lacks."""
    renamed: frozenset[Keys]
    """Keys that stand for misspelt ones."""

    @property
    def guessed(self) -> frozenset[Keys]:
        """Keys that are not as they are written."""
        return self.gone | self.renamed


def as_meant(error: ValidationError, raw: Mapping[str, Any]) -> Meant:
    """Returns an invalid spec as it is probably meant."""
    spec, gone, renamed, seen = deepcopy(dict(raw)), set[Keys](), set[Keys](), set[Keys]()
    for found in error.errors():
        keys = tuple(keys_of(found["loc"], raw))
        section = _at(spec, keys[:-1])
        if found["type"] == "missing" or keys in seen or not keys or not isinstance(section, dict):
            continue
        seen.add(keys)
        value, name = section.get(keys[-1]), _suggested(found)
        if _holds_mappings(value) and not is_unknown_key(found):
            continue  # what is wrong is inside
        section.pop(keys[-1], None)
        if is_unknown_key(found):
            if name not in ("", PRESET, *section):
                section[name] = value
                renamed.add((*keys[:-1], name))
        elif name and isinstance(value, str):
            section[keys[-1]] = name
        else:
            gone.add(keys)
    return Meant(spec=spec, gone=frozenset(gone), renamed=frozenset(renamed))


def note_items(meant: Meant, folder: Path, mistakes: Collector) -> None:
    """Notes what is wrong with the items of an invalid spec, as far as its tasks say what they are."""
    tasks = _at(meant.spec, ("fitness", "tasks"))
    for i, task in enumerate(tasks if isinstance(tasks, list) else ()):
        lacks = {str(keys[3]) for keys in meant.gone if keys[:3] == ("fitness", "tasks", i) and len(keys) > 3}
        with mistakes.noted():
            _check_items(task, lacks, folder)


def _check_items(task: object, lacks: Collection[str], folder: Path) -> None:
    """Raises what is wrong with the items of a task; with their file alone, if it is not known what they ask."""
    context = {"folder": folder}
    try:
        config = _TASK.validate_python(task, context=context)
    except ValidationError:
        config = None
    if isinstance(config, FileTaskConfig) and all(_is_a_number(config, name) for name in lacks):
        load_tasks([config])
    elif isinstance(task, Mapping) and isinstance(task.get("items"), str):
        load_items(_PATH.validate_python(task["items"], context=context))


def _is_a_number(config: TaskConfig, name: str) -> bool:
    """Returns whether a field is a number, such as `max_tokens`: with its default, the same is asked."""
    field = type(config).model_fields.get(name)
    return field is not None and type(field.default) in (int, float)


def _suggested(found: ErrorDetails) -> str:
    """Returns the name that a mistake suggests, of a key or of a part."""
    cause = cause_of(found)
    return cause.fix.split("`")[1] if cause is not None and cause.fix.startswith("did you mean `") else ""


def _holds_mappings(value: object) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(one, Mapping) for one in value))


def _at(section: Any, keys: Sequence[int | str]) -> Any:  # any part of a spec
    """Returns what keys lead to; None where one of them does not stand there."""
    for key in keys:
        if isinstance(section, dict):
            section = section.get(key)
        elif isinstance(section, list) and isinstance(key, int):
            section = section[key]
        else:
            return None
    return section
