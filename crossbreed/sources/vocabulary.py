"""Do two checkpoints mean the same token by the same row? If not, averaging their embeddings is noise."""

from collections.abc import Mapping
from pathlib import Path

from crossbreed.errors import InputError

_TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "tekken.json")


def check_vocabularies(base: Path, expert: Path, *, name: str) -> None:
    """Compares token -> id of two folders; one without a tokenizer agrees with everything.

    Raises:
        InputError: they differ; the message names the first tokens that do.
    """
    first, second = _tokenizer_file(base), _tokenizer_file(expert)
    if first is None or second is None or _same_bytes(first, second):
        return
    ours, theirs = _vocabulary(first), _vocabulary(second)
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
        fix="merge only fine-tunes of one base; if tokens were appended, cut them and their embedding rows off first",
    )


def _row(vocabulary: Mapping[str, int], token: str) -> str:
    return f"row {vocabulary[token]}" if token in vocabulary else "unknown"


def _tokenizer_file(folder: Path) -> Path | None:
    return next((folder / name for name in _TOKENIZERS if (folder / name).is_file()), None)


def _same_bytes(first: Path, second: Path) -> bool:
    """Most fine-tunes carry their base's file unchanged, and parsing it would take a second."""
    return (
        first.name == second.name
        and first.stat().st_size == second.stat().st_size
        and first.read_bytes() == second.read_bytes()
    )


def _vocabulary(file: Path) -> dict[str, int]:
    try:
        if file.name == "tokenizer.json":
            from tokenizers import Tokenizer

            return dict(Tokenizer.from_str(file.read_text(encoding="utf-8")).get_vocab(with_added_tokens=True))
        from transformers import AutoTokenizer

        return dict(AutoTokenizer.from_pretrained(file.parent).get_vocab())
    except Exception as error:  # tokenizers raises bare Exception
        raise InputError(
            "cannot read a tokenizer",
            got=str(error).strip().split("\n")[0],
            where=str(file),
            fix="write tokenizer.json: `AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)`",
        ) from error
