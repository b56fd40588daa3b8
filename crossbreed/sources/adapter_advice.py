"""What is to be done with an adapter that is no low-rank change of its base. Each command is executed in a test."""

from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any

from crossbreed.errors import InputError
from crossbreed.sources.advice import literal, python_command
from crossbreed.sources.checkpoint import Checkpoint
from crossbreed.sources.tokenization import tokenizer_file
from crossbreed.sources.untying import untie_command, untied_copy


class Advice(IntEnum):
    """What helps, from the easiest on: what needs more replaces what needs less."""

    MERGE = 1
    """PEFT merges it into a full checkpoint."""
    UNTIE = 2
    """It changes head and embedding otherwise: once the base has two tensors, it is an ordinary adapter."""
    UNTIE_AND_MERGE = 3
    """Both."""
    CONVERT = 4
    """It counts from weights that its training made and nobody can make again."""
    NONE = 5
    """It is no change of weights."""


def refusal(problem: str, folder: Path, base: Checkpoint, advice: Advice) -> InputError:
    """Returns the error for an adapter that cannot be read as it is."""
    return InputError(
        problem,
        expected="a LoRA adapter whose change of the base is scale * B @ A",
        where=str(folder),
        fix=_fix(folder, base, advice),
    )


def merge_command(folder: Path, base: Path, *, config: Mapping[str, Any] | None = None) -> str:
    """Returns the command that merges an adapter into its base: `FOLDER-merged` then is a full checkpoint.

    Args:
        folder: The adapter's.
        base: A full checkpoint's.
        config: The base's config.json, where it is at hand.
    """
    target = literal(f"{folder}-merged")
    model = f'M.from_pretrained({literal(base)}, dtype="float32")'
    statements = [
        f"from transformers import {_model_class(config or {})} as M, AutoTokenizer as T",
        "from peft import PeftModel as P",
        f"P.from_pretrained({model}, {literal(folder)}).merge_and_unload().save_pretrained({target})",
    ]
    if tokenizer_file(folder) is not None:  # it may end a text with another token
        statements.append(f"T.from_pretrained({literal(folder)}).save_pretrained({target})")
    return python_command(*statements)


def _fix(folder: Path, base: Checkpoint, advice: Advice) -> str:
    merged = f"{folder}-merged"
    if advice is Advice.MERGE:
        return f"merge it into a full checkpoint:\n{merge_command(folder, base.path, config=base.config)}\n" + (
            f"and use {merged} as the expert"
        )
    if advice is Advice.UNTIE:
        return f"untie the base:\n{untie_command(base)}\nand use {untied_copy(base)} as the base of all experts"
    if advice is Advice.UNTIE_AND_MERGE:
        merge = merge_command(folder, untied_copy(base), config=base.config)
        return (
            f"untie the base, and merge the adapter into that:\n{untie_command(base)}\n{merge}\n"
            f"then use {untied_copy(base)} as the base and {merged} as the expert; untie full experts likewise"
        )
    if advice is Advice.CONVERT:
        return "where it was trained, have PEFT write it as a plain LoRA: " + (
            "`save_pretrained(OUT, path_initial_model_for_weight_conversion=ADAPTER_BEFORE_TRAINING)`"
        )
    return "leave it out: it cannot be merged with models of the base"


def _model_class(config: Mapping[str, Any]) -> str:
    """Of a model with several parts, the class that its file names: adapters are named after that one's modules."""
    named = config.get("architectures") or [""]
    return str(named[0]) if config.get("text_config") and named[0] else "AutoModelForCausalLM"
