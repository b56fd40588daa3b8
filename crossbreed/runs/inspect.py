"""`crossbreed inspect`: describes models, and whether they can be merged. Weights are hashed, nothing else.

A model that cannot be merged is described as far as its files allow, together with the reason.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crossbreed.errors import InputError, each
from crossbreed.sources import Adapter, Checkpoint, SourceLocation, locate
from crossbreed.sources.adapter import ADAPTER_STEM, factor_of
from crossbreed.sources.adapter_config import AdapterConfig
from crossbreed.sources.files import open_shards
from crossbreed.sources.naming import ModuleType, count_layers, module_of, stacks_of
from crossbreed.sources.opening import is_adapter, open_expert
from crossbreed.sources.vocabulary import end_tokens

_NO_BASE = {
    "problem": "an adapter's hash covers the names of the tensors that it changes, which are its base's",
    "fix": "give its base before it",
}


def inspect_models(models: Sequence[str]) -> dict[str, Any]:
    """Returns the output of `inspect --json`: each model and, for several, whether they can be merged.

    The first full checkpoint counts as the base of all others. Weights are read once, to hash them; after that, the
    hashes are cached.

    Args:
        models: Folders or hub ids of full checkpoints and PEFT adapters.

    Raises:
        InputError: there is no such model; or the base, or the only model, cannot be opened.
    """
    origins = dict(zip(models, each(locate, models), strict=True))
    base_name = next((model for model, origin in origins.items() if not is_adapter(origin)), None)
    base = None if base_name is None else Checkpoint.open(origins[base_name])
    found = []
    for model, origin in origins.items():
        facts: dict[str, Any] = {
            "model": model,
            "path": str(origin.path),
            "hub_id": origin.hub_id,
            "revision": origin.revision,
        }
        try:
            facts |= _adapter(origin, base) if is_adapter(origin) else _checkpoint(Checkpoint.open(origin))
        except InputError as error:
            if model == base_name or len(origins) == 1:
                raise
            facts["problem"] = _said(error)
        found.append(facts)
    merge = None if len(origins) == 1 else _merge(origins, base_name, base)
    return {"schema": 1, "models": found, "merge": merge}


def _checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    config, text = checkpoint.config, checkpoint.config.get("text_config") or {}
    names = checkpoint.config.get("architectures") or []
    sizes = {name: checkpoint.tensor(name).numel() for name in checkpoint.names}
    return {
        "kind": "checkpoint",
        "hash": checkpoint.hash,
        "architecture": names[0] if names else None,
        "model_type": config.get("model_type"),
        "num_layers": count_layers(sizes),
        **_tensors(sizes, {name: info.dtype for name, info in checkpoint.tensors.items()}),
        "tied": checkpoint.tied,
        "vocab_size": text.get("vocab_size", config.get("vocab_size")),
        "end_tokens": [
            {"id": token.id, "text": token.text, "named_by": list(token.named_by)}
            for token in end_tokens(checkpoint.path)
        ],
        "licence": checkpoint.licence,
    }


def _adapter(origin: SourceLocation, base: Checkpoint | None) -> dict[str, Any]:
    """Describes an adapter from its files; only the hash needs the base, which may be a folder the adapter names."""
    config = AdapterConfig.read(origin.path).values
    tensors = {
        name: tensor for held in open_shards(origin.path, stem=ADAPTER_STEM).values() for name, tensor in held.items()
    }
    factors = {name: factor for name in tensors if (factor := factor_of(name))}
    sizes, dtypes = Counter[str](), dict[str, str]()
    for name, (module, _) in factors.items():
        sizes[f"{module}.weight"] += tensors[name].numel()
        dtypes[f"{module}.weight"] = str(tensors[name].dtype).removeprefix("torch.")
    return {
        "kind": "adapter",
        **_hash(origin, base, config),
        "type": config.get("peft_type"),
        "base": config.get("base_model_name_or_path"),
        "ranks": sorted({len(tensors[name]) for name, (_, side) in factors.items() if side == "A"}),
        "alphas": sorted({config.get("lora_alpha"), *(config.get("alpha_pattern") or {}).values()} - {None}),
        "targets": sorted({module.rpartition(".")[2] for module, _ in factors.values()}),
        "rslora": bool(config.get("use_rslora")),
        "dora": bool(config.get("use_dora")),
        "modules_to_save": list(config.get("modules_to_save") or ()),
        "num_others": len(tensors) - len(factors),
        **_tensors(sizes, dtypes),
    }


def _hash(origin: SourceLocation, base: Checkpoint | None, config: Mapping[str, Any]) -> dict[str, Any]:
    named = config.get("base_model_name_or_path")
    try:
        if base is None and named and Path(named).is_dir():
            base = Checkpoint.open(locate(named))
        if base is not None:
            return {"hash": Adapter.open(origin, base=base).hash, "why_no_hash": None}
    except InputError as error:
        return {"hash": None, "why_no_hash": _said(error)}
    return {"hash": None, "why_no_hash": _NO_BASE}


def _tensors(sizes: Mapping[str, int], dtypes: Mapping[str, str]) -> dict[str, Any]:
    """Counts tensors by stack of layers, dtype and module type. Those of type `other` could not be classified."""
    by_dtype: Counter[str] = Counter()
    for name, size in sizes.items():
        by_dtype[dtypes[name]] += size
    by_type = {kind: [name for name in sorted(sizes) if module_of(name) is kind] for kind in ModuleType}
    return {
        "layers": stacks_of(sizes),
        "parameters": sum(sizes.values()),
        "dtypes": dict(by_dtype.most_common()),
        "tensors": len(sizes),
        "modules": {
            kind.value: {"tensors": len(names), "parameters": sum(sizes[name] for name in names), "example": names[0]}
            for kind, names in by_type.items()
            if names
        },
        "unplaced": len(by_type[ModuleType.OTHER]),
    }


def _merge(origins: Mapping[str, SourceLocation], base_name: str | None, base: Checkpoint | None) -> dict[str, Any]:
    if base is None:
        problem = {"problem": "all of them are adapters", "fix": "add their base, a full checkpoint"}
        return {"base": None, "ok": False, "problem": problem, "experts": []}
    experts = [_expert(model, origin, base) for model, origin in origins.items() if model != base_name]
    ok = all(expert["ok"] for expert in experts)
    return {"base": base_name, "ok": ok, "problem": None, "experts": experts}


def _expert(model: str, origin: SourceLocation, base: Checkpoint) -> dict[str, Any]:
    try:
        expert, _ = open_expert(model, origin, base)
        touched = len(expert.touched)
    except InputError as error:
        return {"model": model, "ok": False, "problem": _said(error), "touched": None, "share": None}
    return {"model": model, "ok": True, "problem": None, "touched": touched, "share": touched / len(base.names)}


def _said(error: InputError) -> dict[str, str]:
    parts = {"problem": error.problem, "expected": error.expected, "got": error.got}
    return {key: text for key, text in (parts | {"where": error.where, "fix": error.fix}).items() if text}
