"""vLLM, in the worker's own process: candidates are streamed into one running engine, never written to disk.

A complete swap takes four steps, and the swap tests fail without any one of them: clear the KV cache after NaN
(`_vllm_worker`), reload the weights, process what a reload passes over (`_vllm_worker`), drop the prefix cache, which
was computed from the old weights.

A module that receives no tensor keeps its weights. vLLM fuses some of a checkpoint's tensors into one module, whose
missing parts it leaves undefined: tensors that may be fused are sent together or not at all.
"""

import dataclasses
import difflib
import math
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

import torch

from crossbreed.errors import EngineError, InputError, require
from crossbreed.fitness.engines.encoder import Encoded, Encoder
from crossbreed.fitness.engines.handle import PredictingHandle
from crossbreed.fitness.engines.library import internals, library_call, require_internals
from crossbreed.fitness.engines.reference import truth_of
from crossbreed.fitness.engines.registry import VllmConfig
from crossbreed.fitness.protocol import Truth
from crossbreed.fitness.requests import (
    Alternatives,
    Generate,
    Loglikelihood,
    Predict,
    Predicted,
    Request,
    Response,
    ScoredPrompt,
)
from crossbreed.sources.files import open_shards
from crossbreed.sources.model_config import load_config
from crossbreed.sources.naming import layer_of
from crossbreed.types import Recipe, WeightStream

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # tensors reach the engine without serialisation
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
_CPU_KV_CACHE_GB = 1.0
_MOST_TOKENS = 128
"""The most tokens whose log-probabilities vLLM tells of one place (`logprob_token_ids`)."""
_MOST_LIKELY = 1024
"""The most tokens that it may list at a place; its own limit is 20."""
_BATCH_BYTES = 256 << 20
"""The number of bytes taken from a stream before they are passed to vLLM. Packing and merging both use all cores: at
the same time they would wait for each other; one after the other they take three quarters of the time."""


class VllmEngine:
    """One vLLM engine. Its memory is freed only when its process ends: start one per process."""

    advice = "use `engine: {kind: transformers}`"

    def __init__(self, config: VllmConfig, host: Path) -> None:
        """Starts vLLM on the host's weights, or on dummies if it has none.

        Raises:
            MissingExtra: vLLM is not installed.
            InputError: vLLM does not have such an option.
        """
        require("vllm", extra="cuda" if torch.cuda.is_available() else "cpu")
        os.environ.update(_ENVIRONMENT)
        with library_call("vLLM cannot be imported"):
            import vllm

        check_options(config.options, {field.name for field in dataclasses.fields(vllm.EngineArgs)})
        self._host, self._dtype = host, config.dtype
        self._sampling = vllm.SamplingParams
        self._encoder = Encoder(host, max_model_len=config.max_model_len)
        self.version = 0
        self._held: frozenset[str] = frozenset()
        """The tensors of the last candidate; empty while that is not certain."""
        self._broken = ""
        """Why the engine cannot be used again."""
        self._is_cache_spoilt = False
        settings = {
            "model": str(host),
            "worker_extension_cls": "crossbreed.fitness.engines._vllm_worker.SwapExtension",
            "dtype": config.dtype,
            "max_model_len": self._encoder.max_model_len,
            "gpu_memory_utilization": config.gpu_memory_utilization,
            "kv_cache_memory_bytes": _kv_cache_bytes(config.kv_cache_gb),
            **_defaults(host),
            **config.options,
        }
        with library_call(f"vLLM did not start on {host}"):
            self._llm = vllm.LLM(**settings)
            self._llm.collective_rpc("check_internals")
            self._llm.collective_rpc("process_experts_fully")
        self._reads_host = settings["load_format"] != "dummy"
        self._stance = "force_eager" if settings["enforce_eager"] else "default"
        """Told to compile nothing, vLLM still compiles how it counts tokens' ranks: seconds of the first answers."""

    def end_at(self, token_ids: Collection[int]) -> None:
        """Ends answers at these tokens too; see `EndsAnswers`."""
        self._encoder.end_at(token_ids)

    def as_started(self) -> PredictingHandle | None:
        """Returns the host's weights as vLLM has loaded them; see `StartsOnHost`."""
        return PredictingHandle(self, self.version) if self._reads_host and self.version == 0 else None

    def host_weights(self) -> WeightStream:
        """Reads the host's files; see `StartsOnHost`."""
        for shard in open_shards(self._host, stem="model", is_optional=lambda name: True).values():
            yield from shard.items()

    def truth_of(self, weights: WeightStream, requests: Sequence[Loglikelihood]) -> Truth:
        """Scores with transformers; see `Checkable`.

        vLLM runs some architectures, such as GPT-NeoX, with transformers' own classes. It changes these classes in the
        process (0.32): they look for a configuration of vLLM, here one that says to compute plainly.
        """
        with internals("vllm"):
            from vllm.config import CompilationConfig, CompilationMode, set_current_vllm_config

            plain = copy(self._llm.llm_engine.vllm_config)
        plain.compilation_config = CompilationConfig(mode=CompilationMode.NONE)
        with set_current_vllm_config(plain):
            return truth_of(self._host, self._encoder, weights, requests, dtype=self._dtype)

    def keeps(self, unchanged: Collection[str]) -> frozenset[str]:
        """Returns the tensors of blocks in which nothing changes; see `WeightEngine`."""
        changing = {block_of(name) for name in self._held.difference(unchanged)}
        return frozenset(name for name in self._held if block_of(name) not in changing)

    def adopt(self, recipe: Recipe, weights: WeightStream, *, kept: Collection[str] = ()) -> PredictingHandle:
        """Streams the weights into the engine; see `WeightEngine`."""
        self.version += 1
        assert self._held.issuperset(kept), "only what is held can be kept"
        self._held = frozenset()
        stream = _Recoverable(weights)
        failure = f"vLLM did not take the weights of recipe {recipe.id}"
        with self._call(failure):
            if self._is_cache_spoilt:
                self._llm.collective_rpc("clear_kv_cache")
                self._is_cache_spoilt = False
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(stream)})
            if any(layer_of(name) is None for name in stream.came):  # possibly the embedding
                self._llm.collective_rpc("process_sharing_layers")
            if not self._llm.reset_prefix_cache():
                raise EngineError(f"{failure}: it did not drop its prefix cache, which the old weights computed")
        if stream.error is not None:
            raise stream.error
        self._held = frozenset(stream.came).union(kept)
        return PredictingHandle(self, self.version)

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        """Answers one chunk in one call of vLLM."""
        encoded = [self._encoder.encode(request) for request in requests]
        prompts = [{"prompt_token_ids": list(e.token_ids)} for e in encoded]
        parameters = [self._parameters(request) for request in requests]
        with self._call("vLLM did not answer"), torch.compiler.set_stance(self._stance):
            outputs = self._llm.generate(prompts, parameters, use_tqdm=False)
        answers = zip(requests, encoded, outputs, strict=True)
        responses = [_response(*one, self._encoder) for one in answers]
        self._is_cache_spoilt |= any(
            not math.isfinite(logprob) for response in responses for logprob in response.logprobs
        )
        return responses

    def predict(self, asked: Sequence[Predict]) -> list[Predicted]:
        """Asks for one token at each place of the answers; see `Predicts`.

        vLLM tells chosen tokens' log-probabilities where it generates. Prompts are computed anew at each place: read
        from a cache, they would be rounded otherwise than the first time.
        """
        found = dict[int, Predicted]()
        for is_named in (True, False):  # vLLM 0.32 answers a batch in one of the two ways
            numbers = [number for number, one in enumerate(asked) if bool(one.tokens) is is_named]
            if numbers:
                found |= zip(numbers, self._predicted([asked[number] for number in numbers]), strict=True)
        return [found[number] for number in range(len(asked))]

    def close(self) -> None:
        """Drops the engine; its memory is freed when the process ends."""
        self.version += 1
        del self._llm

    @contextmanager
    def _call(self, failure: str) -> Iterator[None]:
        """Wraps calls of vLLM. After one that fails, the engine is not used again.

        It may leave layers half loaded or requests in flight, which would corrupt the next candidate's answers.
        """
        if self._broken:
            raise EngineError(f"this engine failed before and is not used again ({self._broken}): start another one")
        self._broken = failure
        try:
            with library_call(failure):
                yield
        except EngineError as error:
            self._broken = str(error)
            raise
        self._broken = ""

    def _parameters(self, request: Request) -> Any:
        if not isinstance(request, Generate):
            return self._sampling(max_tokens=1, temperature=0, prompt_logprobs=request.alternatives, detokenize=False)
        return self._sampling(
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            seed=request.seed if request.temperature > 0 else None,
            stop=list(request.stop),
            stop_token_ids=sorted(self._encoder.eos_ids),
            logprobs=request.alternatives,
            prompt_logprobs=request.alternatives if request.scores_prompt else None,
            skip_reading_prefix_cache=not request.use_cache,
        )

    def _predicted(self, asked: Sequence[Predict]) -> list[Predicted]:
        """Predicts one chunk, in one call of vLLM."""
        prompts = [
            self._encoder.encode(Generate(prompt=one.prompt, max_tokens=len(one.answer))).token_ids for one in asked
        ]
        questions = [
            (number, place, group)
            for number, one in enumerate(asked)
            for place in range(len(one.answer))
            for group in (_groups(one.tokens[place]) if one.tokens else [()])
        ]
        texts = [{"prompt_token_ids": [*prompts[n], *asked[n].answer[:place]]} for n, place, _ in questions]
        parameters = [self._one_token(group, asked[n].alternatives) for n, _, group in questions]
        with self._call("vLLM did not predict"), torch.compiler.set_stance(self._stance):
            outputs = self._llm.generate(texts, parameters, use_tqdm=False)
        places: list[list[dict[int, float]]] = [[{} for _ in one.answer] for one in asked]
        for (number, place, group), output in zip(questions, outputs, strict=True):
            [told] = output.outputs[0].logprobs
            [likely] = _most_likely([told], asked[number].alternatives) or [{}]
            places[number][place] |= {token: told[token].logprob for token in group} or likely
        values = (value for of_text in places for place in of_text for value in place.values())
        self._is_cache_spoilt |= any(map(math.isnan, values))
        return [
            Predicted(places=tuple(found), prompt_tokens=len(prompt))
            for found, prompt in zip(places, prompts, strict=True)
        ]

    def _one_token(self, tokens: Sequence[int], alternatives: int) -> Any:
        """Returns what asks for one token, and for the log-probabilities of some, or of the most likely ones."""
        return self._sampling(
            max_tokens=1,
            temperature=0,
            logprobs=None if tokens else alternatives,
            logprob_token_ids=list(tokens) or None,
            detokenize=False,
            skip_reading_prefix_cache=True,
        )


class _Recoverable:
    """A weight stream whose error waits until vLLM has finished the reload.

    An exception inside a reload leaves layers half loaded, and the next reload would complete them with tensors of the
    old candidate. If the stream just ends, vLLM finishes; the error is raised then, and no handle is returned.
    """

    def __init__(self, weights: WeightStream) -> None:
        self._weights = weights
        self.came: set[str] = set()
        self.error: Exception | None = None

    def __iter__(self) -> WeightStream:
        try:
            for batch in _batches(self._weights):
                self.came.update(name for name, _ in batch)
                yield from batch
        except Exception as error:
            self.error = error


def _batches(weights: WeightStream) -> Iterator[list[tuple[str, torch.Tensor]]]:
    batch, num_bytes = [], 0
    for name, tensor in weights:
        batch.append((name, tensor))
        num_bytes += tensor.nbytes
        if num_bytes >= _BATCH_BYTES:
            yield batch
            batch, num_bytes = [], 0
    yield batch


def block_of(name: str) -> int | str:
    """Returns the group in which a tensor is sent: its layer or, outside the layers, its grandparent module.

    vLLM fuses siblings (q, k and v; gate and up) and the experts of a layer, so this is coarse enough.

    >>> block_of("model.layers.3.mlp.up_proj.weight"), block_of("model.embed_tokens.weight"), block_of("lm_head.weight")
    (3, 'model', '')
    """
    layer = layer_of(name)
    return ".".join(name.split(".")[:-2]) if layer is None else layer


def _response(request: Request, encoded: Encoded, output: Any, encoder: Encoder) -> Response:
    if isinstance(request, Generate):
        [completion] = output.outputs
        token_ids = tuple(completion.token_ids)
        return Response(
            text=completion.text,
            token_ids=token_ids,
            logprobs=_chosen(token_ids, completion.logprobs),
            prompt_tokens=encoded.num_prompt,
            ended="length" if completion.finish_reason == "length" else "stop",
            alternatives=_most_likely(completion.logprobs, request.alternatives),
            prompt=_scored(encoded, output.prompt_logprobs, request.alternatives) if request.scores_prompt else None,
            text_tokens=encoder.text_tokens(completion.text, token_ids),
        )
    token_ids = encoded.token_ids[encoded.num_prompt :]
    places = output.prompt_logprobs[encoded.num_prompt :]
    return Response(
        text="",
        token_ids=token_ids,
        logprobs=_chosen(token_ids, places),
        prompt_tokens=encoded.num_prompt,
        alternatives=_most_likely(places, request.alternatives),
    )


def _groups(tokens: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [tokens[start : start + _MOST_TOKENS] for start in range(0, len(tokens), _MOST_TOKENS)]


def _scored(encoded: Encoded, places: Sequence[Any], count: int) -> ScoredPrompt:
    """Returns the prompt's tokens with what vLLM says of each place; nothing predicts the first."""
    return ScoredPrompt(
        token_ids=encoded.token_ids,
        logprobs=_chosen(encoded.token_ids[1:], places[1:]),
        alternatives=_most_likely(places[1:], count),
    )


def _chosen(token_ids: Sequence[int], places: Sequence[Any]) -> tuple[float, ...]:
    return tuple(found[token].logprob for token, found in zip(token_ids, places, strict=True))


def _most_likely(places: Sequence[Any], count: int) -> Alternatives:
    """Returns the `count` most likely tokens of each place: vLLM adds the chosen one where it is not among them."""
    if not count:
        return ()
    return tuple({token: one.logprob for token, one in found.items() if one.rank <= count} for found in places)


def _defaults(host: Path) -> dict[str, Any]:
    has_weights, is_cuda = any(host.glob("*.safetensors")), torch.cuda.is_available()
    turns_heads = not is_cuda and hasattr(load_config(host).get_text_config(), "kv_lora_rank")
    # DeepSeek's queries come head by head: vLLM 0.32's CPU kernel turns them wrongly by their positions
    plain = {"compilation_config": {"custom_ops": ["-rotary_embedding"]}} if turns_heads else {}
    # prefixes of state-space models are kept as checkpoints of their state, which vLLM 0.32's CPU code misplaces
    whole = {"enable_prefix_caching": False} if not is_cuda and _has_state(host) else {}
    return (
        plain
        | whole
        | {
            "seed": 0,
            "max_logprobs": _MOST_LIKELY,
            "generation_config": "vllm",  # sampling is set by the request, not by the host
            "load_format": "auto" if has_weights else "dummy",
            "disable_log_stats": True,
            "enforce_eager": not is_cuda,  # CPU: compiling takes 80 s at start and saves 10 % of a trial
            "use_tqdm_on_load": False,
        }
    )


def _has_state(host: Path) -> bool:
    """Whether a model carries a state from token to token besides keys and values, as Mamba does."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    config = load_config(host)
    known = (MODEL_FOR_CAUSAL_LM_MAPPING.get(type(part), None) for part in (config, config.get_text_config()))
    models = [model for model in known if model is not None]
    for model in models:
        require_internals("transformers", model, ("_is_stateful",))
    return any(model._is_stateful for model in models)


def _kv_cache_bytes(gigabytes: float | None) -> int | None:
    if gigabytes is None and not torch.cuda.is_available():
        gigabytes = _CPU_KV_CACHE_GB
    return None if gigabytes is None else int(gigabytes * 2**30)


def check_options(options: dict[str, Any], known: set[str]) -> None:
    """Raises InputError for an option that vLLM does not have, suggesting the closest."""
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise InputError(
                f"vLLM has no option `{name}`",
                where="fitness.engine.options",
                fix=f"write `{close[0]}`" if close else "see vLLM's EngineArgs",
            )
