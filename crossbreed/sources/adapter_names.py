"""Which tensor of the base a pair of factors belongs to. Adapters name modules of the model that was trained.

That is how transformers has them in memory; the base's files may call them otherwise, or leave out a prefix.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crossbreed.errors import InputError
from crossbreed.sources.adapter_advice import Advice, refusal
from crossbreed.sources.adapter_config import AdapterConfig
from crossbreed.sources.checkpoint import Checkpoint
from crossbreed.sources.model_config import load_config, named_class
from crossbreed.sources.naming import HEAD, is_end, spellings

if TYPE_CHECKING:
    import torch

_FACTOR = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+)\."
    r"(?:lora_(?P<side>[AB])(?:\.(?P<name>[^.]+))?\.weight|lora_embedding_(?P<row_side>[AB])(?:\.(?P<row_name>[^.]+))?)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """A and B of one module."""

    module: str
    """As the adapter calls it."""
    names: tuple[str, str]
    """Of A and B in the file."""
    is_embedding: bool
    """An embedding's: its matrix has a row for each input."""


def factor_of(name: str) -> tuple[str, str] | None:
    """Returns the module that a tensor of an adapter's file is a low-rank factor of, and its side; None: it is none.

    >>> factor_of("base_model.model.model.layers.0.mlp.up_proj.lora_A.weight")
    ('model.layers.0.mlp.up_proj', 'A')
    """
    found = _FACTOR.fullmatch(name)
    return None if found is None else (found["module"], found["side"] or found["row_side"])


def find_factors(names: Iterable[str], folder: Path) -> tuple[list[Factors], list[str]]:
    """Returns the pairs of factors in an adapter's file, and the names of all other tensors.

    Raises:
        InputError: a factor without its other, one that stands there twice, or several adapters in one file.
    """
    sides: dict[tuple[str, bool], dict[str, str]] = {}
    others, adapters = [], set()
    for name in sorted(names):
        if (found := _FACTOR.fullmatch(name)) is None:
            others.append(name)
            continue
        adapters.add(found["name"] or found["row_name"] or "default")
        pair = sides.setdefault((found["module"], found["row_side"] is not None), {})
        side = found["side"] or found["row_side"]
        if side in pair:
            raise _broken(f"the adapter holds a factor twice: `{pair[side]}` and `{name}`", folder)
        pair[side] = name
    if len(adapters) > 1:
        raise _broken(f"the file holds several adapters: {', '.join(sorted(adapters))}", folder)
    lone = [name for pair in sides.values() if len(pair) == 1 for name in pair.values()]
    if lone:
        raise _broken(f"the adapter carries `{lone[0]}` without its other factor", folder)
    factors = [
        Factors(module=module, names=(pair["A"], pair["B"]), is_embedding=is_embedding)
        for (module, is_embedding), pair in sides.items()
    ]
    return factors, others


def resolve(one: Factors, base: Checkpoint, config: AdapterConfig, *, ties: bool) -> str:
    """Returns the tensor of the base that a pair of factors changes.

    Args:
        one: The factors.
        base: The base.
        config: The adapter's options.
        ties: Whether the adapter changes head and embedding alike.

    Raises:
        InputError: there is none, or it is two things in one: a head that is the embedding.
    """
    found = next((f"{name}.weight" for name in spellings(one.module) if f"{name}.weight" in base.tensors), None)
    is_head = found is None and f"{one.module}.weight" == HEAD
    if base.tied and (is_head or found == base.tied_embedding):
        if not ties:
            changed = HEAD if is_head else found
            problem = (
                f"the adapter changes `{changed}`, which the base ties to its {'embeddings' if is_head else 'head'}"
            )
            raise refusal(problem, config.folder, base, Advice.UNTIE)
        found = base.tied_embedding
    if found is not None:
        return found
    if one.module in _modules_in_memory(base):
        raise refusal(
            f"the adapter names `{one.module}` as transformers has it in memory; the base's files name it otherwise",
            config.folder,
            base,
            Advice.MERGE if not (base.tied and is_end(one.module)) else Advice.NONE,
        )
    raise InputError(
        f"the adapter is for another base: it changes `{one.module}`",
        expected=f"modules of {base.path}, for example {next(iter(base.tensors))}",
        got=f"no tensor `{one.module}.weight` there",
        where=str(config.folder),
        fix=f"use the base that the adapter was trained on: {config.base}",
    )


def model_in_memory(base: Checkpoint) -> "torch.nn.Module | None":
    """Returns the base as transformers builds it, without weights; None where it cannot."""
    import torch
    import transformers

    kind = named_class(base.config)
    try:
        config = load_config(base.path)
        with torch.device("meta"):
            model: torch.nn.Module = (
                kind(config) if kind is not None else transformers.AutoModelForCausalLM.from_config(config)
            )
    except Exception:  # the model is not to be run, only asked for names
        return None
    return model


def _modules_in_memory(base: Checkpoint) -> frozenset[str]:
    """What transformers calls the modules of the base once it is loaded; nothing where it cannot build it."""
    model = model_in_memory(base)
    return frozenset() if model is None else frozenset(name for name, _ in model.named_modules())


def _broken(problem: str, folder: Path) -> InputError:
    return InputError(
        problem,
        expected="lora_A and lora_B of one adapter, once for each module",
        where=str(folder),
        fix="have PEFT write it again, alone in a folder: `save_pretrained(OUT, selected_adapters=[NAME])`",
    )
