"""`crossbreed merge`: writes the checkpoints of recipes and mergekit configurations, several of them in one pass."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from threading import Barrier, BrokenBarrierError
from typing import Literal, TypeAlias

import torch

from crossbreed.errors import Collector, InputError, each
from crossbreed.kernels import check_recipe, materialize_many
from crossbreed.kernels.artifacts.files import Artifact
from crossbreed.mergekit import MergeConfig, read_config
from crossbreed.mergekit.recipe import recipe_of
from crossbreed.parsing import any_of, suggestion
from crossbreed.recipes import load_recipe, require_matches, require_weights
from crossbreed.runs.adapter import recipe_adapter
from crossbreed.runs.artifact_files import artifacts_of
from crossbreed.runs.events import CheckpointWritten, Listener, Note, ignore
from crossbreed.runs.publishing.adapter_contents import AdapterContents, Form, adapter_contents, require_form
from crossbreed.runs.publishing.contents import Contents, checkpoint_contents, import_readers
from crossbreed.runs.publishing.folders import new_folders, require_unused
from crossbreed.runs.publishing.merge_mergekit import chat_template, merge_as_mergekit
from crossbreed.sources import Sources, open_sources
from crossbreed.types import Dtype, LayerStep, Recipe, WeightStream

Row: TypeAlias = tuple[str, Sequence[torch.Tensor]]
"""A tensor's name, and its value in each of several merges."""
Writer: TypeAlias = Callable[[Callable[[], WeightStream]], str]
"""Takes a function that makes the weights, and returns their fingerprint when they are on disk."""


def merge_recipe(
    path: Path,
    out: Path,
    *,
    sources: Sequence[str] = (),
    numerics: Literal["accurate", "mergekit"] = "accurate",
    lora_dtype: Dtype | None = None,
    accept: Sequence[str] = (),
    form: Form = "checkpoint",
    rank: int | None = None,
    on_event: Listener = ignore,
) -> None:
    """Writes the checkpoint of a recipe file, or of a mergekit configuration.

    Args:
        path: A recipe (YAML or JSON), or mergekit's YAML.
        out: A new or empty folder.
        sources: `NAME=FOLDER` for every source of a recipe; a configuration contains the paths of its models.
        numerics: `accurate`, or `mergekit` for a configuration.
        lora_dtype: With mergekit's numerics, the dtype in which adapters are merged into their models.
        accept: Keys in which models may differ from the base, as for `open_sources`. Mergekit's numerics compare none.
        form: What is written: a checkpoint, or a LoRA adapter of the base.
        rank: Of an adapter: the largest rank of a matrix. None: what the sum of the experts' adapters has.
        on_event: As for `run`.

    Raises:
        InputError: the recipe or a source is invalid, a source does not have the hash in the recipe, or an artifact is
            not on this machine.
        InvalidWeights: the merge contains NaN or Inf.
    """
    _merge(
        {out: path},
        on_event,
        sources=sources,
        numerics=numerics,
        lora_dtype=lora_dtype,
        accept=accept,
        form=form,
        rank=rank,
    )


def merge_recipes(
    paths: Sequence[Path],
    out: Path,
    *,
    sources: Sequence[str] = (),
    numerics: Literal["accurate", "mergekit"] = "accurate",
    lora_dtype: Dtype | None = None,
    accept: Sequence[str] = (),
    form: Form = "checkpoint",
    rank: int | None = None,
    on_event: Listener = ignore,
) -> None:
    """Writes the checkpoint of each file to the folder in `out` with the file's name, without its suffix.

    Merges with the same sources and dtype are made in one pass, with the same bits as alone. The folders appear when
    the last of them has been written and read back: all of them, or none if anything fails. Only a crash between two
    renames leaves some of them, each complete; they must be removed before the same command is run again.

    Args:
        paths: Files as for `merge_recipe`, with distinct names.
        out: The parent of the folders; may contain others.
        sources: `NAME=FOLDER` for every source of the recipes.
        numerics: As for `merge_recipe`.
        lora_dtype: As for `merge_recipe`.
        accept: As for `merge_recipe`.
        form: As for `merge_recipe`.
        rank: As for `merge_recipe`.
        on_event: As for `run`.

    Raises:
        InputError: as for `merge_recipe`; two files have the same name, a folder is in use, or the disk is full.
        InvalidWeights: a merge contains NaN or Inf.
    """
    targets: dict[Path, Path] = {}
    for path in paths:
        if (target := out / path.stem) in targets:
            raise InputError(
                f"two recipes would be written to {target}",
                expected="files with distinct names, apart from their suffixes",
                got=f"{targets[target]} and {path}",
                fix="rename one of them",
            )
        targets[target] = path
    _merge(
        targets,
        on_event,
        sources=sources,
        numerics=numerics,
        lora_dtype=lora_dtype,
        accept=accept,
        form=form,
        rank=rank,
    )


def _merge(
    targets: Mapping[Path, Path],
    on_event: Listener,
    *,
    sources: Sequence[str],
    numerics: str,
    lora_dtype: Dtype | None,
    accept: Sequence[str],
    form: Form,
    rank: int | None,
) -> None:
    """Writes folder <- file; raises InputErrors before the first byte is written."""
    configs = dict(zip(targets.values(), each(read_config, targets.values()), strict=True))
    is_accurate = numerics == "accurate"
    if lora_dtype is not None and (is_accurate or None in configs.values()):
        raise InputError("--lora-merge-dtype has no effect with accurate numerics", expected="no --lora-merge-dtype")
    require_form(form, rank)
    if form == "adapter" and not is_accurate:
        raise InputError("mergekit's numerics make checkpoints alone", expected="--numerics accurate, or no --as")
    if accept and not is_accurate:
        raise InputError("--accept has no effect with mergekit's numerics", expected="no --accept")
    if sources and None not in configs.values():
        where = ", ".join(map(str, configs))
        raise InputError("a mergekit configuration contains its models' paths", expected="no --source", where=where)
    if not is_accurate and (recipe := next((path for path, config in configs.items() if config is None), None)):
        load_recipe(recipe)  # it may not be a recipe at all
        raise InputError(
            "mergekit's numerics are not available for recipes",
            expected="a mergekit configuration (`merge_method: ...`), or --numerics accurate",
            where=str(recipe),
        )
    each(require_unused, targets)
    for config in configs.values():
        for text in _unused(config, is_accurate=is_accurate) if config else ():
            on_event(Note(text=text))
    with TemporaryDirectory() as scratch:
        if is_accurate:
            files = {out: (path, configs[path]) for out, path in targets.items()}
            passes = _accurate_passes(files, _folders_of(sources), accept, form, rank)
            for one in passes:
                for text in one.notes:
                    on_event(Note(text=text))
        else:
            passes = [
                _mergekit_pass(out, path, configs[path], Path(scratch), lora_dtype) for out, path in targets.items()
            ]
        num_bytes = {out: contents.num_bytes for one in passes for out, contents in one.contents.items()}
        with new_folders(num_bytes) as folders:
            fingerprints = {out: found for one in passes for out, found in one.write(folders).items()}
    for out in targets:
        on_event(CheckpointWritten(folder=out, fingerprint=fingerprints[out]))


def _unused(config: MergeConfig, *, is_accurate: bool) -> Iterator[str]:
    """Yields what a configuration says without effect.

    Raises:
        InputError: a key is misspelt or misplaced, and the merge need not be mergekit's.
    """
    if config.idle:
        yield f"note: {config.method.name} does not use {', '.join(config.idle)}; mergekit ignores it too"
    for key in config.ignored:
        if is_accurate and key.is_slip:
            raise InputError(
                f"unknown key `{key.key}`",
                expected="keys that have an effect",
                where=key.where,
                fix=f"{key.fix}; or merge without it, as mergekit does: --numerics mergekit",
            )
        yield f"note: {key}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pass:
    """Merges that are made in one pass over their sources, already validated."""

    contents: Mapping[Path, Contents | AdapterContents]
    """Output folder -> its contents other than weights."""
    rows: Callable[[], Iterator[Row]]
    """Makes the weights."""
    notes: tuple[str, ...] = ()
    """What to say of it."""

    def write(self, folders: Mapping[Path, Path]) -> dict[Path, str]:
        """Fills the temporary folders (output -> temporary); returns the fingerprints."""
        writers = [partial(contents.write, folders[out]) for out, contents in self.contents.items()]
        if len(writers) == 1:
            found = [writers[0](lambda: ((name, made) for name, (made,) in self.rows()))]
        else:
            found = _write_together(writers, self.rows())
        return dict(zip(self.contents, found, strict=True))


def _accurate_passes(
    files: Mapping[Path, tuple[Path, MergeConfig | None]],
    folders: Mapping[str, str],
    accept: Sequence[str],
    form: Form,
    rank: int | None,
) -> list[_Pass]:
    @cache
    def opened(base: str, experts: tuple[tuple[str, str], ...]) -> Sources:
        return open_sources(base, dict(experts), accept=accept)

    def open_once(base: str, experts: Mapping[str, str]) -> Sources:
        return opened(base, tuple(sorted(experts.items())))

    together: dict[tuple[Sources, str, tuple[LayerStep, ...]], dict[Path, Recipe]] = {}
    artifacts: dict[Path, Sequence[Artifact]] = {}
    named: set[str] = set()
    for out, (path, config) in files.items():
        recipe, sources = _load(path, folders, open_once) if config is None else recipe_of(config, open_once)
        artifacts[out] = artifacts_of(recipe)
        check_recipe(recipe, sources, artifacts[out])
        together.setdefault((sources, recipe.dtype, recipe.layers), {})[out] = recipe
        if config is None:
            named |= recipe.sources.keys()
    if surplus := [name for name in folders if name not in named]:
        raise InputError(
            f"no recipe has a source `{surplus[0]}`",
            expected=any_of(sorted(named)),
            got=f"--source {surplus[0]}={folders[surplus[0]]}",
            fix=suggestion(surplus[0], named),
        )
    if form == "adapter":
        return [
            _adapter_pass(out, recipe, sources, artifacts[out], rank)
            for (sources, *_), recipes in together.items()
            for out, recipe in recipes.items()
        ]
    return [
        _Pass(
            contents={
                out: checkpoint_contents(recipe, sources, extra=_chat_template(files[out][1], sources))
                for out, recipe in recipes.items()
            },
            rows=partial(
                _rows, list(recipes.values()), sources, [artifact for out in recipes for artifact in artifacts[out]]
            ),
        )
        for (sources, *_), recipes in together.items()
    ]


def _adapter_pass(
    out: Path, recipe: Recipe, sources: Sources, artifacts: Sequence[Artifact], rank: int | None
) -> _Pass:
    made = recipe_adapter(recipe, sources, rank=rank, artifacts=artifacts)
    return _Pass(
        contents={out: adapter_contents(made, sources)},
        rows=partial(_rows, [recipe], sources, artifacts),
        notes=(f"{out}: {made.summary}",),
    )


def _rows(recipes: Sequence[Recipe], sources: Sources, artifacts: Sequence[Artifact]) -> Iterator[Row]:
    yield from materialize_many(recipes, sources, artifacts=artifacts, once=True)
    sources.require_unchanged()


def _chat_template(config: MergeConfig | None, sources: Sources) -> dict[str, str]:
    """Returns the file with the template that a configuration chooses: a recipe says nothing of chats."""
    paths = (sources.base.path, *(expert.path for expert in sources.experts.values()))
    return {} if config is None else chat_template(config, paths)


def _mergekit_pass(out: Path, path: Path, config: MergeConfig | None, scratch: Path, lora_dtype: Dtype | None) -> _Pass:
    assert config is not None, "recipes have been rejected"
    text, own = path.read_text(encoding="utf-8"), Path(mkdtemp(dir=scratch))
    contents, stream_factory = merge_as_mergekit(config, text, own, lora_dtype=lora_dtype)
    return _Pass(contents={out: contents}, rows=lambda: ((name, [made]) for name, made in stream_factory()))


def _load(
    path: Path, folders: Mapping[str, str], open_: Callable[[str, Mapping[str, str]], Sources]
) -> tuple[Recipe, Sources]:
    recipe = load_recipe(path)
    if missing := sorted(recipe.sources.keys() - folders.keys()):
        raise InputError(
            f"there is no path for the recipe's source `{missing[0]}`",
            expected=" ".join(f"--source {name}=FOLDER" for name in recipe.sources),
            where=str(path),
        )
    experts = {name: folders[name] for name in recipe.sources if name != recipe.base}
    sources = open_(folders[recipe.base], experts)
    found = {recipe.base: sources.base.hash, **{name: expert.hash for name, expert in sources.experts.items()}}
    mistakes = Collector()
    for name, content in found.items():
        if recipe.sources[name] != content:
            mistakes.note(
                InputError(
                    f"`{name}` is not the model that the recipe was made for",
                    expected=f"content hash {recipe.sources[name]}",
                    got=content,
                    where=folders[name],
                )
            )
    mistakes.require_none()
    require_matches(recipe, sources.base.tensors, where=str(path))
    require_weights(recipe, where=str(path))
    return recipe, sources


def _write_together(writers: Sequence[Writer], rows: Iterable[Row]) -> list[str]:
    """Writes, hashes and verifies each merge on its own thread; all merges are computed on this one."""
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
    """Distributes rows to one thread per column, in step: the next row is made while one is written."""

    def __init__(self, num_columns: int) -> None:
        self._row: Row | None = None
        self._next: Row | None = None
        self._turn = Barrier(num_columns + 1, action=self._advance)

    def deal(self, rows: Iterable[Row]) -> None:
        """Makes the rows; ends after the last, or as soon as a thread has failed."""
        try:
            for row in rows:
                self._next = row
                self._turn.wait()
            self._next = None
            self._turn.wait()
        except BrokenBarrierError:
            return  # the thread that broke it raises the error
        except BaseException:
            self._turn.abort()
            raise

    def serve(self, write: Writer, column: int) -> str:
        """Has one column written; a failure stops all threads."""
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
