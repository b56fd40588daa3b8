"""Hugging Face transformers, one token at a time: slow, simple, and the reference for the other engines."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM

from crossbreed.errors import EngineError, InputError, InvalidWeights, first_line
from crossbreed.fitness.engines.encoder import Encoded, Encoder
from crossbreed.fitness.engines.handle import PredictingHandle
from crossbreed.fitness.engines.library import BUGS, engine_code, library_call, require_internals
from crossbreed.fitness.engines.loading import Part, Places
from crossbreed.fitness.engines.reference import truth_of
from crossbreed.fitness.engines.registry import TransformersConfig
from crossbreed.fitness.engines.writing import write_together
from crossbreed.fitness.protocol import Truth
from crossbreed.fitness.requests import Generate, Loglikelihood, Predict, Predicted, Request, Response, ScoredPrompt
from crossbreed.sources.model_config import load_config
from crossbreed.types import Recipe, WeightStream


class TransformersEngine:
    """One model whose parameters are overwritten in place."""

    advice = ""

    def __init__(self, config: TransformersConfig, host: Path) -> None:
        """Builds the model of the host's config; `adopt` loads the weights."""
        settings = load_config(host)
        if hasattr(settings, "rescale_every"):
            settings.rescale_every = 0  # RWKV: or answering halves weights in place, for fp16's sake
        with library_call(f"the transformers engine did not start on {host}"):
            with torch.random.fork_rng(devices=[]):  # random initialisation, which is overwritten
                dtype = getattr(torch, config.dtype)
                model = AutoModelForCausalLM.from_config(settings, dtype=dtype, trust_remote_code=False)
            self._model = model.to(config.device).eval()
        self._host, self._dtype = host, config.dtype
        self._encoder = Encoder(host, max_model_len=config.max_model_len)
        self._places = Places(self._model)
        self._state = dict(self._model.named_parameters()) | dict(self._model.named_buffers())
        require_internals("transformers", self._model, ("_is_stateful",))
        self._has_cache = not self._model._is_stateful
        """Keys and values are reused; a model with another state (Mamba) reads all tokens for each new one."""
        self._held: frozenset[str] = frozenset()
        """The tensors of the last candidate; empty while that is not certain."""
        self._complete: frozenset[str] = frozenset()
        """Tensors that fill the model."""
        self._views: dict[Part, torch.Tensor] = {}
        self.version = 0

    def end_at(self, token_ids: Collection[int]) -> None:
        """Ends answers at these tokens too; see `EndsAnswers`."""
        self._encoder.end_at(token_ids)

    def truth_of(self, weights: WeightStream, requests: Sequence[Loglikelihood]) -> Truth:
        """Loads the weights as `from_pretrained` does; see `Checkable`."""
        return truth_of(self._host, self._encoder, weights, requests, dtype=self._dtype)

    def keeps(self, unchanged: Collection[str]) -> frozenset[str]:
        """Returns all held tensors among `unchanged`: each can be kept individually. See `WeightEngine`."""
        return self._held.intersection(unchanged)

    @torch.no_grad()
    def adopt(self, recipe: Recipe, weights: WeightStream, *, kept: Collection[str] = ()) -> PredictingHandle:
        """Copies every tensor of the stream to its place in the model; see `WeightEngine`.

        Like transformers itself, it skips tensors of old checkpoints that the model computes (masks, angles).

        Raises:
            EngineError: the model has no place for a tensor; `check_places` says so before an engine starts.
        """
        self.version += 1
        assert self._held.issuperset(kept), "only what is held can be kept"
        held, self._held = set(kept), frozenset()
        holders = {part: name for name in held for part in self._places.of(name)}
        for name, tensor in weights:
            with library_call(f"recipe {recipe.id}: torch did not copy `{name}`"):
                for part in self._parts_of(name, tensor):
                    own, given = self._view(part), part.source(tensor)
                    holder = holders.setdefault(part, name)
                    if holder == name:
                        own.copy_(given)
                    elif not torch.equal(own, given.to(own)):
                        raise EngineError(f"recipe {recipe.id}: the model ties `{name}` to `{holder}`, and they differ")
            held.add(name)
        if held != self._complete and (missing := self._places.missing(held)):
            raise EngineError(f"recipe {recipe.id}: there are no weights for {missing[:3]}")
        self._complete = self._held = frozenset(held)
        return PredictingHandle(self, self.version)

    def _parts_of(self, name: str, tensor: torch.Tensor) -> tuple[Part, ...]:
        try:
            return self._places.of(name, tensor.shape)
        except InputError as error:
            raise EngineError(str(error)) from error

    @torch.inference_mode()
    def answer(self, requests: Sequence[Request]) -> list[Response]:
        """Answers one request after the other: no answer depends on its neighbours."""
        with engine_code("transformers did not answer"):
            return [self._answer(request, self._encoder.encode(request)) for request in requests]

    @torch.inference_mode()
    def predict(self, asked: Sequence[Predict]) -> list[Predicted]:
        """Runs the model once over each prompt with its answer; see `Predicts`."""
        with engine_code("transformers did not predict"):
            return [self._predict(one) for one in asked]

    def gradient(self, requests: Sequence[Loglikelihood], weights: Sequence[float], *, tokens: int) -> WeightStream:
        """Runs the model forwards and backwards over all requests; see `Differentiable`."""
        encoded = [self._encoder.encode(request) for request in requests]
        self._model.zero_grad(set_to_none=True)
        failure = "transformers did not compute the gradient; fewer `fitness.slopes.tokens` need less memory"
        try:
            with engine_code(failure), torch.enable_grad():
                for batch in _batches(list(zip(encoded, weights, strict=True)), tokens):
                    self._loss(batch).backward()  # type: ignore[no-untyped-call]
        except BaseException:
            self._model.zero_grad(set_to_none=True)  # as large as the model, and never fetched
            raise
        return self._gradients(self.version)

    @torch.inference_mode()
    def activations(
        self, requests: Sequence[Loglikelihood], tensors: Collection[str], see: Callable[[str, torch.Tensor], None]
    ) -> None:
        """Passes the inputs to `see`, one request after the other; see `Observable`."""
        linears = {name: self._linear(name) for name in tensors}
        with engine_code("transformers did not run the model"), ExitStack() as hooks:
            for name, module in linears.items():

                def show(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], name: str = name) -> None:
                    see(name, inputs[0])

                hooks.callback(module.register_forward_pre_hook(show).remove)
            for request in requests:
                self._model(self._tensor(self._encoder.encode(request).token_ids), use_cache=False)

    @torch.inference_mode()
    def write(self, requests: Sequence[Generate]) -> list[Response]:
        """Answers many requests together; see `Writing`."""
        with engine_code("transformers did not write"):
            return write_together(requests, self._encoder, self._model, self._run, has_cache=self._has_cache)

    def close(self) -> None:
        """Frees the model."""
        self.version += 1
        del self._model, self._state, self._views

    def _loss(self, batch: Sequence[tuple[Encoded, float]]) -> torch.Tensor:
        """Returns the weighted sum over requests of the mean loss of their continuations' tokens."""
        device = self._model.device
        ids_BT = pad_sequence([torch.tensor(e.token_ids, device=device) for e, _ in batch], batch_first=True)
        logits_BTV = self._run(ids_BT, use_cache=False).logits  # padding is last: masked by causal attention
        loss = torch.zeros((), device=device)
        for (request, weight), logits_TV, ids_T in zip(batch, logits_BTV, ids_BT, strict=True):
            start, end = request.num_prompt, len(request.token_ids)
            loss = loss + weight * cross_entropy(logits_TV[start - 1 : end - 1].float(), ids_T[start:end])
        if not loss.isfinite():
            raise InvalidWeights("the calibration loss is NaN or infinite")
        return loss

    def _gradients(self, version: int) -> WeightStream:
        """By the checkpoint's names; what is tied twice in it has one entry."""
        found: dict[tuple[Part, ...], str] = {}
        for name in sorted(self._held):
            if parts := self._places.of(name):
                found.setdefault(parts, name)
        awaited = Counter(part.parameter for parts in found for part in parts)
        for parts, name in found.items():
            if version != self.version:
                raise EngineError("this gradient is no longer valid: the engine has adopted another candidate since")
            owners = [self._state[part.parameter] for part in parts]
            value = None
            if any(owner.grad is not None for owner in owners):
                pieces = [part.of(_gradient(owner)).float() for part, owner in zip(parts, owners, strict=True)]
                value = torch.cat(pieces, dim=parts[0].dim) if len(pieces) > 1 else pieces.pop()
            awaited.subtract(part.parameter for part in parts)
            for owner, part in zip(owners, parts, strict=True):
                if not awaited[part.parameter]:
                    owner.grad = None
            if value is not None:
                yield name, value

    def _view(self, part: Part) -> torch.Tensor:
        if part not in self._views:
            self._views[part] = part.of(self._state[part.parameter])
        return self._views[part]

    def _linear(self, name: str) -> torch.nn.Module:
        if name not in self._held or (module := self._places.linear(name)) is None:
            raise EngineError(f"the model has no Linear module for `{name}`")
        found: torch.nn.Module = self._model.get_submodule(module)
        return found

    def _answer(self, request: Request, encoded: Encoded) -> Response:
        if isinstance(request, Generate):
            return self._generate(request, encoded)
        continuation = encoded.token_ids[encoded.num_prompt :]
        logits_TV = self._run(self._tensor(encoded.token_ids)).logits[0]
        logprobs_TV = logits_TV.float().log_softmax(-1)[encoded.num_prompt - 1 : -1]
        return Response(
            text="",
            token_ids=continuation,
            logprobs=tuple(logprobs_TV[torch.arange(len(continuation)), list(continuation)].tolist()),
            prompt_tokens=encoded.num_prompt,
            alternatives=tuple(most_likely(logprobs_TV, request.alternatives)),
        )

    def _predict(self, asked: Predict) -> Predicted:
        prompt = self._encoder.encode(Generate(prompt=asked.prompt, max_tokens=len(asked.answer))).token_ids
        logits_TV = self._run(self._tensor((*prompt, *asked.answer[:-1])), use_cache=False).logits[0]
        logprobs_AV = logits_TV[len(prompt) - 1 :].float().cpu().log_softmax(-1)
        wanted = zip(asked.tokens, logprobs_AV, strict=True) if asked.tokens else ()
        named = [dict(zip(ids, logprobs_V[list(ids)].tolist(), strict=True)) for ids, logprobs_V in wanted]
        places = named or most_likely(logprobs_AV, asked.alternatives)
        return Predicted(places=tuple(places), prompt_tokens=len(prompt))

    def _generate(self, request: Generate, encoded: Encoded) -> Response:
        generator = torch.Generator().manual_seed(request.seed)
        token_ids: list[int] = []
        logprobs: list[float] = []
        alternatives: list[Mapping[int, float]] = []
        text, fed = "", encoded.token_ids
        ended: Literal["stop", "length"] = "length"
        prompt: ScoredPrompt | None = None
        cache = {"use_cache": self._has_cache}
        while len(token_ids) < request.max_tokens:
            out = self._run(self._tensor(fed), **cache)
            if request.scores_prompt and prompt is None:
                prompt = _scored(encoded.token_ids, out.logits[0].float().cpu(), request.alternatives)
            logits_V = out.logits[0, -1].float().cpu()
            token = _draw(logits_V, request.temperature, generator)
            token_ids.append(token)
            logprobs_V = logits_V.log_softmax(-1)
            logprobs.append(float(logprobs_V[token]))
            alternatives += most_likely(logprobs_V[None], request.alternatives)
            is_end = token in self._encoder.eos_ids
            said = token_ids[:-1] if is_end else token_ids  # an end is no text, whether or not the tokenizer knows
            text, is_stopped = _until_stop(self._encoder.decode(said), request.stop)
            if is_stopped or is_end:
                ended = "stop"
                break
            held = out.get("past_key_values") if self._has_cache else None
            if held is None:  # GPT-1 returns none
                fed = (*fed, token)
            else:
                cache["past_key_values"], fed = held, (token,)
        return Response(
            text=text,
            token_ids=tuple(token_ids),
            logprobs=tuple(logprobs),
            prompt_tokens=encoded.num_prompt,
            ended=ended,
            alternatives=tuple(alternatives),
            prompt=prompt,
            text_tokens=self._encoder.text_tokens(text, token_ids),
        )

    def _run(self, ids_BT: torch.Tensor, **cache: Any) -> Any:  # transformers has no types
        """Runs the model; for a configuration that it cannot compute, its code raises what elsewhere are our bugs."""
        try:
            return self._model(ids_BT, **cache)
        except BUGS as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise EngineError(f"transformers cannot run the model of this configuration: {reason}") from error

    def _tensor(self, token_ids: Sequence[int]) -> torch.Tensor:
        return torch.tensor([list(token_ids)], device=self._model.device)


def _batches(requests: Sequence[tuple[Encoded, float]], tokens: int) -> Iterator[list[tuple[Encoded, float]]]:
    """Yields batches of requests of similar length, as large as fit."""
    batch: list[tuple[Encoded, float]] = []
    for request, weight in sorted(requests, key=lambda pair: len(pair[0].token_ids)):
        if batch and (len(batch) + 1) * len(request.token_ids) > tokens:
            yield batch
            batch = []
        batch.append((request, weight))
    yield batch


def _gradient(parameter: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.contiguous()


def _scored(token_ids: Sequence[int], logits_TV: torch.Tensor, count: int) -> ScoredPrompt:
    """Returns the prompt's tokens with their log-probabilities; nothing predicts the first."""
    logprobs_TV = logits_TV[:-1].log_softmax(-1)
    return ScoredPrompt(
        token_ids=tuple(token_ids),
        logprobs=tuple(logprobs_TV[torch.arange(len(token_ids) - 1), list(token_ids[1:])].tolist()),
        alternatives=tuple(most_likely(logprobs_TV, count)),
    )


def most_likely(logprobs_TV: torch.Tensor, count: int) -> list[Mapping[int, float]]:
    """Returns the `count` most likely tokens of each place; nothing if there are to be none."""
    if not count:
        return []
    best = logprobs_TV.topk(min(count, logprobs_TV.shape[-1]))
    places = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [dict(zip(ids, values, strict=True)) for ids, values in places]


def _draw(logits_V: torch.Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits_V.argmax())
    return int(torch.multinomial((logits_V / temperature).softmax(-1), 1, generator=generator))


def _until_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    ends = [end for stop in stops if (end := text.find(stop)) >= 0]
    return (text[: min(ends)], True) if ends else (text, False)
