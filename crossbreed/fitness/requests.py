"""What engines are asked, and what they answer: values alone, without an engine."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """The model's input: plain text, or a message that the engine renders with the tokenizer's chat template."""

    text: str
    chat: bool = False
    """Render `system` and `text` through the chat template, with the generation prompt."""
    system: str | None = None
    turns: tuple[tuple[str, str], ...] = ()
    """For a chat: the (role, content) of the turns between `system` and `text`, which is the user's last one."""
    token_ids: tuple[int, ...] | None = None
    """The input in tokens, used as it is, instead of all of the above."""

    @property
    def messages(self) -> list[dict[str, str]]:
        """The turns of a chat, as chat templates take them."""
        system = () if self.system is None else (("system", self.system),)
        turns = (*system, *self.turns, ("user", self.text))
        return [{"role": role, "content": content} for role, content in turns]


@dataclass(frozen=True, slots=True, kw_only=True)
class Generate:
    """A request to continue the prompt, greedily unless a temperature is given."""

    prompt: Prompt
    max_tokens: int
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    seed: int = 0
    use_cache: bool = True
    """False: recompute the prompt, ignoring the engine's prefix cache. The canary compares the two."""
    alternatives: int = 0
    """How many of the most likely tokens to list at each place, with their log-probabilities."""
    scores_prompt: bool = False
    """Whether to score the prompt's tokens too, all but the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loglikelihood:
    """A request to score `continuation` after the prompt. With an empty prompt, scoring starts at the second token.

    The boundary is found in the texts; where the prompt is given in tokens, so is the continuation.
    """

    prompt: Prompt
    continuation: str
    token_ids: tuple[int, ...] | None = None
    """The continuation in tokens, used as they are after a prompt in tokens; `continuation` is then only shown."""
    alternatives: int = 0
    """How many of the most likely tokens to list at each place of the continuation, with their log-probabilities."""


Request: TypeAlias = Generate | Loglikelihood


def greedy(request: Request) -> Request:
    """Returns a request without drawn tokens."""
    return replace(request, temperature=0.0, seed=0) if isinstance(request, Generate) else request


Alternatives: TypeAlias = tuple[Mapping[int, float], ...]
"""For each token of a text: token -> log-probability, of the most likely ones at its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredPrompt:
    """The prompt's tokens, as the model expects them."""

    token_ids: tuple[int, ...]
    """All tokens of the prompt."""
    logprobs: tuple[float, ...]
    """Natural log-probability of each of them but the first, given all before it."""
    alternatives: Alternatives = ()
    """For each but the first, where the request asks for some."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """The response to one request."""

    text: str
    """The generated text, up to the stop string; empty for a Loglikelihood."""
    token_ids: tuple[int, ...]
    """The generated tokens, or those of the continuation."""
    logprobs: tuple[float, ...]
    """Natural log-probability of each of `token_ids` given all before it; for a Generate, it may be left out."""
    prompt_tokens: int
    ended: Literal["stop", "length"] = "stop"
    """Why a text ended: at a stop string or an end token, or at the limit of tokens."""
    alternatives: Alternatives = ()
    """For each of `token_ids`, where the request asks for some; may be left out."""
    prompt: ScoredPrompt | None = None
    """Where a Generate asks to score its prompt; may be left out."""
    text_tokens: int | None = None
    """Of a Generate: how many of `token_ids` are the text's, before its stop or end token; None: not told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Predict:
    """A question for what is predicted at each token of a given answer: no text is generated."""

    prompt: Prompt
    answer: tuple[int, ...]
    """Tokens, at least one. Each is predicted from the prompt and those before it."""
    tokens: tuple[tuple[int, ...], ...] = ()
    """For each token of the answer: those whose log-probabilities are wanted. Empty: the most likely ones are."""
    alternatives: int = 0
    """How many of the most likely tokens are wanted at each place, where `tokens` names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """The response to a `Predict`."""

    places: Alternatives
    """For each token of the answer: token -> natural log-probability, of all those that are wanted."""
    prompt_tokens: int
