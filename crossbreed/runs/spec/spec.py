"""The Spec: everything needed to repeat a run, composed of the settings that the parts declare (docs/spec.md)."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from crossbreed.config import Config, InputPath, Name, refused
from crossbreed.errors import Collector, InputError
from crossbreed.fitness import (
    SHOWN_KEYS,
    AnyEngineConfig,
    AnyTaskConfig,
    EngineConfig,
    SplitConfig,
    TaskConfig,
)
from crossbreed.optimizer import AnyOptimizerConfig
from crossbreed.parsing import shown, suggestion
from crossbreed.recipes.operators import OPERATORS
from crossbreed.runs.loggers.config import LogConfig
from crossbreed.runs.spec.grams_check import why_grams_are_missing, why_grams_are_unread
from crossbreed.runs.spec.messages import Keys, explain
from crossbreed.runs.spec.objectives import ObjectiveConfig, check_objectives
from crossbreed.runs.spec.overrides import apply_override
from crossbreed.runs.spec.places import Places
from crossbreed.runs.spec.presets import PRESET, RawSpec, fill_in
from crossbreed.runs.spec.regression import RegressionConfig
from crossbreed.runs.spec.second_look import as_meant, note_items
from crossbreed.runs.spec.serve import ServeConfig
from crossbreed.runs.spec.sources import AnySources, marked
from crossbreed.search_spaces import AnySpaceConfig
from crossbreed.text_files import read_text
from crossbreed.types import REGRESSION, Dtype
from crossbreed.yaml_files import MAX_BYTES, read_yaml


def _names_a_folder(name: str) -> str:
    if name in (".", "..") or "/" in name or "\\" in name:
        raise ValueError(f"`name` is the name of a folder in `runs`, not a path: {shown(name)}")
    return name


def unique_names(tasks: list[TaskConfig]) -> list[TaskConfig]:
    """Returns tasks of which no two have one name; raises ValueError for others."""
    names = [task.name for task in tasks]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two tasks have the name {doubled[0]!r}")
    return tasks


def scorable(tasks: list[TaskConfig], info: ValidationInfo) -> list[TaskConfig]:
    """Returns tasks that the engine scores: it answers what they ask, or scores their items itself."""
    engine: EngineConfig | None = info.data.get("engine")
    mistakes = Collector()
    for task in tasks:
        with mistakes.noted():
            if engine is not None:
                _require_scorable(task, engine)
    if mistakes.errors:
        raise refused(mistakes.errors)
    return tasks


def _require_scorable(task: TaskConfig, engine: EngineConfig) -> None:
    """Raises InputError for a task that an engine does not score."""
    if task.is_scored_by_engine and not engine.scores_items:
        raise InputError(
            f"nobody scores the items of task `{task.name}`",
            expected="a `function` in the task, or an engine that scores items: `kind: python`",
            got=f"a task of kind `{task.kind}` without a function, and the engine `{engine.kind}`",
            where="fitness.tasks",
            fix="name the function that scores them",
        )
    if engine.scores_items and not task.is_scored_by_engine:
        raise InputError(
            f"the engine `{engine.kind}` does not answer what task `{task.name}` asks",
            expected="tasks whose items the engine's function scores: {name: NAME, kind: python, items: FILE}",
            got=f"kind: {task.kind}",
            where="fitness.tasks",
            fix="remove its prompt and function, or use an engine that runs language models",
        )


class SlopesConfig(Config):
    """Gradients of the loss on correct answers, for `frank_wolfe` with `slopes: gradient`.

    They are computed by a second, transformers engine beside the one that scores, or by the scoring engine itself if it
    is a transformers engine of the same dtype on the same device.
    """

    items: Annotated[int, Field(ge=1)] = 32
    """Maximum number of search items per task in the loss: the first ones of the split."""
    dtype: Dtype = "float32"
    """The dtype in which the model computes and the gradient is accumulated."""
    device: str = "cpu"
    """The device, as torch names it."""
    tokens: Annotated[int, Field(ge=1)] = 1024
    """Tokens per forward and backward pass, padding included; bounds the memory."""


class FitnessConfig(Config):
    """The evaluation of candidates."""

    engine: AnyEngineConfig
    """The engine that runs the merged models."""
    tasks: Annotated[list[AnyTaskConfig], Field(min_length=1), AfterValidator(unique_names), AfterValidator(scorable)]
    """The tasks on which candidates are scored."""
    objectives: Annotated[tuple[ObjectiveConfig, ...], Field(validate_default=True)] = ()
    """One: the single best candidate is searched. Several: a Pareto front. Empty: the mean over all tasks."""
    split: SplitConfig
    """Items of each task for search, selection of the winner, and the report: counts or fractions."""
    slopes: SlopesConfig = SlopesConfig()
    """The computation of gradients, for optimizers that need them."""

    @property
    def max_model_len(self) -> int | None:
        """Maximum length of prompt plus answer, if the engine's settings limit it."""
        return self.engine.context_tokens

    @property
    def minimized(self) -> dict[str, bool]:
        """Task name -> whether less of its metric is better."""
        return {task.name: not task.higher_is_better for task in self.tasks}

    @field_validator("objectives")
    @classmethod
    def _objectives_name_tasks(
        cls, objectives: tuple[ObjectiveConfig, ...], info: ValidationInfo
    ) -> tuple[ObjectiveConfig, ...]:
        if (tasks := info.data.get("tasks")) is not None:
            minimized = {task.name: not task.higher_is_better for task in tasks}
            if errors := check_objectives(objectives, minimized):
                raise refused(errors)
        return objectives


class GramsConfig(Config):
    """Grams of the inputs of each expert's matrices, teacher-forced on answers to search items.

    Read by operators whose description names the artifact `grams`. Collected with transformers before the search, and
    kept in the cache folder (`CROSSBREED_CACHE`), where all runs of the same experts and items share them.
    """

    items: Annotated[int, Field(ge=1)] = 32
    """Maximum number of search items per task and expert: the first ones of the split."""
    tasks: dict[str, Annotated[list[str], Field(min_length=1)]] = Field(default_factory=dict)
    """Expert -> its tasks. Default: the task with the expert's own name, or else all tasks."""
    dtype: Dtype = "float32"
    """The dtype in which the experts compute. Grams are float32."""
    device: str = "cpu"
    """The device on which the experts compute, as torch names it."""
    max_columns: Annotated[int, Field(ge=1)] = 4096
    """For inputs wider than this, only `rank` directions and the diagonal of the Gram are kept."""
    rank: Annotated[int, Field(ge=1)] = 256
    """Number of directions kept. Exact for up to that many tokens; beyond, the error in the spectral norm is at most
    the sum of all eigenvalues but the first k, divided by rank - k, for any k (Frequent Directions). Diagonal and trace
    are exact."""

    def tasks_of(self, expert: str, tasks: Sequence[str]) -> Sequence[str]:
        """Returns the tasks on which an expert's Grams are collected."""
        return self.tasks.get(expert) or ([expert] if expert in tasks else tasks)


class ArtifactsConfig(Config):
    """Artifacts computed before the search."""

    grams: GramsConfig | None = None
    """Grams of inputs. None: they are not collected, and operators that read Grams cannot be used."""
    regression: RegressionConfig | None = None
    """A merge by regression, layer by layer, which recipes name `regression`, and which is scored before the search.
    None: there is none."""

    @property
    def wanted(self) -> tuple[str, ...]:
        """The names of those that are."""
        return tuple(name for name in type(self).model_fields if getattr(self, name) is not None)


class WorkersConfig(Config):
    """The workers that evaluate candidates. May change on resume."""

    count: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Number of workers. `auto`: as many as fit the cluster's CPUs and GPUs."""
    cpus: Annotated[float, Field(gt=0)] = 2
    """CPUs per worker."""
    gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs per worker."""
    executor: Literal["ray", "local"] = "ray"
    """`local`: one worker in the driver's own process, without Ray."""
    address: str | None = None
    """The Ray cluster to join: `auto`, or an address. None starts one on this machine."""
    retries: Annotated[int, Field(ge=0)] = 2
    """Further attempts before a trial is FAILED."""
    timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds after which a worker that starts or answers counts as hung, is killed and replaced. None: 20 times the
    median so far, at least 10 minutes. With `executor: local` nothing can be killed: the log says that it hangs."""


class Spec(Config):
    """The settings of a run."""

    name: Annotated[Name, AfterValidator(_names_a_folder)] = "run"
    """The name in titles and model cards, and the default run folder."""
    seed: Annotated[int, Field(ge=0)] = 0
    """The seed of the run; every random stream is spawned from it by name."""
    sources: AnySources
    """The base and its experts. May be left out where the engine has sources of its own names, as `api` has."""
    space: AnySpaceConfig
    """The recipes that may be proposed."""
    optimizer: AnyOptimizerConfig
    """The optimizer and its budget."""
    fitness: FitnessConfig
    """The tasks, the engine and the objectives."""
    artifacts: Annotated[ArtifactsConfig, Field(validate_default=True)] = ArtifactsConfig()
    """Artifacts computed once, before the search; recipes refer to them by hash."""
    workers: WorkersConfig = WorkersConfig()
    """The workers that evaluate candidates."""
    log: LogConfig | None = None
    """A logger that shows the run as it goes, besides its own folder (docs/export.md). May change on resume."""
    serve: ServeConfig | None = None
    """The merge service that `crossbreed serve` makes of sources and engine (docs/api.md). May change on resume."""
    dtype: Literal["auto", Dtype] = "auto"
    """Dtype of merged and published tensors; `auto` is the base's."""
    warm_start: tuple[InputPath, ...] = ()
    """Files of recipes or of mergekit's configurations, to evaluate after the baselines. The search starts from the
    best merge among the baselines and these that the space can express, or the point nearest to it; `m2n2` breeds from
    the experts alone and `evo_merging` starts at equal weights: they only compare these."""

    @model_validator(mode="before")
    @classmethod
    def _sources_are_the_engine_s(cls, given: Any) -> Any:  # whatever pydantic is given
        """Marks sources that are names of the engine's; they may be left out."""
        return marked(given) if isinstance(given, Mapping) else given

    @property
    def needs_reference(self) -> bool:
        """Whether transformers has to run the models, beside the engine that scores."""
        return bool(self.artifacts.wanted) or self.optimizer.slope_kind is not None

    @classmethod
    def known_keys(cls) -> Collection[str]:
        """Returns the keys of a file; that of the preset is none of a parsed spec."""
        return (PRESET, *cls.model_fields)

    @field_validator("artifacts")
    @classmethod
    def _grams_are_there_where_they_are_read(cls, artifacts: ArtifactsConfig, info: ValidationInfo) -> ArtifactsConfig:
        grams, mistakes = artifacts.grams, Collector()
        if (space := info.data.get("space")) is not None:
            with mistakes.noted():
                for name in space.operators:
                    OPERATORS.require(name, where="space")
                why_invalid = why_grams_are_missing if grams is None else why_grams_are_unread
                if problem := why_invalid(space.operators, space.operator_params):
                    raise InputError(problem, where="artifacts.grams" if grams else "artifacts")
        sources, fitness = info.data.get("sources"), info.data.get("fitness")
        experts = [] if sources is None else [*sources.experts]
        tasks = [] if fitness is None else [task.name for task in fitness.tasks]
        for where, kind, names, known in _named_by(artifacts, experts, tasks):
            for unknown in sorted(set(names) - set(known)) if known else ():
                mistakes.note(
                    InputError(
                        f"`{where}` names the unknown {kind} `{unknown}`; known are {', '.join(known)}",
                        where=where,
                        fix=suggestion(unknown, known),
                    )
                )
        if artifacts.regression is not None and REGRESSION in experts:
            mistakes.note(
                InputError(
                    f"`{REGRESSION}` names what this run makes, in recipes",
                    expected="an expert of another name",
                    where=f"sources.experts.{REGRESSION}",
                    fix="rename the expert",
                )
            )
        if mistakes.errors:
            raise refused(mistakes.errors)
        return artifacts


def _named_by(
    artifacts: ArtifactsConfig, experts: Sequence[str], tasks: Sequence[str]
) -> Iterator[tuple[str, str, Collection[str], Sequence[str]]]:
    """Yields which experts and tasks are named where, and which there are."""
    for key, config in (("grams", artifacts.grams), ("regression", artifacts.regression)):
        if config is not None:
            where = f"artifacts.{key}.tasks"
            yield where, "expert", [*config.tasks], experts
            yield where, "task", [name for names in config.tasks.values() for name in names], tasks
    if artifacts.regression is not None:
        yield "artifacts.regression.prompts", "task", [*artifacts.regression.prompts], tasks


def load_spec(path: str | os.PathLike[str], overrides: Sequence[str] = (), *, with_items: bool = False) -> Spec:
    """Reads a spec file.

    Args:
        path: YAML; relative paths in it are relative to its folder.
        overrides: `dotted.key=value`, the value as YAML.
        with_items: Whether the items of an invalid spec are read, too, to tell what is wrong with them beside the rest.

    Raises:
        InputError: it cannot be read or is invalid; the message names the key.
    """
    return parse_spec_file(read_spec_file(path, overrides), with_items=with_items)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecFile:
    """The content of a spec file with its overrides, before it is parsed."""

    raw: dict[str, Any]
    folder: Path
    """The folder that relative paths are relative to."""
    places: Places
    mistakes: Collector
    """What is wrong with the overrides."""


def read_spec_file(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> SpecFile:
    """Reads a spec file; see `load_spec`."""
    path = Path(path)
    text = read_text(path, what="the spec", max_bytes=MAX_BYTES)
    raw = _read(text, where=str(path))
    if not isinstance(raw, dict):
        raise InputError("the spec is not a mapping", expected="keys such as `sources:`", where=str(path))
    mistakes, changed = Collector(), dict[tuple[int | str, ...], str]()
    for override in overrides:
        with mistakes.noted():
            changed[apply_override(raw, override)] = f"--set {override}"
    places = Places(str(path), text=text, overrides=changed)
    return SpecFile(raw=raw, folder=path.parent, places=places, mistakes=mistakes)


def parse_spec_file(file: SpecFile, *, with_items: bool = False) -> Spec:
    """Parses what was read; see `load_spec`."""
    return _parse(file.raw, file.folder, file.places, file.mistakes, with_items=with_items)


def parse_spec(raw: Mapping[str, Any], *, folder: Path = Path(), where: str = "spec") -> Spec:
    """Parses the content of a spec file, with its preset filled in; see `load_spec`.

    Args:
        raw: Keys and values.
        folder: The folder that relative paths are relative to; default: the current one.
        where: The name of the spec in messages.

    Raises:
        InputError: it is invalid.
    """
    return _parse(raw, folder, Places(where), Collector())


def _parse(
    raw: Mapping[str, Any], folder: Path, places: Places, mistakes: Collector, *, with_items: bool = False
) -> Spec:
    """Returns the spec; raises all that is wrong with it, and what was wrong before, at once."""
    spec: Spec | None = None
    filled, present = dict(raw), tuple[str, ...]()
    try:
        filled = fill_in(raw)
    except InputError as error:  # what the preset would have filled in is not missing
        mistakes.note(InputError(error.problem, expected=error.expected, where=places.of([PRESET]), fix=error.fix))
        del filled[PRESET]
        present = ("space", "optimizer")
    try:
        spec = Spec.model_validate(filled, context={"folder": folder})
    except ValidationError as error:
        explain(error, filled, places, mistakes, present=present)
        meant = as_meant(error, filled)
        with noting(meant.spec, places, mistakes, present=present, guessed=meant.guessed):
            Spec.model_validate(meant.spec, context={"folder": folder})
        if with_items:
            note_items(meant, folder, mistakes)
    mistakes.require_none(where=places.where)
    assert spec is not None, "what is wrong was told"
    return spec


@contextmanager
def noting(
    raw: RawSpec,
    places: Places,
    mistakes: Collector,
    *,
    present: Collection[str] = (),
    guessed: Collection[Keys] = (),
) -> Iterator[None]:
    """Notes what is wrong with settings that are parsed in the block; see `explain`."""
    try:
        yield
    except ValidationError as error:
        explain(error, raw, places, mistakes, present=present, guessed=guessed)


def dump_spec(spec: Spec) -> str:
    """Returns the spec as YAML with every default written out."""
    return _dump(spec.model_dump(mode="json"))


def _dump(raw: Any) -> str:  # any JSON value
    return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)


def _read(text: str, *, where: str) -> Any:  # any YAML value
    """Returns the YAML of a spec. What `dump_spec` wrote is taken as it is: in Python, a text may be `True`."""
    try:
        return read_yaml(text, what="the spec", where=where, texts=SHOWN_KEYS)
    except InputError:
        raw = read_yaml(text, what="the spec", where=where)
        if _dump(raw) != text:
            raise
        return raw
