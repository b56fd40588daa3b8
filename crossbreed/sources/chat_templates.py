"""How a folder writes a chat down as text. A template is a program; it is judged by what it writes."""

from collections.abc import Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path

from crossbreed.bounded import Begin
from crossbreed.errors import InputError, first_line
from crossbreed.sources.json_files import read_json_if_there
from crossbreed.sources.tokenization import CONFIG, Tokenizer, reading_texts, shared_tokenizer, tokenizer_file

TODAY = date(2024, 7, 26)
"""What chat templates that write the date are told, so that a prompt is the same on every day. Templates that fall back
on a date of their own fall back on this one."""
TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_FILES = ("additional_chat_templates/default.jinja", TEMPLATE_FILE)
"""The files with a folder's template, in the order in which transformers prefers them."""
_USER = {"role": "user", "content": "How many are two and two?"}
_CHATS = ([_USER], [{"role": "system", "content": "Be brief."}, _USER])


def render_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, str]],
    *,
    template: str | None = None,
    goes_on: bool = False,
) -> str:
    """Returns a chat as a template writes it, up to where the answer begins.

    Args:
        tokenizer: The tokenizer whose special tokens the template may use.
        messages: The chat.
        template: Another template than the tokenizer's own.
        goes_on: Whether the last message is the beginning of the answer, which is not ended.

    Raises:
        InputError: the template refuses the chat, or is broken.
    """
    try:
        text: str = tokenizer.apply_chat_template(
            list(messages),
            tokenize=False,
            add_generation_prompt=not goes_on,
            continue_final_message=goes_on,
            strftime_now=TODAY.strftime,
            chat_template=template,
        )
    except Exception as error:  # whatever a template raises
        raise InputError(
            "the chat template does not write this chat down",
            expected=" and ".join(f"a {message['role']}'s message" for message in messages),
            got=first_line(error),
            where=str(tokenizer.name_or_path),
            fix="leave out `system` if the template takes none, or set `chat_template: false` in the tasks",
        ) from error
    return text


def template_of(folder: Path) -> str | None:
    """Returns the text of a folder's chat template; None: it has none.

    Raises:
        InputError: tokenizer_config.json cannot be read.
    """
    for name in TEMPLATE_FILES:
        if (folder / name).is_file():
            return (folder / name).read_text(encoding="utf-8", errors="replace")
    found = read_json_if_there(folder / CONFIG).get("chat_template")
    if isinstance(found, list):  # several by name
        named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def other_chat(base: Path, expert: Path) -> tuple[str, str] | None:
    """Returns what two folders make of one chat, if that is not the same; None too where the expert has no template.

    Raises:
        InputError: a tokenizer cannot be read, or a template does not come to an end.
    """
    ours, theirs = template_of(base), template_of(expert)
    if theirs is None or ours == theirs:
        return None
    return reading_texts(partial(_other_chat, base, expert, ours, theirs), base, expert)


def _other_chat(base: Path, expert: Path, ours: str | None, theirs: str, begin: Begin) -> tuple[str, str] | None:
    tokens = expert if tokenizer_file(expert) else base
    for chat in _CHATS:
        begin(f"the chat template of {base}")
        one = "no chat template" if ours is None else _written(base, ours, chat)
        begin(f"the chat template of {expert}")
        other = _written(tokens, theirs, chat)
        if one != other:
            return one, other
    return None


def _written(tokens: Path, template: str, chat: Sequence[Mapping[str, str]]) -> str:
    try:
        return render_chat(shared_tokenizer(tokens), chat, template=template)
    except InputError as error:
        return f"an error: {error.got}"
