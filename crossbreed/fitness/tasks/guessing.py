"""Guesses how a file of items is asked: its fields, the kind of task, the metric; for `crossbreed init`.

Fields are told by their names and by what they hold. A guess is only made where the kind itself accepts every item;
where several fields may hold the gold answer, or none, the question is asked instead.
"""

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Literal, TypeAlias

from crossbreed.errors import InputError
from crossbreed.fitness.item_files import load_items
from crossbreed.fitness.items import Item
from crossbreed.fitness.tasks.choice import ChoiceTask
from crossbreed.fitness.tasks.metrics import METRICS
from crossbreed.fitness.tasks.prompts import is_chat
from crossbreed.parsing import any_of, shown, suggestion, visible

Settings: TypeAlias = dict[str, Any]
Sureness: TypeAlias = Literal["sure", "likely", "a guess"]

_ID = "id"
_GOLDS = (
    *("answer", "answers", "gold", "golds", "gold_answer", "correct_answer", "correct_answers", "correct"),
    *("correct_option", "correct_choice", "target", "targets", "label", "labels", "answerkey", "answer_key"),
    *("answer_index", "answer_idx", "correct_index", "correct_idx", "output", "outputs", "completion", "response"),
    *(
        "expected",
        "expected_answer",
        "expected_output",
        "solution",
        "final_answer",
        "reference",
        "references",
        "a",
        "y",
    ),
)
"""Names that gold answers have, those first that are golds where others are there too; questions likewise."""
_QUESTIONS = (
    *("question", "prompt", "query", "problem", "instruction", "input", "user", "source", "sentence", "utterance"),
    *("q", "x", "text", "ctx", "stem"),
)
_CONTEXTS = ("context", "passage", "document", "article", "paragraph", "input")
_TEXTS = ("text", "content", "document", "article", "passage", "body", "story", "prose")
_OPTIONS = re.compile(r"(?:(?:option|choice|answer|ending|opt|sol)[ _-]?)?([a-h]|[0-9])", re.IGNORECASE)
"""A column that holds one option, as `A`, `option_b` or `choice1`."""
_MANY_OPTIONS = 3
"""So many columns named as options are options."""
_UNWRITABLE = set(".[]{}!:")
"""Characters of a field's name that mean something else in a prompt."""
_NUMERAL = re.compile(r"(?<![^\W\d_])\d[\d.,'\u2019_]*(?:[eE][-+\u2212]?\d+)?")
"""Digits that no letter stands before."""
_LONG_WORDS = 30
"""A gold of more words is a text, which no answer equals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """One thing that was guessed."""

    what: str
    sure: Sureness
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """How a file of items may be asked."""

    settings: Settings
    """The keys of a task in a spec, but `name`, `items` and what the model decides."""
    items: tuple[Item, ...]
    remarks: tuple[Remark, ...]


def guess_task(path: Path, *, answers: Sequence[str], prompts: Sequence[str], in_chats: bool) -> Guess:
    """Guesses the kind and settings of a task from its items.

    Args:
        path: The file.
        answers: Fields of gold answers that the user has named: the first that the file has is its own.
        prompts: Fields of questions, likewise.
        in_chats: Whether prompts should go through the chat template.

    Raises:
        InputError: the file cannot be read, or the items do not say which field is which; the message has the option
            that does.
    """
    items = load_items(path)
    fields = _Fields(path, items)
    answer, prompt = (next((name for name in named if name in fields.names), None) for named in (answers, prompts))
    if (found := _options(fields, answer)) is not None:
        settings, gold = found
        asked, remarks = _asked(fields, prompt, gold=gold, others=_listed(settings["choices"]), in_chats=in_chats)
        return Guess(settings={**settings, **asked}, items=items, remarks=(*_of_choice(settings, fields), *remarks))
    if answer is None and prompt is None and (text := _only_text(fields)) is not None:
        return Guess(
            settings={"kind": "perplexity", "text": text},
            items=items,
            remarks=(Remark(what=f"perplexity of `{text}`", sure="likely", why="it is the only field"),),
        )
    gold, sure = _gold(fields, answer)
    asked, remarks = _asked(fields, prompt, gold=gold, others=(), in_chats=in_chats)
    metric, why = _metric(fields, gold)
    told = (
        Remark(what=f"gold `{gold}`", sure=sure, why="its name" if answer is None else "--answer-field"),
        Remark(what=f"metric {metric}", sure="likely", why=why),
    )
    settings = {"kind": "generate", **asked, "answer": gold, "metric": metric}
    return Guess(settings=settings, items=items, remarks=(*told, *remarks))


def require_field(name: str, paths: Sequence[Path], *, flag: str) -> None:
    """Raises InputError unless some file has a field that the user has named."""
    known = list(dict.fromkeys(field for path in paths for field in _Fields(path, load_items(path)).names))
    if name not in known:
        raise InputError(
            f"no file has the field `{name}` in every item",
            expected=f"one of {any_of(known)}",
            where=flag,
            fix=suggestion(name, known) or "name one of them",
        )


class _Fields:
    """The fields that every item has, but its id."""

    def __init__(self, path: Path, items: Sequence[Item]) -> None:
        self.path, self.items = path, items
        everywhere = set(items[0].fields).intersection(*(item.fields for item in items))
        self.names = [name for name in items[0].fields if name in everywhere and name != _ID]

    def values(self, name: str) -> list[Any]:
        return [item.fields[name] for item in self.items]

    def all(self, name: str, test: Callable[[Any], bool]) -> bool:
        return all(map(test, self.values(name)))

    def texts(self) -> list[str]:
        """Returns the fields that hold texts alone, none of them empty."""
        return [
            name for name in self.names if self.all(name, lambda value: isinstance(value, str) and value.strip() != "")
        ]

    def golds(self) -> list[str]:
        """Returns the fields that may hold gold answers: texts, numbers, or lists of them."""
        return [name for name in self.names if self.all(name, _is_gold)]

    def is_count(self, name: str) -> bool:
        """Returns whether a field holds the numbers of the items."""
        texts = [str(value) for value in self.values(name)]
        return all(map(str.isdecimal, texts)) and [int(text) - int(texts[0]) for text in texts] == [*range(len(texts))]

    def named(self, names: Sequence[str], among: Sequence[str]) -> list[str]:
        """Returns those of the fields that have one of these names, in the order of the names."""
        return [field for name in names for field in among if field.casefold() == name]

    def question(self, problem: str, flag: str, among: Sequence[str]) -> InputError:
        first = {visible(name): shown(self.items[0].fields[name])[:60] for name in self.names}
        return InputError(
            problem,
            expected=f"{flag} FIELD",
            got="; ".join(f"{name}: {value}" for name, value in first.items())[:280] or "no common field",
            where=str(self.path),
            fix=f"add {flag} {shlex.quote(next(iter(among), 'FIELD'))}" + ", or another of them" * (len(among) > 1),
        )


def _is_gold(value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and all(map(_is_one, value))
    return _is_one(value)


def _is_one(value: object) -> bool:
    return _is_text(value) or (isinstance(value, int | float) and not isinstance(value, bool))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.strip() != ""


def _listed(choices: str | list[str]) -> list[str]:
    return [choices] if isinstance(choices, str) else choices


def _options(fields: _Fields, answer: str | None) -> tuple[Settings, str] | None:
    """Returns the settings of a choice that accepts every item, with its gold; None if there is none."""
    golds = fields.golds() if answer is None else [answer]
    named = fields.named(_GOLDS, golds) if answer is None else golds
    for choices in _candidates(fields):
        others = [gold for gold in golds if gold not in _listed(choices)]
        for gold in [*(gold for gold in named if gold in others), *(gold for gold in others if gold not in named)]:
            for gold_is in (None, "index_from_1"):
                settings = {"kind": "choice", "choices": choices, "answer": gold}
                settings |= {} if gold_is is None else {"gold_is": gold_is}
                if _accepts(settings, fields):
                    return settings, gold
        if others:
            _require_options(choices, others[0], fields)
    return None


def _require_options(choices: str | list[str], gold: str, fields: _Fields) -> None:
    """Refuses columns that are options by their names and cannot be in some items: they are no golds or questions."""
    if isinstance(choices, str) or len(choices) < _MANY_OPTIONS:
        return
    task = ChoiceTask(name="guess", items=str(fields.path), prompt="{x}", kind="choice", choices=choices, answer=gold)
    refused = [error for item in fields.items if (error := task.why_no_options(item))]
    if refused:
        raise InputError(
            f"the columns {', '.join(choices)} look like options, but {len(refused)} of {len(fields.items)} lack some",
            expected=refused[0].expected,
            got=refused[0].got,
            where=refused[0].where,
            fix="correct the items; remove a column that is empty everywhere; or give the columns other names",
        )


def _candidates(fields: _Fields) -> Iterator[str | list[str]]:
    """Yields fields that hold lists of options, and sets of columns that hold one option each."""
    for name in fields.names:
        if fields.all(name, lambda value: isinstance(value, list) and len(value) > 1 and all(map(_is_one, value))):
            yield name
    columns: dict[str, dict[str, str]] = {}
    for name in fields.names:
        if found := _OPTIONS.fullmatch(name):
            columns.setdefault(name[: found.start(1)].casefold(), {})[found[1].upper()] = name
    for marks in columns.values():
        for row in (ascii_uppercase, "123456789", "0123456789"):
            kept = [marks[mark] for mark, _ in zip(row, marks, strict=False) if mark in marks]
            if 1 < len(kept) == len(marks):
                yield kept


def _accepts(settings: Settings, fields: _Fields) -> bool:
    """Returns whether a choice accepts every item."""
    if settings["answer"] not in fields.names:
        return False
    task = ChoiceTask(name="guess", items=str(fields.path), prompt="{x}", **settings)
    try:
        task.load_items()
        for item in fields.items:
            task.shown(item)
    except InputError:
        return False
    return True


def _of_choice(settings: Settings, fields: _Fields) -> tuple[Remark, ...]:
    choices = settings["choices"]
    options = f"columns {', '.join(choices)}" if isinstance(choices, list) else f"options in `{choices}`"
    what = f"choice: {options}, gold `{settings['answer']}`"
    if "gold_is" not in settings:
        return (Remark(what=what, sure="sure", why="gold as every item has it"),)
    if _accepts(settings | {"gold_is": "index"}, fields):
        why = "no gold is 0, none the number of options; set `gold_is: index` if it counts from 0"
        return (Remark(what=f"{what}, counted from 1", sure="a guess", why=why),)
    return (Remark(what=what, sure="sure", why="gold counted from 1"),)


def _only_text(fields: _Fields) -> str | None:
    """Returns the one field of a file that holds nothing but texts."""
    texts = fields.texts()
    named = fields.named(_TEXTS, texts)
    if len(fields.names) == 1 and texts and (named or not fields.named(_QUESTIONS, texts)):
        return texts[0]
    asks = fields.named((*_GOLDS, *_QUESTIONS), [name for name in fields.names if name not in named])
    return named[0] if named and not asks and len(texts) == 1 else None


def _gold(fields: _Fields, answer: str | None) -> tuple[str, Sureness]:
    if answer is not None:
        return answer, "sure"
    golds = fields.golds()
    named = fields.named(_GOLDS, golds)
    if not named:
        ends = [name for name in fields.names if fields.all(name, is_chat) and not fields.all(name, _ends_with_user)]
        if ends:
            raise _own_turns(fields, ends[0])
        if gap := _gap(fields):
            raise gap
        among = _likely_golds(fields, golds)
        if not among:
            raise InputError(
                "no field of the items can be the gold answer",
                expected="a field with the right answer: a text, a number, or a list of them",
                got=any_of(fields.names),
                where=str(fields.path),
                fix="add one; if these are texts to be likely, not questions, call the field `text`",
            )
        raise fields.question("which field holds the gold answer?", "--answer-field", among)
    return named[0], "sure" if len(named) == 1 else "likely"


def _likely_golds(fields: _Fields, golds: Sequence[str]) -> list[str]:
    """Returns the fields that may hold the gold answer, without the question's: where none is named so, the longest."""
    if asked := fields.named(_QUESTIONS, fields.names)[:1]:
        return [name for name in golds if name not in asked]
    lengths = {name: sum(len(str(value)) for value in fields.values(name)) for name in golds}
    longest = max(lengths, key=lengths.__getitem__, default="")
    return sorted(golds, key=lambda name: (name == longest, fields.is_count(name)))


def _gap(fields: _Fields) -> InputError | None:
    """Returns the first item that lacks the answer which others have under a gold's name, if that is what is wrong."""
    everywhere = list(dict.fromkeys(name for item in fields.items for name in item.fields))
    for name in fields.named(_GOLDS, everywhere):
        held = [item for item in fields.items if _is_gold(item.fields.get(name))]
        lacking = next((item for item in fields.items if not _is_gold(item.fields.get(name))), None)
        if lacking is not None and 2 * len(held) > len(fields.items):
            return InputError(
                f"`{name}` holds the right answer of {len(held)} of {len(fields.items)} items",
                expected="a text, a number, or a list of them, in every item",
                got=shown(lacking.fields[name]) if name in lacking.fields else "no such field",
                where=lacking.where,
                fix="correct the item or remove it; or name another field: --answer-field FIELD",
            )
    return None


def _ends_with_user(turns: Sequence[Mapping[str, str]]) -> bool:
    return turns[-1]["role"] == "user"


def _own_turns(fields: _Fields, name: str) -> InputError:
    """Returns how to divide chats that end with the model's own turn into a chat and its gold answer."""
    source, target = str(fields.path), str(fields.path.with_name(f"{fields.path.stem}-asked.jsonl"))
    split = (
        f"import json; items = [json.loads(line) for line in open({source!r}, encoding='utf-8') if line.strip()]; "
        f"open({target!r}, 'w', encoding='utf-8').writelines(json.dumps({{**item, {name!r}: item[{name!r}][:-1], "
        f"'answer': item[{name!r}][-1]['content']}}, ensure_ascii=False) + chr(10) for item in items)"
    )
    return InputError(
        f"the chats in `{name}` end with the model's own turn, and no field holds the gold answer",
        expected="chats that end with the user's turn, and the answer in a field of its own",
        where=str(fields.path),
        fix=f"python -c {shlex.quote(split)}",
    )


def _asked(
    fields: _Fields, prompt: str | None, *, gold: str, others: Sequence[str], in_chats: bool
) -> tuple[Settings, tuple[Remark, ...]]:
    """Returns how the question is put, with remarks."""
    chats = [name for name in fields.names if fields.all(name, is_chat)]
    if chats and prompt in (None, chats[0]):
        if not fields.all(chats[0], _ends_with_user):
            raise _own_turns(fields, chats[0])
        told = Remark(what=f"chats in `{chats[0]}`", sure="sure", why="lists of role and content")
        return {"messages": chats[0], "chat_template": True}, (told,)
    texts = [name for name in fields.texts() if name != gold and name not in others]
    named = fields.named(_QUESTIONS, texts)
    question = prompt or next(iter(named), texts[0] if len(texts) == 1 else None)
    if question is None:
        raise fields.question("which field holds the question?", "--prompt-field", texts)
    sure: Sureness = "sure" if prompt or len(named) == 1 else "likely"
    context = [name for name in fields.named(_CONTEXTS, texts) if name != question][:1]
    if unwritable := [name for name in (*context, question) if _UNWRITABLE & set(name)]:
        raise InputError(
            f"the name of the field `{unwritable[0]}` cannot stand in a prompt",
            expected=f"a name without {' '.join(sorted(_UNWRITABLE))}",
            where=str(fields.path),
            fix="rename the field",
        )
    text = _text(fields, context, question, in_chats)
    why = "--prompt-field" if prompt else "its name" if named else "the only other text"
    told = Remark(what=f"question {' and '.join(f'`{name}`' for name in (*context, question))}", sure=sure, why=why)
    form = Remark(
        what="chat template" if in_chats else "plain prompt",
        sure="a guess",
        why="write the prompt as the experts were trained on it",
    )
    return {"prompt": text, **({"chat_template": True} if in_chats else {})}, (told, form)


def _text(fields: _Fields, context: Sequence[str], question: str, in_chats: bool) -> str:
    """Returns the prompt: the question, unless it is a whole prompt already, between labels."""
    place = f"{{{question}}}"
    if context and question.casefold() == "instruction":  # which the input follows
        place = f"{place}\n{{{context[0]}}}"
    elif context:
        place = f"{{{context[0]}}}\n\n{place}" if in_chats else f"{{{context[0]}}}\n\nQuestion: {place}"
    if in_chats or (not context and fields.all(question, lambda value: value.rstrip()[-1:] in ("=", ":", ">"))):
        return place
    return f"{place}\nAnswer:" if context else f"Question: {place}\nAnswer:"


def _unit(gold: str) -> str | None:
    """Returns the words beside the number of a gold answer; None if the digits are part of a word: `B12`.

    >>> _unit("48 / 2 = 24 #### 24 km"), _unit("1.5e3"), _unit("B12"), _unit("May 5")
    ('km', '', None, 'may')
    """
    rest = _NUMERAL.sub(" ", gold.rpartition("####")[2])
    return None if re.search(r"\d", rest) else " ".join(re.findall(r"[^\W\d_]+", rest)).casefold()


def _metric(fields: _Fields, gold: str) -> tuple[str, str]:
    """Returns the metric of generated answers, and why."""
    texts = [str(one) for value in fields.values(gold) for one in (value if isinstance(value, list) else [value])]
    units = set(map(_unit, texts))
    if len(units) == 1 and None not in units and all(METRICS["number"].can_match(text) for text in texts):
        return "number", "every gold is a number"
    if max(len(text.split()) for text in texts) > _LONG_WORDS:
        return "exact_match", "but some golds are long texts, which no answer equals: shorten them, or rank options"
    return "exact_match", "golds are short texts"
