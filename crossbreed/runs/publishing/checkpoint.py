"""Writes a recipe as an ordinary checkpoint folder, which contains exactly the scored weights or does not exist at all.

Everything is written to a temporary sibling, read back, fingerprinted, and renamed. Input errors are raised before the
first byte is written: an output folder in use, a full disk, a missing licence.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crossbreed.runs.adapter import RecipeAdapter
from crossbreed.runs.publishing.adapter_contents import AdapterContents, adapter_contents
from crossbreed.runs.publishing.contents import CARD, MAX_SHARD_BYTES, Contents, checkpoint_contents
from crossbreed.runs.publishing.folders import new_folders
from crossbreed.runs.publishing.model_card import (
    MERGEKIT_FILE,
    CardInfo,
    SourceInfo,
    choose_licence,
    model_card,
    source_infos,
)
from crossbreed.runs.results.recipe_table import coefficient_map
from crossbreed.sources import Sources
from crossbreed.types import Recipe, WeightStream


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """A recipe with everything needed to make it."""

    recipe: Recipe
    sources: Sources
    """The opened sources of the recipe."""
    stream_factory: Callable[[], WeightStream]
    """Makes the recipe's weights; called once."""
    fingerprint: str | None = None
    """The fingerprint of the scored weights, which those made must have; None if it is not known."""


def publish_checkpoint(
    merge: Merge,
    out: Path,
    *,
    info: CardInfo,
    title: str | None = None,
    licence: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> str:
    """Writes a checkpoint with a model card.

    Args:
        merge: The merge to publish.
        out: A folder that does not exist or is empty.
        info: The run, for the card.
        title: The card's title; default: the folder's name.
        licence: The hub's id of the merge's licence, if the parents do not state a common one.
        max_shard_bytes: Maximum size of a file.

    Returns:
        The fingerprint.

    Raises:
        InputError: `out` cannot be used, the disk is full, or the licence is not known.
        MachineError: the weights made or written are not those that were scored; `out` is unchanged.
    """
    contents = card_contents(merge, out, info=info, title=title, licence=licence, max_shard_bytes=max_shard_bytes)
    return write_contents(contents, merge, out)


def card_contents(
    merge: Merge,
    out: Path,
    *,
    info: CardInfo,
    title: str | None = None,
    licence: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Contents:
    """Returns what `publish_checkpoint` would write, with the same arguments."""
    card = _Card.of(merge, out, info=info, title=title, licence=licence)
    contents = checkpoint_contents(merge.recipe, merge.sources, record=card.record, max_shard_bytes=max_shard_bytes)
    readme = card.text(in_mergekit=MERGEKIT_FILE in contents.texts)
    return replace(contents, texts={**contents.texts, CARD: readme})


def write_checkpoint(
    merge: Merge,
    out: Path,
    *,
    record: Mapping[str, Any] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> str:
    """Writes a checkpoint without a card.

    Args:
        merge: The merge to write.
        out: A folder that does not exist or is empty.
        record: Further content of `crossbreed.json`.
        max_shard_bytes: Maximum size of a file.

    Returns:
        The fingerprint.

    Raises:
        InputError: `out` cannot be used, or the disk is full.
        MachineError: the weights made or written are not the expected ones; `out` is unchanged.
    """
    contents = checkpoint_contents(merge.recipe, merge.sources, record=record, max_shard_bytes=max_shard_bytes)
    return write_contents(contents, merge, out)


def card_adapter(
    made: RecipeAdapter,
    merge: Merge,
    out: Path,
    *,
    info: CardInfo,
    title: str | None = None,
    licence: str | None = None,
    is_scored: bool = False,
) -> AdapterContents:
    """Returns the contents of a folder with a merge's adapter, and a card.

    Args:
        made: The adapter.
        merge: The merge.
        out: As for `publish_checkpoint`, like the arguments below.
        info: The run, for the card, without a report if the adapter is another model than what was scored.
        title: The card's title.
        licence: The hub's id of the licence.
        is_scored: Whether adapters were scored in this run.
    """
    card = _Card.of(merge, out, info=info, title=title, licence=licence)
    extra = {CARD: card.text(in_mergekit=False, adapter=made, is_scored=is_scored)}
    return adapter_contents(made, merge.sources, record=card.record, extra=extra, is_scored=is_scored)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Card:
    """What the cards of a merge's checkpoint and of its adapter have in common."""

    merge: Merge
    title: str
    parents: Sequence[SourceInfo]
    licence: str
    info: CardInfo

    @classmethod
    def of(cls, merge: Merge, out: Path, *, info: CardInfo, title: str | None, licence: str | None) -> "_Card":
        parents = source_infos(merge.recipe, merge.sources)
        chosen = choose_licence(parents, licence)
        return cls(merge=merge, title=title or out.resolve().name, parents=parents, licence=chosen, info=info)

    @property
    def record(self) -> dict[str, Any]:
        """Further content of `crossbreed.json`."""
        return {"licence": self.licence, **self.info.to_json()}

    def text(self, *, in_mergekit: bool, adapter: RecipeAdapter | None = None, is_scored: bool = False) -> str:
        """Returns the card; see `model_card`."""
        recipe, sources = self.merge.recipe, self.merge.sources
        return model_card(
            title=self.title,
            parents=self.parents,
            licence=self.licence,
            info=self.info,
            coefficients=coefficient_map(recipe, sources.structure),
            in_mergekit=in_mergekit,
            notes=sources.notes,
            accepted=sources.accept,
            adapter=adapter,
            is_scored=is_scored,
        )


def write_contents(contents: Contents | AdapterContents, merge: Merge, out: Path) -> str:
    """Writes planned contents with a merge's weights; returns the fingerprint, raises as `write_checkpoint`.

    A file of the sources that changed since they were opened is an InputError, too.
    """
    with new_folders({out: contents.num_bytes}) as folders:
        fingerprint = contents.write(folders[out], merge.stream_factory, merge.fingerprint)
        merge.sources.require_unchanged()  # a tokenizer that is copied must be the one that was scored with
        return fingerprint
