"""Hugging Face transformers, one token at a time: slow, simple, and the reference for the other engines."""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM

from crossbreed.errors import EngineError, InvalidWeights
from crossbreed.fitness.engines.encoder import Encoded, Encoder
from crossbreed.fitness.engines.handle import CurrentHandle
from crossbreed.fitness.engines.library import engine_code, library_call
from crossbreed.fitness.engines.reference import truth_of
from crossbreed.fitness.engines.registry import TransformersConfig
from crossbreed.fitness.protocol import Generate, Loglikelihood, Request, Response, Truth
from crossbreed.sources.model_config import load_config
from crossbreed.sources.naming import is_derived
from crossbreed.types import Recipe, WeightStream


class TransformersEngine:
    """One model whose parameters are overwritten in place."""

    advice = ""

    def __init__(self, config: TransformersConfig, host: Path) -> None:
        """Builds the model of the host's config; `adopt` loads the weights."""
        settings = load_config(host)
        with library_call(f"the transformers engine did not start on {host}"):
            with torch.random.fork_rng(devices=[]):  # random initialisation, which is overwritten
                dtype = getattr(torch, config.dtype)
                model = AutoModelForCausalLM.from_config(settings, dtype=dtype, trust_remote_code=False)
            self._model = model.to(config.device).eval()
        self._host, self._dtype = host, config.dtype
        self._encoder = Encoder(host, max_model_len=config.max_model_len)
        self._parameters = dict(self._model.named_parameters())  # a tied lm_head is not among them
        stored = self._model.state_dict().keys()
        self._buffers = {name: buffer for name, buffer in self._model.named_buffers() if name in stored}
        self._obsolete = tuple(self._model._keys_to_ignore_on_load_unexpected)
        self._held: frozenset[str] = frozenset()
        """The tensors of the last candidate; empty while that is not certain."""
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
    def adopt(self, recipe: Recipe, weights: WeightStream, *, kept: Collection[str] = ()) -> CurrentHandle:
        """Copies every tensor of the stream into the model's own; see `WeightEngine`.

        Like transformers itself, it skips tensors of old checkpoints that the model computes (masks, angles).
        """
        self.version += 1
        assert self._held.issuperset(kept), "only what is held can be kept"
        held, self._held = set(kept), frozenset()
        own = self._parameters | self._buffers
        for name, tensor in weights:
            if name not in own and (is_derived(name) or any(re.search(pattern, name) for pattern in self._obsolete)):
                continue
            if name not in own or own[name].shape != tensor.shape:
                raise EngineError(f"recipe {recipe.id}: the model has no `{name}` of shape {tuple(tensor.shape)}")
            with library_call(f"recipe {recipe.id}: torch did not copy `{name}`"):
                own[name].copy_(tensor)
            held.add(name)
        if missing := self._parameters.keys() - held:
            raise EngineError(f"recipe {recipe.id}: there are no weights for {sorted(missing)[:3]}")
        self._held = frozenset(held)
        return CurrentHandle(self, self.version)

    @torch.inference_mode()
    def answer(self, requests: Sequence[Request]) -> list[Response]:
        """Answers one request after the other: no answer depends on its neighbours."""
        with engine_code("transformers did not answer"):
            return [self._answer(request, self._encoder.encode(request)) for request in requests]

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
        linears = {
            name: module
            for prefix, module in self._model.named_modules()
            if (name := f"{prefix}.weight") in tensors and isinstance(module, torch.nn.Linear)
        }
        if missing := sorted(set(tensors) - linears.keys()):
            raise EngineError(f"the model has no Linear module for `{missing[0]}`")
        with engine_code("transformers did not run the model"), ExitStack() as hooks:
            for name, module in linears.items():

                def show(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], name: str = name) -> None:
                    see(name, inputs[0])

                hooks.callback(module.register_forward_pre_hook(show).remove)
            for request in requests:
                self._model(self._tensor(self._encoder.encode(request).token_ids), use_cache=False)

    def close(self) -> None:
        """Frees the model."""
        self.version += 1
        del self._model, self._parameters, self._buffers

    def _loss(self, batch: Sequence[tuple[Encoded, float]]) -> torch.Tensor:
        """Returns the weighted sum over requests of the mean loss of their continuations' tokens."""
        device = self._model.device
        ids_BT = pad_sequence([torch.tensor(e.token_ids, device=device) for e, _ in batch], batch_first=True)
        logits_BTV = self._model(ids_BT, use_cache=False).logits  # padding is last: masked by causal attention
        loss = torch.zeros((), device=device)
        for (request, weight), logits_TV, ids_T in zip(batch, logits_BTV, ids_BT, strict=True):
            start, end = request.num_prompt, len(request.token_ids)
            loss = loss + weight * cross_entropy(logits_TV[start - 1 : end - 1].float(), ids_T[start:end])
        if not loss.isfinite():
            raise InvalidWeights("the calibration loss is NaN or infinite")
        return loss

    def _gradients(self, version: int) -> WeightStream:
        for name, parameter in sorted(self._parameters.items()):
            if version != self.version:
                raise EngineError("this gradient is no longer valid: the engine has adopted another candidate since")
            found, parameter.grad = parameter.grad, None
            if found is not None:
                yield name, found.float()

    def _answer(self, request: Request, encoded: Encoded) -> Response:
        if isinstance(request, Generate):
            return self._generate(request, encoded)
        continuation = encoded.token_ids[encoded.num_prompt :]
        logits_TV = self._model(self._tensor(encoded.token_ids)).logits[0]
        logprobs_TV = logits_TV.float().log_softmax(-1)[encoded.num_prompt - 1 : -1]
        return Response(
            text="",
            token_ids=continuation,
            logprobs=tuple(logprobs_TV[torch.arange(len(continuation)), list(continuation)].tolist()),
            prompt_tokens=encoded.num_prompt,
        )

    def _generate(self, request: Generate, encoded: Encoded) -> Response:
        generator = torch.Generator().manual_seed(request.seed)
        token_ids: list[int] = []
        logprobs: list[float] = []
        text, cache, fed = "", None, encoded.token_ids
        while len(token_ids) < request.max_tokens:
            out = self._model(self._tensor(fed), past_key_values=cache, use_cache=True)
            logits_V, cache = out.logits[0, -1].float().cpu(), out.past_key_values
            token = _draw(logits_V, request.temperature, generator)
            token_ids.append(token)
            logprobs.append(float(logits_V.log_softmax(-1)[token]))
            is_end = token in self._encoder.eos_ids
            said = token_ids[:-1] if is_end else token_ids  # an end is no text, whether or not the tokenizer knows
            text, is_stopped = _until_stop(self._encoder.decode(said), request.stop)
            if is_stopped or is_end:
                break
            fed = (token,)
        return Response(
            text=text, token_ids=tuple(token_ids), logprobs=tuple(logprobs), prompt_tokens=encoded.num_prompt
        )

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


def _draw(logits_V: torch.Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits_V.argmax())
    return int(torch.multinomial((logits_V / temperature).softmax(-1), 1, generator=generator))


def _until_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    ends = [end for stop in stops if (end := text.find(stop)) >= 0]
    return (text[: min(ends)], True) if ends else (text, False)
