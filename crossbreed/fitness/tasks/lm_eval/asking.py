"""lm-eval's requests as ours: in the tokens in which lm-eval's own models ask, where the host's tokenizer is here."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from crossbreed.errors import EngineError, InputError
from crossbreed.fitness.requests import Generate, Loglikelihood, Prompt, Response
from crossbreed.sources.chat_templates import render_chat
from crossbreed.sources.tokenization import num_appended, token_ids

Result = tuple[float, bool] | float | str
"""What lm-eval's models answer: likelihood and whether it is the greedy text; likelihood of a whole text; a text."""
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_MOST_TOKENS = 256
"""lm-eval's own, where a task says nothing."""
_ONLY_DRAWING = {"top_p", "top_k", "min_p", "typical_p", "temperature"}
"""What changes no greedy answer."""
_NEUTRAL = {"num_beams": 1, "repetition_penalty": 1.0, "num_return_sequences": 1, "top_p": 1.0, "top_k": 0, "min_p": 0}
"""Values that change no answer at all."""
_SURE, _IMPOSSIBLE = math.log(0.5), -14.0
"""Log-probabilities above which a token is the most likely one, and below which it is not, of a million tokens."""


class Speaker:
    """Writes lm-eval's requests as the models of a host read them; without a host, as texts."""

    def __init__(self, host: Path | None, context_tokens: int | None) -> None:
        """Loads the host's tokenizer.

        Args:
            host: The folder of the tokenizer; None: whoever answers has one of its own.
            context_tokens: Longest prompt plus answer; None: the model's.
        """
        self.is_here = host is not None
        if host is None:
            return
        from crossbreed.fitness.engines.encoder import Encoder

        encoder = Encoder(host, max_model_len=context_tokens)
        self._tokenizer, self._context = encoder.tokenizer, encoder.max_model_len
        self._appended = num_appended(self._tokenizer)
        bos, eos = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        self._prefix: int | None = eos if bos is None else bos
        self._prefix_text = "" if self._prefix is None else str(self._tokenizer.decode([self._prefix]))
        self._where = str(host)

    def chat(self, history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """Returns a chat through the host's template; without a host, its turns."""
        if not self.is_here:
            return "\n".join(f"{turn['role']}: {turn['content']}" for turn in history)
        if self._tokenizer.chat_template is None:
            raise InputError(
                "the base has no chat template",
                expected="a tokenizer with a chat template",
                where=self._where,
                fix="set `chat_template: false` in the task, or use a base that has one",
            )
        return render_chat(self._tokenizer, history, goes_on=not add_generation_prompt)

    def likelihood(self, context: str, continuation: str, *, alternatives: int) -> Loglikelihood:
        """Returns the request for the likelihood of a continuation; blanks before it belong to it."""
        size = len(context) - len(context.rstrip())
        if size and context.strip():
            context, continuation = context[:-size], context[-size:] + continuation
        if not self.is_here:
            return Loglikelihood(prompt=Prompt(text=context), continuation=continuation, alternatives=alternatives)
        if context:
            before, whole = self._encode(context), self._encode(context + continuation)
            after = whole[len(before) :]
        else:
            before, after = [self._first()], self._plain(continuation)
            if after[:1] == before:
                after = after[1:]
        if not after:
            raise InputError(
                "a text is too short to score",
                expected="a continuation with a token of its own",
                got=repr(continuation)[:80],
            )
        return self._scored(before, after, context, continuation, alternatives)

    def rolling(self, text: str) -> list[Loglikelihood]:
        """Returns the requests for the likelihood of a whole text, window by window."""
        if not self.is_here:
            return [Loglikelihood(prompt=Prompt(text=""), continuation=text)]
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        windows = get_rolling_token_windows(
            token_list=self._encode(text), prefix_token=self._first(), max_seq_len=self._context - 2, context_len=1
        )
        return [
            self._scored(before, after, self._decode(before), self._decode(after), 0)
            for before, after in map(make_disjoint_window, windows)
        ]

    def text(self, context: str, wanted: "Writing", *, seed: int) -> Generate:
        """Returns the request for a text; a prompt that is too long loses its beginning, as in lm-eval."""
        ids: tuple[int, ...] | None = None
        if self.is_here:
            room = self._context - wanted.max_tokens
            if room < 1:
                raise InputError(
                    "an answer may be as long as the model's context",
                    expected=f"fewer than {self._context} tokens",
                    got=f"max_gen_toks: {wanted.max_tokens}",
                    fix=f"gen_kwargs: {{max_gen_toks: {max(1, self._context // 2)}}} in the task, or raise "
                    "`fitness.engine.max_model_len`",
                )
            ids = tuple(self._encode(context)[-room:])
        return Generate(
            prompt=Prompt(text=context, token_ids=ids),
            max_tokens=wanted.max_tokens,
            stop=wanted.stop,
            temperature=wanted.temperature,
            seed=seed if wanted.temperature else 0,
        )

    def _scored(
        self, before: Sequence[int], after: Sequence[int], context: str, continuation: str, alternatives: int
    ) -> Loglikelihood:
        room = max(1, self._context - 1 - len(after))
        return Loglikelihood(
            prompt=Prompt(text=context, token_ids=tuple(before[-room:])),
            continuation=continuation,
            token_ids=tuple(after),
            alternatives=alternatives,
        )

    def _encode(self, text: str) -> list[int]:
        """Returns tokens with the special ones before them, unless the text begins with such a one."""
        if self._prefix_text and text.startswith(self._prefix_text):
            return self._plain(text)
        return list(token_ids(self._tokenizer, text, appended=self._appended))

    def _plain(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False).input_ids)

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def _first(self) -> int:
        """Returns the token that texts are scored after."""
        if self._prefix is None:
            raise InputError(
                "the base's tokenizer has neither a token that begins texts nor one that ends them",
                expected="`bos_token` or `eos_token` in tokenizer_config.json",
                where=self._where,
            )
        return self._prefix


@lru_cache(maxsize=4)
def speaker(host: Path | None, context_tokens: int | None) -> Speaker:
    """Returns the speaker of a host, one for all tasks."""
    return Speaker(host, context_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """How a task wants texts to be written."""

    max_tokens: int
    stop: tuple[str, ...]
    temperature: float

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Writing":
        """Reads lm-eval's `generation_kwargs`.

        Raises:
            InputError: they ask for what no engine here does in the same way.
        """
        given = {key: value for key, value in settings.items() if value is not None}
        until = given.pop("until", [])
        stops = [until] if isinstance(until, str) else list(until)
        lengths = [given.pop(key) for key in _LENGTHS if key in given]
        drawing, temperature = given.pop("do_sample", None), float(given.get("temperature", 0.0))
        if drawing is False:
            temperature = 0.0
        others = {
            key: value
            for key, value in given.items()
            if key != "temperature"
            and _NEUTRAL.get(key, math.nan) != value
            and not (temperature == 0 and key in _ONLY_DRAWING)
        }
        if drawing and not temperature:
            others = {"do_sample": True, **others}
        if others:
            [key, *_] = others
            raise InputError(
                f"the task wants texts written with `{key}: {others[key]}`",
                expected="greedy texts, or a `temperature` alone, with `until` and `max_gen_toks`",
                got=", ".join(f"{name}: {value}" for name, value in settings.items())[:200],
                fix="gen_kwargs: {do_sample: false} in the task, or {" + f"{key}: null" + "}",
            )
        return cls(
            max_tokens=int(lengths[0]) if lengths else _MOST_TOKENS,
            stop=tuple(str(stop) for stop in stops if stop),
            temperature=temperature,
        )


def result_of(request_type: str, responses: Sequence[Response], *, is_greedy: bool) -> Result:
    """Returns what lm-eval's models would have answered.

    Args:
        request_type: lm-eval's name for what is asked.
        responses: The engine's.
        is_greedy: Whether the task needs to know if a continuation is the greedy text; else it is told that it is not.
    """
    if request_type == "generate_until":
        return responses[0].text
    total = math.fsum(value for one in responses for value in one.logprobs)
    if request_type == "loglikelihood_rolling":
        return total
    return total, is_greedy and all(map(_is_greedy, responses))


def _is_greedy(response: Response) -> bool:
    """Returns whether each token is the most likely one at its place."""
    if response.alternatives:
        pairs = zip(response.token_ids, response.alternatives, strict=True)
        return all(max(found, key=lambda one: found[one]) == token for token, found in pairs)
    if min(response.logprobs) > _SURE:
        return True
    if min(response.logprobs) < _IMPOSSIBLE:
        return False
    raise EngineError("the engine does not list the most likely tokens, which a metric of the task needs")
