"""What belongs to an expert, changes its answers and is not a weight: configuration, tokenizer, chat template, ends.

A merge has one of each, the base's. Where an expert's is another one, its weights would answer otherwise than they do
in its own folder. So it is refused, unless the user accepts it by name; only the ends of a text can be kept of all.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from crossbreed.errors import InputError
from crossbreed.sources.advice import literal, python_command
from crossbreed.sources.chat_templates import TEMPLATE_FILE, other_chat, template_of
from crossbreed.sources.checkpoint import CONFIG, Checkpoint
from crossbreed.sources.model_config import ConfigDifference, compare_configs
from crossbreed.sources.tokenization import other_reading
from crossbreed.sources.untying import untie_command, untied_copy
from crossbreed.sources.vocabulary import check_vocabularies, end_tokens, unmet_tokens

TOKENIZER, CHAT_TEMPLATE = "tokenizer", "chat_template"
"""What may be accepted beside keys of config.json."""
_NEVER = frozenset({"model_type"})
"""Keys of which no merge can have the base's alone."""
_SHOWN = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Something of an expert that a merge has as the base has it."""

    expert: str
    key: str
    """A key of config.json, with dots where it is nested; or `tokenizer`, or `chat_template`."""
    ours: str
    """The base's, as a message shows it."""
    theirs: str
    """The expert's."""
    where: str
    """The expert's file or folder."""

    def __str__(self) -> str:
        return f"{self.key}: {self.theirs} in `{self.expert}`, {self.ours} in the base, whose is used"


def check_agreement(
    name: str, path: Path, base: Checkpoint, *, config: Checkpoint | None, accept: Collection[str] = ()
) -> tuple[Difference, ...]:
    """Compares an expert's configuration, tokenizer and chat template with the base's.

    Args:
        name: The expert's name in messages.
        path: Its folder.
        base: The opened base.
        config: The expert, if it is a full checkpoint; None for an adapter, which has no configuration of its own.
        accept: The differences to accept: keys of config.json, `tokenizer`, `chat_template`.

    Returns:
        What differs all the same: what is accepted, and the chat template, which matters where tasks use it.

    Raises:
        InputError: something else differs, or a file cannot be read.
    """
    found: list[Difference] = []
    if config is not None:
        found += _of_configs(name, config, base, accept)
    unmet = unmet_tokens(base.path, path, num_rows=base.num_tokens)
    check_vocabularies(
        base.path,
        path,
        name=name,
        unmet=unmet,
        may_append=TOKENIZER in accept,
        fix=_without_appended(path, base, config),
    )
    found += _of_tokenizers(name, path, base, accept, unmet)
    if (chats := other_chat(base.path, path)) is not None:
        ours, theirs = (repr(chat)[:_SHOWN] for chat in chats)
        found.append(Difference(expert=name, key=CHAT_TEMPLATE, ours=ours, theirs=theirs, where=str(path)))
    return tuple(found)


def check_chat_templates(differences: Collection[Difference], *, accept: Collection[str], base: Path) -> None:
    """Refuses to ask chats of experts that write them down otherwise than the base.

    Raises:
        InputError: one does, and `chat_template` is not accepted; or the base cannot write any.
    """
    for difference in differences:
        if difference.key == CHAT_TEMPLATE and (CHAT_TEMPLATE not in accept or template_of(base) is None):
            target = f"Path({literal(base / TEMPLATE_FILE)})"
            copy = python_command(
                "from pathlib import Path",
                "from crossbreed.sources.chat_templates import template_of",
                f"{target}.write_text(template_of(Path({literal(difference.where)})), encoding={literal('utf-8')})",
            )
            raise InputError(
                f"expert `{difference.expert}` writes a chat down otherwise than the base",
                expected=difference.ours,
                got=difference.theirs,
                where=difference.where,
                fix=f"to ask all in its way, give the base its template:\n{copy}\n"
                "to ask all in the base's way, `sources: {accept: [chat_template]}`; or set `chat_template: false`",
            )


def end_token_ids(path: Path, *, base: Checkpoint) -> frozenset[int]:
    """Returns the tokens that end a text by some file of a source's folder, as far as the base has rows for them."""
    rows = {token.id for token in end_tokens(path, vocabulary=base.path) if token.id is not None}
    num_rows = base.num_tokens
    return frozenset(row for row in rows if row >= 0 and (num_rows is None or row < num_rows))


def _of_configs(name: str, expert: Checkpoint, base: Checkpoint, accept: Collection[str]) -> Iterator[Difference]:
    differing = compare_configs(base.config, expert.config, where=(base.path / CONFIG, expert.path / CONFIG))
    if expert.tied is not base.tied:
        raise _tied_and_untied(name, expert, base)
    refused = tuple(one for one in differing if one.key in _NEVER or not _is_accepted(one.key, accept))
    if refused:
        raise _refusal(name, refused, expert, base)
    for one in differing:
        shown = (_shown(value) for value in (one.ours, one.theirs))
        ours, theirs = shown
        yield Difference(expert=name, key=one.key, ours=ours, theirs=theirs, where=str(expert.path / CONFIG))


def _of_tokenizers(
    name: str, expert: Path, base: Checkpoint, accept: Collection[str], unmet: Collection[str]
) -> Iterator[Difference]:
    reading = other_reading(base.path, expert, unmet=unmet)
    if reading is None:
        return
    ours, theirs = (_shown_tokens(reading.text, tokens) for tokens in (reading.ours, reading.theirs))
    if TOKENIZER not in accept:
        raise InputError(
            f"expert `{name}` reads text as other tokens than the base" + f" ({reading.part})" * bool(reading.part),
            expected=f"{ours}, as {base.path}",
            got=theirs,
            where=str(expert),
            fix="copy the tokenizer's files of the one that is right to the other; or take the base's for all: "
            + _how_to_accept([TOKENIZER]),
        )
    yield Difference(expert=name, key=TOKENIZER, ours=ours, theirs=theirs, where=str(expert))


def _refusal(name: str, differing: tuple[ConfigDifference, ...], expert: Checkpoint, base: Checkpoint) -> InputError:
    first, *others = differing
    more = f"; differing too: {', '.join(one.key for one in others[:6])}" if others else ""
    keys = list(dict.fromkeys(one.key.partition(".")[0] for one in differing))
    fix = "merge only fine-tunes of one base"
    if not _NEVER.intersection(keys):
        fix += f"; or, if the weights are to run under the base's configuration all the same: {_how_to_accept(keys)}"
    return InputError(
        f"expert `{name}` has another `{first.key}` than the base",
        expected=f"{_shown(first.ours)}, as in {base.path / CONFIG}",
        got=_shown(first.theirs) + more,
        where=str(expert.path / CONFIG),
        fix=fix,
    )


def _shown_tokens(text: str, tokens: Sequence[str]) -> str:
    if not text:
        return "other rules by which pieces of words are merged"
    return f"{str(list(tokens[:12]))[:_SHOWN]} for {text[:40]!r}"


def _tied_and_untied(name: str, expert: Checkpoint, base: Checkpoint) -> InputError:
    tied, role = (base, "base") if base.tied else (expert, "expert")
    return InputError(
        f"expert `{name}` has another `tie_word_embeddings` than the base",
        expected=f"{base.tied}, as in {base.path / CONFIG}",
        got=str(expert.tied),
        where=str(expert.path / CONFIG),
        fix=f"if it is a fine-tune of the base, give the {role} a head of its own, which changes no answer:\n"
        f"{untie_command(tied)}\nand use {untied_copy(tied)} as the {role}",
    )


def _without_appended(expert: Path, base: Checkpoint, config: Checkpoint | None) -> str:
    """What helps where an expert has all the base's tokens and more: they cannot be merged, the others can."""
    ask = f"if nobody is to ask with the tokens that it appended, take the base's: {_how_to_accept([TOKENIZER])}"
    if config is None or config.num_tokens == base.num_tokens:
        return ask
    cut = literal(f"{expert}-cut")
    command = python_command(
        "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T",
        f'm = M.from_pretrained({literal(expert)}, dtype="auto")',
        f"m.resize_token_embeddings({base.num_tokens})",
        f"m.save_pretrained({cut})",
        f"T.from_pretrained({literal(base.path)}).save_pretrained({cut})",
    )
    return f"cut off the tokens that it appended, and their rows:\n{command}\nand use {expert}-cut as the expert"


def _how_to_accept(keys: Collection[str]) -> str:
    options = " ".join(f"--accept {key}" for key in keys)
    return f"`sources: {{accept: [{', '.join(keys)}]}}` in a spec, `{options}` for `crossbreed merge`"


def _is_accepted(key: str, accept: Collection[str]) -> bool:
    return any(key == one or key.startswith(f"{one}.") for one in accept)


def _shown(value: object) -> str:
    return "nothing" if value is None else repr(value)[:_SHOWN]
