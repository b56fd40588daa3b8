"""Hugging Face transformers, one token at a time: slow, plain, and what the other engines must agree with."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from crossbreed.errors import EngineError
from crossbreed.fitness.engines.encoder import Encoded, Encoder
from crossbreed.fitness.engines.handle import CurrentHandle
from crossbreed.fitness.engines.registry import TransformersConfig
from crossbreed.fitness.protocol import Generate, Request, Response
from crossbreed.types import Recipe, WeightStream


class TransformersEngine:
    """One model whose parameters are overwritten in place."""

    def __init__(self, config: TransformersConfig, host: Path) -> None:
        """Builds the model of the host's config; weights come with `adopt`."""
        self._encoder = Encoder(host, max_model_len=config.max_model_len)
        settings = AutoConfig.from_pretrained(host, local_files_only=True)
        with torch.random.fork_rng(devices=[]):  # the initialisation draws, and is overwritten
            model = AutoModelForCausalLM.from_config(settings, dtype=getattr(torch, config.dtype))
        self._model = model.to(config.device).eval()
        self._parameters = dict(self._model.named_parameters())  # a tied lm_head is not among them
        stored = self._model.state_dict().keys()
        self._buffers = {name: buffer for name, buffer in self._model.named_buffers() if name in stored}
        self._obsolete = (r"rotary_emb\.inv_freq$", *self._model._keys_to_ignore_on_load_unexpected)
        self._held: frozenset[str] = frozenset()
        """What came with the last candidate; nothing while that is not certain."""
        self.version = 0

    def keeps(self, unchanged: Collection[str]) -> frozenset[str]:
        """Any tensor, each for itself; see `Engine`."""
        return self._held.intersection(unchanged)

    @torch.no_grad()
    def adopt(self, recipe: Recipe, weights: WeightStream, *, kept: Collection[str] = ()) -> CurrentHandle:
        """Copies every tensor of the stream into the model's own; see `Engine`.

        Passed over, as transformers does, are those that old checkpoints hold and the model computes (masks, angles).
        """
        self.version += 1
        assert self._held.issuperset(kept), "only what is held can be kept"
        held, self._held = set(kept), frozenset()
        own = self._parameters | self._buffers
        for name, tensor in weights:
            if name not in own and any(re.search(pattern, name) for pattern in self._obsolete):
                continue
            if name not in own or own[name].shape != tensor.shape:
                raise EngineError(f"recipe {recipe.id}: the model has no `{name}` of shape {tuple(tensor.shape)}")
            own[name].copy_(tensor)
            held.add(name)
        if missing := self._parameters.keys() - held:
            raise EngineError(f"recipe {recipe.id}: no weights came for {sorted(missing)[:3]}")
        self._held = frozenset(held)
        return CurrentHandle(self, self.version)

    @torch.inference_mode()
    def answer(self, requests: Sequence[Request]) -> list[Response]:
        """Answers one request after the other: no answer depends on its neighbours."""
        return [self._answer(request, self._encoder.encode(request)) for request in requests]

    def close(self) -> None:
        """Lets go of the model."""
        self.version += 1
        del self._model, self._parameters, self._buffers

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
            text, is_stopped = _until_stop(self._encoder.decode(token_ids), request.stop)
            if is_stopped or token in self._encoder.eos_ids:
                break
            fed = (token,)
        return Response(
            text=text, token_ids=tuple(token_ids), logprobs=tuple(logprobs), prompt_tokens=encoded.num_prompt
        )

    def _tensor(self, token_ids: Sequence[int]) -> torch.Tensor:
        return torch.tensor([list(token_ids)], device=self._model.device)


def _draw(logits_V: torch.Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits_V.argmax())
    return int(torch.multinomial((logits_V / temperature).softmax(-1), 1, generator=generator))


def _until_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    ends = [end for stop in stops if (end := text.find(stop)) >= 0]
    return (text[: min(ends)], True) if ends else (text, False)
