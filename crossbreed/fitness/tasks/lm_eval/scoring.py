"""How the documents of an lm-eval task are scored: its filters, one metric, and what it needs to know of an answer."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crossbreed.errors import InputError, require
from crossbreed.fitness.tasks.lm_eval.asking import Writing
from crossbreed.fitness.tasks.lm_eval.documents import Document, Part, results_of
from crossbreed.fitness.tasks.lm_eval.harness import EXTRA, HarnessTask, name_of
from crossbreed.fitness.tasks.lm_eval.metrics import Reading, aggregation_of, readings_of
from crossbreed.fitness.tasks.lm_eval.settings import LmEvalSettings
from crossbreed.parsing import any_of, suggestion

_NO_METRIC = "bypass"
"""lm-eval's, for tasks of which the texts alone are wanted."""
_CERTAIN, _HOPELESS = 0.0, -50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """How the documents of one task are asked and scored."""

    ensemble: Any
    """The filters."""
    metric: str
    reading: Reading
    together: Mapping[str, Callable[..., Any]]
    """Metric that only all documents together have -> its aggregation."""
    mean_sizes: Mapping[Part, float]
    """Part of the data -> mean size of its documents, where sizes weigh."""
    writing: Writing | None
    """None: the task has no texts written."""
    repeats: int
    alternatives: int
    """How many of the most likely tokens are needed."""


def scoring_of(task: LmEvalSettings, leaf: HarnessTask, documents: Sequence[Document]) -> Scoring:
    """Chooses filter and metric, and tries them on the first document's right answer."""
    from lm_eval.filters import build_filter_ensemble

    metric, _, behind = (task.metric or "").partition(",")
    filters = {one["name"]: one["filter"] for one in leaf.config.filter_list or ()} or {"none": None}
    name = _chosen("filter", task.filter or behind or None, list(filters), leaf, task)
    steps = [
        [step["function"], {key: value for key, value in step.items() if key != "function"}]
        for step in filters[name] or [{"function": "take_first"}]
    ]
    ensemble, repeats = build_filter_ensemble(name, steps), int(leaf.config.repeats or 1)
    own = [one for one in documents if one.task is leaf]
    if not own:
        raise InputError(f"no document of `{name_of(leaf)}` is left", where=task.where)
    results = results_of(own[0], _gold(own[0]), ensemble, repeats=repeats)
    found = readings_of(results, leaf)
    metric = _chosen_metric(metric or None, found, leaf, task)
    reading = found[metric]
    assert reading is not None
    if reading.higher_is_better is task.minimize:
        raise InputError(
            f"lm-eval says that {'more' if reading.higher_is_better else 'less'} is better of `{metric}`",
            expected=f"minimize: {str(not reading.higher_is_better).lower()}",
            got=f"minimize: {str(task.minimize).lower()}",
            where=task.where,
            fix="correct `minimize` in the task",
        )
    sizes: dict[Part, list[float]] = {}
    for one in own if reading.unit else ():
        entry = results_of(one, _gold(one), ensemble, repeats=repeats)[metric]
        sizes.setdefault(one.part, []).append(reading.size_of(entry))
    is_plain = not callable(leaf.config.process_results) and metric not in ("acc", "exact_match")
    has_options = leaf.OUTPUT_TYPE == "multiple_choice" and not callable(leaf.config.process_results)
    return Scoring(
        ensemble=ensemble,
        metric=metric,
        reading=reading,
        together={
            name: aggregation_of(name, leaf) for name, one in found.items() if one is None and name != _NO_METRIC
        },
        mean_sizes={part: math.fsum(of_part) / len(of_part) for part, of_part in sizes.items()},
        writing=_writing(leaf, task) if leaf.OUTPUT_TYPE == "generate_until" else None,
        repeats=repeats,
        alternatives=0 if is_plain or (has_options and metric == "acc") else 1,
    )


def _writing(leaf: HarnessTask, task: LmEvalSettings) -> Writing:
    try:
        return Writing.of(leaf.config.generation_kwargs or {})
    except InputError as error:
        raise InputError(
            error.problem, expected=error.expected, got=error.got, where=error.where or task.where, fix=error.fix
        ) from None


def _chosen(noun: str, wanted: str | None, names: Sequence[str], leaf: HarnessTask, task: LmEvalSettings) -> str:
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted is None:
        raise InputError(
            f"the task `{name_of(leaf)}` has several {noun}s",
            expected=f"one of them as `{noun}`",
            got=any_of(names),
            where=task.where,
            fix=f"{noun}: {names[0]}",
        )
    if wanted not in names:
        raise InputError(
            f"the task `{name_of(leaf)}` has no {noun} `{wanted}`",
            expected=any_of(names),
            where=f"{task.where}, `{noun}`",
            fix=suggestion(wanted, names) or f"{noun}: {names[0]}",
        )
    return wanted


def _chosen_metric(
    wanted: str | None, found: Mapping[str, Reading | None], leaf: HarnessTask, task: LmEvalSettings
) -> str:
    usable = [name for name, reading in found.items() if reading is not None]
    if (wanted in found and wanted not in usable) or (wanted is None and not usable):
        raise InputError(
            f"`{wanted or any_of(found)}` has a value for all documents together, and none for each to search by",
            expected=f"a metric whose mean over documents counts: {any_of(usable)}; this one is then reported beside it"
            if usable
            else "another metric",
            where=f"{task.where}, `metric`",
            fix=f"metric: {usable[0]}" if usable else "add a metric with `aggregation: mean` to the task's YAML",
        )
    return _chosen("metric", wanted, usable, leaf, task)


def _gold(document: Document) -> list[Any]:
    """Returns the answers of a model that knows."""
    place = document.place
    kinds = [instance.request_type for instance in document.instances]
    if kinds[0] == "generate_until":
        return [document.target] * len(kinds)
    if kinds[0] == "loglikelihood_rolling":
        return [-1.0] * len(kinds)
    return [(_CERTAIN, True) if place in (None, idx) else (_HOPELESS, False) for idx in range(len(kinds))]


def check_metrics(leaf: HarnessTask, task: LmEvalSettings) -> None:
    """Raises InputError if the task names a metric that nobody computes: lm-eval says so once it has answers."""
    from lm_eval.api.registry import metric_registry

    names = [one["metric"] for one in leaf.config.metric_list or () if isinstance(one["metric"], str)]
    theirs = {one["metric"] for one in leaf.config.metric_list or () if one.get("hf_evaluate")}
    if theirs:
        require("evaluate", extra=EXTRA)
    if unknown := [name for name in names if name not in theirs and name not in metric_registry]:
        raise InputError(
            f"lm-eval has no metric `{unknown[0]}`",
            expected=any_of(metric_registry.keys()),
            where=f"{task.where}; `metric_list` of `{name_of(leaf)}`",
            fix=suggestion(unknown[0], metric_registry.keys()) or "correct it in the YAML, or compute it in a function",
        )


def notes_on_values(scorings: Mapping[str, Scoring]) -> list[str]:
    """Says what values are, where they are not the metric itself."""
    told = [_about(one) for one in scorings.values() if one.reading.about]
    if together := list(dict.fromkeys(name for one in scorings.values() for name in one.together)):
        told.append(f"{any_of(together)}: of all documents together, on the report items, and never searched")
    return list(dict.fromkeys(told))


def _about(scoring: Scoring) -> str:
    reading, text = scoring.reading, f"a document's value of `{scoring.metric}` is its {scoring.reading.about}"
    if not reading.unit:
        return f"{text}, of which lm-eval's is the exponential of the mean"
    return (
        f"{text} divided by the mean number of {reading.unit}s of such documents, "
        + ", ".join(f"{size:.4g} ({part})" for part, size in scoring.mean_sizes.items())
        + f": long ones weigh more, as in lm-eval, and the mean is {reading.about} per {reading.unit}"
    )
