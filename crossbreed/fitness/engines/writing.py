"""Many texts at once: prompts go through the model together.

That is several times as fast as one after the other, and a text depends by rounding on those beside it. So it serves
where texts are wanted, and never where answers are scored.

Shapes: B texts, T tokens, V the vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from inspect import signature
from itertools import groupby
from typing import Any

import torch

from crossbreed.fitness.engines.encoder import Encoder
from crossbreed.fitness.engines.loading import Model
from crossbreed.fitness.requests import Generate, Response

_TOGETHER = 64
"""The largest number of texts of a batch."""


class _Row:
    """A text that is being written."""

    def __init__(self, request: Generate, prompt: tuple[int, ...]) -> None:
        self.request, self.prompt, self.written = request, prompt, list[int]()
        self.ended: bool | None = None
        """Whether it came to an end, or to its limit; None: it goes on."""
        self._generator = torch.Generator().manual_seed(request.seed)

    def add(self, logits_V: torch.Tensor, encoder: Encoder) -> int:
        """Takes its next token, unless it has ended; returns what is fed next."""
        if self.ended is not None:
            return self.written[-1]
        if self.request.temperature == 0:
            token = int(logits_V.argmax())
        else:
            shares_V = (logits_V / self.request.temperature).softmax(-1)
            token = int(torch.multinomial(shares_V, 1, generator=self._generator))
        self.written.append(token)
        text = encoder.decode(self.written)
        if token in encoder.eos_ids or any(stop in text for stop in self.request.stop):
            self.ended = True
        elif len(self.written) >= self.request.max_tokens:
            self.ended = False
        return token

    def response(self, encoder: Encoder) -> Response:
        return Response(
            text=encoder.decode(self.written),
            token_ids=tuple(self.written),
            logprobs=(),
            prompt_tokens=len(self.prompt),
            ended="stop" if self.ended else "length",
        )


def write_together(
    requests: Sequence[Generate], encoder: Encoder, model: Model, run: Callable[..., Any], *, has_cache: bool
) -> list[Response]:
    """Answers requests, with the whole text up to the stop and with it.

    Prompts of several lengths go together, padded in front, where the model can be told so.

    Args:
        requests: What is asked.
        encoder: The engine's.
        model: The model that is run.
        run: Runs it on tokens [B, T] and further arguments of transformers.
        has_cache: Whether keys and values of earlier tokens can be used again.
    """
    rows = [_Row(request, encoder.encode(request).token_ids) for request in requests]
    is_padded = has_cache and {"attention_mask", "position_ids"} <= signature(model.forward).parameters.keys()
    for batch in _batches(rows, is_padded=is_padded):
        longest = max(len(row.prompt) for row in batch)
        fed = torch.tensor([(longest - len(row.prompt)) * row.prompt[:1] + row.prompt for row in batch])
        is_token_BT = torch.tensor([[i >= longest - len(row.prompt) for i in range(longest)] for row in batch])
        places_BT, cache = (is_token_BT.cumsum(1) - 1).clamp_min(0), dict[str, Any](use_cache=has_cache)
        while any(row.ended is None for row in batch):
            told = {"attention_mask": is_token_BT.long(), "position_ids": places_BT} if is_padded else {}
            out = run(fed.to(model.device), **{name: value.to(model.device) for name, value in told.items()}, **cache)
            logits_BV = out.logits[:, -1].float().cpu()
            tokens = [row.add(logits_V, encoder) for row, logits_V in zip(batch, logits_BV, strict=True)]
            next_B1 = torch.tensor(tokens)[:, None]
            held = out.get("past_key_values") if has_cache else None
            fed = torch.cat([fed, next_B1], 1) if held is None else next_B1
            is_token_BT = torch.cat([is_token_BT, torch.ones_like(next_B1, dtype=torch.bool)], 1)
            places_BT = (is_token_BT.cumsum(1) - 1).clamp_min(0)[:, -fed.shape[1] :]
            if held is not None:
                cache["past_key_values"] = held
    return [row.response(encoder) for row in rows]


def _batches(rows: Sequence[_Row], *, is_padded: bool) -> Iterator[Sequence[_Row]]:
    """Yields rows that are written together: of similar length, or of one."""
    for _, group in groupby(sorted(rows, key=lambda row: len(row.prompt)), lambda row: is_padded or len(row.prompt)):
        together = list(group)
        yield from (together[start : start + _TOGETHER] for start in range(0, len(together), _TOGETHER))
