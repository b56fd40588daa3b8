"""Merges a mergekit configuration, with mergekit's own arithmetic or with ours."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import chain, count
from pathlib import Path
from typing import Any

from crossbreed.errors import InputError
from crossbreed.mergekit import MergeConfig, MergePlan, ModelReference, Vocabulary, plan_merge
from crossbreed.mergekit.chat_templates import chosen_template
from crossbreed.mergekit.numerics import OpenModel, merge, merged_tensors, open_models
from crossbreed.runs.publishing.contents import (
    PUBLISHED_SCHEMA,
    TOKEN_KEYS,
    Contents,
    as_copied_json,
    files_to_copy,
    in_dtype,
    without_paths,
)
from crossbreed.runs.publishing.model_card import MERGEKIT_FILE
from crossbreed.runs.record.versions import versions
from crossbreed.sources import Structure
from crossbreed.sources.chat_templates import TEMPLATE_FILE, TEMPLATE_FILES
from crossbreed.sources.hashes import require_unchanged
from crossbreed.sources.layer_lists import LayerOrigin, config_of_layers, depth_of_config
from crossbreed.sources.naming import has_token_rows, numbered_lists
from crossbreed.sources.skeletons import require_loadable
from crossbreed.types import Dtype, WeightStream


def merge_as_mergekit(
    config: MergeConfig, text: str, scratch: Path, *, lora_dtype: Dtype | None = None
) -> tuple[Contents, Callable[[], WeightStream]]:
    """Returns a configuration's checkpoint: its contents, and a function that makes the weights as mergekit 0.1.5 does.

    Args:
        config: The merge.
        text: Its YAML, to be written beside the weights.
        scratch: An empty folder for a newly built tokenizer; needed until everything is written.
        lora_dtype: The dtype in which adapters are merged into their models; None: the dtype of the model.

    Raises:
        InputError: a model is invalid, or the models do not match.
    """
    models = open_models(config.models, lora_dtype=lora_dtype)
    plan = plan_merge(config, {reference: model.structure for reference, model in models.items()})
    folders = {reference: model.checkpoint.path for reference, model in models.items()}
    num_rows = {reference: _num_rows(model) for reference, model in models.items()}
    vocabulary = Vocabulary.build(config, folders, num_rows, scratch)
    donor = models[plan.donor if vocabulary is None else vocabulary.donor].checkpoint.path
    tensors = merged_tensors(plan, models, vocabulary)
    dtype = Structure(tensors=tensors, touched={}, hashes={}, tied=plan.tied).dtype
    config_json = _config(plan, models, vocabulary, dtype)
    if config_json != in_dtype(without_paths(models[plan.donor].checkpoint.config), dtype):
        require_loadable(config_json, {name: info.shape for name, info in tensors.items()})
    texts = {
        "config.json": as_copied_json(config_json),
        MERGEKIT_FILE: text,
        **chat_template(config, folders.values()),
    }
    record = {"schema": PUBLISHED_SCHEMA, "numerics": "mergekit", "dtype": dtype, "versions": versions()}
    sources = {name: _source(model) for name, model in _named(models.values())}
    contents = Contents(
        tensors=tensors,
        copies=files_to_copy(donor) | files_to_copy(scratch),
        texts=texts,
        record={**record, "sources": sources},
    )
    return contents, lambda: _checked(merge(plan, models, vocabulary), models.values())


def _checked(stream: WeightStream, models: Collection[OpenModel]) -> WeightStream:
    """Passes a merge on; raises InputError at its end if a model was written over meanwhile."""
    yield from stream
    for model in models:
        for part in (model.checkpoint, model.adapter):
            if part is not None:
                require_unchanged(part.shards)


def chat_template(config: MergeConfig, folders: Collection[Path]) -> dict[str, str]:
    """Returns the files with the chat template that a configuration chooses; nothing if it chooses none."""
    text = chosen_template(config.chat_template, folders)
    others = (name for name in TEMPLATE_FILES if any((folder / name).is_file() for folder in folders))
    return {} if text is None else {TEMPLATE_FILE: text, **dict.fromkeys(others, text)}


def _num_rows(model: OpenModel) -> int:
    """Returns how many tokens a model has rows for: by its configuration, as mergekit counts them."""
    size = model.checkpoint.config.get("vocab_size")
    if isinstance(size, int):
        return size
    tables = (info.shape[0] for name, info in model.structure.tensors.items() if has_token_rows(name))
    return max(tables, default=0)


def _config(
    plan: MergePlan, models: Mapping[ModelReference, OpenModel], vocabulary: Vocabulary | None, dtype: str
) -> dict[str, Any]:
    """Returns the donor's configuration, with the depth, head and vocabulary of the merge."""
    donor, where = models[plan.donor], models[plan.donor].checkpoint.path / "config.json"
    depths = {reference: model.structure.num_layers for reference, model in models.items()}
    for reference, model in models.items():
        _check_depth(reference, model.structure, model.checkpoint.config)
    config = in_dtype(without_paths(donor.checkpoint.config), dtype)
    if plan.layers != tuple((plan.donor, number) for number in range(depths[plan.donor])):
        if config.get("is_encoder_decoder"):
            raise InputError(
                "the layers of an encoder-decoder stay in their places",
                expected="`models`, or slices of all layers in order",
                where=str(where),
            )
        layers = [
            LayerOrigin(config=models[reference].checkpoint.config, num_layers=depths[reference], number=number)
            for reference, number in plan.layers
        ]
        config = config_of_layers(config, depths[plan.donor], layers, where=where)
    config["tie_word_embeddings"] = plan.tied
    if plan.donor.architecture:
        config["architectures"] = [plan.donor.architecture]
    if vocabulary is not None:
        theirs = models[vocabulary.donor].checkpoint.config
        config |= {key: theirs[key] for key in TOKEN_KEYS if key in theirs}
        config["vocab_size"] = vocabulary.num_rows
    return config


def _check_depth(reference: ModelReference, structure: Structure, config: Mapping[str, Any]) -> None:
    """Refuses a model whose layers are not found by their names: its depth would be written wrongly."""
    stated = depth_of_config(config)
    if stated is not None and stated != structure.num_layers:
        lists = ", ".join(f"{name} ({length})" for name, length in numbered_lists(structure.tensors).items())
        raise InputError(
            f"the layers of `{reference}` are not found by the names of its tensors",
            expected=f"{stated} layers, as its configuration says",
            got=f"{structure.num_layers}; numbered lists: {lists or 'none'}",
            fix="merge it in default numerics: leave out `--numerics mergekit`",
        )


def _named(models: Iterable[OpenModel]) -> Iterator[tuple[str, OpenModel]]:
    """Yields models with names that may be published: hub ids, or the last parts of folders' paths."""
    taken: set[str] = set()
    for model in models:
        parts = (part for part in (model.checkpoint, model.adapter) if part is not None)
        name = "+".join(part.origin.hub_id or part.path.absolute().name for part in parts)
        unique = next(one for one in chain((name,), (f"{name} ({n})" for n in count(2))) if one not in taken)
        taken.add(unique)
        yield unique, model


def _source(model: OpenModel) -> dict[str, Any]:
    parts = {"": model.checkpoint, "adapter_": model.adapter}
    return {
        f"{prefix}{key}": value
        for prefix, part in parts.items()
        if part is not None
        for key, value in {"hub_id": part.origin.hub_id, "revision": part.origin.revision, "hash": part.hash}.items()
    }
