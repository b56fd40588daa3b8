"""The Spec: everything needed to run again. Composes the settings that the parts declare; `docs/spec.md` lists them."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from crossbreed.config import Config, InputPath, ModelId
from crossbreed.errors import InputError
from crossbreed.fitness import EngineConfig, SplitConfig, TaskConfig
from crossbreed.optimizer import OptimizerConfig
from crossbreed.parsing import hint_at_exponent, suggestion
from crossbreed.runs.objectives import ObjectiveConfig, build_objectives
from crossbreed.runs.presets import fill_in
from crossbreed.search_spaces import LineageConfig, SpaceConfig


class SourcesConfig(Config):
    """What is merged."""

    base: ModelId
    """Local folder, or hub id with optional `@revision`: what the experts were fine-tuned from."""
    experts: Annotated[dict[str, ModelId], Field(min_length=1)]
    """Name -> full checkpoint or PEFT LoRA adapter."""

    @model_validator(mode="after")
    def _no_expert_is_called_base(self) -> "SourcesConfig":
        if "base" in self.experts:
            raise ValueError("`base` names the base; give the expert another name")
        return self


class SlopesConfig(Config):
    """Gradients of the loss of right answers, for `frank_wolfe` with `slopes: gradient`.

    A transformers engine takes them beside the engine that scores; the one that scores itself does, if it is a
    transformers engine of the same dtype on the same device.
    """

    items: Annotated[int, Field(ge=1)] = 32
    """Search items of each task that the loss is taken of, at most: the first ones of the split."""
    dtype: Literal["bfloat16", "float16", "float32"] = "float32"
    """What the model computes in, and what the gradient is added up in."""
    device: str = "cpu"
    """torch's name of the device."""
    tokens: Annotated[int, Field(ge=1)] = 1024
    """Tokens of one pass forwards and backwards, padding included: bounds the memory."""


class FitnessConfig(Config):
    """What a candidate is asked, and who answers."""

    engine: EngineConfig
    """Who answers."""
    tasks: Annotated[list[TaskConfig], Field(min_length=1)]
    """What is asked."""
    objectives: tuple[ObjectiveConfig, ...] = ()
    """One: the best so far is kept. Several: a Pareto front. None: the mean over all tasks."""
    split: SplitConfig
    """Items of each task for search, selection of the winner, and the report: counts or fractions."""
    slopes: SlopesConfig = SlopesConfig()
    """Who takes gradients where the optimizer needs them, and of what."""

    @property
    def max_model_len(self) -> int | None:
        """Longest prompt plus answer, where the engine's settings limit it."""
        return None if self.engine.kind == "fake" else self.engine.max_model_len

    @property
    def minimized(self) -> dict[str, bool]:
        """Task name -> whether less of its metric is better."""
        return {task.name: not task.higher_is_better for task in self.tasks}

    @model_validator(mode="after")
    def _task_names_are_unique(self) -> "FitnessConfig":
        names = [task.name for task in self.tasks]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two tasks are called {doubled[0]!r}")
        return self


class GramsConfig(Config):
    """Grams of the inputs that each expert's matrices see while it answers search items, by teacher forcing.

    Read by `bmm` with `grams: data` or `mixed`, and by `regmean`. Collected with transformers before the search, and
    kept in the cache folder (`CROSSBREED_CACHE`), where all runs of the same experts and items share them.
    """

    items: Annotated[int, Field(ge=1)] = 32
    """Search items of a task that an expert answers, at most: the first ones of the split."""
    tasks: dict[str, Annotated[list[str], Field(min_length=1)]] = Field(default_factory=dict)
    """Expert -> the tasks that it answers. Unless given: the task with the expert's own name, or all of them."""
    dtype: Literal["bfloat16", "float16", "float32"] = "float32"
    """What the experts compute in meanwhile. Grams are float32."""
    device: str = "cpu"
    """torch's name of the device that they compute on."""
    max_columns: Annotated[int, Field(ge=1)] = 4096
    """Of wider inputs not the whole Gram is kept, but `rank` directions and the diagonal."""
    rank: Annotated[int, Field(ge=1)] = 256
    """How many. Exact up to as many tokens; beyond, off in the spectral norm by at most the sum of all eigenvalues but
    the first k, divided by rank - k, whatever k (Frequent Directions). Diagonal and trace are exact."""

    def tasks_of(self, expert: str, tasks: Sequence[str]) -> Sequence[str]:
        """Returns which of the tasks an expert answers."""
        return self.tasks.get(expert) or ([expert] if expert in tasks else tasks)


class ArtifactsConfig(Config):
    """What is prepared before the search."""

    grams: GramsConfig | None = None
    """None: no operator may ask for data."""


class WorkersConfig(Config):
    """Where the work happens. May change on resume."""

    count: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """`auto`: as many as fit the cluster's CPUs and GPUs."""
    cpus: Annotated[float, Field(gt=0)] = 2
    """CPUs of one worker."""
    gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs of one worker."""
    executor: Literal["ray", "local"] = "ray"
    """`local`: one worker in the driver's own process, without Ray."""
    address: str | None = None
    """A Ray cluster to join: `auto`, or an address. None starts one on this machine."""
    retries: Annotated[int, Field(ge=0)] = 2
    """Attempts after the first before a trial FAILED."""


class Spec(Config):
    """A whole run."""

    name: str = "run"
    """For people: titles, cards, the default run folder."""
    seed: Annotated[int, Field(ge=0)] = 0
    """The one seed; every random stream is spawned from it by name."""
    sources: SourcesConfig
    """The base and its experts."""
    space: SpaceConfig
    """Which recipes may be proposed."""
    optimizer: OptimizerConfig
    """Who proposes, and how much it may spend."""
    fitness: FitnessConfig
    """What a candidate is worth."""
    artifacts: ArtifactsConfig = ArtifactsConfig()
    """What the run makes once, before the search; recipes name it by its hash."""
    workers: WorkersConfig = WorkersConfig()
    """Where the work happens."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Dtype of merged and published tensors; `auto` is the base's."""
    warm_start: tuple[InputPath, ...] = ()
    """Recipe files answered after the baselines. The best of all, as near as the space has a point for it, starts the
    search; `m2n2` breeds from the experts alone, and lets these compete."""

    @model_validator(mode="after")
    def _objectives_name_tasks(self) -> "Spec":
        build_objectives(self.fitness.objectives, self.fitness.minimized)
        return self

    @model_validator(mode="after")
    def _grams_are_there_where_they_are_read(self) -> "Spec":
        operators = ("linear",) if isinstance(self.space, LineageConfig) else self.space.operators
        params = {} if isinstance(self.space, LineageConfig) else self.space.params
        readers = [name for name in operators if _reads_grams(name, params.get("grams"))]
        grams = self.artifacts.grams
        if grams is None:
            if needing := [name for name in readers if name != "regmean"]:
                raise ValueError(
                    f"`{needing[0]}` with `grams: {params['grams']}` reads Grams of inputs, which nothing "
                    "collects: add `artifacts: {grams: {items: 32}}`, or say `grams: deltas`"
                )
            return self
        if not readers:
            raise ValueError(
                f"`artifacts.grams` collects what `{operators[0]}` does not read: remove it, or use the "
                "operator `regmean`, or `bmm` with `params: {grams: data}`"
            )
        tasks = [task.name for task in self.fitness.tasks]
        for kind, named, known in (
            ("expert", grams.tasks, self.sources.experts),
            ("task", [name for names in grams.tasks.values() for name in names], tasks),
        ):
            if unknown := sorted(set(named) - set(known)):
                raise ValueError(
                    f"`artifacts.grams.tasks` names the {kind} `{unknown[0]}`: there are {', '.join(known)}"
                )
        return self


def _reads_grams(operator: str, setting: object) -> bool:
    return operator == "regmean" or (operator == "bmm" and setting in ("data", "mixed"))


def load_spec(path: Path, overrides: Sequence[str] = ()) -> Spec:
    """Reads a spec file.

    Args:
        path: YAML; relative paths in it are relative to its folder.
        overrides: `dotted.key=value`, the value as YAML.

    Raises:
        InputError: it cannot be read, or something in it is wrong; the message names the key.
    """
    try:
        raw = yaml.safe_load(path.read_text())
    except OSError as error:
        raise InputError(f"the spec cannot be read: {error.strerror}", where=str(path)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError("the spec is not YAML", got=str(error), where=str(path)) from None
    if not isinstance(raw, dict):
        raise InputError("the spec is not a mapping", expected="keys such as `sources:`", where=str(path))
    for override in overrides:
        _override(raw, override)
    return parse_spec(raw, folder=path.parent, where=str(path))


def parse_spec(raw: Mapping[str, Any], *, folder: Path, where: str = "spec") -> Spec:
    """Parses what a spec file holds, after its preset has filled it in; see `load_spec`."""
    try:
        return Spec.model_validate(fill_in(raw), context={"folder": folder})
    except ValidationError as error:
        raise _explain(error, where) from None


def dump_spec(spec: Spec) -> str:
    """Returns the spec as YAML with every default written out."""
    return yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _override(raw: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise InputError("an override has no value", expected="--set key=value", got=f"--set {override}")
    *parents, last = key.split(".")
    place: Any = raw
    for parent in parents:
        place = place.setdefault(parent, {}) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise InputError("an override names no key", expected="a dotted key of the spec", got=f"--set {override}")
    try:
        place[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InputError("an override is not YAML", got=str(error), where=f"--set {override}") from None


def _explain(error: ValidationError, where: str) -> InputError:
    """What is wrong, in one screen: a misspelt key first, for it is often why another one is missing."""
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    if isinstance(cause := first.get("ctx", {}).get("error"), InputError):
        return cause
    key = _dotted(first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    match first["type"]:
        case "tuple_type" | "list_type":
            return InputError(
                f"`{key}` must be a list{more}",
                expected="[...], or a line with `- ` for each element",
                got=repr(first["input"])[:200],
                where=where,
                fix="docs/spec.md says of what",
            )
        case "extra_forbidden":
            known = [*_known_keys(first["loc"][:-1]), *["preset"] * (len(first["loc"]) == 1)]
            return InputError(
                f"unknown key `{key}`{more}",
                expected=f"one of {', '.join(known)}" if known else "",
                where=where,
                fix=suggestion(first["loc"][-1], known) or "remove it; docs/spec.md lists the keys",
            )
        case "missing":
            by_preset = ", or a `preset` that has it" if key in ("space", "optimizer") else ""
            fix = f"add it{by_preset}; docs/spec.md says what it takes"
            return InputError(f"`{key}` is missing{more}", where=where, fix=fix)
        case "union_tag_not_found" | "union_tag_invalid":
            ctx = first["ctx"]
            kinds = ctx.get("expected_tags", "").replace("'", "") or ", ".join(_kinds_at(first["loc"]))
            close = difflib.get_close_matches(str(ctx.get("tag", "")), kinds.split(", "), n=1)
            return InputError(
                f"`{key}` has no `kind`{more}" if "tag" not in ctx else f"`{key}` has an unknown `kind`{more}",
                expected=f"kind: one of {kinds}",
                got=str(ctx.get("tag", "none")),
                where=where,
                fix=f"write `kind: {close[0]}`" if close else "",
            )
        case "model_attributes_type" | "model_type" | "dict_type":
            return InputError(
                f"`{key}` must be a mapping{more}",
                expected="keys with values",
                got=repr(first["input"])[:200],
                where=where,
            )
    return InputError(
        f"`{key}` is wrong: {first['msg'].removeprefix('Value error, ')}{more}",
        got=repr(first["input"])[:200],
        where=where,
        fix=hint_at_exponent(first["input"]) or "docs/spec.md says what it takes",
    )


def _dotted(location: Sequence[int | str]) -> str:
    """The key as `--set` takes it: without the kinds by which pydantic tells the members of a union apart."""
    tags = {tag for union in _unions(Spec.model_json_schema()) for tag in union}
    return ".".join(str(part) for part in location if part not in tags)


def _kinds_at(location: Sequence[int | str]) -> list[str]:
    """The kinds of the union at a location."""
    last = next(part for part in reversed(location) if isinstance(part, str))
    return next((kinds for kinds in _unions(Spec.model_json_schema(), last) if kinds), [])


def _unions(node: Any, key: str | None = None) -> Iterator[list[str]]:  # any part of a JSON schema
    """Yields the kinds of every discriminated union, or of those under `key`."""
    if isinstance(node, dict):
        if "discriminator" in node and key is None:
            yield sorted(node["discriminator"]["mapping"])
        for name, inner in node.items():
            yield from _unions(inner, None if name == key else key)
    elif isinstance(node, list):
        for inner in node:
            yield from _unions(inner, key)


def _known_keys(location: Sequence[int | str]) -> list[str]:
    """Field names of the model at `location`, followed through lists, mappings and discriminated unions."""
    schema = Spec.model_json_schema()
    node: dict[str, Any] = schema
    for part in (*location, None):
        inner = [node, *node.get("allOf", ()), *node.get("anyOf", ())]  # a model, one with a default, one or None
        while reference := next((found["$ref"] for found in inner if "$ref" in found), None):
            node = schema["$defs"][reference.rsplit("/", 1)[-1]]
            inner = [node, *node.get("allOf", ()), *node.get("anyOf", ())]
        if part is None:
            break
        if "discriminator" in node and part in node["discriminator"]["mapping"]:
            node = {"$ref": node["discriminator"]["mapping"][part]}
        elif isinstance(part, int):
            node = node.get("items", {})
        else:
            node = node.get("properties", {}).get(part) or node.get("additionalProperties") or {}
    return sorted(node.get("properties", {}))
