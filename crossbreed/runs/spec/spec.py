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
from pydantic_core import InitErrorDetails, PydanticKnownError

from crossbreed.config import Config, InputPath, Name, refusal, refused
from crossbreed.errors import Collector, InputError
from crossbreed.fitness import (
    SHOWN_KEYS,
    AnyEngineConfig,
    AnyTaskConfig,
    SplitConfig,
)
from crossbreed.optimizer import OF_OPTIMIZER, BudgetConfig, OptimizerConfig
from crossbreed.parsing import shown
from crossbreed.runs.loggers.config import LogConfig
from crossbreed.runs.spec.artifacts import ArtifactsConfig, mistakes_in_artifacts
from crossbreed.runs.spec.constraints import ConstraintConfig
from crossbreed.runs.spec.criteria import (
    Criteria,
    build_criteria,
    directions_of,
    mistakes_in_constraints,
    mistakes_in_objectives,
)
from crossbreed.runs.spec.messages import Keys, explain
from crossbreed.runs.spec.objectives import ObjectiveConfig
from crossbreed.runs.spec.overrides import apply_override
from crossbreed.runs.spec.places import Places
from crossbreed.runs.spec.presets import PRESET, RawSpec, fill_in
from crossbreed.runs.spec.regression import RegressionConfig
from crossbreed.runs.spec.scored_tasks import scorable, unique_names
from crossbreed.runs.spec.second_look import as_meant, note_items
from crossbreed.runs.spec.serve import ServeConfig
from crossbreed.runs.spec.sources import AnySources, marked
from crossbreed.runs.spec.stages import (
    AnyStageConfig,
    RegressionStageConfig,
    SearchSettings,
    mistakes_in,
    searches_in,
)
from crossbreed.runs.spec.statistics_check import reads_statistics
from crossbreed.search_spaces import OF_SPACE, SpaceConfig
from crossbreed.text_files import read_text
from crossbreed.types import Dtype
from crossbreed.yaml_files import MAX_BYTES, read_yaml


def _names_a_folder(name: str) -> str:
    if name in (".", "..") or "/" in name or "\\" in name:
        raise ValueError(f"`name` is the name of a folder in `runs`, not a path: {shown(name)}")
    return name


class SlopesConfig(Config):
    """Gradients of a loss on search items, for `frank_wolfe` with `slopes: gradient`, and for `gradient`.

    Those of `gradient` are computed in the driver's process (docs/gradient.md); those of `frank_wolfe` by a second,
    transformers engine beside the one that scores, or by the scoring engine itself if it is a transformers engine of
    the same dtype on the same device.
    """

    items: Annotated[int, Field(ge=1)] = 32
    """For `frank_wolfe`: maximum number of search items per task in the loss, the first ones of the split."""
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
    constraints: tuple[ConstraintConfig, ...] = ()
    """Bounds that a candidate has to keep: those that keep all come before those that do not (docs/objectives.md)."""
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
        return directions_of(self.tasks)

    @property
    def criteria(self) -> Criteria:
        """What candidates are judged by."""
        return build_criteria(self.objectives, self.constraints, self.tasks)

    @field_validator("objectives")
    @classmethod
    def _objectives_name_tasks(
        cls, objectives: tuple[ObjectiveConfig, ...], info: ValidationInfo
    ) -> tuple[ObjectiveConfig, ...]:
        tasks = info.data.get("tasks")
        if tasks is not None and (errors := mistakes_in_objectives(objectives, tasks)):
            raise refused(errors)
        return objectives

    @field_validator("constraints")
    @classmethod
    def _constraints_can_be_kept(
        cls, constraints: tuple[ConstraintConfig, ...], info: ValidationInfo
    ) -> tuple[ConstraintConfig, ...]:
        tasks = info.data.get("tasks")
        if tasks is not None and (errors := mistakes_in_constraints(constraints, tasks)):
            raise refused(errors)
        return constraints


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
    budget: BudgetConfig = BudgetConfig()
    """The limits of all `stages` together, beside those of each. Without `stages`, `optimizer.budget` has them."""
    stages: Annotated[tuple[AnyStageConfig, ...], Field(validate_default=True)] = ()
    """What is made, and what is searched after it, one stage after another (docs/stages.md). Empty: `space` and
    `optimizer` are the only search."""
    space: Annotated[SpaceConfig | None, OF_SPACE, Field(validate_default=True)] = None
    """The recipes that may be proposed. Required without `stages`."""
    optimizer: Annotated[OptimizerConfig | None, OF_OPTIMIZER, Field(validate_default=True)] = None
    """The optimizer and its budget. Required without `stages`."""
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
    """Files of recipes or of mergekit's configurations, or earlier runs (`runs/first` for its winner, `runs/first:17`
    for its trial 17), to evaluate after the baselines. The search starts from the best merge among the baselines and
    these that the space can express, or the point nearest to it; `m2n2` breeds from the experts alone and `evo_merging`
    starts at equal weights: they only compare these."""

    @model_validator(mode="before")
    @classmethod
    def _sources_are_the_engine_s(cls, given: Any) -> Any:  # whatever pydantic is given
        """Marks sources that are names of the engine's; they may be left out."""
        return marked(given) if isinstance(given, Mapping) else given

    @property
    def searches(self) -> tuple[SearchSettings, ...]:
        """The searches, in their order: those of `stages`, or the one of `space` and `optimizer`."""
        if self.space is None or self.optimizer is None:
            return tuple(searches_in(self.stages))
        return (SearchSettings(number=0, space=self.space, optimizer=self.optimizer, own=BudgetConfig()),)

    @property
    def limits(self) -> BudgetConfig:
        """The limits of all searches together."""
        return self.budget if self.optimizer is None else self.optimizer.budget

    @property
    def regression(self) -> RegressionConfig | None:
        """The regression that is made before the search, as an artifact or a stage."""
        staged = (stage.settings for stage in self.stages if isinstance(stage, RegressionStageConfig))
        return next(staged, self.artifacts.regression)

    @property
    def place_of_regression(self) -> str:
        """The dotted key of its settings."""
        return "artifacts.regression" if self.artifacts.regression is not None else "stages.0"

    @property
    def keeps_statistics(self) -> bool:
        """Whether a search reads the statistics of the regression's walk."""
        return reads_statistics([search.space for search in self.searches])

    @property
    def artifact_names(self) -> frozenset[str]:
        """What recipes of its searches call the artifacts that are made for them."""
        made = {"grams": self.artifacts.grams is not None, "statistics": self.keeps_statistics}
        return frozenset(name for name, is_made in made.items() if is_made)

    @property
    def needs_reference(self) -> bool:
        """Whether transformers has to run the models, beside the engine that scores."""
        needs = [(search.optimizer.slope_kind, search.optimizer.calibration) for search in self.searches]
        asked = self.artifacts.grams, self.regression, *(need for both in needs for need in both)
        return any(one is not None for one in asked)

    @property
    def needs_golds(self) -> bool:
        """Whether right answers of every task are read: the optimizer `gradient` has teachers answer where it can."""
        slopes = [search.optimizer.slope_kind for search in self.searches]
        return any(one is not None for one in (self.artifacts.grams, self.regression, *slopes))

    @classmethod
    def known_keys(cls) -> Collection[str]:
        """Returns the keys of a file; that of the preset is none of a parsed spec."""
        return (PRESET, *cls.model_fields)

    @field_validator("stages")
    @classmethod
    def _stages_end(cls, stages: tuple[Config, ...], info: ValidationInfo) -> tuple[Config, ...]:
        if "budget" in info.data and (mistakes := [*mistakes_in(stages, info.data["budget"])]):
            raise refused(mistakes)
        return stages

    @field_validator("space", "optimizer", mode="before")
    @classmethod
    def _is_in_one_place(cls, given: Any, info: ValidationInfo) -> Any:  # whatever pydantic is given
        stages = info.data.get("stages")
        if given is None and stages == ():
            raise PydanticKnownError("missing")
        if given is not None and stages:
            raise InputError(
                f"`{info.field_name}` stands beside `stages`, each of which has its own",
                expected="`space` and `optimizer`, or `stages`",
                where=str(info.field_name),
                fix="move it into a stage of `kind: search` (a `preset` may have filled it in), or remove `stages`",
            )
        return given

    @field_validator("optimizer")
    @classmethod
    def _search_ends(cls, optimizer: OptimizerConfig | None, info: ValidationInfo) -> OptimizerConfig | None:
        if optimizer is None:
            return None
        whole = info.data.get("budget", BudgetConfig())
        if whole.is_limited:
            fix = "move it into `optimizer`"
            raise InputError("`budget` at the top is of `stages`, and there are none", where="budget", fix=fix)
        if not (optimizer.budget.is_limited or optimizer.most_trials is not None):
            said = "budget" in optimizer.model_fields_set
            missing = InitErrorDetails(type="missing", loc=("budget",), input=None)
            raise refusal("optimizer", [_endless() if said else missing])
        return optimizer

    @field_validator("artifacts")
    @classmethod
    def _artifacts_are_read(cls, artifacts: ArtifactsConfig, info: ValidationInfo) -> ArtifactsConfig:
        stages, sources, fitness = (info.data.get(key) for key in ("stages", "sources", "fitness"))
        searched = info.data.get("space"), *(search.space for search in searches_in(stages or ()))
        mistakes = mistakes_in_artifacts(
            artifacts,
            stages=stages or (),
            spaces=[space for space in searched if space is not None],
            experts=[] if sources is None else [*sources.experts],
            tasks=[] if fitness is None else [task.name for task in fitness.tasks],
        )
        if found := [*mistakes]:
            raise refused(found)
        return artifacts


def _endless() -> InitErrorDetails:
    """Returns the error of a budget without limits."""
    error = ValueError("give `trials`, `minutes`, or both: a search without a budget never ends")
    return InitErrorDetails(type="value_error", loc=("budget",), input=None, ctx={"error": error})


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
        present = ("space", "optimizer", "stages")
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
    absent = {"space", "optimizer"} if spec.stages else {"stages", "budget"}
    return _dump(spec.model_dump(mode="json", exclude=absent))


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
