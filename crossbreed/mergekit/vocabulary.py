"""The vocabulary of a merge, and the row of every model for each of its tokens.

A model that lacks a token takes another's row: the one that the configuration gives for it, else that of the only model
with the token, else the base's, else the mean of all models with it; zeros if there is none. So every model has every
row before anything is merged. The order of a union is ours (the base's tokens, then the others' in the order of the
configuration): mergekit's is that of a set, and changes from process to process.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

from crossbreed.errors import InputError, require
from crossbreed.mergekit.config import MergeConfig, ModelReference, TokenizerConfig, TokenRow
from crossbreed.parsing import any_of

Row: TypeAlias = tuple[ModelReference, int]
"""A row of a model's embedding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The tokens of a merge and of its models."""

    tokens: Mapping[str, int]
    """The merge's token -> row."""
    models: Mapping[ModelReference, Mapping[str, int]]
    """Model -> its token -> row."""
    config: TokenizerConfig
    donor: ModelReference
    """The model whose tokenizer the merge uses or extends."""

    @classmethod
    def build(cls, config: MergeConfig, folders: Mapping[ModelReference, Path], out: Path) -> Self | None:
        """Reads all tokenizers, and writes that of the merge to `out` unless it is a model's own.

        Returns:
            None if the configuration does not mention a tokenizer.

        Raises:
            InputError: a tokenizer, or a token in the configuration, is missing.
        """
        wanted = config.tokenizer
        if wanted is None:
            return None
        if wanted.source == "base" and config.base is None:
            raise InputError("the base's vocabulary is chosen, but there is no base", expected="`base_model`")
        donor = wanted.source if isinstance(wanted.source, ModelReference) else config.models[0]
        tokenizers = {model: _read(folders[model]) for model in config.models}
        vocabularies = {model: dict(tokenizer.get_vocab()) for model, tokenizer in tokenizers.items()}
        tokens = vocabularies[donor]
        if wanted.source == "union":
            union = _read(folders[donor])
            union.add_tokens(_tokens_beyond(tokens, {m: tokenizers[m] for m in config.models if m != donor}))
            union.save_pretrained(out)
            tokens = dict(union.get_vocab())
        for token, row in wanted.tokens.items():
            _check_token(token, row, tokens, vocabularies)
        return cls(tokens=tokens, models=vocabularies, config=wanted, donor=donor)

    @property
    def num_rows(self) -> int:
        """The number of rows of the merge's embedding, including padding."""
        multiple = self.config.pad_to_multiple_of
        return -(-len(self.tokens) // multiple) * multiple

    def own_rows(self, model: ModelReference) -> dict[int, int]:
        """Returns row in the merge -> row in the model, for the tokens that the model has and keeps."""
        forced = {token for token, row in self.config.tokens.items() if row.force}
        have = self.models[model]
        return {row: have[token] for token, row in self.tokens.items() if token in have and token not in forced}

    def substitutes(self, models: Sequence[ModelReference], base: ModelReference | None) -> dict[int, tuple[Row, ...]]:
        """Returns, for each row in the merge that a model lacks, the rows whose mean replaces it; zeros if none."""
        found = {}
        for token, row in self.tokens.items():
            donors = self._donors(token, models, base)
            if len(donors) < len(models) or token in self.config.tokens:
                found[row] = donors
        return found

    def _donors(self, token: str, models: Sequence[ModelReference], base: ModelReference | None) -> tuple[Row, ...]:
        if (named := self.config.tokens.get(token)) is not None:
            if named.model is None:
                return ()
            if named.model not in models:
                raise InputError(
                    f"the row of token `{token}` is another model's",
                    expected=f"one that is merged: {any_of(models)}",
                    got=str(named.model),
                    where="tokenizer.tokens",
                )
            return ((named.model, _row_of(token, named, self.models)),)
        having = tuple((model, self.models[model][token]) for model in models if token in self.models[model])
        of_base = tuple(row for row in having if row[0] == base)
        return having if len(having) in (1, len(models)) else of_base or having


def _row_of(token: str, row: TokenRow, vocabularies: Mapping[ModelReference, Mapping[str, int]]) -> int:
    assert row.model is not None, "zeros have no row"
    return row.token if isinstance(row.token, int) else vocabularies[row.model][row.token or token]


def _check_token(
    token: str,
    row: TokenRow,
    tokens: Mapping[str, int],
    vocabularies: Mapping[ModelReference, Mapping[str, int]],
) -> None:
    where = f"tokenizer.tokens.{token}"
    if token not in tokens:
        raise InputError(
            f"`{token}` is not a token of the merge",
            expected="a token of the vocabulary that `source` chooses (mergekit 0.1.5 fails to add others too)",
            where=where,
            fix="add it to a model's tokenizer, and use `source: union`",
        )
    if row.model is None:
        return
    if row.model not in vocabularies:
        raise InputError("the row of another model", expected=any_of(vocabularies), got=str(row.model), where=where)
    wanted = token if row.token is None else row.token
    if isinstance(wanted, str) and wanted not in vocabularies[row.model]:
        raise InputError(f"`{row.model}` has no token `{wanted}`", expected="a token that it has", where=where)


def _read(folder: Path) -> Any:  # transformers has no types
    require("transformers", extra="torch")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(
            "cannot read a tokenizer",
            expected="tokenizer.json, for `tokenizer_source`",
            got=str(error).strip().split("\n")[0],
            where=str(folder),
        ) from error


def _tokens_beyond(have: Mapping[str, int], tokenizers: Mapping[ModelReference, Any]) -> list[Any]:
    """Returns the tokens that the tokenizers add to a vocabulary, as token objects, since some are special."""
    found: dict[str, Any] = {}
    for tokenizer in tokenizers.values():
        added = {str(token): token for token in tokenizer.added_tokens_decoder.values()}
        for token in sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__):
            if token not in have:
                found.setdefault(token, added.get(token, token))
    return list(found.values())
