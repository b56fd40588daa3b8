"""Gives the output head of a tied checkpoint a tensor of its own, so that head and embedding can change otherwise.

No number changes: the untied model answers as the tied one. It is what adapters and experts need that have trained
one of the two alone.
"""

import json
import shutil
from pathlib import Path

import torch

from crossbreed.errors import InputError
from crossbreed.sources.advice import literal, python_command
from crossbreed.sources.checkpoint import CONFIG, Checkpoint
from crossbreed.sources.files import write_tensors
from crossbreed.sources.hub import locate
from crossbreed.sources.naming import HEAD

_INDEX = "model.safetensors.index.json"


def untie(model: str, out: str) -> None:
    """Writes a checkpoint whose head is a copy of its input embedding.

    Args:
        model: Folder or hub id of a checkpoint whose head is its embedding.
        out: A folder that is not there yet.

    Raises:
        InputError: the model is not tied, has no head of a known name, or `out` is there.
    """
    checkpoint, target = Checkpoint.open(locate(model)), Path(out)
    if (embedding := checkpoint.tied_embedding) is None:
        raise InputError(
            f"`{model}` has no head that is its embedding", expected="a tied checkpoint", where=str(checkpoint.path)
        )
    if target.exists():
        raise InputError(f"`{out}` is there", expected="a new folder", where=str(target.absolute()), fix="remove it")
    shutil.copytree(checkpoint.path, target, ignore=shutil.ignore_patterns("*.safetensors", _INDEX, ".*"))
    _write_weights(checkpoint, checkpoint.tensor(embedding), target)
    _write_config(checkpoint, target)


def untied_copy(base: Checkpoint) -> Path:
    """Returns the folder that `untie_command` writes: beside the base, or here for a model of the hub."""
    hub_id = base.origin.hub_id
    return Path(f"{hub_id.replace('/', '--')}-untied") if hub_id else base.path.with_name(f"{base.path.name}-untied")


def untie_command(checkpoint: Checkpoint) -> str:
    """Returns the command that unties a checkpoint."""
    target = literal(untied_copy(checkpoint))
    return python_command(
        "from crossbreed.sources.untying import untie", f"untie({literal(checkpoint.origin.reference)}, {target})"
    )


def _write_weights(checkpoint: Checkpoint, head: torch.Tensor, target: Path) -> None:
    """Copies the shards as they are; a head that a tied file held as a copy stays where it is."""
    num_shards = len(checkpoint.shards) + 1
    places: dict[str, str] = {}
    for number, (file, tensors) in enumerate(checkpoint.shards.items(), start=1):
        name = f"model-{number:05}-of-{num_shards:05}.safetensors"
        shutil.copyfile(file.path, target / name)
        places |= dict.fromkeys(tensors, name)
    if HEAD not in places:
        places[HEAD] = f"model-{num_shards:05}-of-{num_shards:05}.safetensors"
        write_tensors(target / places[HEAD], {HEAD: head.contiguous()})
    index = {"metadata": {}, "weight_map": dict(sorted(places.items()))}
    (target / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_config(checkpoint: Checkpoint, target: Path) -> None:
    config = {**checkpoint.config, "tie_word_embeddings": False}
    text = config.get("text_config")
    if isinstance(text, dict) and "tie_word_embeddings" in text:
        config["text_config"] = {**text, "tie_word_embeddings": False}
    (target / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
