"""Opens a base and its experts, and finds in seconds whatever would make their merge wrong.

Cheap checks come first (configurations, vocabularies, names, shapes), so that a wrong expert is named before the
weights of any are read. Sources may be stored in different floating-point dtypes: promotion to the wider one is exact.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import torch
from blake3 import blake3

from crossbreed.errors import Collector, InputError
from crossbreed.sources.adapter import ADAPTER_STEM, Adapter
from crossbreed.sources.adapter_advice import merge_command
from crossbreed.sources.adapter_config import ADAPTER_CONFIG, AdapterConfig
from crossbreed.sources.agreement import Difference, check_agreement, check_chat_templates, end_token_ids
from crossbreed.sources.checkpoint import CONFIG, Checkpoint
from crossbreed.sources.hashes import require_unchanged
from crossbreed.sources.hub import SourceLocation, locate
from crossbreed.sources.mapped_file import FileState, MappedFile
from crossbreed.sources.structure import Structure
from crossbreed.sources.tokenization import appended_tokens, tokenizer_file
from crossbreed.sources.vocabulary import end_tokens
from crossbreed.types import BASE

Expert: TypeAlias = Checkpoint | Adapter
_SIDE_FILES = (
    "*.json",
    "*.jinja",
    "additional_chat_templates/*.jinja",
    "*.model",
    "*.tiktoken",
    "vocab.txt",
    "merges.txt",
)
"""The files that configuration and tokenizer are read from."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Sources:
    """Everything that a run may merge, opened and in agreement."""

    base: Checkpoint
    experts: Mapping[str, Expert]
    """Name in recipes -> expert, in the order of the Spec."""
    structure: Structure
    """Their names and shapes, for search spaces."""
    differences: tuple[Difference, ...] = ()
    """The differences between the experts' files and the base's; merges have the base's."""
    accept: tuple[str, ...] = ()
    """The differences that the spec accepts by name."""
    made: frozenset[str] = frozenset()
    """The experts that a run has made of the others; they are nobody's fine-tunes."""
    side_files: Mapping[MappedFile, str] = field(default_factory=dict)
    """What configurations and tokenizers were read from, and its content hash."""

    @property
    def end_token_ids(self) -> frozenset[int]:
        """Tokens that end a text by the files of the base or of any expert: a merge may end like each of them.

        What the run has made is a merge: the files beside its tensors are copies, of this base as it was then, or of
        another one of which the same tensors were made.
        """
        paths = (self.base.path, *(expert.path for expert in self.tuned.values()))
        return frozenset[int]().union(*(end_token_ids(path, base=self.base) for path in paths))

    @property
    def tuned(self) -> Mapping[str, Expert]:
        """The experts without those that the run has made."""
        return {name: expert for name, expert in self.experts.items() if name not in self.made}

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the sources, although nothing of it is wrong; a sentence each."""
        return tuple(_notes(self))

    def require_unchanged(self) -> None:
        """Looks at all files of the sources: microseconds each.

        Raises:
            InputError: one has changed since it was opened.
        """
        for source in (self.base, *self.experts.values()):
            require_unchanged(source.shards)
        for file, content in self.side_files.items():
            if file.now != file.state and (file.now is None or _content_hash(file.path) != content):
                raise file.changed

    def require_one_chat_template(self) -> None:
        """Refuses to ask chats where experts write them down otherwise than the base.

        Raises:
            InputError: one does, and `chat_template` is not accepted.
        """
        check_chat_templates(self.differences, accept=self.accept, base=self.base.path)

    def require_changes(self) -> None:
        """Refuses experts that are the base, beside others: they would thin out every average.

        Raises:
            InputError: an expert equals the base in every tensor.
        """
        idle = [name for name, touched in self.structure.touched.items() if not touched]
        if not idle or len(idle) == len(self.experts):
            return
        expert = self.experts[idle[0]]
        why = f" ({expert.why_idle})" if isinstance(expert, Adapter) else ""
        raise InputError(
            f"expert `{idle[0]}` equals the base in every tensor: was it trained?{why}",
            expected="an expert that changes something",
            where=str(expert.path),
            fix="name the checkpoint that training wrote, or leave the expert out",
        )


def open_sources(base: str, experts: Mapping[str, str], *, accept: Collection[str] = ()) -> Sources:
    """Opens a base and its experts, each a local folder or a hub id.

    All weights are read once, to hash them; a second time the cache knows them.

    Args:
        base: A full checkpoint.
        experts: Expert name -> full checkpoint or PEFT LoRA adapter.
        accept: The differences to accept: keys of config.json, `tokenizer`, `chat_template`. A merge has the base's.

    Raises:
        InputError: a source is missing, broken, or disagrees with the base; the message names it and the tensor.
    """
    if BASE in experts:
        raise InputError(f"`{BASE}` is the base's own name in recipes", got="an expert of that name", fix="rename it")
    mistakes, foundation, opened = Collector(), None, dict[str, Expert]()
    side_files, differences = dict[MappedFile, str](), list[Difference]()
    with mistakes.noted():
        base_origin = _locate("the base", base)
        if is_adapter(base_origin):
            raise _adapter_as_base(base_origin.path)
        side_files |= _side_files(base_origin.path)
        foundation = Checkpoint.open(base_origin)
    for name, source in experts.items():
        with mistakes.noted():
            origin = _locate(f"expert `{name}`", source)
            side_files |= _side_files(origin.path)
            if foundation is not None:
                opened[name], differing = open_expert(name, origin, foundation, accept=accept)
                differences += differing
            elif not is_adapter(origin):
                Checkpoint.open(origin)  # whether it can be read at all
    mistakes.require_none()
    assert foundation is not None, "a base that cannot be opened is a mistake"
    sources = Sources(
        base=foundation,
        experts=opened,
        structure=_structure(foundation, opened),
        differences=tuple(differences),
        accept=tuple(accept),
        side_files=side_files,
    )
    sources.require_unchanged()  # while one was hashed, another may have been written over
    return sources


def with_made(sources: Sources, name: str, folder: Path) -> Sources:
    """Returns the sources with one more expert, a checkpoint that a run has made of them: its tensors are all of it.

    Raises:
        InputError: it is broken, or no merge of these sources.
    """
    made = Checkpoint.open(locate(str(folder)), base=sources.base)
    _check_tensors(name, made, sources.base)
    experts = {**sources.experts, name: made}
    structure = _structure(sources.base, experts)
    return replace(sources, experts=experts, structure=structure, made=sources.made | {name})


def _side_files(folder: Path) -> dict[MappedFile, str]:
    paths = sorted(path for pattern in _SIDE_FILES for path in folder.glob(pattern) if path.is_file())
    return {MappedFile(path=path, state=FileState.of(path)): _content_hash(path) for path in paths}


def _content_hash(path: Path) -> str:
    return blake3(path.read_bytes()).hexdigest()


def _locate(who: str, source: str) -> SourceLocation:
    try:
        return locate(source)
    except InputError as error:
        where = f"{who}: {error.where}"
        raise InputError(
            error.problem, expected=error.expected, got=error.got, where=where, fix=error.fix
        ) from error.__cause__


def is_adapter(origin: SourceLocation) -> bool:
    """Returns whether a folder is a PEFT adapter's, and not a checkpoint that keeps the configuration of one."""
    is_checkpoint = (origin.path / CONFIG).is_file() and not any(origin.path.glob(f"{ADAPTER_STEM}*"))
    return (origin.path / ADAPTER_CONFIG).is_file() and not is_checkpoint


def open_expert(
    name: str, origin: SourceLocation, base: Checkpoint, *, accept: Collection[str] = ()
) -> tuple[Expert, tuple[Difference, ...]]:
    """Opens a full checkpoint or an adapter as an expert of `base`.

    Args:
        name: The expert's name in messages.
        origin: Its folder.
        base: The opened base.
        accept: See `open_sources`.

    Returns:
        The expert, and what it has otherwise than the base all the same.

    Raises:
        InputError: it is broken, or disagrees with the base.
    """
    if is_adapter(origin):
        adapter = Adapter.open(origin, base=base)
        return adapter, check_agreement(name, origin.path, base, config=None, accept=accept)
    expert = Checkpoint.open(origin, base=base)
    differences = check_agreement(name, origin.path, base, config=expert, accept=accept)
    _check_tensors(name, expert, base)
    return expert, differences


def _adapter_as_base(folder: Path) -> InputError:
    config = AdapterConfig.read(folder)
    named = config.base if config.names_base else "BASE"
    trained_on = named if config.names_base else "BASE, which its configuration does not name"
    return InputError(
        "an adapter cannot stand alone: it changes a base",
        expected="a full checkpoint",
        where=str(folder),
        fix=f"in a spec or a recipe, name the model that it was trained on as the base ({trained_on}), and the adapter "
        f"as an expert; to evaluate it alone, merge it:\n{merge_command(folder, Path(named))}",
    )


def _structure(base: Checkpoint, experts: Mapping[str, Expert]) -> Structure:
    return Structure(
        tensors=base.tensors,
        touched={name: expert.touched for name, expert in experts.items()},
        hashes={BASE: base.hash, **{name: expert.hash for name, expert in experts.items()}},
        tied=base.tied,
        ranks={name: expert.ranks if isinstance(expert, Adapter) else {} for name, expert in experts.items()},
    )


def _notes(sources: Sources) -> Iterator[str]:
    yield from map(str, sources.differences)
    yield from _twins(sources)
    ours = end_token_ids(sources.base.path, base=sources.base)
    for name, expert in sources.tuned.items():
        if others := end_token_ids(expert.path, base=sources.base) - ours:
            both = f"`{name}` ends a text with {_listed(others, sources)} too, the base with {_listed(ours, sources)}"
            yield f"{both}: answers end at all of them, and so do published models"
    if tokenizer_file(sources.base.path) and (appended := appended_tokens(sources.base.path)):
        yield f"the base's tokenizer puts {', '.join(appended)} behind every text: it is cut off where a model goes on"


def _twins(sources: Sources) -> Iterator[str]:
    """Yields a sentence for each set of experts with the same weights."""
    names: dict[str, list[str]] = {}
    for name, expert in sources.experts.items():
        names.setdefault(expert.hash, []).append(f"`{name}`")
    for twins in names.values():
        if len(twins) > 1:
            yield f"{' and '.join(twins)} have the same weights: operators that compare experts count them twice"


def _listed(rows: Collection[int], sources: Sources) -> str:
    texts = {
        token.id: token.text
        for path in (sources.base.path, *(expert.path for expert in sources.tuned.values()))
        for token in end_tokens(path, vocabulary=sources.base.path)
    }
    return ", ".join(f"{texts.get(row) or 'token'} ({row})" for row in sorted(rows)) or "nothing"


def _check_tensors(name: str, expert: Checkpoint, base: Checkpoint) -> None:
    strays = sorted(base.tensors.keys() ^ expert.tensors.keys())
    if strays:
        here, there = ("lacks", "has") if strays[0] in base.tensors else ("has", "lacks")
        raise InputError(
            f"expert `{name}` {here} `{strays[0]}`, which the base {there}",
            expected=f"the {len(base.tensors)} tensors of {base.path}",
            got=f"{len(expert.tensors)} tensors, {len(strays)} names differ",
            where=str(expert.path),
            fix="merge only fine-tunes of one base; save both with the same version of transformers",
        )
    for tensor, info in expert.tensors.items():
        if info.shape != base.tensors[tensor].shape:
            raise InputError(
                f"`{tensor}` of expert `{name}` has another shape than the base's",
                expected=str(base.tensors[tensor].shape),
                got=str(info.shape),
                where=str(expert.path),
                fix="merge only fine-tunes of one base",
            )
        _check_values(name, tensor, expert, base)


def _check_values(name: str, tensor: str, expert: Checkpoint, base: Checkpoint) -> None:
    """Masks and position ids cannot be averaged: one value must serve all."""
    ours, theirs = base.tensor(tensor), expert.tensor(tensor)
    if ours.is_floating_point() and theirs.is_floating_point():
        return
    if ours.dtype != theirs.dtype or not torch.equal(ours, theirs):
        raise InputError(
            f"`{tensor}` of expert `{name}` is no weight, and differs from the base's",
            expected=f"the base's values, {ours.dtype}",
            got=f"others, {theirs.dtype}",
            where=str(expert.path),
            fix="a buffer is part of the architecture: merge only fine-tunes of one base",
        )
