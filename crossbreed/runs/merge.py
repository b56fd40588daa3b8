"""`crossbreed merge`: recipes and mergekit's configurations become folders, several of them in one pass."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from threading import Barrier, BrokenBarrierError
from typing import Literal, TypeAlias

import torch

from crossbreed.errors import InputError
from crossbreed.kernels import check_recipe, materialize_many
from crossbreed.kernels.artifacts import Grams
from crossbreed.mergekit import MergeConfig, read_config
from crossbreed.parsing import any_of, suggestion
from crossbreed.recipes import load_recipe, require_matches
from crossbreed.runs.artifacts import artifacts_of
from crossbreed.runs.mergekit import Dtype, merge_as_mergekit, recipe_of
from crossbreed.runs.publish import Contents, checkpoint_contents, import_readers, new_folders, require_unused
from crossbreed.sources import Sources, open_sources
from crossbreed.types import Recipe, WeightStream

Row: TypeAlias = tuple[str, Sequence[torch.Tensor]]
"""A tensor's name, and what each of several merges makes of it."""
Writer: TypeAlias = Callable[[Callable[[], WeightStream]], str]
"""Takes what makes the weights, and returns their fingerprint when they lie on the disk."""


def merge_recipe(
    path: Path,
    out: Path,
    *,
    sources: Sequence[str] = (),
    numerics: Literal["accurate", "mergekit"] = "accurate",
    lora_dtype: Dtype | None = None,
) -> None:
    """Writes the checkpoint of a recipe file, or of a mergekit configuration.

    Args:
        path: A recipe (YAML or JSON), or mergekit's YAML.
        out: A new or empty folder.
        sources: `NAME=FOLDER` of every source of a recipe; a configuration says where its models are.
        numerics: `accurate`, or for a configuration mergekit's own.
        lora_dtype: With mergekit's numerics, in which adapters are merged into their models.

    Raises:
        InputError: the recipe or a source is wrong, a source is not the one that the recipe names by hash, or an
            artifact is not on this machine.
        InvalidWeights: the merge holds NaN or Inf.
    """
    _merge({out: path}, sources=sources, numerics=numerics, lora_dtype=lora_dtype)


def merge_recipes(
    paths: Sequence[Path],
    out: Path,
    *,
    sources: Sequence[str] = (),
    numerics: Literal["accurate", "mergekit"] = "accurate",
    lora_dtype: Dtype | None = None,
) -> None:
    """Writes each of several files' checkpoints to the folder in `out` that has the file's name without its ending.

    What has the same sources and dtype is merged in one pass over them, to the same bits as alone. The folders appear
    when the last of them has been written and read back: all of them, or none if anything fails. Only a crash between
    two renames leaves some of them alone, and those are whole; the same command refuses them until they are removed.

    Args:
        paths: As `merge_recipe` takes them, each with a name of its own.
        out: Holds the folders; may hold others.
        sources: `NAME=FOLDER` of every source of the recipes.
        numerics: As for `merge_recipe`.
        lora_dtype: As for `merge_recipe`.

    Raises:
        InputError: as `merge_recipe`; two files of one name, a folder that is in use, or a disk without room for all.
        InvalidWeights: a merge holds NaN or Inf.
    """
    targets: dict[Path, Path] = {}
    for path in paths:
        if (target := out / path.stem) in targets:
            raise InputError(
                f"two recipes would be written to {target}",
                expected="files with names of their own, without their endings",
                got=f"{targets[target]} and {path}",
                fix="rename one of them",
            )
        targets[target] = path
    _merge(targets, sources=sources, numerics=numerics, lora_dtype=lora_dtype)


def _merge(targets: Mapping[Path, Path], *, sources: Sequence[str], numerics: str, lora_dtype: Dtype | None) -> None:
    """Writes folder <- file; refuses what can be refused before the first byte."""
    configs = {path: read_config(path) for path in targets.values()}
    is_accurate = numerics == "accurate"
    if lora_dtype is not None and (is_accurate or None in configs.values()):
        raise InputError("accurate numerics never round an adapter's model", expected="no --lora-merge-dtype")
    if sources and None not in configs.values():
        where = ", ".join(map(str, configs))
        raise InputError("a mergekit configuration says where its models are", expected="no --source", where=where)
    if not is_accurate and (recipe := next((path for path, config in configs.items() if config is None), None)):
        load_recipe(recipe)  # which may be no recipe at all
        raise InputError(
            "a recipe has no mergekit numerics",
            expected="a mergekit configuration (`merge_method: ...`), or --numerics accurate",
            where=str(recipe),
        )
    for out in targets:
        require_unused(out)
    for config in configs.values():
        if config is not None and config.idle:
            print(
                f"note: {config.method.name} has no use for {', '.join(config.idle)} there; mergekit passes over it too"
            )
    with TemporaryDirectory() as scratch:
        if is_accurate:
            files = {out: (path, configs[path]) for out, path in targets.items()}
            passes = _accurate_passes(files, _folders_of(sources))
        else:
            passes = [
                _mergekit_pass(out, path, configs[path], Path(scratch), lora_dtype) for out, path in targets.items()
            ]
        num_bytes = {out: contents.num_bytes for one in passes for out, contents in one.contents.items()}
        with new_folders(num_bytes) as folders:
            fingerprints = {out: found for one in passes for out, found in one.write(folders).items()}
    for out in targets:
        print(f"wrote {out}, fingerprint {fingerprints[out]}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pass:
    """Merges that are made in one walk over their sources. All that can be refused has been."""

    contents: Mapping[Path, Contents]
    """Where each goes -> what lies beside its weights there."""
    rows: Callable[[], Iterator[Row]]
    """Makes the weights."""

    def write(self, folders: Mapping[Path, Path]) -> dict[Path, str]:
        """Fills the folder that each has for now; returns the fingerprints."""
        writers = [partial(contents.write, folders[out]) for out, contents in self.contents.items()]
        if len(writers) == 1:
            found = [writers[0](lambda: ((name, made) for name, (made,) in self.rows()))]
        else:
            found = _write_together(writers, self.rows())
        return dict(zip(self.contents, found, strict=True))


def _accurate_passes(files: Mapping[Path, tuple[Path, MergeConfig | None]], folders: Mapping[str, str]) -> list[_Pass]:
    @cache
    def opened(base: str, experts: tuple[tuple[str, str], ...]) -> Sources:
        return open_sources(base, dict(experts))

    def open_once(base: str, experts: Mapping[str, str]) -> Sources:
        return opened(base, tuple(sorted(experts.items())))

    together: dict[tuple[Sources, str], dict[Path, Recipe]] = {}
    artifacts: dict[Path, Sequence[Grams]] = {}
    named: set[str] = set()
    for out, (path, config) in files.items():
        recipe, sources = _load(path, folders, open_once) if config is None else recipe_of(config, open_once)
        artifacts[out] = artifacts_of(recipe)
        check_recipe(recipe, sources, artifacts[out])
        together.setdefault((sources, recipe.dtype), {})[out] = recipe
        if config is None:
            named |= recipe.sources.keys()
    if surplus := [name for name in folders if name not in named]:
        raise InputError(
            f"no recipe has a source `{surplus[0]}`",
            expected=any_of(sorted(named)),
            got=f"--source {surplus[0]}={folders[surplus[0]]}",
            fix=suggestion(surplus[0], named),
        )
    return [
        _Pass(
            contents={out: checkpoint_contents(recipe, sources) for out, recipe in recipes.items()},
            rows=partial(
                materialize_many,
                list(recipes.values()),
                sources,
                artifacts=[grams for out in recipes for grams in artifacts[out]],
                once=True,
            ),
        )
        for (sources, _), recipes in together.items()
    ]


def _mergekit_pass(out: Path, path: Path, config: MergeConfig | None, scratch: Path, lora_dtype: Dtype | None) -> _Pass:
    assert config is not None, "recipes were refused"
    text, own = path.read_text(encoding="utf-8"), Path(mkdtemp(dir=scratch))
    contents, stream_factory = merge_as_mergekit(config, text, own, lora_dtype=lora_dtype)
    return _Pass(contents={out: contents}, rows=lambda: ((name, [made]) for name, made in stream_factory()))


def _load(
    path: Path, folders: Mapping[str, str], open_: Callable[[str, Mapping[str, str]], Sources]
) -> tuple[Recipe, Sources]:
    recipe = load_recipe(path)
    if missing := sorted(recipe.sources.keys() - folders.keys()):
        raise InputError(
            f"the recipe does not say where `{missing[0]}` is",
            expected=" ".join(f"--source {name}=FOLDER" for name in recipe.sources),
            where=str(path),
        )
    experts = {name: folders[name] for name in recipe.sources if name != recipe.base}
    sources = open_(folders[recipe.base], experts)
    found = {recipe.base: sources.base.hash, **{name: expert.hash for name, expert in sources.experts.items()}}
    for name, content in found.items():
        if recipe.sources[name] != content:
            raise InputError(
                f"`{name}` is not the model that the recipe was made for",
                expected=f"content hash {recipe.sources[name]}",
                got=content,
                where=folders[name],
            )
    require_matches(recipe, sources.base.tensors, where=str(path))
    return recipe, sources


def _write_together(writers: Sequence[Writer], rows: Iterable[Row]) -> list[str]:
    """Each is written, hashed and verified on a thread of its own; all merges are made on this one."""
    import_readers()
    dealer = _Dealer(len(writers))
    with ThreadPoolExecutor(len(writers)) as pool:
        written = [pool.submit(dealer.serve, writer, column) for column, writer in enumerate(writers)]
        dealer.deal(rows)
    faults = [fault for one in written if (fault := one.exception()) is not None]
    for fault in sorted(faults, key=lambda fault: isinstance(fault, BrokenBarrierError)):
        raise fault
    return [one.result() for one in written]


class _Dealer:
    """Hands rows out to as many threads as a row has columns, in step: the next row is made while one is written."""

    def __init__(self, num_columns: int) -> None:
        self._row: Row | None = None
        self._next: Row | None = None
        self._turn = Barrier(num_columns + 1, action=self._advance)

    def deal(self, rows: Iterable[Row]) -> None:
        """Makes the rows; ends with the last, or as soon as somebody has failed to take one."""
        try:
            for row in rows:
                self._next = row
                self._turn.wait()
            self._next = None
            self._turn.wait()
        except BrokenBarrierError:
            return  # whoever broke it says why
        except BaseException:
            self._turn.abort()
            raise

    def serve(self, write: Writer, column: int) -> str:
        """Has one column written; a failure stops everybody."""
        try:
            return write(lambda: self._column(column))
        except BaseException:
            self._turn.abort()
            raise

    def _column(self, column: int) -> WeightStream:
        while True:
            self._turn.wait()
            if self._row is None:
                return
            name, made = self._row
            yield name, made[column]

    def _advance(self) -> None:
        self._row = self._next


def _folders_of(sources: Sequence[str]) -> dict[str, str]:
    folders: dict[str, str] = {}
    for source in sources:
        name, equals, folder = source.partition("=")
        if not (name and equals and folder):
            raise InputError("a source has no name or no folder", expected="--source NAME=FOLDER", got=source)
        if name in folders:
            got = f"{name}={folders[name]} and {source}"
            raise InputError(f"`--source {name}` is given twice", expected="each source once", got=got)
        folders[name] = folder
    return folders
