"""Tokens of a text by a folder's tokenizer: base and experts must read the same tokens in the same text.

Equal vocabularies are not enough: a tokenizer may also lower-case, put a token before every text or cut words
otherwise. So tokenizers are loaded, unless their files are the same, and given texts in which such things show.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from math import prod
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from crossbreed.bounded import Begin, bounded
from crossbreed.errors import InputError, first_line
from crossbreed.sources.json_files import mapping_at, read_json

Result = TypeVar("Result")
Tokenizer: TypeAlias = Any
"""transformers has no types."""
Signature: TypeAlias = tuple[tuple[str, str], ...]
"""File -> digest of its entries that change tokens."""

CONFIG = "tokenizer_config.json"
FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "tekken.json")
"""One of them holds the tokens of nearly every model."""
_TOKEN_FILES = ("*.model", "*.tiktoken")
"""Other files that hold tokens."""
_BESIDE_THEM = ("merges.txt", "special_tokens_map.json", "added_tokens.json")
_ALSO_READ = (CONFIG, "config.json", "chat_template.jinja", "additional_chat_templates/*.jinja")
"""What else a loaded tokenizer holds: templates, and entries that change no tokens of a text."""
_CLEAN_UP = "clean_up_tokenization_spaces"
_INERT = {
    *("chat_template", "model_max_length", "max_length", "padding_side", "truncation_side", "padding", "truncation"),
    *("stride", "name_or_path", "processor_class", "model_input_names", "backend", "is_local", "local_files_only"),
    *(_CLEAN_UP, "special_tokens_map_file", "tokenizer_file", "pad_token", "pad_token_id"),
}
"""Of tokenizer_config.json: how texts are padded, cut, written back or stored."""
_MOST_TOKENS = 512
_MOST_ROWS = 10_000_000
_MOST_GROWTH = 1000
_TEXTS = (
    *("a", " ", "", "\n", "Hello, World!", "hello, world!", "ALL CAPS and camelCase, snake_case; 'quotes' \"too\""),
    *("  two  spaces   and three ", "a tab\there, a line\nand\n\nmore\r\n", "def f(x):\n    return x**2  # code"),
    *("1234567890 3.14159 1,000,000 1e-5 007", "don't can't I'll we've", "https://example.com/a?b=c#d"),
    *(
        "caf\u00e9 na\u00efve Stra\u00dfe \u00c5",
        "cafe\u0301 nai\u0308ve A\u030a",
        "\ufb01ne \u2460 x\u00b2 \uff21\uff22",
    ),
    *(
        "\u65e5\u672c\u8a9e \u4e2d\u6587 \ud55c\uad6d\uc5b4",
        "\u041f\u0440\u0438\u0432\u0435\u0442",
        "\u0645\u0631\u062d",
    ),
    *("\u0939\u093f\u0928\u094d\u0926\u0940", "\U0001f642\U0001f469\u200d\U0001f467", "a\u00a0b\u200bc\u3000d"),
    *("\u2026\u2014\u201cx\u201d", "$x^2$ \\frac{1}{2} {'a': [1]}", "<|im_start|>user\n<s>[INST] x [/INST]</s>"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A text that two tokenizers split differently."""

    text: str
    ours: tuple[str, ...]
    """The base's tokens."""
    theirs: tuple[str, ...]
    part: str
    """Which part of the tokenizer differs, as far as its files say."""


def tokenizer_file(folder: Path) -> Path | None:
    """Returns the file that holds a folder's tokens; None: there is none of a known name."""
    named = next((folder / name for name in FILES if (folder / name).is_file()), None)
    return named or next((path for pattern in _TOKEN_FILES for path in sorted(folder.glob(pattern))), None)


def load_tokenizer(folder: Path) -> Tokenizer:
    """Returns a folder's tokenizer. No code of the folder runs.

    Raises:
        InputError: there is none, it cannot be read, or it makes no tokens of text.
    """
    if tokenizer_file(folder) is None:  # transformers would make up an empty one
        raise _no_tokenizer(folder, "none of them")
    _check_size(folder / FILES[0])
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        ids = tokenizer("a text", add_special_tokens=False).input_ids
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # tokenizers raises bare Exception and, where a pattern gives up, less than that
        raise InputError(
            "cannot read a tokenizer",
            expected="a tokenizer that transformers loads without code of the folder's own",
            got=first_line(error),
            where=str(folder),
            fix="copy tokenizer.json and tokenizer_config.json again from where the model came from",
        ) from error
    if not ids:
        raise _no_tokenizer(folder, "a tokenizer without tokens")
    return tokenizer


def _check_size(path: Path) -> None:
    """Refuses a tokenizer.json that takes all memory when it is loaded or asked."""
    if not path.is_file():
        return
    try:
        value = read_json(path)
        vocabulary = mapping_at(value, "model", where=path).get("vocab")
    except InputError:
        return  # what cannot be read, loading refuses
    added = value.get("added_tokens")
    rows = [*vocabulary.values()] if isinstance(vocabulary, dict) else []  # a list's rows are its own
    rows += [token.get("id") for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    largest = max((row for row in rows if isinstance(row, int)), default=0)
    growth = _growth(value.get("normalizer"))
    if largest > _MOST_ROWS or growth > _MOST_GROWTH:
        raise InputError(
            "a tokenizer asks for more memory than any model needs",
            expected=f"token ids up to {_MOST_ROWS:,}, and texts that a normalizer makes {_MOST_GROWTH} times as long",
            got=f"id {largest:,}" if largest > _MOST_ROWS else f"{growth} times",
            where=str(path),
            fix="copy tokenizer.json again from where the model came from",
        )


def _growth(normalizer: object) -> int:
    """Returns by what factor the replacements of a normalizer may lengthen a text."""
    if not isinstance(normalizer, dict):
        return 1
    parts = normalizer.get("normalizers")
    if isinstance(parts, list):
        return prod(map(_growth, parts))
    content = normalizer.get("content")
    return max(1, len(content)) if isinstance(content, str) else 1


def shared_tokenizer(folder: Path) -> Tokenizer:
    """Returns a folder's tokenizer, loaded once for all who compare; nobody changes it.

    Raises:
        InputError: as `load_tokenizer`.
    """
    return _loaded(folder, signature(folder), _digests(folder, _ALSO_READ))


def reading_texts(call: Callable[[Begin], Result], *folders: Path) -> Result:
    """Returns the result of a call that has tokenizers or chat templates of folders read texts; see `bounded`.

    Raises:
        InputError: it raises one; or a pattern or a template does not come to an end.
    """
    for folder in folders:
        if tokenizer_file(folder) is not None:
            shared_tokenizer(folder)  # once in this process, not in each child
    return bounded(
        call,
        what="a tokenizer or a chat template",
        where=" or ".join(map(str, dict.fromkeys(folders))),
        fix="copy tokenizer.json, tokenizer_config.json and chat_template.jinja again from where the model came from; "
        "look there for patterns with a repetition inside another, and for loops inside loops",
    )


def num_appended(tokenizer: Tokenizer) -> int:
    """Returns how many tokens a tokenizer puts behind every text: what is to be continued must not end with them."""
    mask: list[int] = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
    return next((count for count, is_special in enumerate(reversed(mask)) if not is_special), 0)


def token_ids(tokenizer: Tokenizer, text: str, *, appended: int) -> list[int]:
    """Returns the tokens of a text with those that the tokenizer puts before it, without the `appended` behind it."""
    ids: list[int] = tokenizer(text).input_ids
    return ids[: len(ids) - appended]


def appended_tokens(folder: Path) -> tuple[str, ...]:
    """Returns the tokens that a folder's tokenizer puts behind every text; raises as `reading_texts`."""
    return reading_texts(partial(_appended_tokens, folder), folder)


def _appended_tokens(folder: Path, begin: Begin) -> tuple[str, ...]:
    tokenizer = shared_tokenizer(folder)
    ids: list[int] = tokenizer("a").input_ids
    return _tokens(tokenizer, ids[len(ids) - num_appended(tokenizer) :])


def other_reading(base: Path, expert: Path, *, unmet: Collection[str] = ()) -> Reading | None:
    """Returns a text that a base's and an expert's tokenizer read otherwise; None: they read alike.

    A folder without a tokenizer reads as all others do.

    Args:
        base: The base's folder.
        expert: The expert's.
        unmet: Tokens that are in no text.

    Raises:
        InputError: a tokenizer cannot be read, or does not come to an end.
    """
    if tokenizer_file(base) is None or tokenizer_file(expert) is None or signature(base) == signature(expert):
        return None
    return reading_texts(partial(_other_reading, base, expert, unmet), base, expert)


def _other_reading(base: Path, expert: Path, unmet: Collection[str], begin: Begin) -> Reading | None:
    ours, theirs = shared_tokenizer(base), shared_tokenizer(expert)
    parts = tuple(_differing_parts(base, expert, ours, theirs))
    num_ours, num_theirs = num_appended(ours), num_appended(theirs)
    for text in (*_TEXTS, *_texts_of(ours), *_texts_of(theirs)):
        if any(token in text for token in unmet):
            continue
        begin(repr(text)[:80])
        one, other = token_ids(ours, text, appended=num_ours), token_ids(theirs, text, appended=num_theirs)
        if one != other:
            return Reading(text=text, ours=_tokens(ours, one), theirs=_tokens(theirs, other), part=", ".join(parts))
    merging = [part for part in parts if part.startswith("model.")]
    return Reading(text="", ours=(), theirs=(), part=", ".join(merging)) if merging else None


@lru_cache(maxsize=4)
def _loaded(folder: Path, signature: Signature, others: Signature) -> Tokenizer:
    return load_tokenizer(folder)


def _no_tokenizer(folder: Path, got: str) -> InputError:
    return InputError(
        "the model has no tokenizer",
        expected=f"one of {', '.join(FILES)}",
        got=got,
        where=str(folder),
        fix="copy tokenizer.json and tokenizer_config.json of the model that it was made from into the folder",
    )


def cleans_up(folder: Path) -> bool:
    """Returns whether transformers removes spaces before punctuation in a text that it decodes.

    Tokens of a text do not hang on it, answers do. It is not done to BPE unless that is forced.
    """
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    if not config.get(_CLEAN_UP):
        return False
    vocabulary = read_json(folder / FILES[0]) if (folder / FILES[0]).is_file() else {}
    is_bpe = mapping_at(vocabulary, "model", where=folder / FILES[0]).get("type") == "BPE"
    return not is_bpe or bool(config.get(f"{_CLEAN_UP}_for_bpe_even_though_it_will_corrupt_output"))


def signature(folder: Path) -> Signature:
    """Returns the files of a folder's tokenizer with digests of their entries that change tokens."""
    others = {path.name for pattern in _TOKEN_FILES for path in folder.glob(pattern)}
    names = sorted({*FILES, *_BESIDE_THEM} | others)
    digests = [(name, _digest((folder / name).read_bytes())) for name in names if (folder / name).is_file()]
    if (folder / CONFIG).is_file():
        counted = {key: value for key, value in read_json(folder / CONFIG).items() if key not in _INERT}
        digests.append((CONFIG, _digest(json.dumps(counted, sort_keys=True).encode())))
    return tuple(digests)


def _digests(folder: Path, patterns: Sequence[str]) -> Signature:
    paths = sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
    return tuple((path.relative_to(folder).as_posix(), _digest(path.read_bytes())) for path in paths)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _tokens(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[str, ...]:
    return tuple(map(str, tokenizer.convert_ids_to_tokens(list(ids))))


def _texts_of(tokenizer: Tokenizer) -> Iterator[str]:
    """Yields texts with each token that was added, and with many of the others."""
    for token in list(tokenizer.added_tokens_decoder.values())[:_MOST_TOKENS]:
        yield f"a {token} b{token}c"
    step = max(1, len(tokenizer) // _MOST_TOKENS)
    ids = range(0, len(tokenizer), step)
    for start in range(0, len(ids), 16):
        yield " ".join(tokenizer.decode([row]) for row in ids[start : start + 16])


def _differing_parts(base: Path, expert: Path, ours: Tokenizer, theirs: Tokenizer) -> Iterator[str]:
    one, other = _backend(ours), _backend(theirs)
    for part in ("normalizer", "pre_tokenizer", "post_processor", "added_tokens"):
        if one.get(part) != other.get(part):
            yield f"{part} of tokenizer.json"
    one, other = one.get("model") or {}, other.get("model") or {}
    for part in sorted((one.keys() | other.keys()) - {"vocab"}):  # which is compared by itself
        if one.get(part) != other.get(part):
            yield f"model.{part} of tokenizer.json"
    one, other = (read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {} for folder in (base, expert))
    for part in sorted((one.keys() | other.keys()) - _INERT):
        if one.get(part) != other.get(part):
            yield f"{part} of {CONFIG}"


def _backend(tokenizer: Tokenizer) -> Mapping[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    value: dict[str, Any] = {} if backend is None else json.loads(backend.to_str())
    return value
