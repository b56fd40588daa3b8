"""A task as it was loaded in this process: its documents, what they ask, and how each is scored."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from crossbreed.errors import InputError
from crossbreed.figures import Figure
from crossbreed.fitness.items import Item
from crossbreed.fitness.requests import Loglikelihood, Request, Response
from crossbreed.fitness.tasks.lm_eval.asking import Speaker, result_of, speaker
from crossbreed.fitness.tasks.lm_eval.documents import (
    Document,
    Part,
    Shape,
    documents_of,
    files_of,
    identity_of,
    parts_of,
    questions_in,
    remember_targets,
    results_of,
    state_of,
    without_repeats,
)
from crossbreed.fitness.tasks.lm_eval.figures import figure_of
from crossbreed.fitness.tasks.lm_eval.harness import (
    HarnessTask,
    blamed,
    lent_generators,
    load_leaves,
    name_of,
    quiet,
    sources_in,
)
from crossbreed.fitness.tasks.lm_eval.scoring import Scoring, check_metrics, notes_on_values, scoring_of
from crossbreed.fitness.tasks.lm_eval.settings import LmEvalSettings
from crossbreed.fitness.tasks.sampling import sample_seeds
from crossbreed.fitness.tasks.task import Answer
from crossbreed.parsing import any_of
from crossbreed.randomness import spawn
from crossbreed.types import canonical_json

_MOST_KEPT = 16
"""Loaded tasks that a process keeps for others of the same settings; each keeps its own."""


class Loaded:
    """The documents of a task or group."""

    def __init__(
        self,
        task: LmEvalSettings,
        documents: Sequence[Document],
        scorings: Mapping[str, Scoring],
        speaks: Speaker,
        *,
        seed: int,
        identity: str,
        notes: Sequence[str],
        files: Mapping[str, tuple[int, int]],
    ) -> None:
        """Asks nothing yet.

        Args:
            task: Its settings.
            documents: All of them.
            scorings: Task -> how its documents are scored.
            speaks: Writes requests.
            seed: The run's.
            identity: Hash of what must not change on resume.
            notes: What a user should know.
            files: The files of the data, with their sizes and times.
        """
        self._files = files
        self.items = tuple(one.item for one in documents)
        self.identity, self.notes = identity, tuple(notes)
        self._documents = {one.item.id: one for one in documents}
        self._name, self._where, self._folder = task.name, task.where, task.folder
        self._scorings, self._speaks, self._seed = scorings, speaks, seed
        self._asked: dict[str, list[tuple[Request, ...]]] = {}

    def is_stale(self) -> bool:
        """Returns whether a file of the data has changed since."""
        return any(state_of(file) != state for file, state in self._files.items())

    def requests(self, item: Item) -> list[Request]:
        """Returns the requests for a document, made once."""
        return [request for of_one in self._of_instances(item) for request in of_one]

    def score(self, item: Item, responses: Sequence[Response]) -> Answer:
        """Returns the value of a document."""
        document = self._document(item)
        scoring, left = self._scoring(document), iter(responses)
        given = [[next(left) for _ in asked] for asked in self._of_instances(item)]
        answers = [
            _answers(instance.request_type, some, is_greedy=bool(scoring.alternatives))
            for instance, some in zip(document.instances, given, strict=True)
        ]
        with lent_generators(), blamed(f"document `{item.id}` is not scored", folder=self._folder, where=self._where):
            found = results_of(document, answers, scoring.ensemble, repeats=scoring.repeats)
        entries = {name: found[name] for name in scoring.together if name in found}
        return Answer(value=self._value(item, found, scoring), text=_said(document, answers), entries=entries)

    def figures(self, entries: Mapping[str, Mapping[str, object]]) -> dict[str, Figure]:
        """Returns the metrics that only all documents together have, of a group for each of its tasks.

        Args:
            entries: Document -> metric -> what lm-eval has of it.
        """
        of_all = dict[str, tuple[Callable[..., Any], list[object]]]()
        for name, of_one in entries.items():
            document = self._documents[name]
            scoring = self._scoring(document)
            prefix = f"{name_of(document.task)}: " if len(self._scorings) > 1 else ""
            for metric, entry in of_one.items():
                of_all.setdefault(prefix + metric, (scoring.together[metric], []))[1].append(entry)
        return {
            name: figure_of(some, aggregation, rng=spawn(self._seed, "bootstrap", self._name, name))
            for name, (aggregation, some) in of_all.items()
        }

    def calibration(self, item: Item) -> Loglikelihood | None:
        """Returns the right answer as a request; None if the task has none."""
        document = self._document(item)
        first = document.instances[0]
        if first.request_type == "generate_until":
            target = self.shown(item)
            between = document.task.config.target_delimiter if target else ""
            return self._speaks.likelihood(first.args[0], between + target, alternatives=0) if target.strip() else None
        if document.options and document.place is None:
            return None
        request = self._of_instances(item)[document.place or 0][0]
        assert isinstance(request, Loglikelihood)
        return request

    def shown(self, item: Item) -> str:
        """Returns the right answer, if the task has one."""
        return self._document(item).target

    def gold_position(self, item: Item) -> int | None:
        """Returns the place of the right option."""
        return self._document(item).place

    def num_options(self, item: Item) -> int | None:
        """Returns the number of options; None where the model writes."""
        return len(self._document(item).options) or None

    def questions(self, item: Item) -> frozenset[str]:
        """Returns what two documents share that ask the same."""
        return questions_in(self._document(item))

    def _of_instances(self, item: Item) -> list[tuple[Request, ...]]:
        if item.id not in self._asked:
            document = self._document(item)
            self._asked[item.id] = [self._ask(document, instance) for instance in document.instances]
        return self._asked[item.id]

    def _ask(self, document: Document, instance: Any) -> tuple[Request, ...]:
        scoring = self._scoring(document)
        if instance.request_type == "loglikelihood_rolling":
            return tuple(self._speaks.rolling(instance.args[0]))
        if instance.request_type == "loglikelihood":
            context, continuation = instance.args[:2]
            return (self._speaks.likelihood(context, continuation, alternatives=scoring.alternatives),)
        writing = scoring.writing
        assert writing is not None, "the task writes texts"
        drawn = scoring.repeats if writing.temperature else 1
        seeds = sample_seeds(self._seed, self._name, f"{document.item.id}/{instance.idx}", drawn)
        return tuple(self._speaks.text(instance.args[0], writing, seed=seed) for seed in seeds)

    def _document(self, item: Item) -> Document:
        if item.id not in self._documents:
            raise InputError(
                f"the task has no document `{item.id}`",
                expected=any_of(list(self._documents)[:3]),
                where=self._where,
            )
        return self._documents[item.id]

    def _scoring(self, document: Document) -> Scoring:
        return self._scorings[name_of(document.task)]

    def _value(self, item: Item, found: Mapping[str, Any], scoring: Scoring) -> float:
        if scoring.metric in found:
            value = scoring.reading.read(found[scoring.metric]) / scoring.mean_sizes.get(self._document(item).part, 1.0)
            if math.isfinite(value):
                return float(value)
        raise InputError(
            f"the task gives document `{item.id}` no value",
            expected=f"a number for `{scoring.metric}`",
            got=f"{found.get(scoring.metric, 'none')!r:.80}, beside {any_of(found)}",
            where=self._where,
            fix="choose a metric that each document has, or correct the task's `process_results`",
        )


_LOADED: dict[str, Loaded] = {}


def load(task: LmEvalSettings, *, seed: int, host: str | None, context: int | None, sources: str) -> Loaded:
    """Returns a task as it is loaded, once in a process for the same settings and files.

    Args:
        task: Its settings.
        seed: The run's.
        host: The folder of the tokenizer; None: it is not here.
        context: Longest prompt plus answer.
        sources: Hash of the task's files; empty: they are looked at again.
    """
    key = canonical_json([task.model_dump(mode="json"), seed, host, context, sources or sources_in(task.folder)])
    if key not in _LOADED or _LOADED[key].is_stale():
        _LOADED[key] = _read(task, seed=seed, speaks=speaker(None if host is None else Path(host), context))
        _ = [_LOADED.pop(old) for old in list(_LOADED)[:-_MOST_KEPT]]
    return _LOADED[key]


def _read(task: LmEvalSettings, *, seed: int, speaks: Speaker) -> Loaded:
    leaves, is_group = load_leaves(task.task, folder=task.folder, where=task.where)
    for leaf in leaves:
        _check_kind(leaf, task)
        _override(leaf, task)
    parts = parts_of(leaves, task.documents, where=task.where)
    names = {(name_of(leaf), part): getattr(leaf.config, f"{part}_split") for leaf in leaves for part in parts}
    shape = Shape(
        chat=speaks.chat if task.chat_template else None,
        shots_as_turns=task.fewshot_as_multiturn,
        system=task.system,
        limit=task.limit,
        shot_seed=task.fewshot_seed,
    )
    documents = list[Document]()
    with quiet(), blamed("lm-eval does not render the task", folder=task.folder, where=task.where):
        for part, splits in parts.items():
            for leaf in leaves:
                prefix = f"{name_of(leaf)}/" if is_group else ""
                if (name := names[name_of(leaf), part]) is not None:
                    leaf.set_config("test_split", name)  # lm-eval then renders it as what it evaluates
                documents += documents_of(leaf, part, shape, prefix=prefix, splits=splits)
        documents, num_repeats = without_repeats(documents)
        scorings = {name_of(leaf): scoring_of(task, leaf, documents) for leaf in leaves}
        identity = identity_of(leaves, documents)
        for leaf in leaves:
            remember_targets(leaf)
    files = {file: state_of(file) for leaf in leaves for file in files_of(leaf)}
    reported = next(part for part, splits in parts.items() if "report" in splits)
    shown = [leaf for leaf in leaves if _shots_from(leaf) == names[name_of(leaf), reported]]
    notes = [*_notes_of_parts(task, parts, reported, shown), *notes_on_values(scorings)]
    if num_repeats:
        notes.append(f"{num_repeats} documents ask what others before them ask, and are left out")
    return Loaded(task, documents, scorings, speaks, seed=seed, identity=identity, notes=notes, files=files)


def _check_kind(leaf: HarnessTask, task: LmEvalSettings) -> None:
    if getattr(leaf, "MULTIMODAL", False):
        raise InputError(
            f"the task `{name_of(leaf)}` asks about images or sounds", expected="a task of texts", where=task.where
        )
    if getattr(leaf, "UNSAFE_CODE", False) and task.allow is None:
        raise InputError(
            f"the task `{name_of(leaf)}` runs programs that the model wrote",
            expected="`allow: running_generated_code` in the task",
            where=task.where,
            fix="allow it on a machine that you can lose: there is no sandbox",
        )
    if not callable(leaf.config.process_results):
        check_metrics(leaf, task)


def _override(leaf: HarnessTask, task: LmEvalSettings) -> None:
    """Sets what the spec says in the place of the task, as lm-eval's own command does."""
    own = leaf.config.num_fewshot
    if task.num_fewshot and own == 0:
        raise InputError(
            f"the task `{name_of(leaf)}` says itself that it takes no examples",
            expected="no `num_fewshot`",
            got=f"num_fewshot: {task.num_fewshot}, where its YAML has 0",
            where=task.where,
            fix="remove it, or `num_fewshot: 0` from the YAML",
        )
    leaf.set_config("num_fewshot", (own or 0) if task.num_fewshot is None else task.num_fewshot)
    if task.gen_kwargs:
        if leaf.OUTPUT_TYPE != "generate_until":
            raise InputError(
                f"the task `{name_of(leaf)}` has no text written",
                expected="no `gen_kwargs`",
                got=f"output_type: {leaf.OUTPUT_TYPE}",
                where=task.where,
                fix="remove them",
            )
        leaf.set_config("generation_kwargs", dict(task.gen_kwargs), update=True)


def _answers(request_type: str, responses: Sequence[Response], *, is_greedy: bool) -> Any:
    """Returns what lm-eval's models would have answered to an instance: several answers where several were drawn."""
    if request_type == "generate_until" and len(responses) > 1:
        return [one.text for one in responses]
    return result_of(request_type, responses, is_greedy=is_greedy)


def _said(document: Document, answers: Sequence[Any]) -> str:
    """Returns what the model said, or which option it finds the most likely."""
    if document.options:
        likelihoods = [one[0] for one in answers[: len(document.options)]]
        return document.options[likelihoods.index(max(likelihoods))]
    first = answers[0][0] if isinstance(answers[0], list) else answers[0]
    return first if isinstance(first, str) else ""


def _notes_of_parts(
    task: LmEvalSettings, parts: Mapping[Part, str], reported: Part, shown: Sequence[HarnessTask]
) -> list[str]:
    """Says where documents come from.

    Args:
        task: The settings.
        parts: Part -> splits that take their documents from it.
        reported: The part of the report.
        shown: Tasks that draw examples from it.
    """
    notes = list[str]()
    if task.documents is None:
        taken = "; ".join(f"{splits}: the {part} documents" for part, splits in parts.items())
        only = ": the data has no other part that is evaluated" if len(parts) == 1 else ""
        notes.append(f"{taken}{only}; `documents` in the task says otherwise")
    if shown:
        notes.append(
            f"examples are drawn from the {reported} documents, which are reported: prompts of others show them "
            "with their answers; `fewshot_split` in the YAML says otherwise"
        )
    return notes


def _shots_from(leaf: HarnessTask) -> str:
    """Returns the data set's split from which examples are drawn, by lm-eval's rule; empty if none are."""
    config = leaf.config
    if not config.num_fewshot:
        return ""
    named = getattr(config.fewshot_config, "split", None) or config.fewshot_split
    if named or getattr(config.fewshot_config, "samples", None) is not None:
        return str(named or "")
    return str(config.training_split or config.validation_split or config.test_split)
