"""A spec that runs, guessed from a base, experts and files of items, with what was guessed and how surely."""

import math
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossbreed.cache import expanded
from crossbreed.errors import Collector, InputError, printable, require
from crossbreed.fitness import TASKS, Task, TaskConfig
from crossbreed.fitness.item_files import ENDINGS
from crossbreed.fitness.tasks.guessing import Guess, Remark, guess_task, require_field
from crossbreed.runs.check import check_spec, memory_bytes
from crossbreed.runs.drafting.presets import engine_for, optimizer_for, space_for
from crossbreed.runs.drafting.text import render
from crossbreed.runs.spec import parse_spec
from crossbreed.sources import Sources, open_sources
from crossbreed.sources.chat_templates import template_of
from crossbreed.types import BASE

_SPLIT = {"search": (48, 4), "select": (40, 5), "report": (250, 1)}
"""Split -> the most items that help, and the part of the file that it may take; the report takes what is left."""
_FEW_ITEMS = 60
"""With fewer, only large differences can be seen."""
_SHORTEST_CONTEXT = 256
_IN_WORDS = 64
"""Tokens for a number that a chat model may wrap in a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A spec that `check` has passed, not yet written."""

    text: str
    remarks: tuple[Remark, ...]


def write_draft(
    model: str,
    experts: Sequence[str],
    *,
    items: Sequence[Path],
    out: Path,
    answers: Sequence[str] = (),
    prompts: Sequence[str] = (),
) -> Draft:
    """Writes a first spec to a new file, once it has passed `check`.

    Args:
        model: The base: a folder or hub id.
        experts: Checkpoints or adapters.
        items: Files of items, a task each.
        out: The file.
        answers: Fields of gold answers, each for the files that have it; for others it is guessed.
        prompts: Fields of questions, likewise.

    Raises:
        InputError: the file exists, a model or file is of no use, or the files do not say which field is which.
    """
    if os.path.lexists(out):
        fix = f"name another: --out {shlex.quote(str(out.with_name(f'{out.stem}-2{out.suffix}')))}"
        raise InputError("the file exists, and init writes over nothing", got=str(out), where="--out", fix=fix)
    if not out.parent.is_dir():
        raise InputError("there is no such folder", got=str(out.parent), where="--out", fix="make it, or name another")
    draft = make_draft(model, experts, items=items, folder=out.parent, answers=answers, prompts=prompts)
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(draft.text)
    except OSError as error:
        got = (error.strerror or str(error)).lower()
        raise InputError("the spec cannot be written", got=got, where=str(out), fix="name another --out") from None
    return draft


def make_draft(
    model: str,
    experts: Sequence[str],
    *,
    items: Sequence[Path],
    folder: Path,
    answers: Sequence[str] = (),
    prompts: Sequence[str] = (),
) -> Draft:
    """Returns the spec that `write_draft` writes into a folder; the errors are the same."""
    require("transformers", extra="torch")
    beside = [Path(given) for given in experts if _is_items(given)]  # `--items a.csv b.csv`: a shell's `--items *.csv`
    experts, items = [given for given in experts if not _is_items(given)], [*items, *beside]
    if not experts:
        raise InputError("there is no expert to merge", expected="init MODEL EXPERT... --items FILE", where="EXPERT...")
    names = expert_names(experts)
    tasks = _names([path.stem for path in items], [path.resolve().parent.name for path in items])
    mistakes = Collector()
    with mistakes.noted():
        sources = open_sources(model, dict(zip(names, experts, strict=True)))
    for flag, fields in (("--answer-field", answers), ("--prompt-field", prompts)):
        for field in fields:
            require_field(field, items, flag=flag)
    guesses: dict[str, Guess] = {}
    for name, path in zip(tasks, items, strict=True):
        with mistakes.noted():
            guesses[name] = guess_task(path, answers=answers, prompts=prompts, in_chats=_is_chat(experts))
    mistakes.require_none()
    raw, remarks = _spec(sources, guesses)
    called = folder.resolve().name
    raw["name"] = called if called and called == printable(called) else "first"
    raw["sources"] = {
        "base": _placed(model, folder),
        "experts": {name: _placed(expert, folder) for name, expert in zip(names, experts, strict=True)},
    }
    for task, path in zip(raw["fitness"]["tasks"], items, strict=True):
        task["items"] = _relative(path, folder)
    check_spec(parse_spec(raw, folder=folder, where="the guessed spec"))
    return Draft(text=render(raw, remarks), remarks=remarks)


def _spec(sources: Sources, guesses: Mapping[str, Guess]) -> tuple[dict[str, Any], tuple[Remark, ...]]:
    """Returns the sections that follow from models and items, and all remarks."""
    from crossbreed.fitness.engines.encoder import Encoder

    encoder = Encoder(sources.base.path, max_model_len=2**31)
    settings, configs, longest = list[dict[str, Any]](), list[TaskConfig](), 0
    remarks = [_told(name, remark) for name, guess in guesses.items() for remark in guess.remarks]
    for name, guess in guesses.items():
        asked = {key: value for key, value in guess.settings.items() if key != "kind"}
        head = {"name": name, "kind": guess.settings["kind"], "items": ""}
        settings.append({**head, **asked, **_max_tokens(name, guess, encoder)})
        config = TASKS.look_up(head["kind"]).model_validate(settings[-1])
        task = Task(kind=config, items=guess.items)
        configs.append(config)
        longest = max(longest, *(encoder.encode(r).num_total for item in task.items for r in task.requests(item)))
    space, num_coordinates = space_for(sources.structure)
    objectives = _objectives(configs)
    fewest = min(guesses, key=lambda name: len(guesses[name].items))
    num_items = len(guesses[fewest].items)
    split = _split(num_items, of=fewest)
    if num_items < _FEW_ITEMS:
        why = f"{num_items} items in the smallest file: only large differences will be seen"
        remarks.append(Remark(what=f"split {split}", sure="a guess", why=why))
    remarks += _unused(guesses, split)
    engine = engine_for(
        dtype=sources.structure.dtype,
        context_tokens=_context(longest, Encoder(sources.base.path).max_model_len),
        weight_bytes=sum(tensor.numel() * tensor.element_size() for tensor in _tensors(sources)),
        memory_bytes=memory_bytes(),
    )
    remarks.append(Remark(what=f"engine {engine['kind']}", sure="sure", why=f"in the base's {engine['dtype']}"))
    return {
        "name": "",
        "seed": 7,
        "sources": {},
        "space": space,
        "optimizer": optimizer_for(num_coordinates, len(objectives)),
        "fitness": {"engine": engine, "tasks": settings, "objectives": objectives, "split": split},
    }, tuple(remarks)


def _tensors(sources: Sources) -> list[Any]:
    return [sources.base.tensor(name) for name in sources.base.names]


def _told(name: str, remark: Remark) -> Remark:
    return Remark(what=f"{name}: {remark.what}", sure=remark.sure, why=remark.why)


def _max_tokens(name: str, guess: Guess, encoder: Any) -> dict[str, int]:  # an Encoder, imported late
    """Returns room for the longest gold answer, for kinds that generate one."""
    kind = TASKS.look_up(guess.settings["kind"])
    if "max_tokens" not in kind.model_fields:
        return {}
    config: Any = kind.model_validate({"name": name, "items": "-", **guess.settings})
    by_value = config.needed(guess.items[0]) == ()
    sizes = [min(map(encoder.num_tokens, config.golds(item, by_value=by_value))) for item in guess.items]
    room = 4 * math.ceil((max(sizes) + 4) / 4)
    return {"max_tokens": max(room, _IN_WORDS) if by_value and config.chat_template else room}


def _context(longest: int, at_most: int) -> int:
    return min(at_most, max(_SHORTEST_CONTEXT, 128 * math.ceil(1.1 * longest / 128)))


def _objectives(configs: Sequence[TaskConfig]) -> list[dict[str, Any]]:
    """Returns the mean of the tasks; those where less is better are objectives of their own beside others."""
    more = [config.name for config in configs if config.higher_is_better]
    less = [config.name for config in configs if not config.higher_is_better]
    return [{"mean": names} for names in (more, less) if names]


def _split(num_items: int, *, of: str) -> dict[str, int]:
    if num_items < len(_SPLIT):
        raise InputError(
            "there are too few items to divide",
            expected=f"at least {len(_SPLIT)} in each file, one each to search, to select and to report",
            got=f"{num_items}",
            where=f"the items of `{of}`",
            fix="add items",
        )
    split, left = dict[str, int](), num_items
    for name, (most, part) in _SPLIT.items():
        split[name] = max(1, min(most, num_items // part, left - (len(_SPLIT) - len(split) - 1)))
        left -= split[name]
    return split


def _unused(guesses: Mapping[str, Guess], split: Mapping[str, int]) -> Iterator[Remark]:
    """Yields which files have more items than the split takes, and a report split that takes nearly all."""
    sizes = {name: len(guess.items) for name, guess in guesses.items()}
    searched = split["search"] + split["select"]
    if len(set(sizes.values())) == 1:
        report = f"{min(sizes.values()) - searched}"
    else:  # a share of each file, which is no count too large for the smallest
        report = f"{math.floor(100 * (1 - searched / min(sizes.values()))) / 100:g}"
    for name, size in sizes.items():
        if left := size - sum(split.values()):
            why = (
                f"the split takes {sum(split.values())}; `report: {report}` in it uses more, at the end of a run alone"
            )
            remark = f"{left} of {size} items are not used"
            yield _told(name, Remark(what=remark, sure="sure", why=why))


def _is_items(given: str) -> bool:
    return Path(given).suffix.lower() in ENDINGS and not expanded(given).is_dir()


def _is_chat(experts: Sequence[str]) -> bool:
    """Returns whether some expert brings a chat template: then it was trained on chats, or on top of a chat model."""
    folders = [expanded(expert) for expert in experts]
    return any(template_of(folder) is not None for folder in folders if folder.is_dir())


def expert_names(experts: Sequence[str]) -> list[str]:
    """Returns a name for each of some folders or hub ids, all of them different."""
    return _names([_last(expert) for expert in experts], [_last_but_one(expert) for expert in experts])


def _last(source: str) -> str:
    """Returns what a folder, file or hub id is called."""
    folder = expanded(source)
    name = folder.resolve().name if folder.exists() else source.partition("@")[0].rstrip("/").rpartition("/")[2]
    return f"{name}-expert" if name == BASE else name or "expert"


def _last_but_one(source: str) -> str:
    folder = expanded(source)
    return folder.resolve().parent.name if folder.exists() else source.rpartition("/")[0]


def _names(names: Sequence[str], parents: Sequence[str]) -> list[str]:
    """Returns a name of its own for each: with its folder before it where two are equal, or else with a number."""
    found = [f"{parent}-{name}" if names.count(name) > 1 else name for name, parent in zip(names, parents, strict=True)]
    return [f"{name}-{found[: i + 1].count(name)}" if found.count(name) > 1 else name for i, name in enumerate(found)]


def _placed(source: str, folder: Path) -> str:
    return _relative(expanded(source), folder) if expanded(source).exists() else source


def _relative(path: Path, folder: Path) -> str:
    """Returns a path as a spec in a folder names it: an absolute one as it was given."""
    if path.is_absolute():
        return str(path)
    found = os.path.relpath(path, folder)
    return found if os.sep in found else os.path.join(".", found)
