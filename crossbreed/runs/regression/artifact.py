"""The merge of a regression as an artifact: a checkpoint that a run makes before it searches, and a source of its own.

It is a folder like any other full checkpoint's, with the base's configuration and tokenizer, and `regression.json`, the
rule that it was made by. It lies in the cache folder of the machine (`CROSSBREED_CACHE`) under its content hash, and
the run's folder has a copy: forward passes round otherwise on other processors, and it cannot be made again there.
Recipes name it `regression`, by its content hash, beside base and experts: so every space, operator and engine takes it
as one more expert.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file

from crossbreed.cache import is_ours
from crossbreed.durable import write_atomically
from crossbreed.errors import InputError, require
from crossbreed.fitness import build_engine, reference_config
from crossbreed.fitness.engines.encoder import Encoder
from crossbreed.kernels.linalg.blas import on_threads
from crossbreed.patterns import part_matcher
from crossbreed.recipes.named import weighted_deltas
from crossbreed.runs.events import Listener, PhaseStarting, ignore
from crossbreed.runs.gram_files import folder
from crossbreed.runs.made_sources import keep_made, made_source
from crossbreed.runs.plan import Plan
from crossbreed.runs.record.phase import Phase
from crossbreed.runs.regression.texts import Asked, asked_of
from crossbreed.runs.regression.walk import Settings, Text, walk
from crossbreed.runs.spec.regression import RegressionConfig
from crossbreed.runs.weights import Weights
from crossbreed.sources import Sources
from crossbreed.sources.hashes import hash_of
from crossbreed.sources.naming import names_pattern
from crossbreed.sources.opening import with_made
from crossbreed.types import BASE, REGRESSION, Recipe, Rule, canonical_json

_SCHEMA = 1
"""The version of the rule. Increment it with every change of what is computed."""
_NUM_THREADS = 2
"""The number of threads, on which rounding depends."""
_RULE = "regression.json"
_SIDE_ENDINGS = (".json", ".jinja", ".model", ".txt")
"""Of the files of configurations and tokenizers."""


def prepare_regression(
    plan: Plan, *, on_event: Listener = ignore, recorded: str | None = None, kept: Path | None = None
) -> Plan:
    """Returns the plan with the regression of its spec as a source: that of the run, this machine's, or a new one.

    Args:
        plan: A new plan.
        on_event: Called before it is made, and as layers are solved.
        recorded: The content hash of the one that the run was begun with; None for a new run.
        kept: The folder of the run's artifacts.

    Raises:
        InputError: there are no texts for an expert, or the model cannot be walked over.
        EngineError: transformers could not run the model.
    """
    config = plan.spec.artifacts.regression
    if config is None:
        return plan
    assert plan.weights is not None, "a plan with a regression has weights"
    sources = plan.weights.sources
    if recorded and (found := made_source(sources, recorded, folder(), kept)):
        keep_made(found, folder())
        return plan.with_sources(found)
    require("transformers", extra="torch")
    encoder = Encoder(sources.base.path, max_model_len=plan.spec.fitness.max_model_len)
    asked = {name: asked_of(plan, config, name) for name in plan.spec.sources.experts}
    rule = _rule(plan, config, asked, encoder)
    note = folder() / f"{hash_of([canonical_json(rule)])}.{REGRESSION}"
    if is_ours(note) and (found := made_source(sources, note.read_text(), folder())):
        return plan.with_sources(found)
    on_event(PhaseStarting(phase=Phase.REGRESSION, detail="calibration texts"))
    folder().mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder()) as new, on_threads(_NUM_THREADS):
        texts = _texts(plan, config, asked, encoder)
        made = _made(plan, plan.weights, config, texts, Path(new), rule, on_event)
        keep_made(made, folder())
    found = made_source(sources, made.structure.hashes[REGRESSION], folder())
    assert found is not None, "it was written a moment ago"
    write_atomically(note, found.structure.hashes[REGRESSION].encode())
    return plan.with_sources(found)


def _rule(plan: Plan, config: RegressionConfig, asked: Mapping[str, Asked], encoder: Encoder) -> dict[str, Any]:
    assert plan.weights is not None, "a plan with a regression has weights"
    return {
        "schema": _SCHEMA,
        "sources": dict(plan.structure.hashes),
        "host": plan.weights.host_hashes,
        "settings": config.model_dump(mode="json", exclude={"items", "tasks", "prompts", "samples"}),
        "dtype": plan.dtype,
        "texts": {name: one.rule(encoder) for name, one in asked.items()},
        "threads": _NUM_THREADS,
        "versions": {package: version(package) for package in ("torch", "transformers")},
    }


def _texts(plan: Plan, config: RegressionConfig, asked: Mapping[str, Asked], encoder: Encoder) -> dict[str, list[Text]]:
    """Has each expert write what is asked for."""
    weights = plan.weights
    assert weights is not None, "a plan with a regression has weights"
    settings = reference_config(
        dtype=config.dtype, device=config.device, context_tokens=plan.spec.fitness.max_model_len
    )
    engine = build_engine(settings, weights.host, end_token_ids=weights.sources.end_token_ids)
    found = dict[str, list[Text]]()
    try:
        for name, one in asked.items():
            recipe = weighted_deltas({name: 1.0}, hashes=plan.structure.hashes, dtype="float32")
            found[name] = one.texts(engine.adopt(recipe, weights.materialize_once(recipe)), encoder)
            if not found[name]:
                raise InputError(
                    f"there are no calibration texts for expert `{name}`",
                    expected="items, prompts or samples",
                    where="artifacts.regression",
                    fix="add `samples: {}`, or prompts for one of its tasks",
                )
    finally:
        engine.close()
    return found


def _made(
    plan: Plan,
    weights: Weights,
    config: RegressionConfig,
    texts: Mapping[str, list[Text]],
    new: Path,
    rule: Mapping[str, Any],
    on_event: Listener,
) -> Sources:
    """Walks as often as the settings say, and returns the sources with the last result."""
    matchers = [part_matcher(pattern) for pattern in config.modules]
    settings = Settings(
        ridge=config.ridge,
        own=config.own,
        answer_weight=config.answer_weight,
        in_row_space=config.row_space,
        tokens=config.tokens,
        dtype=getattr(torch, config.dtype),
        device=config.device,
        is_solved=lambda name: not matchers or any(matches(name) for matches in matchers),
    )
    sources, anchor = weights.sources, anchor_of(plan, config)
    for number in range(config.passes):
        path = new / str(number)
        tensors = dict(
            walk(replace(weights, sources=sources), texts, anchor, settings, on_layer=partial(_tell, on_event))
        )
        _write(path, tensors, sources, rule)
        sources = with_made(weights.sources, REGRESSION, path)
        anchor = weighted_deltas({REGRESSION: 1.0}, hashes=sources.structure.hashes, dtype=plan.dtype)
    return sources


def anchor_of(plan: Plan, config: RegressionConfig) -> Recipe:
    """Returns the merge around which matrices are solved; what has no rows and columns has the mean of the deltas."""
    assert plan.weights is not None, "a plan with a regression has weights"
    experts = [name for name in plan.structure.hashes if name != BASE]
    matrices = names_pattern(plan.weights.projections)
    summed = dict.fromkeys(experts, config.anchor_scale if config.anchor == "task_arithmetic" else 1.0)
    scale = {} if config.anchor == "task_arithmetic" else {"scale": config.anchor_scale}
    mean = {name: 1.0 / len(experts) for name in experts}
    return Recipe(
        base=BASE,
        sources=plan.structure.hashes,
        rules=(
            Rule(match=matrices, operator=config.anchor, params={"weight": summed, **scale}),
            Rule(match=".*", operator="task_arithmetic", params={"weight": mean}),
        ),
        dtype=plan.dtype,
    )


def _tell(on_event: Listener, layer: int, number: int) -> None:
    on_event(PhaseStarting(phase=Phase.REGRESSION, detail=f"layer {layer} of {number}"))


def _write(path: Path, tensors: Mapping[str, torch.Tensor], sources: Sources, rule: Mapping[str, Any]) -> None:
    path.mkdir()
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(whole, path / "model.safetensors", metadata={"format": "pt"})
    for file in sorted(sources.base.path.iterdir()):
        if file.suffix in _SIDE_ENDINGS and ".safetensors." not in file.name and file.is_file():
            shutil.copyfile(file, path / file.name)
    (path / _RULE).write_text(json.dumps(rule, indent=1) + "\n")
