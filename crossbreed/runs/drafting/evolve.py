"""A spec from mergekit-evolve's configuration: the same models, genome and tasks, for people who come from it.

What is on its command line there are arguments here. Unknown keys are refused, where mergekit-evolve ignores them.
"""

import math
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from crossbreed.cache import expanded
from crossbreed.config import Config
from crossbreed.errors import Collector, InputError, printable
from crossbreed.fitness.tasks.guessing import Remark
from crossbreed.mergekit.config import ModelReference
from crossbreed.mergekit.fields import KeyReader
from crossbreed.runs.drafting.draft import expert_names
from crossbreed.runs.drafting.text import render
from crossbreed.runs.spec import parse_spec
from crossbreed.runs.spec.messages import explain
from crossbreed.runs.spec.places import Places
from crossbreed.sources.chat_templates import template_of
from crossbreed.types import BASE
from crossbreed.yaml_files import read_yaml

_BENCHMARKS = (
    *("mmlu", "hendrycks", "agieval", "gsm8k", "hellaswag", "winogrande", "arc_", "ai2_arc", "truthfulqa"),
    *("bigbench", "piqa", "openbookqa", "leaderboard"),
)
"""What mergekit-evolve refuses without a flag: to search on what is reported makes the report worthless."""
_SPLIT = {"search": 0.5, "select": 0.2, "report": 0.3}
"""mergekit-evolve searches and reports on the same documents; here the three are apart."""
_RANGE = 1.5
"""The width of a weight's range, of which the first step is a share."""


def _named(task: object) -> object:
    return {"name": task} if isinstance(task, str) else task


class TaskConfig(Config):
    """A task of lm-eval, and how much it counts."""

    name: str
    weight: float = 1.0
    metric: str = "acc,none"
    """As lm-eval's tables have it: with the name of the filter."""


class GenomeConfig(Config):
    """What is searched."""

    models: Annotated[list[Any], Field(min_length=1)]
    """References to models, as mergekit reads them."""
    merge_method: Literal["linear", "task_arithmetic", "ties", "dare_ties", "slerp"]
    base_model: Any = None
    tokenizer_source: str | None = None
    layer_granularity: int = 0
    normalize: bool | None = None
    allow_negative_weights: bool = False
    filters: tuple[str, ...] | None = None
    smooth: bool = False


class EvolveConfig(Config):
    """The whole file."""

    genome: GenomeConfig
    tasks: Annotated[list[Annotated[TaskConfig, BeforeValidator(_named)]], Field(min_length=1)]
    limit: Annotated[int, Field(ge=1)] | None = None
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    shuffle: bool = False
    random_init: bool = False
    apply_chat_template: bool = True
    fewshot_as_multiturn: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """What mergekit-evolve has on its command line."""

    trials: int = 100
    """`--max-fevals`."""
    sigma0: float = 1 / 6
    """`--sigma0`, in units of a gene."""
    popsize: int | None = None
    """`--force-population-size`."""
    seed: int = 0
    """`--random-seed`, which seeds everything here."""
    tasks: Path | None = None
    """`--task-search-path`."""
    is_vllm: bool = False
    """`--vllm`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A spec, not yet written, and what is not the same."""

    text: str
    remarks: tuple[Remark, ...]


def import_evolve(path: Path, *, out: Path, arguments: Arguments | None = None) -> Imported:
    """Writes the spec of a configuration of mergekit-evolve to a new file.

    Args:
        path: Its YAML.
        out: The file to write; paths in it start at its folder.
        arguments: What was on the command line.

    Raises:
        InputError: the configuration is invalid, no spec says the same, or the file exists.
    """
    if os.path.lexists(out):
        fix = f"name another: --out {shlex.quote(str(out.with_name(f'{out.stem}-2{out.suffix}')))}"
        raise InputError("the file exists, and import writes over nothing", got=str(out), where="--out", fix=fix)
    if not out.parent.is_dir():
        raise InputError("there is no such folder", got=str(out.parent), where="--out", fix="make it, or name another")
    given = arguments or Arguments()
    config = _read(path)
    sources, names = _sources(config.genome, out.parent, str(path))
    raw = {
        "name": path.stem,
        "seed": given.seed,
        "sources": sources,
        "space": _space(config.genome, names),
        "optimizer": _optimizer(given),
        "fitness": _fitness(config, given, sources["base"], out.parent),
    }
    parse_spec(raw, folder=out.parent, where="the imported spec")
    remarks = tuple(_remarks(config))
    told = [f"# Imported from mergekit-evolve's {printable(path.name)}. Every key: docs/spec.md. What differs:"]
    told += [f"#   {printable(remark.what)}: {printable(remark.why)}" for remark in remarks]
    text = "\n".join([*told, *render(raw, ()).splitlines()[1:]]) + "\n"
    with out.open("x", encoding="utf-8") as file:
        file.write(text)
    return Imported(text=text, remarks=remarks)


def _read(path: Path) -> EvolveConfig:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        got = getattr(error, "strerror", None) or "not UTF-8"
        raise InputError("the configuration cannot be read", got=str(got).lower(), where=str(path)) from None
    raw = read_yaml(text, what="a configuration of mergekit-evolve", where=str(path))
    if not isinstance(raw, Mapping) or "genome" not in raw:
        raise InputError(
            "this is no configuration of mergekit-evolve",
            expected="a mapping with `genome` and `tasks`",
            got="no `genome`",
            where=str(path),
            fix="a configuration of mergekit itself is merged by `crossbreed merge FILE`, or compared by `warm_start`"
            if isinstance(raw, Mapping) and "merge_method" in raw
            else "name its YAML file",
        )
    mistakes = Collector()
    try:
        return EvolveConfig.model_validate(raw)
    except ValidationError as error:
        explain(error, raw, Places(str(path), text=text), mistakes)
    mistakes.require_none()
    raise AssertionError("an invalid configuration has a mistake")


def _sources(genome: GenomeConfig, folder: Path, where: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns the spec's section, and the genome's models by their names in it."""
    keys = KeyReader()
    models = [keys.reference(model, f"{where}, genome.models") for model in genome.models]
    named = None if genome.base_model is None else keys.reference(genome.base_model, f"{where}, genome.base_model")
    if genome.merge_method in ("ties", "dare_ties", "task_arithmetic") and named is None:
        problem = f"`{genome.merge_method}` needs `base_model`"
        raise InputError(problem, expected="the model that the others were fine-tuned from", where=f"{where}, genome")
    if named is not None and genome.merge_method in ("linear", "slerp") and named not in models:
        raise InputError(
            f"mergekit cannot merge by `{genome.merge_method}` beside a `base_model` that is not among the models",
            expected="no base_model, or one of the models",
            got=str(named),
            where=f"{where}, genome.base_model",
            fix="remove it",
        )
    base = named or ModelReference(model=models[0].model)
    if base.lora:
        raise InputError("the base is an adapter's model", expected="a plain model", got=str(base), where=where)
    experts = [model for model in models if model != base]
    if strange := next((model for model in experts if model.lora and model.model != base.model), None):
        raise InputError(
            f"`{strange}` is an adapter of another model than the base",
            expected=f"{base.model}+ADAPTER",
            got=str(strange),
            where=f"{where}, genome.models",
            fix="merge it into its model first: {merge_method: passthrough, models: [{model: "
            f"{strange}}}]}}, by `crossbreed merge FILE --out FOLDER`",
        )
    paths = [model.lora or model.model for model in experts]
    called = dict(zip(experts, expert_names(paths), strict=True))
    section = {
        "base": _placed(base.model, folder),
        "experts": {called[model]: _placed(path, folder) for model, path in zip(experts, paths, strict=True)},
    }
    return section, tuple(called.get(model, BASE) for model in models)


def _placed(source: str, folder: Path) -> str:
    path = expanded(source)
    if not path.exists() or path.is_absolute():
        return source
    found = os.path.relpath(path, folder)
    return found if os.sep in found else os.path.join(".", found)


def _space(genome: GenomeConfig, names: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": "mergekit_evolve", "method": genome.merge_method, "models": list(names)}
    if genome.layer_granularity > 0:
        found["layer_granularity"] = genome.layer_granularity
    if genome.normalize is not None:
        found["normalize"] = genome.normalize
    if genome.filters:
        found["filters"] = list(genome.filters)
    flags = {"allow_negative_weights": genome.allow_negative_weights, "smooth": genome.smooth}
    return found | {name: True for name, is_set in flags.items() if is_set}


def _optimizer(given: Arguments) -> dict[str, Any]:
    sigma0 = float(f"{min(1.0, given.sigma0 / _RANGE):.6g}")
    options: dict[str, Any] = {"sigma0": sigma0}
    if given.popsize is not None:
        options["popsize"] = given.popsize
    return {"kind": "cma_es", "budget": {"trials": given.trials}, "options": options}


def _fitness(config: EvolveConfig, given: Arguments, base: str, folder: Path) -> dict[str, Any]:
    tasks, weights = list[dict[str, Any]](), [task.weight for task in config.tasks]
    names = _task_names(config)
    for name, task in zip(names, config.tasks, strict=True):
        found: dict[str, Any] = {"name": name, "kind": "lm_eval", "task": task.name, "metric": task.metric}
        if given.tasks is not None:
            found["include_path"] = _placed(str(given.tasks), folder)
        if task.weight < 0:
            found["minimize"] = True
        if config.limit is not None:
            found["limit"] = config.limit
        if config.num_fewshot is not None:
            found["num_fewshot"] = config.num_fewshot
        if config.apply_chat_template and _has_template(folder / base if not Path(base).is_absolute() else Path(base)):
            found["chat_template"] = True
            if not config.fewshot_as_multiturn:
                found["fewshot_as_multiturn"] = False
        tasks.append(found)
    objective: dict[str, Any] = {"mean": names}
    if len(set(weights)) > 1 or weights[0] < 0:
        objective["weights"] = weights
    engine = {"kind": "vllm" if given.is_vllm else "transformers", "dtype": "bfloat16"}
    return {"engine": engine, "tasks": tasks, "objectives": [objective], "split": _SPLIT}


def _task_names(config: EvolveConfig) -> list[str]:
    stems = [Path(task.name).stem or task.name for task in config.tasks]
    return [f"{stem}-{stems[: i + 1].count(stem)}" if stems.count(stem) > 1 else stem for i, stem in enumerate(stems)]


def _has_template(folder: Path) -> bool:
    """Returns whether a base here has a chat template; of one that is not here, assumes it."""
    return not folder.is_dir() or template_of(folder) is not None


def _remarks(config: EvolveConfig) -> Iterator[Remark]:
    """Yields what is not as in mergekit-evolve."""
    yield _sure("split 0.5 / 0.2 / 0.3", "there, winners are chosen and reported on the documents of the search")
    yield _sure("numerics", "merges are computed in float32 and rounded once; mergekit computes in bfloat16")
    yield _sure("optimizer seed", "there, CMA-ES is not seeded; here the seed decides the run")
    if config.limit is not None:
        yield _sure(f"limit {config.limit}", "the first documents of each part, before they are split")
    if config.shuffle:
        yield _sure("shuffle left out", "documents are split by their ids and the seed, which no order changes")
    if config.random_init:
        yield _sure("random_init left out", "the search starts at the best merge among the baselines")
    if config.genome.tokenizer_source not in (None, "base"):
        yield _sure("tokenizer_source left out", "merges have the base's tokenizer; `check` compares the models'")
    for task in config.tasks:
        if task.name.startswith(_BENCHMARKS) and not task.name.endswith("_train"):
            yield _sure(
                f"{task.name} is a benchmark", "a winner that was searched on it shows nothing by its score on it"
            )
        if task.weight < 0:
            why = "its weight is negative; remove it if more is better and the task is to be unlearnt"
            yield Remark(what=f"minimize: true of {task.name}", sure="a guess", why=why)
        if not math.isfinite(task.weight):
            raise InputError("a weight is no number", got=f"{task.name}: {task.weight}", where="tasks")


def _sure(what: str, why: str) -> Remark:
    return Remark(what=what, sure="sure", why=why)
