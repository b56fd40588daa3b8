"""The contents of a folder with a LoRA adapter: its two files as PEFT has them, and descriptions of the merge.

What was scored is what is published. An exact adapter of weights that were scored is merged into the base again, and
has to give those weights, bit by bit; one that was scored as an adapter has to have the same factors. Scores of the
merge say nothing of an adapter that is cut: its card has none.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeAlias

from crossbreed.durable import sync
from crossbreed.errors import InputError, MachineError
from crossbreed.kernels import Fingerprinted, materialize
from crossbreed.recipes import dump_recipe
from crossbreed.recipes.named import weighted_deltas
from crossbreed.runs.adapter import RecipeAdapter
from crossbreed.runs.publishing.contents import CARD, PUBLISHED_SCHEMA, as_json, source_record, without_paths
from crossbreed.runs.publishing.manifest import (
    RECORD_FILE,
    PublishedFolder,
    file_records,
    text_record,
)
from crossbreed.runs.publishing.model_card import RECIPE_FILE, source_infos
from crossbreed.sources import Adapter, Sources
from crossbreed.sources.host import host_hashes
from crossbreed.types import BASE, WeightStream

Form: TypeAlias = Literal["checkpoint", "adapter"]
"""What is written of a merge."""

_SPARE_BYTES = 1 << 20
_ADAPTER = "adapter"
"""What the adapter is called where it is merged again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterContents:
    """The planned contents of an adapter's folder."""

    made: RecipeAdapter
    sources: Sources
    texts: Mapping[str, str]
    """Name in the folder -> text to write, besides adapter_config.json."""
    record: Mapping[str, Any]
    """The content of `crossbreed.json`, without the fingerprint and the files."""
    is_scored: bool = False
    """Whether it was scored as an adapter."""

    @property
    def stands_for_weights(self) -> bool:
        """Whether its fingerprint is that of the merged weights, not of its own factors."""
        return self.made.is_exact and not self.is_scored

    @property
    def num_bytes(self) -> int:
        """The disk space that the folder needs."""
        return sum(tensor.nbytes for tensor in self.made.tensors.values()) + _SPARE_BYTES

    def write(
        self, folder: Path, stream_factory: Callable[[], WeightStream], expected_fingerprint: str | None = None
    ) -> str:
        """Fills an empty folder, and reads it back.

        Args:
            folder: A folder from `new_folders`.
            stream_factory: Makes the merged weights; called where their fingerprint is not known.
            expected_fingerprint: The fingerprint of what was scored, if known.

        Returns:
            The fingerprint.

        Raises:
            MachineError: it is not what was scored, or not what was to be written.
        """
        try:
            self._fill(folder)
            reopened = self.made.reopened(folder, self.sources)
            fingerprint = self.made.fingerprint
            if self.stands_for_weights:
                fingerprint = self._merged(reopened)
                expected_fingerprint = expected_fingerprint or _fingerprint(stream_factory())
            elif not self.is_scored:
                expected_fingerprint = None
            if expected_fingerprint not in (None, fingerprint):
                raise MachineError(
                    f"the adapter made now ({fingerprint[:16]}) is not what was scored "
                    f"({str(expected_fingerprint)[:16]}), so its scores would not be valid"
                )
            record = self._record_text(fingerprint, file_records(folder))
            (folder / RECORD_FILE).write_text(record, encoding="utf-8")
            for path in (*folder.iterdir(), folder):
                sync(path)
        except OSError as error:
            raise MachineError(f"writing {error.filename or folder} failed: {error.strerror or error}") from error
        return fingerprint

    def sizes(self, fingerprint: str) -> dict[str, int]:
        """Returns name in the folder -> bytes, for all files; `fingerprint` is what `write` would return."""
        files = self._files()
        found = {name: file.num_bytes for name, file in files.items()}
        return dict(sorted({**found, RECORD_FILE: len(self._record_text(fingerprint, files).encode())}.items()))

    def has_other_card(self, published: PublishedFolder) -> bool:
        """Returns whether a folder's list has another README.md than these contents."""
        return published.files.get(CARD) != text_record(self.texts[CARD])

    def require_written(self, published: PublishedFolder, fingerprint: str) -> None:
        """Checks that a folder holds what would be written now, whatever its own list says.

        Args:
            published: The folder, verified.
            fingerprint: The fingerprint of what was scored.

        Raises:
            InputError: a file is missing, further, or another.
        """
        expected = self._files()
        names = sorted({*expected, *published.files})
        differing = [name for name in names if published.files.get(name) != expected.get(name)]
        if not differing and published.fingerprint != fingerprint:
            differing = ["another fingerprint"]
        if differing:
            raise published.changed(differing, expected="what this version of crossbreed publishes of the run")

    def _fill(self, folder: Path) -> None:
        self.made.write(folder)
        for name, text in self.texts.items():
            (folder / name).write_text(text, encoding="utf-8")

    def _files(self) -> Mapping[str, Any]:
        with TemporaryDirectory() as scratch:
            self._fill(Path(scratch))
            return file_records(Path(scratch))

    def _record_text(self, fingerprint: str, files: Mapping[str, Any]) -> str:
        listed = {name: files[name].to_json() for name in sorted(files)}
        return as_json({**self.record, "fingerprint": fingerprint, "files": listed})

    def _merged(self, adapter: Adapter) -> str:
        """Returns the fingerprint of the base with the adapter in it."""
        hashes = {BASE: self.sources.base.hash, _ADAPTER: adapter.hash}
        recipe = weighted_deltas({_ADAPTER: 1.0}, hashes=hashes, dtype=self.made.recipe.dtype)
        return _fingerprint(materialize(recipe, replace(self.sources, experts={_ADAPTER: adapter}), once=True))


def adapter_contents(
    made: RecipeAdapter,
    sources: Sources,
    *,
    record: Mapping[str, Any] | None = None,
    extra: Mapping[str, str] | None = None,
    is_scored: bool = False,
) -> AdapterContents:
    """Returns the contents of a recipe's adapter.

    Args:
        made: The adapter.
        sources: The opened sources of its recipe.
        record: Further content of `crossbreed.json`.
        extra: Further texts.
        is_scored: Whether it was scored as an adapter.

    Raises:
        InputError: the recipe changes nothing.
    """
    recipe = made.recipe
    if not made.changes:
        raise InputError(
            "the recipe changes nothing, so there is no adapter of it",
            expected="a recipe that is not the base",
            where=f"recipe {recipe.id}",
            fix="use the base itself",
        )
    known = {
        "schema": PUBLISHED_SCHEMA,
        "recipe": recipe.id,
        "dtype": recipe.dtype,
        "sources": {parent.name: source_record(parent) for parent in source_infos(recipe, sources)},
        "host": host_hashes(sources),
        _ADAPTER: {
            "exact": made.is_exact,
            "rank": made.rank,
            "error": made.error,
            "errors": made.errors,
            "fingerprint": made.fingerprint,
        },
    }
    return AdapterContents(
        made=made,
        sources=sources,
        texts={RECIPE_FILE: dump_recipe(recipe), **(extra or {})},
        record=without_paths({**known, **(record or {})}),
        is_scored=is_scored,
    )


def require_form(form: Form, rank: int | None) -> None:
    """Refuses a rank without an adapter, and one that no matrix has."""
    if rank is not None and (form != "adapter" or rank < 1):
        raise InputError(
            "a rank is an adapter's, and at least 1",
            expected="--as adapter --rank R",
            got=f"--as {form} --rank {rank}",
        )


def _fingerprint(weights: WeightStream) -> str:
    stream = Fingerprinted(weights)
    for _ in stream:
        pass
    return stream.value
