"""Sources that a run has made of the others, found by content hash: in this machine's cache, and in run folders."""

import shutil
from contextlib import suppress
from pathlib import Path

from crossbreed.durable import scratch_folder, sync
from crossbreed.errors import InputError
from crossbreed.runs.artifact_files import folder
from crossbreed.sources import Sources
from crossbreed.sources.opening import with_made
from crossbreed.types import REGRESSION, Recipe


def made_source(sources: Sources, wanted: str, *places: Path | None) -> Sources | None:
    """Returns the sources with the regression of a content hash; None if it is in none of the places."""
    for place in places:
        path = place / f"{REGRESSION}-{wanted}" if place else None
        if path is None or not path.is_dir():
            continue
        try:
            found = with_made(sources, REGRESSION, path)
        except InputError:  # a damaged copy
            continue
        if found.structure.hashes[REGRESSION] == wanted:
            return found
    return None


def keep_made(sources: Sources, into: Path) -> None:
    """Copies what a run has made into a folder where `made_source` finds it, unless it is there.

    Several processes may do so together: one that is there and whole stays, for others may have it open.
    """
    for name in sources.made:
        made = sources.experts[name]
        target = into / f"{name}-{made.hash}"
        if made.path == target or made_source(sources, made.hash, into) is not None:
            continue
        into.mkdir(parents=True, exist_ok=True)
        with scratch_folder(into) as new:
            part = new / "part"
            part.mkdir()
            for file in made.path.iterdir():
                shutil.copyfile(file, part / file.name)
                sync(part / file.name)
            if target.exists() and made_source(sources, made.hash, into) is None:  # a damaged copy
                with suppress(FileNotFoundError):
                    target.rename(new / "damaged")
            try:
                part.rename(target)
            except OSError:
                if made_source(sources, made.hash, into) is None:
                    raise
        sync(into)


def with_made_of(recipe: Recipe, sources: Sources) -> Sources:
    """Returns the sources with what a recipe names of a run's own, from the cache of this machine.

    Raises:
        InputError: it is not there.
    """
    wanted = recipe.sources.get(REGRESSION)
    if wanted is None or wanted in sources.structure.hashes.values():
        return sources
    if (found := made_source(sources, wanted, folder())) is not None:
        return found
    raise InputError(
        "the recipe's source `regression` is not on this machine",
        expected=f"content hash {wanted}",
        where=str(folder()),
        fix="make it again with `crossbreed report RUN`, of the run that bred the recipe; or set CROSSBREED_CACHE to a "
        "cache folder that contains it",
    )
