"""The model card: parents, licence, held-out scores and reproduction. It contains only what is known."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from huggingface_hub import EvalResult, ModelCardData

from crossbreed.errors import InputError, printable
from crossbreed.runs.adapter import RecipeAdapter
from crossbreed.runs.plan import Plan
from crossbreed.runs.record.history import fold
from crossbreed.runs.record.records import Record, RunRecord
from crossbreed.runs.record.versions import versions
from crossbreed.runs.results.numbers import number, row_label, with_interval
from crossbreed.runs.results.recipe_table import CoefficientMap, setting_text
from crossbreed.runs.results.report import Report
from crossbreed.runs.results.report_text import how_measured, sentences
from crossbreed.runs.spec.constraints import Constraint
from crossbreed.runs.spec.objectives import Objective
from crossbreed.sources import Adapter, Checkpoint, Sources
from crossbreed.types import BASE, Recipe, Trial

RECIPE_FILE, MERGEKIT_FILE = "recipe.yaml", "mergekit_config.yml"
_HUB_LICENCES = frozenset(
    """
    afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
    bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0
    etalab-2.0 eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 h-research
    intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit
    mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openmdw-1.0 openrail openrail++ osl-3.0 other pddl postgresql unknown
    unlicense wtfpl zlib
    """.split()  # noqa: SIM905 - eighty lines otherwise
)
"""The hub's valid values of `license`; any other name belongs in `license_name`."""
_MOST_GROUPS = 48
"""The maximum length of the coefficient table: a longer one is left to recipe.yaml."""

_MERGED = (
    "The scores are of base and adapter merged, each number rounded once to {dtype}, as `crossbreed merge` writes it. "
    "Unmerged, as PEFT loads it above, or merged by another program, answers can differ by as much as rounding does."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceInfo:
    """One source of a merge, as published."""

    name: str
    """Its name in the recipe."""
    hub_id: str | None
    """None for a local folder."""
    revision: str | None
    """The merged commit."""
    reference: str
    """The reference that opens it: hub id and revision, or the folder on the machine that merged it."""
    hash: str
    """The hash of its tensors, which identifies it even if it is moved or renamed."""
    licence: str | None
    """The licence in its own card."""
    is_adapter: bool

    @property
    def public_reference(self) -> str:
        """The reference for files that are published: a placeholder for a folder of the machine that merged it."""
        return self.reference if self.hub_id else f"path/to/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CardInfo:
    """The provenance of a published merge, for its card and `crossbreed.json`."""

    name: str
    """The name of the run."""
    seed: int
    trial: Trial
    """The trial that is published."""
    num_trials: int
    """The number of recipes that the run scored."""
    is_over: bool
    """Whether the search was complete."""
    report: Report | None
    """None: published without held-out scores."""
    engine: Mapping[str, Any]
    """The settings of the engine that answered."""
    objectives: tuple[Objective, ...]
    metrics: Mapping[str, str]
    """Task -> metric, for example `exact_match`."""
    constraints: tuple[Constraint, ...]
    versions: Mapping[str, str]
    """The versions that publish it."""
    run_versions: Mapping[str, str]
    """The versions that started the run."""

    @classmethod
    def of(cls, plan: Plan, records: Sequence[Record], number: int, report: Report | None) -> Self:
        """Returns the provenance of a trial from its run's plan and journal."""
        spec, history, run = plan.spec, fold(records), records[0]
        assert isinstance(run, RunRecord), "a journal starts with its run"
        return cls(
            name=spec.name,
            seed=spec.seed,
            trial=history.trials[number],
            num_trials=len(history.trials),
            is_over=report.is_over if report else history.is_finished,
            report=report,
            engine=spec.fitness.engine.identity(),
            objectives=plan.objectives,
            metrics={task.name: task.metric_name for task in spec.fitness.tasks}
            | dict.fromkeys(plan.lengths_measured.values(), "tokens"),
            constraints=plan.criteria.constraints,
            versions=versions(),
            run_versions=run.clock.versions,
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the run's part of `crossbreed.json`."""
        run = {"name": self.name, "seed": self.seed, "trial": self.trial.number, "versions": dict(self.run_versions)}
        return {
            "run": run,
            "engine": dict(self.engine),
            "versions": dict(self.versions),
            "optimised_on": list(self.optimised_on),
            **({"constraints": [constraint.name for constraint in self.constraints]} if self.constraints else {}),
            "scores": self.report and self.report.winner.to_json(),
        }

    @property
    def optimised_on(self) -> tuple[str, ...]:
        """The tasks of the objectives: the search used other items of the same kind."""
        return tuple(dict.fromkeys(task for objective in self.objectives for task in objective.tasks))

    @property
    def engine_text(self) -> str:
        """The engine in a few words, for example `vllm, bfloat16`."""
        return ", ".join(str(self.engine[key]) for key in ("kind", "dtype", "device") if self.engine.get(key))


def source_infos(recipe: Recipe, sources: Sources) -> list[SourceInfo]:
    """Returns the base, then the experts, by their names in the recipe; what the run made of them has no parents."""
    opened: dict[str, Checkpoint | Adapter] = {BASE: sources.base, **sources.experts}
    by_hash = {source.hash: source for source in reversed(opened.values())}

    def found(name: str, wanted: str) -> Checkpoint | Adapter:
        """The source of this name; by its tensors alone where the recipe calls it otherwise: others may equal it."""
        named = sources.base if name == recipe.base else opened.get(name)
        return named if named is not None and named.hash == wanted else by_hash[wanted]

    made = {sources.structure.hashes[name] for name in sources.made}
    parents = (name for name, wanted in recipe.sources.items() if wanted not in made)
    names = sorted(parents, key=lambda name: name != recipe.base)
    return [_source_info(name, found(name, recipe.sources[name])) for name in names]


def _source_info(name: str, source: Checkpoint | Adapter) -> SourceInfo:
    return SourceInfo(
        name=name,
        hub_id=source.origin.hub_id,
        revision=source.origin.revision,
        reference=source.origin.reference,
        hash=source.hash,
        licence=source.licence,
        is_adapter=isinstance(source, Adapter),
    )


def choose_licence(parents: Iterable[SourceInfo], given: str | None) -> str:
    """Returns the licence of the merge: the one given, or the one that all parents share.

    Raises:
        InputError: none was given, and the parents' licences differ or are not stated. A merge inherits every parent's
            terms, so its publisher must decide on the licence.
    """
    parents = list(parents)
    stated = {parent.licence for parent in parents}
    if given is not None:
        return given
    if len(stated) == 1 and (common := stated.pop()) is not None:
        return common
    raise InputError(
        "the licence of the merge is not known",
        expected="one licence, stated in every parent's card",
        got="; ".join(f"{parent.name}: {parent.licence or 'not stated'}" for parent in parents),
        where="README.md of each parent",
        fix="read the parents' terms, then give a licence that complies with all of them: --licence apache-2.0",
    )


def model_card(
    *,
    title: str,
    parents: Sequence[SourceInfo],
    licence: str,
    info: CardInfo,
    coefficients: CoefficientMap,
    in_mergekit: bool,
    notes: Sequence[str] = (),
    accepted: Sequence[str] = (),
    adapter: RecipeAdapter | None = None,
    is_scored: bool = False,
) -> str:
    """Returns README.md.

    Args:
        title: Name of the published model.
        parents: The sources, base first.
        licence: The licence of the merge.
        info: The run that bred it.
        coefficients: The recipe's coefficients.
        in_mergekit: Whether mergekit can express the recipe, so that there is a `mergekit_config.yml`.
        notes: Differences between the parents and the base, whose configuration and tokenizer this model has.
        accepted: The differences that `crossbreed merge` must be told to accept.
        adapter: What is published, if it is no checkpoint.
        is_scored: Whether the engine answered with the adapter itself, and not with the merge.
    """
    tags = ["lora"] * (adapter is not None) + ["merge"] + ["mergekit"] * in_mergekit
    parts = [
        f"---\n{_front_matter(title, parents, licence, info, tags, is_adapter=adapter is not None)}\n---",
        f"# {_plain(title)}",
        _opening(parents, info),
        *([_adapter(adapter, parents[0])] if adapter else []),
        "## Scores",
        *([_MERGED.format(dtype=info.trial.recipe.dtype)] if adapter and info.report and not is_scored else []),
        _scores(info, info.report) if info.report else "Not measured on held-out items.",
        "## Parents",
        "\n\n".join([_parents(parents), *(f"- {note}" for note in notes)]),
        "## Coefficients",
        _coefficients(coefficients),
        "## Reproduce",
        _reproduce(parents, info.trial.recipe, in_mergekit, accepted, adapter),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(
    title: str, parents: Sequence[SourceInfo], licence: str, info: CardInfo, tags: list[str], *, is_adapter: bool
) -> str:
    tasks = info.report.winner.tasks if info.report else {}
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type="custom",
            dataset_name=f"{task} (held out)",
            dataset_config=task,  # the hub distinguishes results by type, config and split, not by name
            dataset_split="report",
            metric_type=info.metrics[task],
            metric_value=round(found.mean, 6),
            metric_args={"n": found.n}
            | ({"low": round(found.low, 6), "high": round(found.high, 6)} if found.is_known else {}),
        )
        for task, found in tasks.items()
    ]
    data = ModelCardData(
        license=licence if licence in _HUB_LICENCES else "other",
        license_name=None if licence in _HUB_LICENCES else licence,
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="text-generation",
        tags=tags,
        base_model=list(dict.fromkeys(p.hub_id for p in parents[: 1 if is_adapter else None] if p.hub_id)) or None,
        base_model_relation="adapter" if is_adapter else "merge",
        model_name=title,
        eval_results=results,
    )
    return str(data.to_yaml())


def _opening(parents: Sequence[SourceInfo], info: CardInfo) -> str:
    searched = f"{info.num_trials} recipes" + ("" if info.is_over else " before it was interrupted")
    by = info.trial.candidate.proposed_by
    if by.kind != "optimizer":
        what = f"`{by.label}` baseline" if by.is_baseline else f"recipe `{by.label}`"
        return f"The {what} of the crossbreed run `{info.name}`, which scored {searched}."
    experts = ", ".join(_plain(parent.name) for parent in parents[1:])
    return (
        f"A merge of {experts} into their common base, bred by crossbreed: trial {info.trial.number} of the run "
        f"`{info.name}`, which scored {searched}."
    )


def _adapter(made: RecipeAdapter, base: SourceInfo) -> str:
    what = f"This is a LoRA adapter of {_plain(base.name)}, "
    if made.is_exact:
        what += f"of rank {made.rank}. It holds the merge's own sum of adapters: nothing is left out."
    else:
        what += (
            f"cut to rank {made.rank}: it lacks {made.error:.2%} of the merge's change (relative Frobenius norm; "
            "`crossbreed.json` has it for each matrix), so scores of the merge are not its own."
        )
    return (
        f"{what}\n\n```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
        f"base = AutoModelForCausalLM.from_pretrained({(base.hub_id or base.public_reference)!r})\n"
        'model = PeftModel.from_pretrained(base, "this folder")\n```'
    )


def _scores(info: CardInfo, report: Report) -> str:
    tasks = list(report.winner.tasks)
    heads = ["", _plain(report.scalar.name), *(f"{_plain(task)} ({info.metrics[task]})" for task in tasks)]
    rows = [
        [
            "**this model**" if row.kind == "winner" else _plain(row_label(row.name)),
            with_interval(row.value),
            *(with_interval(row.tasks[task]) for task in tasks),
        ]
        for row in report.rows
    ]
    bounded = {task for constraint in info.constraints for task in constraint.tasks}
    untouched = [task for task in tasks if task not in info.optimised_on and task not in bounded]
    told = f"Optimised on: {', '.join(info.optimised_on)}" + (
        f"; chosen to keep: {'; '.join(constraint.name for constraint in info.constraints)}" if bounded else ""
    )
    told += f"; measured and not optimised: {', '.join(untouched)}." if untouched else "."
    notes = "\n".join(f"- {line}" for line in [told, *sentences(report)])
    return f"{how_measured(report)} Answered by {info.engine_text}.\n\n{_table(heads, rows)}\n\n{notes}"


def _parents(parents: Sequence[SourceInfo]) -> str:
    rows = [
        [
            _plain(parent.name) + (" (LoRA adapter)" if parent.is_adapter else ""),
            f"[{parent.hub_id}](https://huggingface.co/{parent.hub_id})" if parent.hub_id else "local folder",
            f"`{parent.revision}`" if parent.revision else "",
            parent.licence or "not stated",
            f"`{parent.hash[:16]}`",
        ]
        for parent in parents
    ]
    return _table(["", "model", "revision", "licence", "hash of the tensors"], rows)


def _coefficients(found: CoefficientMap) -> str:
    if found.layers:
        path = f"The layers, in order, with the factors on what comes in: {_plain(found.layers)}."
        rules = _coefficients(replace(found, layers="")) if found.groups else ""
        return f"{path}\n\nThe base is merged first:\n\n{rules}" if rules else path
    if not found.groups:
        return "None: these are the base's own weights."
    if len(found.groups) > _MOST_GROUPS:
        return f"{len(found.groups)} groups of tensors: see `{RECIPE_FILE}`."
    columns = [(param, i) for param in found.values for i in range(len(found.sources))]
    heads = ["tensors", "operator", *(f"{_plain(found.sources[i])}: {param}" for param, i in columns), *found.settings]
    rows = [
        [
            group,
            operator,
            *("" if (v := found.values[p][row][i]) is None else number(v) for p, i in columns),
            *(setting_text(column[row]) for column in found.settings.values()),
        ]
        for row, (group, operator) in enumerate(zip(found.groups, found.operators, strict=True))
    ]
    return _table(heads, rows)


def _reproduce(
    parents: Sequence[SourceInfo],
    recipe: Recipe,
    in_mergekit: bool,
    accepted: Sequence[str],
    adapter: RecipeAdapter | None,
) -> str:
    sources = " ".join(
        f"--source {shlex.quote(p.name)}={f'{p.hub_id}@{p.revision}' if p.hub_id else 'FOLDER'}" for p in parents
    )
    sources += "".join(f" --accept {key}" for key in accepted)
    if adapter:
        sources += " --as adapter" + ("" if adapter.is_exact else f" --rank {adapter.rank}")
    text = (
        "`crossbreed.json` contains the fingerprint of these weights; the recipe reproduces them bit for bit:\n\n"
        f"```\ncrossbreed merge {RECIPE_FILE} --out merged {sources}\n```"
    )
    if recipe.artifacts:
        named = ", ".join(f"{name} `{hash_}`" for name, hash_ in recipe.artifacts.items())
        text += (
            f"\n\nIt needs artifacts of the experts' activations ({named}), which are in the cache of the machine that "
            "ran the search. Elsewhere, `crossbreed report RUN` makes them again from the run folder, unless the "
            "processor rounds differently: then it ends with an error."
        )
    if in_mergekit:
        lora = " --lora-merge-dtype float32" if any(parent.is_adapter for parent in parents) else ""
        local = "; write the folders of parents that are no hub's for `path/to/NAME`" * any(
            p.hub_id is None for p in parents
        )
        text += (
            "\n\nmergekit reproduces them except for the last bit of a few elements, which it rounds differently"
            f"{local}:\n\n```\nmergekit-yaml {MERGEKIT_FILE} merged{lora}\n```"
        )
    return text


def _plain(name: str) -> str:
    """Returns a name that markdown and HTML take for text."""
    return re.sub(r"[\\`*\[\]<>#]", r"\\\g<0>", printable(name).replace("\n", " "))


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
