"""The vocabulary of a merge, and the row of every model for each of its tokens.

A model that lacks a token takes another's row: the one that the configuration gives for it, else that of the only model
with the token, else the base's, else the mean of all models with it; zeros if there is none. So every model has every
row before anything is merged. The order of a union is ours (the base's tokens, then the others' in the order of the
configuration): mergekit's is that of a set, and changes from process to process.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

from crossbreed.errors import InputError
from crossbreed.mergekit.config import MergeConfig, ModelReference, TokenizerConfig, TokenRow
from crossbreed.parsing import any_of
from crossbreed.sources.tokenization import load_tokenizer, tokenizer_file

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
    def build(
        cls,
        config: MergeConfig,
        folders: Mapping[ModelReference, Path],
        num_rows: Mapping[ModelReference, int],
        out: Path,
    ) -> Self | None:
        """Reads all tokenizers, and writes that of the merge to `out` unless it is a model's own.

        A token beyond a model's rows is one that it lacks; the merge's tokenizer does not get those of its donor.

        Args:
            config: The merge.
            folders: The folder of every model.
            num_rows: How many rows every model has, by its config.json.
            out: An empty folder.

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
        tokenizers = {
            model: load_tokenizer(folders[model]) for model in config.models if _has_one(folders[model], model, donor)
        }
        vocabularies = {
            model: _within(tokenizers.get(model, tokenizers[donor]), num_rows[model]) for model in config.models
        }
        merged = _cut(tokenizers[donor], vocabularies[donor], out, where=str(folders[donor]))
        added: list[Any] = []
        if wanted.source == "union":
            others = {model: tokenizer for model, tokenizer in tokenizers.items() if model != donor}
            added = _tokens_beyond(vocabularies[donor], others, vocabularies)
        known = vocabularies[donor].keys() | {str(token) for token in added}
        added += [token for token in wanted.tokens if token not in known]
        if added:
            merged.add_tokens(added)
            merged.save_pretrained(out)
        tokens = dict(merged.get_vocab())
        if wanted.source == "base":  # mergekit adds to the base's own tokenizer: padding rows become its tokens' rows
            vocabularies[donor] = {token: row for token, row in tokens.items() if row < num_rows[donor]}
        for token, row in wanted.tokens.items():
            _check_token(token, row, vocabularies, num_rows)
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
            if named.is_zero:
                return ()
            if named.model is None:
                return self._own_donors(token, models)
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

    def _own_donors(self, token: str, models: Sequence[ModelReference]) -> tuple[Row, ...]:
        """Returns the rows of a token for which the configuration gives no source: that of every model is its own."""
        lacking = [model for model in models if token not in self.models[model]]
        if lacking or self.config.tokens[token].force:
            raise InputError(
                f"token `{token}` has no source",
                expected="a source, or the token in the tokenizers of all models",
                got=f"none, and {lacking[0]} lacks the token" if lacking else "none, and `force: true`",
                where=f"tokenizer.tokens.{token}",
                fix="give it a `source`: a model, or {kind: zero}",
            )
        return tuple((model, self.models[model][token]) for model in models)


def _row_of(token: str, row: TokenRow, vocabularies: Mapping[ModelReference, Mapping[str, int]]) -> int:
    assert row.model is not None, "zeros have no row"
    return row.token if isinstance(row.token, int) else vocabularies[row.model][row.token or token]


def _check_token(
    token: str,
    row: TokenRow,
    vocabularies: Mapping[ModelReference, Mapping[str, int]],
    num_rows: Mapping[ModelReference, int],
) -> None:
    where = f"tokenizer.tokens.{token}"
    if row.model is None:
        return
    if row.model not in vocabularies:
        raise InputError("the row of another model", expected=any_of(vocabularies), got=str(row.model), where=where)
    wanted = token if row.token is None else row.token
    if isinstance(wanted, int) and not 0 <= wanted < num_rows[row.model]:
        expected = f"0 to {num_rows[row.model] - 1}"
        raise InputError(f"`{row.model}` has no row {wanted}", expected=expected, got=str(wanted), where=where)
    if isinstance(wanted, str) and wanted not in vocabularies[row.model]:
        raise InputError(
            f"`{row.model}` has no token `{wanted}`",
            expected="a token that it has",
            where=where,
            fix=f"name one: source: {{kind: model_token, model: {row.model}, token: TOKEN}}",
        )


def _has_one(folder: Path, model: ModelReference, donor: ModelReference) -> bool:
    """Whether a model has a tokenizer of its own; one without is read with the donor's, as mergekit does."""
    return model == donor or tokenizer_file(folder) is not None


def _within(tokenizer: Any, num_rows: int) -> dict[str, int]:
    return {token: row for token, row in tokenizer.get_vocab().items() if row < num_rows}


def _cut(tokenizer: Any, kept: Mapping[str, int], out: Path, *, where: str) -> Any:
    """Returns a tokenizer without the tokens that are not kept; written to `out`, if there are any."""
    surplus = tokenizer.get_vocab().keys() - kept.keys()
    if not surplus:
        return load_tokenizer(Path(where))  # to be added to: a tokenizer of its own
    content: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {}
    kind = content.get("model", {}).get("type", "no fast tokenizer")
    if kind != "BPE":
        raise InputError(
            f"the tokenizer has {len(surplus)} tokens for which the model has no rows",
            expected="a BPE tokenizer, of which they can be cut off, or no such tokens",
            got=kind,
            where=where,
            fix=f"resize the model's embeddings to {len(tokenizer.get_vocab())} rows first",
        )
    model = content["model"]
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in kept]
    model["vocab"] = {token: row for token, row in model["vocab"].items() if token in kept}
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    model["merges"] = [pair for pair in pairs if not surplus & {*pair}]
    tokenizer.save_pretrained(out)
    (out / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return load_tokenizer(out)


def _tokens_beyond(
    have: Mapping[str, int],
    tokenizers: Mapping[ModelReference, Any],
    vocabularies: Mapping[ModelReference, Mapping[str, int]],
) -> list[Any]:
    """Returns the tokens that the tokenizers add to a vocabulary, as token objects, since some are special."""
    found: dict[str, Any] = {}
    for model, tokenizer in tokenizers.items():
        added = {str(token): token for token in tokenizer.added_tokens_decoder.values()}
        for token in sorted(vocabularies[model], key=vocabularies[model].__getitem__):
            if token not in have:
                found.setdefault(token, added.get(token, token))
    return list(found.values())
