"""Prompts: a template filled with an item's fields, or the turns of a chat that the item holds."""

import re
import string
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from crossbreed.errors import InputError, excerpt
from crossbreed.fitness.items import Item, field_of, no_field
from crossbreed.fitness.values import text_of

_ROLES = ("system", "user", "assistant")
_BRACES = "double a literal brace: {{ and }}"
_MOST_WIDTH = 10_000
"""Of a field in a prompt, and its precision: some thousand times more fill the memory."""


def fill_prompt(template: str, item: Item, *, task: str, shows_chats: bool = False) -> str:
    """Returns a format string filled with an item's fields.

    >>> fill_prompt("{a} + {b} =", Item(id="1", fields={"a": 1, "b": 2}), task="sums")
    '1 + 2 ='

    Args:
        template: The format string.
        item: The item.
        task: The name of its task, for messages.
        shows_chats: Whether a field may hold a chat, which is then shown as `as_text` writes it.

    Raises:
        InputError: it names a field that the item does not have or that is neither text nor number, or is not a format
            string.
    """
    try:
        return _Filler(item, task, shows_chats).vformat(template, (), item.fields)
    except InputError:
        raise
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise InputError(
            f"the prompt cannot be filled with item `{item.id}`: {error}",
            expected=f"field names in braces; {_BRACES}",
            got=excerpt(template, at_most=200),
            where=item.place(task),
            fix=_BRACES,
        ) from None


def field_names(template: str) -> tuple[str, ...]:
    """Returns the names of the fields in a template; empty if it has none or is not a format string."""
    try:
        parts = [name for _, name, _, _ in string.Formatter().parse(template) if name]
    except ValueError:
        return ()
    return tuple(dict.fromkeys(_root(name) for name in parts))


def misread_field(template: str) -> str:
    """Returns a name in doubled braces, which other tools take for a field; empty if there is none."""
    found = re.search(r"\{\{\s*(\w+)\s*\}\}", template)
    return found.group(1) if found else ""


def delimiter_after(prompt: str) -> str:
    r"""Returns what separates an answer from its prompt: a space, unless the prompt ends in white space.

    >>> delimiter_after("A:"), delimiter_after("A: "), delimiter_after("A:\n")
    (' ', '', '')
    """
    return " " * (not prompt[-1:].isspace())


def folded(text: str) -> str:
    """Returns a text in Unicode's normal form C, with one space for each stretch of white space."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def turns_of(item: Item, name: str, *, task: str) -> tuple[tuple[str, str], ...]:
    """Returns the (role, content) of each turn of the chat in a field, the last one by the user.

    Raises:
        InputError: the field holds no such chat.
    """
    value = field_of(item, name, task=task)
    turns = [_turn(turn) for turn in value] if isinstance(value, list) else []
    roles = [turn and turn[0] for turn in turns]
    if not turns or None in turns or roles[-1] != "user" or "system" in roles[1:]:
        ends = "; the last turn is the model's own" * (roles[-1:] == ["assistant"])
        raise InputError(
            f"item `{item.id}` has no chat to answer",
            expected=f"a list of {{role: {' | '.join(_ROLES)}, content: text}}, `system` only first, `user` last",
            got=f"{excerpt(str(value), at_most=150)}{ends}",
            where=item.place(task, name),
            fix="move the model's last turn into the field of the answer" if ends else "correct the item",
        )
    return tuple(turn for turn in turns if turn is not None)


def is_chat(value: object) -> bool:
    """Returns whether a value is a list of chat turns, whoever has the last."""
    return isinstance(value, list) and bool(value) and None not in map(_turn, value)


def as_text(chat: Sequence[Mapping[str, str]]) -> str:
    r"""Returns a chat as a text: its turns, each behind its role, with an empty line between two.

    >>> as_text([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}])
    'user: Hi\n\nassistant: Hello'
    """
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in chat)


def _turn(value: object) -> tuple[str, str] | None:
    if not isinstance(value, Mapping):
        return None
    role, content = value.get("role"), value.get("content")
    return (
        (role, content) if role in _ROLES and isinstance(content, str) and set(value) == {"role", "content"} else None
    )


def _root(name: str) -> str:
    return re.split(r"[.\[]", name)[0]


class _Filler(string.Formatter):
    """Fills in texts and numbers as they are written, and refuses all else by name."""

    def __init__(self, item: Item, task: str, shows_chats: bool) -> None:
        self._item, self._task, self._shows_chats = item, task, shows_chats

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, str]:
        """Returns the text or number in a field; the number with its text unless a format is asked for."""
        root = _root(field_name)
        if root not in self._item.fields:
            raise self._unknown(root)
        value, _ = super().get_field(field_name, args, kwargs)
        if self._shows_chats and is_chat(value):
            value = as_text(value)
        try:
            return _Shown(value, text_of(value)), root
        except ValueError as error:
            raise InputError(
                f"item `{self._item.id}` cannot be shown in the prompt",
                expected=f"a text{', a chat' * self._shows_chats} or a number in `{field_name}`",
                got=str(error),
                where=self._item.place(self._task, root),
                fix="write it as a text or as a list of {role, content}, or name another field"
                if self._shows_chats
                else "write it as a text, or name another field (`messages: FIELD` for a list of chat turns)",
            ) from None

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        """Converts the value itself."""
        return value if conversion is None else super().convert_field(value.value, conversion)

    def format_field(self, value: Any, format_spec: str) -> str:
        """Returns the text as it is written, or the value in a given format."""
        if too_large := [size for size in re.findall(r"\d+", format_spec) if len(size) > 9 or int(size) > _MOST_WIDTH]:
            raise InputError(
                "a field of the prompt has too large a width or precision",
                expected=f"at most {_MOST_WIDTH} characters",
                got=f"{too_large[0]} in the format `{format_spec}`"[:200],
                where=self._item.place(self._task),
                fix="lower the number, or leave it out",
            )
        if not isinstance(value, _Shown):
            return format(value, format_spec)
        return format(value.value, format_spec) if format_spec else value.text

    def _unknown(self, name: str) -> InputError:
        is_literal = not name.isidentifier() and not any(name in other for other in self._item.fields if name)
        if not is_literal:
            return no_field(self._item, name, task=self._task, also=f"; or {_BRACES}")
        return InputError(
            "the prompt has a brace that begins no field",
            expected=f"a field of the item in braces; {_BRACES}",
            got="{}" if name.isdigit() else "{" + name + "...}",
            where=self._item.place(self._task),
            fix=_BRACES,
        )


class _Shown:
    """A value with its text."""

    __slots__ = ("text", "value")

    def __init__(self, value: object, text: str) -> None:
        self.value, self.text = value, text
