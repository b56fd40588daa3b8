"""What the swap tests do inside processes of their own: vLLM gives its memory back at the end of the process only."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch
from forked import IMPORTED_BY_RUNS
from safetensors.torch import load_file

from crossbreed.errors import EngineError, InvalidWeights, SwapError
from crossbreed.fitness import (
    Generate,
    Predict,
    Predicted,
    Predicts,
    Prompt,
    Request,
    Response,
    TransformersConfig,
    VllmConfig,
    build_engine,
    check_swap,
)
from crossbreed.fitness.engines import vllm
from crossbreed.fitness.engines.vllm import VllmEngine
from crossbreed.recipes.named import weighted_deltas
from crossbreed.runs.weights import Weights
from crossbreed.runs.workers.candidate_engine import start_candidate_engine
from crossbreed.sources import open_sources
from crossbreed.testing.swaps import REQUESTS, Swap, swap_test
from crossbreed.types import Recipe, WeightStream

P = ParamSpec("P")
T = TypeVar("T")

IMPORTED_ONCE = [
    *("vllm.entrypoints.llm", "vllm.v1.engine.llm_engine", "vllm.v1.worker.cpu_worker"),
    *IMPORTED_BY_RUNS,
]


def in_its_own_process(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Forked from one that has vLLM imported, which takes longer than to start a toy."""
    context = get_context("forkserver")
    context.set_forkserver_preload(IMPORTED_ONCE)
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(function, *args, **kwargs).result()


@dataclass(kw_only=True)
class Swapped:
    """What one engine answered, after one swap or the other."""

    a: list[Response]
    b: list[Response]
    b_after_torn_stream: list[Response]
    b_after_nan: list[Response]
    b_after_nan_without_clear: list[Response]
    b_without_reset: list[Response]
    b_without_repack: list[Response]
    part: list[Response]
    """On top of A, with what it shares with A kept..."""
    kept: frozenset[str]
    part_without_siblings: list[Response]
    """...and with each tensor kept that it shares with A, whatever it is fused with."""
    errors: list[str] = field(default_factory=list)
    canary_without_reset: str = ""
    canary_without_repack: str = ""
    canary_without_siblings: str = ""


def recipe(folder: Path) -> Recipe:
    return Recipe(base="base", sources={"base": str(folder)}, rules=())


def stream(folder: Path) -> WeightStream:
    return iter(sorted(load_file(folder / "model.safetensors").items()))


def torn(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for number, item in enumerate(stream(folder)):
        if number == 9:  # within a layer: some of its tensors have come, and some have not
            raise InvalidWeights("NaN in layer 1")
        yield item


def start(config: VllmConfig, host: Path) -> VllmEngine:
    engine = build_engine(config, host)
    assert isinstance(engine, VllmEngine)
    return engine


def swap(config: VllmConfig, base: Path, a: Path, b: Path, part: Path, requests: Sequence[Request]) -> Swapped:
    """Starts on the base, and swaps in every way, right and wrong."""
    vllm._BATCH_BYTES = 1 << 18  # a toy in several batches
    engine = start(config, base)
    folders = {recipe(folder).id: folder for folder in (base, a, b)}

    def canary() -> str:
        try:
            check_swap(engine, recipe(base), recipe(b), lambda r: stream(folders[r.id]), requests)
        except SwapError as error:
            return str(error)
        return ""

    def answers(folder: Path) -> list[Response]:
        return engine.adopt(recipe(folder), stream(folder)).answer(requests)

    def answers_by_part(old: Path, new: Path) -> tuple[list[Response], frozenset[str]]:
        engine.adopt(recipe(old), stream(old))
        before = dict(stream(old))
        kept = engine.keeps({name for name, tensor in stream(new) if torch.equal(tensor, before[name])})
        sent = ((name, tensor) for name, tensor in stream(new) if name not in kept)
        return engine.adopt(recipe(new), sent, kept=kept).answer(requests), kept

    by_part, kept = answers_by_part(a, part)
    swapped = Swapped(
        a=answers(a),
        b=answers(b),
        b_after_torn_stream=[],
        b_after_nan=[],
        b_after_nan_without_clear=[],
        b_without_reset=[],
        b_without_repack=[],
        part=by_part,
        kept=kept,
        part_without_siblings=[],
    )
    swapped.errors.extend(filter(None, [canary()]))
    old = engine.adopt(recipe(a), stream(a))
    try:
        engine.adopt(recipe(b), torn(b))
    except InvalidWeights as error:
        swapped.errors.append(str(error))
    assert engine.keeps(dict(stream(b))) == frozenset()
    try:
        old.answer(requests)
    except EngineError as error:
        swapped.errors.append(str(error))
    swapped.b_after_torn_stream = answers(b)

    def answer_nan() -> None:
        nan = ((name, tensor * (float("nan") if "layers.1" in name else 1)) for name, tensor in stream(a))
        assert all(math.isnan(response.logprobs[0]) for response in engine.adopt(recipe(a), nan).answer(requests))

    answer_nan()
    engine._is_cache_spoilt = False
    swapped.b_after_nan_without_clear = answers(b)
    answer_nan()
    swapped.b_after_nan = answers(b)

    block_of, vllm.block_of = vllm.block_of, lambda name: name
    swapped.part_without_siblings, _ = answers_by_part(a, part)
    swapped.canary_without_siblings = canary()
    vllm.block_of = block_of

    engine.adopt(recipe(base), stream(base))
    reset, engine._llm.reset_prefix_cache = engine._llm.reset_prefix_cache, lambda: True
    swapped.canary_without_reset = canary()
    swapped.b_without_reset = answers(b)
    engine._llm.reset_prefix_cache = reset

    answers(a)
    call = engine._llm.collective_rpc
    engine._llm.collective_rpc = lambda method, **kwargs: method == "process_sharing_layers" or call(method, **kwargs)
    swapped.b_without_repack = answers(b)
    swapped.canary_without_repack = canary()
    return swapped


def swap_tests(folders: Sequence[Path]) -> list[Swap]:
    """Makes the swap test of each folder, one after the other."""
    config = VllmConfig(kind="vllm", dtype="float32", kv_cache_gb=0.05, max_model_len=256)
    return [swap_test(folder, lambda host: start(config, host)) for folder in folders]


def swap_without_processing_experts(folder: Path) -> tuple[float, str]:
    """Returns how far a reload moves answers without our patch, and what the canary says."""
    engine = start(VllmConfig(kind="vllm", dtype="float32", kv_cache_gb=0.05, max_model_len=256), folder)
    for module in engine._llm.llm_engine.model_executor.driver_worker.worker.get_model().modules():
        method = getattr(module, "quant_method", None)
        if method is not None:
            method.__dict__.pop("process_weights_after_loading", None)
    started = engine.as_started()
    assert started is not None
    before = started.answer(REQUESTS)
    said = ""
    try:
        check_swap(engine, recipe(folder), recipe(folder), lambda r: stream(folder), REQUESTS)
    except SwapError as error:
        said = str(error)
    return gap(engine.adopt(recipe(folder), stream(folder)).answer(REQUESTS), before), said


def predictions(config: VllmConfig | TransformersConfig, host: Path, asked: Sequence[Predict]) -> list[list[Predicted]]:
    """What an engine predicts with the host's weights, before and after it has generated from the same prompts."""
    engine = build_engine(config, host)
    handle = engine.adopt(recipe(host), stream(host))
    assert isinstance(handle, Predicts)
    first = handle.predict(asked)
    handle.answer([Generate(prompt=one.prompt, max_tokens=4, alternatives=64) for one in asked])
    return [first, handle.predict(asked)]


def fail_inside_vllm(config: VllmConfig, base: Path) -> list[str]:
    """Makes vLLM itself stop in the middle of a reload, and returns what every later call says."""
    engine = start(config, base)
    misshapen = ((name, tensor[:-1] if "layers.1.mlp" in name else tensor) for name, tensor in stream(base))
    errors = []
    for call in (
        lambda: engine.adopt(recipe(base), misshapen),
        lambda: engine.adopt(recipe(base), stream(base)),
        lambda: engine.answer([Generate(prompt=Prompt(text="a"), max_tokens=1)]),
    ):
        try:
            call()
        except EngineError as error:
            errors.append(str(error))
    return errors


def fresh(config: VllmConfig, exported: Path, requests: Sequence[Request]) -> list[Response]:
    """Starts on an exported checkpoint and answers, without a swap."""
    return start(config, exported).answer(requests)


def plain(exported: Path, requests: Sequence[Request]) -> list[Response]:
    """Answers with transformers in float32."""
    engine = build_engine(TransformersConfig(kind="transformers"), exported)
    return engine.adopt(recipe(exported), stream(exported)).answer(requests)


def through_paths(
    config: VllmConfig, base: Path, experts: Mapping[str, Path], paths: Sequence[Recipe], depth: int
) -> tuple[list[list[Response]], tuple[str, ...]]:
    """Answers with recipes of other depths by one engine of a deeper model, and by its canary before."""
    weights = replace(Weights(sources=open_sources(str(base), {n: str(p) for n, p in experts.items()})), depth=depth)
    engine = start_candidate_engine(config, weights)
    uniform = weighted_deltas(
        dict.fromkeys(experts, 1 / len(experts)), hashes=weights.structure.hashes, dtype="bfloat16"
    )
    notes = engine.canary(replace(uniform, rules=()), uniform, REQUESTS)
    found = []
    for path in paths:
        found.append(engine.adopt(path).handle.answer(REQUESTS))
        engine.confirm()
    engine.close()
    return found, notes


def gap(some: Sequence[Response], others: Sequence[Response]) -> float:
    """The largest difference of per-token log-probabilities; infinite where tokens differ or one is NaN."""
    if [r.token_ids for r in some] != [r.token_ids for r in others]:
        return float("inf")
    gaps = [
        abs(p - q)
        for one, other in zip(some, others, strict=True)
        for p, q in zip(one.logprobs, other.logprobs, strict=True)
    ]
    return float("inf") if any(math.isnan(gap) for gap in gaps) else max(gaps)
