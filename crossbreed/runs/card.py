"""The model card: parents, licence, held-out scores and how to reproduce. It states what is known and nothing else."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from huggingface_hub import EvalResult, ModelCardData

from crossbreed.errors import InputError
from crossbreed.fitness import ChoiceTask, GenerateTask, TaskConfig
from crossbreed.runs.baselines import PREFIX
from crossbreed.runs.coefficients import CoefficientMap, setting_text
from crossbreed.runs.provenance import versions
from crossbreed.runs.report import Report
from crossbreed.runs.report_text import how_measured, number, row_label, sentences, with_interval
from crossbreed.runs.spec import Spec
from crossbreed.sources import Adapter, Checkpoint, Sources
from crossbreed.types import Recipe

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
"""What the hub takes for `license`; any other name belongs in `license_name`."""
_MOST_GROUPS = 48
"""A longer coefficient table is not read by anyone; recipe.yaml has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """One source of a merge, as others can find it."""

    name: str
    """In the recipe."""
    hub_id: str | None
    """None for a local folder."""
    revision: str | None
    """The commit that was merged."""
    reference: str
    """What to write to open it again: hub id and revision, or the folder on the machine that merged it."""
    hash: str
    """Of its tensors: tells a parent that was moved or renamed from another one."""
    licence: str | None
    """What its own card states."""
    is_adapter: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Origins:
    """Where a published merge comes from: what its card and `crossbreed.json` say of the run."""

    name: str
    """The run's."""
    seed: int
    report: Report
    metrics: Mapping[str, str]
    """Task -> metric, for example `exact_match`."""
    versions: Mapping[str, str]

    @classmethod
    def of(cls, spec: Spec, report: Report) -> Self:
        """Returns what a run's spec and report say, with the versions that are installed now."""
        metrics = {task.name: _metric(task) for task in spec.fitness.tasks}
        return cls(name=spec.name, seed=spec.seed, report=report, metrics=metrics, versions=versions())

    @property
    def optimised_on(self) -> tuple[str, ...]:
        """Tasks that an objective names: the search saw other items of the same kind."""
        return tuple(dict.fromkeys(task for objective in self.report.objectives for task in objective.tasks))


def _metric(task: TaskConfig) -> str:
    if isinstance(task, GenerateTask):
        return task.metric
    return "accuracy" if isinstance(task, ChoiceTask) else "nats per token"


def parents_of(recipe: Recipe, sources: Sources) -> list[Parent]:
    """Returns the base, then the experts, by their names in the recipe."""
    opened = {source.hash: source for source in (sources.base, *sources.experts.values())}
    names = sorted(recipe.sources, key=lambda name: name != recipe.base)
    return [_parent(name, opened[recipe.sources[name]]) for name in names]


def _parent(name: str, source: Checkpoint | Adapter) -> Parent:
    return Parent(
        name=name,
        hub_id=source.origin.hub_id,
        revision=source.origin.revision,
        reference=source.origin.reference,
        hash=source.hash,
        licence=source.licence,
        is_adapter=isinstance(source, Adapter),
    )


def choose_licence(parents: Iterable[Parent], given: str | None) -> str:
    """Returns the licence of the merge: the one given, or the one that all parents share.

    Raises:
        InputError: none was given, and the parents differ or are silent. A merge inherits every parent's terms, so
            what it may be published under is a question for its publisher.
    """
    parents = list(parents)
    stated = {parent.licence for parent in parents}
    if given is not None:
        return given
    if len(stated) == 1 and (common := stated.pop()) is not None:
        return common
    raise InputError(
        "which licence does the merge have?",
        expected="one licence that every parent's card states",
        got="; ".join(f"{parent.name}: {parent.licence or 'not stated'}" for parent in parents),
        where="README.md of each parent",
        fix="read the parents' terms, then name the licence that honours all of them: --licence apache-2.0",
    )


def model_card(
    *,
    title: str,
    parents: Sequence[Parent],
    licence: str,
    origins: Origins,
    coefficients: CoefficientMap,
    in_mergekit: bool,
) -> str:
    """Returns README.md.

    Args:
        title: Name of the published model.
        parents: Base first.
        licence: Of the merge.
        origins: The run that bred it.
        coefficients: Of the recipe.
        in_mergekit: Whether mergekit can express the recipe, and `mergekit_config.yml` is there.
    """
    parts = [
        f"---\n{_front_matter(title, parents, licence, origins, in_mergekit)}\n---",
        f"# {title}",
        _opening(parents, origins),
        "## Scores",
        _scores(origins),
        "## Parents",
        _parents(parents),
        "## Coefficients",
        _coefficients(coefficients),
        "## Reproduce",
        _reproduce(parents, origins.report.winner.recipe, in_mergekit),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(title: str, parents: Sequence[Parent], licence: str, origins: Origins, in_mergekit: bool) -> str:
    winner = origins.report.winner
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type="custom",
            dataset_name=f"{task} (held out)",
            dataset_config=task,  # the hub tells results apart by type, config and split, not by name
            dataset_split="report",
            metric_type=origins.metrics[task],
            metric_value=round(found.mean, 6),
            metric_args={"n": found.n, "low": round(found.low, 6), "high": round(found.high, 6)},
        )
        for task, found in winner.tasks.items()
    ]
    data = ModelCardData(
        license=licence if licence in _HUB_LICENCES else "other",
        license_name=None if licence in _HUB_LICENCES else licence,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["merge", "mergekit"] if in_mergekit else ["merge"],
        base_model=list(dict.fromkeys(p.hub_id for p in parents if p.hub_id)) or None,
        base_model_relation="merge",
        model_name=title,
        eval_results=results,
    )
    return str(data.to_yaml())


def _opening(parents: Sequence[Parent], origins: Origins) -> str:
    report = origins.report
    asked = f"{sum(report.num_trials.values())} recipes" + ("" if report.is_over else " before it was stopped")
    if not report.winner.is_bred:
        given = report.winner.origin.removeprefix(PREFIX)
        what = f"`{given}` baseline" if given != report.winner.origin else f"recipe `{given}`"
        return f"The {what} of the crossbreed run `{origins.name}`, which scored {asked}."
    experts = ", ".join(parent.name for parent in parents[1:])
    return (
        f"A merge of {experts} into their common base, bred by crossbreed: trial {report.winner.number} of the run "
        f"`{origins.name}`, which scored {asked}."
    )


def _scores(origins: Origins) -> str:
    report = origins.report
    tasks = list(report.winner.tasks)
    heads = ["", f"{report.scalar.name}", *(f"{task} ({origins.metrics[task]})" for task in tasks)]
    rows = [
        [
            "**this model**" if row.kind == "winner" else row_label(row.name),
            with_interval(row.value),
            *(with_interval(row.tasks[task]) for task in tasks),
        ]
        for row in report.rows
    ]
    untouched = [task for task in tasks if task not in origins.optimised_on]
    told = f"Optimised on: {', '.join(origins.optimised_on)}" + (
        f"; measured and not optimised: {', '.join(untouched)}." if untouched else "."
    )
    notes = "\n".join(f"- {line}" for line in [told, *sentences(report)])
    return f"{how_measured(report)}\n\n{_table(heads, rows)}\n\n{notes}"


def _parents(parents: Sequence[Parent]) -> str:
    rows = [
        [
            parent.name + (" (LoRA adapter)" if parent.is_adapter else ""),
            f"[{parent.hub_id}](https://huggingface.co/{parent.hub_id})" if parent.hub_id else "local folder",
            f"`{parent.revision}`" if parent.revision else "",
            parent.licence or "not stated",
            f"`{parent.hash[:16]}`",
        ]
        for parent in parents
    ]
    return _table(["", "model", "revision", "licence", "hash of the tensors"], rows)


def _coefficients(found: CoefficientMap) -> str:
    if not found.groups:
        return "None: these are the base's own weights."
    if len(found.groups) > _MOST_GROUPS:
        return f"{len(found.groups)} groups of tensors: see `{RECIPE_FILE}`."
    columns = [(param, i) for param in found.values for i in range(len(found.sources))]
    heads = ["tensors", "operator", *(f"{found.sources[i]}: {param}" for param, i in columns), *found.settings]
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


def _reproduce(parents: Sequence[Parent], recipe: Recipe, in_mergekit: bool) -> str:
    sources = " ".join(f"--source {p.name}={f'{p.hub_id}@{p.revision}' if p.hub_id else 'FOLDER'}" for p in parents)
    text = (
        "`crossbreed.json` has the fingerprint of these weights; the recipe gives them again, bit for bit:\n\n"
        f"```\ncrossbreed merge {RECIPE_FILE} --out merged {sources}\n```"
    )
    if recipe.artifacts:
        named = ", ".join(f"{name} `{hash_}`" for name, hash_ in recipe.artifacts.items())
        text += (
            f"\n\nIt reads what the run made of the experts' activations ({named}), in the cache of the machine that "
            "made it. Elsewhere `crossbreed report RUN` makes it again, from the run folder; a processor that rounds "
            "otherwise gives other bits, and is refused."
        )
    if in_mergekit:
        lora = " --lora-merge-dtype float32" if any(parent.is_adapter for parent in parents) else ""
        local = "; put your own paths in it for the parents that are local folders" * any(
            p.hub_id is None for p in parents
        )
        text += (
            "\n\nmergekit gives them again but for the last bit of a few elements, which it rounds elsewhere"
            f"{local}:\n\n```\nmergekit-yaml {MERGEKIT_FILE} merged{lora}\n```"
        )
    return text


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
