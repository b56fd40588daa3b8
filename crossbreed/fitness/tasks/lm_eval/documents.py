"""The documents of an lm-eval task: loaded, rendered and turned into requests once, and scored one by one."""

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, TypeAlias

from crossbreed.errors import InputError
from crossbreed.fitness.items import SPLITS, Item, content_of
from crossbreed.fitness.tasks.lm_eval.harness import HarnessTask, name_of
from crossbreed.fitness.tasks.prompts import folded
from crossbreed.fitness.values import FieldValue
from crossbreed.types import SplitName, canonical_json, content_id

Part: TypeAlias = Literal["training", "validation", "test"]
"""A part of a data set, by what lm-eval's configurations call it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How documents become prompts."""

    chat: Callable[..., str] | None
    """Writes a chat as text; None: prompts are plain text."""
    shots_as_turns: bool
    system: str | None
    limit: int | None
    shot_seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One document of a task, with lm-eval's requests for it."""

    item: Item
    part: Part
    """Of the data."""
    task: HarnessTask
    instances: tuple[Any, ...]
    """lm-eval's requests, in its order."""
    asks: str
    """What the model is asked, without examples: two documents that share it ask the same."""
    target: str
    """The right answer, of several the first; of options, its text; empty if there is none."""
    options: tuple[str, ...]
    """The texts of which one is the most likely; empty where the model writes, or a text is scored."""
    place: int | None
    """Where the right option stands; None: there are none, or nobody says."""

    @property
    def doc(self) -> Any:
        """The document as the task's functions get it."""
        return self.instances[0].doc


def parts_of(leaves: Sequence[HarnessTask], wanted: Mapping[SplitName, Part] | None, *, where: str) -> dict[Part, str]:
    """Returns each part of the data that is used, with the splits that take their items from it, in words.

    Args:
        leaves: The tasks.
        wanted: Split -> part; None: the report takes what lm-eval evaluates, the others the validation part if it is
            another one.
        where: For messages.

    Raises:
        InputError: a task has no such part.
    """
    chosen = wanted or _usual(leaves, where)
    for leaf in leaves:
        has = _has(leaf)
        if missing := [part for part in chosen.values() if part not in has]:
            raise InputError(
                f"the task `{name_of(leaf)}` has no {missing[0]} documents",
                expected=" or ".join(has) or "a split in its YAML: `test_split: test`",
                got=f"documents: {{{', '.join(f'{split}: {part}' for split, part in chosen.items())}}}",
                where=where,
                fix="name parts that it has in `documents`, or the data set's split in its YAML",
            )
    return {part: ", ".join(split for split in SPLITS if chosen[split] == part) for part in _in_order(chosen)}


def _in_order(chosen: Mapping[SplitName, Part]) -> list[Part]:
    return list(dict.fromkeys(chosen[split] for split in SPLITS))


def _has(leaf: HarnessTask) -> list[Part]:
    found: dict[Part, bool] = {
        "training": leaf.has_training_docs(),
        "validation": leaf.has_validation_docs(),
        "test": leaf.has_test_docs(),
    }
    return [part for part, is_there in found.items() if is_there]


def _usual(leaves: Sequence[HarnessTask], where: str) -> dict[SplitName, Part]:
    parts: tuple[Part, ...] = ("test", "validation", "training")
    evaluated = [part for part in parts if all(part in _has(leaf) for leaf in leaves)]
    if not evaluated:
        raise InputError(
            "the tasks of a group have no part of their data in common",
            expected="test, validation or training documents in each",
            got="; ".join(f"{name_of(leaf)}: {', '.join(_has(leaf)) or 'none'}" for leaf in leaves[:4]),
            where=where,
            fix="give the tasks of the group one by one",
        )
    report = evaluated[0]
    search: Part = "validation" if "validation" in evaluated else report
    return {"search": search, "select": search, "report": report}


def documents_of(leaf: HarnessTask, part: Part, shape: Shape, *, prefix: str, splits: str) -> Iterator[Document]:
    """Yields the documents of a part of a task's data, rendered as lm-eval renders them when it evaluates that part.

    Args:
        leaf: The task, which evaluates that part.
        part: The part.
        shape: How they become prompts.
        prefix: Of their ids.
        splits: The splits that may take them, in words.
    """
    leaf.set_fewshot_seed(shape.shot_seed)
    leaf.build_all_requests(
        limit=shape.limit,
        system_instruction=shape.system,
        apply_chat_template=shape.chat is not None,
        fewshot_as_multiturn=shape.chat is not None and shape.shots_as_turns,
        chat_template=shape.chat,
    )
    allowed = tuple(split for split in SPLITS if split in splits.split(", "))
    for number, of_one in groupby(leaf.instances, key=lambda instance: instance.doc_id):
        instances = tuple(sorted(of_one, key=lambda instance: instance.idx))
        doc = instances[0].doc
        fields = _fields(doc) | ({"task": name_of(leaf)} if prefix else {})
        options = tuple(map(str, leaf.doc_to_choice(doc))) if leaf.OUTPUT_TYPE == "multiple_choice" else ()
        yield Document(
            item=Item(id=f"{prefix}{part}-{number}", fields=fields, splits=allowed),
            part=part,
            task=leaf,
            instances=instances,
            asks=_asks(leaf, doc),
            target=str(_target(leaf, doc)),
            options=options,
            place=_place(leaf, doc, options) if options else None,
        )


def without_repeats(documents: Sequence[Document]) -> tuple[list[Document], int]:
    """Returns the documents of which none asks what one before it asks, and how many do."""
    kept = dict[str, Document]()
    for one in documents:
        kept.setdefault(one.asks, one)
    return list(kept.values()), len(documents) - len(kept)


def results_of(document: Document, answers: Sequence[Any], ensemble: Any, *, repeats: int) -> Mapping[str, Any]:
    """Returns what lm-eval's task makes of the answers to a document: metric -> entry.

    Args:
        document: The document.
        answers: An answer, or as many as the task repeats, for each of its instances.
        ensemble: The filters.
        repeats: How often one answer counts.
    """
    asked = [
        replace(instance, resps=list(given) if isinstance(given, list) else [given] * repeats, filtered_resps={})
        for instance, given in zip(document.instances, answers, strict=True)
    ]
    ensemble.apply(asked)
    found: Mapping[str, Any] = document.task.process_results(
        document.doc, [instance.filtered_resps[ensemble.name] for instance in asked]
    )
    return found


def remember_targets(leaf: HarnessTask) -> None:
    """Makes a task remember its documents' right answers: its template is compiled for each, at every score."""
    template, known = leaf.config.doc_to_target, dict[int, tuple[Any, Any]]()
    if not isinstance(template, str):
        return

    def remembered(doc: Any) -> Any:
        if id(doc) not in known:  # the document is kept, so that no other one gets its id
            known[id(doc)] = doc, leaf.doc_to_target(doc, template)
        _, found = known[id(doc)]
        return list(found) if isinstance(found, list) else found

    leaf.set_config("doc_to_target", remembered)


def questions_in(document: Document) -> frozenset[str]:
    """Returns texts that a document shares with any other that asks the same, in whatever frame."""
    fields = _fields(document.doc)
    target = folded(document.target).casefold()
    longer = [text for text in map(_folded, fields.values()) if len(text.split()) >= 4]
    return frozenset((content_of(fields), document.asks, *(f"{text.casefold()}\n{target}" for text in longer)))


def identity_of(leaves: Sequence[HarnessTask], documents: Sequence[Document]) -> str:
    """Returns a hash of the tasks' configurations and functions, and of all that the model is asked."""
    settings = [
        _plain({key: value for key, value in vars(leaf.config).items() if key not in _PLACES}) for leaf in leaves
    ]
    asked = hashlib.sha256()
    for one in documents:
        for instance in one.instances:
            asked.update(repr((one.item.id, instance.request_type, instance.args)).encode("utf-8", "replace"))
    return content_id(canonical_json([settings, asked.hexdigest()]))


def files_of(leaf: HarnessTask) -> list[str]:
    """Returns the local files that a task's data is read from."""
    found = (leaf.config.dataset_kwargs or {}).get("data_files")
    named = list(found.values()) if isinstance(found, Mapping) else [found]
    flat = [one for some in named for one in (some if isinstance(some, list) else [some])]
    return [one for one in flat if isinstance(one, str) and Path(one).is_file()]


def state_of(file: str) -> tuple[int, int]:
    """Returns a file's size and time of change; zeros where it is gone."""
    if not Path(file).is_file():
        return 0, 0
    found = Path(file).stat()
    return found.st_size, found.st_mtime_ns


_PLACES = ("metadata", "dataset_kwargs", "test_split")
"""Where files are, and what is set to each part in turn."""


def _plain(value: Any) -> Any:  # a configuration
    """Returns a configuration as JSON; of a function, its name and the whole source of its file."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, partial):
        return [_plain(value.func), _plain(value.args), _plain(value.keywords)]
    if callable(value):
        file = inspect.getsourcefile(inspect.unwrap(value)) if hasattr(value, "__code__") else None
        source = content_id(Path(file).read_text("utf-8", "replace")) if file else ""
        return f"{getattr(value, '__qualname__', type(value).__qualname__)}@{source}"
    return _plain(vars(value)) if hasattr(value, "__dict__") else str(value)


def _asks(leaf: HarnessTask, doc: Any) -> str:
    """Returns what a document asks, without examples: its text, its options, and what of it is scored."""
    parts: list[object] = [name_of(leaf) if leaf.OUTPUT_TYPE is None else "", leaf.doc_to_text(doc)]
    if getattr(leaf.config, "doc_to_choice", None) is not None:
        parts += [*map(str, leaf.doc_to_choice(doc))]
    elif leaf.OUTPUT_TYPE != "generate_until":
        parts.append(leaf.doc_to_target(doc))
    return "\n".join(_folded(part) for part in parts)


def _folded(value: object) -> str:
    return folded(value) if isinstance(value, str) else canonical_json(_json(value))


def _target(leaf: HarnessTask, doc: Any) -> Any:
    if leaf.OUTPUT_TYPE == "loglikelihood_rolling":
        return ""
    target = leaf.doc_to_target(doc)
    if getattr(leaf.config, "doc_to_choice", None) is not None and isinstance(target, int):
        choices = leaf.doc_to_choice(doc)
        return choices[target] if 0 <= target < len(choices) else ""
    return (target[0] if target else "") if isinstance(target, list) else target


def _place(leaf: HarnessTask, doc: Any, options: Sequence[str]) -> int | None:
    """Returns the place of the right option; where prompts differ instead of options, of the right prompt."""
    gold = leaf.doc_to_text(doc) if getattr(leaf, "multiple_input", 0) else leaf.doc_to_target(doc)
    gold = gold[0] if isinstance(gold, list) and gold else gold
    if isinstance(gold, str):
        gold = options.index(gold) if gold in options else None
    return gold if isinstance(gold, int) and 0 <= gold < len(options) else None


def _fields(doc: Any) -> dict[str, FieldValue]:
    return {str(key): _json(value) for key, value in doc.items()} if isinstance(doc, Mapping) else {"doc": _json(doc)}


def _json(value: Any) -> FieldValue:  # whatever a data set holds
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {str(key): _json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_json(one) for one in value]
    return str(value)
