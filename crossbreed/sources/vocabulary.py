"""Do two checkpoints mean the same token by the same row? If not, averaging their embeddings is noise.

And which tokens end a text: files of one folder may disagree on that, so each is asked.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from crossbreed.errors import InputError, first_line
from crossbreed.sources.json_files import mapping_at, read_json, read_json_if_there
from crossbreed.sources.mapped_file import FileState
from crossbreed.sources.tokenization import shared_tokenizer, tokenizer_file


@dataclass(frozen=True, slots=True, kw_only=True)
class EndToken:
    """A token that ends a text."""

    id: int | None
    """Its id; None where only its text is known."""
    text: str | None
    """Its text; None where the folder has no tokenizer."""
    named_by: tuple[str, ...]
    """The files that name it."""


def end_tokens(folder: Path, *, vocabulary: Path | None = None) -> tuple[EndToken, ...]:
    """Returns the tokens that end a text by some file of a model's folder, in the order in which they are met.

    Args:
        folder: A checkpoint's or an adapter's.
        vocabulary: The folder whose tokens are meant where there is no tokenizer in `folder`.

    Raises:
        InputError: a configuration or the tokenizer cannot be read.
    """
    file = tokenizer_file(folder) or (tokenizer_file(vocabulary) if vocabulary else None)
    ids = vocabulary_of(file) if file else {}
    texts = {row: token for token, row in ids.items()}
    named: dict[tuple[int | None, str | None], list[str]] = {}
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            for token in _ends(read_json(folder / name), where=folder / name):
                key = (ids.get(token), token) if isinstance(token, str) else (token, texts.get(token))
                named.setdefault(key, []).append(name)
    return tuple(EndToken(id=row, text=text, named_by=tuple(files)) for (row, text), files in named.items())


def _ends(config: dict[str, Any], *, where: Path) -> Iterator[int | str]:
    """By id in configurations, those of a text part included; by text in a tokenizer's."""
    for part in (config, mapping_at(config, "text_config", where=where)):
        found = part.get("eos_token_id")
        rows = [row for row in (found if isinstance(found, list) else [found]) if row is not None]
        if not all(isinstance(row, int) and not isinstance(row, bool) for row in rows):
            raise InputError(
                "`eos_token_id` names no tokens",
                expected="the row of a token, or a list of rows",
                got=repr(found)[:80],
                where=str(where),
                fix="copy the file again from where the model came from",
            )
        yield from dict.fromkeys(rows)
    if text := _text(config.get("eos_token")):
        yield text


def unmet_tokens(base: Path, expert: Path, *, num_rows: int | None) -> frozenset[str]:
    """Returns tokens of two folders that no model meets in a text.

    They have no row in an embedding of `num_rows`, or they are what one of the two is padded with and the other has
    not: both come from trainers that wanted a padding token.

    Raises:
        InputError: a tokenizer cannot be read.
    """
    files = tokenizer_file(base), tokenizer_file(expert)
    if files[0] is None or files[1] is None or _same_bytes(files[0], files[1]):
        vocabularies: list[Mapping[str, int]] = []
    else:
        vocabularies = [vocabulary_of(file) for file in files if file]
    pads = {_text(read_json_if_there(folder / "tokenizer_config.json").get("pad_token")) for folder in (base, expert)}
    lacking = {pad for pad in pads if pad and not all(pad in one for one in vocabularies)} if vocabularies else pads
    rowless = {t for one in vocabularies for t, row in one.items() if num_rows is not None and row >= num_rows}
    return frozenset(token for token in lacking | rowless if token)


def check_vocabularies(
    base: Path, expert: Path, *, name: str, unmet: Collection[str] = (), may_append: bool = False, fix: str = ""
) -> None:
    """Compares token -> id of two folders; one without a tokenizer agrees with everything.

    Args:
        base: The base's folder.
        expert: The expert's folder.
        name: The expert's name in messages.
        unmet: Tokens that are not compared.
        may_append: Whether the expert may have more tokens than the base.
        fix: The remedy in the message.

    Raises:
        InputError: they differ; the message names the first tokens that do.
    """
    first, second = tokenizer_file(base), tokenizer_file(expert)
    if first is None or second is None or _same_bytes(first, second):
        return
    ours, theirs = (
        {token: row for token, row in vocabulary_of(file).items() if token not in unmet} for file in (first, second)
    )
    if may_append:
        rows = set(ours.values())
        theirs = {token: row for token, row in theirs.items() if token in ours or row in rows}
    differing = sorted(ours.items() ^ theirs.items(), key=lambda pair: (pair[1], pair[0]))
    if not differing:
        return
    tokens = list(dict.fromkeys(token for token, _ in differing))
    shown = "; ".join(f"{token!r} is {_row(ours, token)} there, {_row(theirs, token)} here" for token in tokens[:3])
    raise InputError(
        f"expert `{name}` has another vocabulary than the base",
        expected=f"the {len(ours)} tokens of {first}",
        got=f"{len(theirs)} tokens, {len(tokens)} of them different: {shown}",
        where=str(second),
        fix=fix if ours.items() <= theirs.items() else "merge only fine-tunes of one base",
    )


def _text(token: object) -> str:
    """A special token in a tokenizer's configuration is a text, or an object that has one."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else ""


def _row(vocabulary: Mapping[str, int], token: str) -> str:
    return f"row {vocabulary[token]}" if token in vocabulary else "unknown"


def _same_bytes(first: Path, second: Path) -> bool:
    """Most fine-tunes carry their base's file unchanged, and parsing it would take a second."""
    return (
        first.name == second.name
        and first.stat().st_size == second.stat().st_size
        and first.read_bytes() == second.read_bytes()
    )


def vocabulary_of(file: Path) -> Mapping[str, int]:
    """Returns token -> id of the tokenizer that a file is a part of.

    Raises:
        InputError: it cannot be read.
    """
    return _vocabulary(file, FileState.of(file))


@lru_cache(maxsize=8)
def _vocabulary(file: Path, state: FileState) -> Mapping[str, int]:
    if file.name != "tokenizer.json":
        return dict(shared_tokenizer(file.parent).get_vocab())
    from tokenizers import Tokenizer

    try:
        return dict(Tokenizer.from_str(file.read_text(encoding="utf-8")).get_vocab(with_added_tokens=True))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # as in `load_tokenizer`
        raise InputError(
            "cannot read a tokenizer",
            expected="the tokenizer.json that the tokenizers library wrote",
            got=first_line(error),
            where=str(file),
            fix="copy it again from where the model came from",
        ) from error
