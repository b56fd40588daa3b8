"""Inserts objects of a Python program into a spec; see `crossbreed.objects`."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

from crossbreed.config import Config
from crossbreed.errors import InputError, is_installed
from crossbreed.fitness import Task, TaskConfig, WeightEngine
from crossbreed.fitness.engines.python_object import (
    DescribingEngine,
    EngineObject,
    RecipeEngineObject,
    StartEngine,
    is_started,
)
from crossbreed.fitness.tasks.python_object import TaskObject
from crossbreed.objects import OBJECT, RECIPE_OBJECT, name_of
from crossbreed.optimizer import OptimizerPart
from crossbreed.optimizer.python_object import MakeOptimizer, OptimizerObject, kind_of, settings_of
from crossbreed.parsing import type_name
from crossbreed.runs.spec import Spec, parse_spec
from crossbreed.runs.spec.presets import RawSpec, fill_in

GivenOptimizer: TypeAlias = MakeOptimizer | OptimizerPart[Any]
"""Builds the optimizer: a class or a function of SearchInputs, or an unregistered part."""
GivenEngine: TypeAlias = WeightEngine | DescribingEngine | StartEngine
"""An engine, which the caller owns and closes; or a callable that starts one, called again after each failure. An
engine with a method `describe_sources` takes recipes, any other weights."""
GivenTask: TypeAlias = Task | TaskConfig
"""A task with its items, or settings from which they are loaded."""


def with_objects(
    spec: Spec | Mapping[str, Any],
    *,
    optimizer: GivenOptimizer | None = None,
    engine: GivenEngine | None = None,
    tasks: Sequence[GivenTask] | None = None,
) -> Spec:
    """Returns the spec with `kind: object` for each given object, and the objects in it.

    Args:
        spec: Parsed, or the content of a spec file, which need not have the sections that objects replace. Of the
            section `optimizer`, only the budget is used.
        optimizer: Replaces `optimizer`.
        engine: Replaces `fitness.engine`. It lives in this process, and so do the workers.
        tasks: Replace `fitness.tasks`.

    Raises:
        InputError: an object is of the wrong type, or the resulting spec is invalid.
    """
    if optimizer is None and engine is None and tasks is None:
        return spec if isinstance(spec, Spec) else parse_spec(spec)
    held = None if tasks is None else [_task(task) for task in tasks]
    parsed = parse_spec(_raw(spec, optimizer, engine, held))
    if optimizer is not None:
        cast(OptimizerObject, parsed.optimizer).hold(optimizer)
    if engine is not None:
        cast(Any, parsed.fitness.engine).hold(engine)  # the kind that `_engine` has chosen
    for config, task in zip(parsed.fitness.tasks, held or (), strict=False):
        cast(TaskObject, config).hold(task)
    return parsed


def has_objects(spec: Spec) -> bool:
    """Returns whether some part of the spec is an object, which no file holds."""
    optimizers = (search.optimizer.kind for search in spec.searches)
    kinds = (*optimizers, spec.fitness.engine.kind, *(task.kind for task in spec.fitness.tasks))
    return not {OBJECT, RECIPE_OBJECT}.isdisjoint(kinds)


def require_engine(spec: Spec) -> None:
    """Raises InputError if the engine is a missing object; other missing objects are reported when they are built."""
    if isinstance(spec.fitness.engine, EngineObject | RecipeEngineObject):
        spec.fitness.engine.require()


def require_sendable(spec: Spec) -> None:
    """Raises InputError if the workers are Ray's and a task object cannot be sent to them; engine objects never are."""
    if spec.workers.executor != "ray" or not is_installed("ray"):
        return
    for config in spec.fitness.tasks:
        if isinstance(config, TaskObject):
            _require_picklable(config)


def for_workers(spec: Spec) -> Spec:
    """Returns what workers are sent of a spec: an optimizer that is an object stays in this process."""
    if not isinstance(spec.optimizer, OptimizerObject):
        return spec
    return spec.model_copy(update={"optimizer": spec.optimizer.without_object()})


def _require_picklable(config: TaskObject) -> None:
    from ray import cloudpickle

    try:
        cloudpickle.dumps(config)
    except Exception as error:  # whatever the object's own code raises
        raise InputError(
            "a task object cannot be sent to Ray's workers",
            expected="an object that can be pickled",
            got=f"{config.object}: {type(error).__name__}: {error}",
            where=f"the argument `tasks`, task `{config.name}`",
            fix="set `workers.executor: local`, or let the task hold nothing that is bound to this process",
        ) from error


def _raw(
    spec: Spec | Mapping[str, Any],
    optimizer: GivenOptimizer | None,
    engine: GivenEngine | None,
    tasks: Sequence[Task] | None,
) -> RawSpec:
    """Returns the content of an equivalent spec file, with sections that no object replaces unchanged."""
    raw: RawSpec = dict(spec) if isinstance(spec, Spec) else fill_in(spec)
    if optimizer is not None:
        raw["optimizer"] = _optimizer(optimizer, raw.get("optimizer"))
    raw["fitness"] = _section(raw, "fitness")
    if engine is not None:
        raw["fitness"]["engine"] = _engine(engine)
        raw["workers"] = _in_this_process(_section(raw, "workers"))
    if tasks is not None:
        raw["fitness"]["tasks"] = [_described(task) for task in tasks]
    return raw


def _optimizer(given: GivenOptimizer, section: Any) -> RawSpec:  # of a parsed spec, or of a raw one
    if not callable(given) and not isinstance(given, OptimizerPart):
        raise _no_such("optimizer", "a function or class of SearchInputs, or an OptimizerPart", given)
    budget = section.get("budget") if isinstance(section, Mapping) else getattr(section, "budget", None)
    said = {"object": kind_of(given), "settings": settings_of(given)} if isinstance(given, OptimizerPart) else {}
    return {"kind": OBJECT, "object": name_of(given), **said, **({} if budget is None else {"budget": budget})}


def _engine(given: GivenEngine) -> RawSpec:
    takes_recipes = hasattr(given, "describe_sources")
    if not is_started(given) and (takes_recipes or not callable(given)):
        raise _no_such("engine", "an engine, or, where it takes weights, a function of the base's folder", given)
    return {"kind": RECIPE_OBJECT if takes_recipes else OBJECT, "object": name_of(given)}


def _section(raw: RawSpec, key: str) -> RawSpec:
    """Returns a section of a raw spec, or of a parsed one without its defaults."""
    section = raw.get(key, {})
    if isinstance(section, Config):
        return {name: value for name, value in section if name in section.model_fields_set}
    if not isinstance(section, Mapping):
        raise InputError(
            f"`{key}` must be a mapping", expected="keys with values", got=type_name(section)[:200], where=key
        )
    return dict(section)


def _in_this_process(workers: RawSpec) -> RawSpec:
    """Returns the workers' settings with `executor: local`; raises InputError if another one is set."""
    if workers.get("executor", "local") != "local":
        raise InputError(
            "an engine object lives in this process, but Ray's workers do not",
            expected="workers.executor: local",
            got=f"workers.executor: {workers['executor']}",
            where="the argument `engine`",
            fix="set `executor: local`, or register the engine as a part of a package (docs/plugins.md)",
        )
    return workers | {"executor": "local"}


def _task(given: GivenTask) -> Task:
    if isinstance(given, Task):
        return given
    if isinstance(given, TaskConfig):
        return Task(kind=given, items=given.load_items())
    raise _no_such("tasks", "Task or TaskConfig objects", given)


def _described(task: Task) -> RawSpec:
    return {
        "kind": OBJECT,
        "object": f"{type(task.kind).__module__}.{type(task.kind).__qualname__}",
        "name": task.name,
        "stratify": task.kind.stratify,
        "chunk": task.kind.chunk,
        "metric": task.kind.metric_name,
        "minimized": not task.higher_is_better,
        "settings": task.kind.identity() if isinstance(task.kind, TaskConfig) else {},
    }


def _no_such(argument: str, expected: str, given: object) -> InputError:
    return InputError(f"`{argument}` has the wrong type", expected=expected, got=type_name(given)[:200], where=argument)
