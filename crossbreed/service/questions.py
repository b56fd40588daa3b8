"""What may be asked in OpenAI's words. What would change an answer and is not offered is refused, never ignored.

Lists are read up to their first mistake: a body may hold millions, and each would be told.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StrictInt, model_validator

_LARGEST_SEED = 2**63 - 1
_MOST_STOPS, _LONGEST_STOP = 64, 1000

TokenIds: TypeAlias = Annotated[list[StrictInt], Field(fail_fast=True, min_length=1)]
Zero: TypeAlias = Annotated[float, Field(ge=0, le=0)]
One: TypeAlias = Annotated[float, Field(ge=1, le=1)]
Stop: TypeAlias = Annotated[str, Field(min_length=1, max_length=_LONGEST_STOP)]
Stops: TypeAlias = Annotated[list[Stop], Field(fail_fast=True, max_length=_MOST_STOPS)]
MaxTokens: TypeAlias = Annotated[int, Field(ge=0)]


class OpenAIQuestion(BaseModel):
    """What both kinds of completion have."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    model: Annotated[str, Field(min_length=1, max_length=200)]
    """`base`, an expert's name, or the id of a merge."""
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    """0: greedy. None: 1, as OpenAI's."""
    seed: Annotated[int, Field(ge=-_LARGEST_SEED, le=_LARGEST_SEED)] | None = None
    """Of what is drawn. None: 0, so that equal questions are answered equally."""
    stop: Stop | Stops | None = None
    """Texts that end an answer."""
    user: str | None = None
    """Ignored."""
    cache_salt: str | None = None
    """Ignored: the service never shares what a model computed with another model."""
    n: Literal[1] | None = None
    """One answer for each prompt."""
    stream: Literal[False] | None = None
    """Answers come whole."""
    stream_options: None = None
    """Nothing."""
    top_p: One | None = None
    """1: nothing is cut off. So are `top_k` and `min_p`."""
    top_k: Literal[0, -1] | None = None
    """Nothing is cut off."""
    min_p: Zero | None = None
    """Nothing is cut off."""
    frequency_penalty: Zero | None = None
    """0, and so are the other penalties."""
    presence_penalty: Zero | None = None
    """0."""
    repetition_penalty: One | None = None
    """1."""
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    """Empty."""

    @property
    def heat(self) -> float:
        """The temperature."""
        return 1.0 if self.temperature is None else self.temperature

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class ChunkExtension(BaseModel):
    """What differs between the prompts of one request: so that a chunk of unlike questions stays one engine call."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    max_tokens: Annotated[list[Annotated[int, Field(ge=1)]], Field(fail_fast=True)] | None = None
    """One for each prompt, instead of the request's."""
    stop: Annotated[list[Stops], Field(fail_fast=True)] | None = None
    """The texts that end each answer, instead of the request's."""


class CompletionQuestion(OpenAIQuestion):
    """`POST /v1/completions`. A list of prompts is one chunk, answered in one engine call."""

    prompt: (
        str
        | TokenIds
        | Annotated[list[str], Field(fail_fast=True, min_length=1)]
        | Annotated[list[TokenIds], Field(fail_fast=True, min_length=1)]
    )
    """Texts or tokens."""
    max_tokens: MaxTokens | None = None
    """Most tokens of an answer. None: 16, as OpenAI's. 0, with `echo` or `prompt_logprobs`: none."""
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """Log-probabilities of the tokens, and of so many of the most likely ones."""
    echo: bool = False
    """The prompt is part of the answer."""
    prompt_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """Log-probabilities of the prompt's tokens, as vLLM's server tells them."""
    return_token_ids: bool = False
    """The tokens of prompt and answer too, as vLLM's server tells them."""
    return_tokens_as_token_ids: bool = False
    """Tokens of `logprobs` as `token_id:17` instead of words, as vLLM's server tells them: words can be alike."""
    best_of: Literal[1] | None = None
    """One answer for each prompt."""
    suffix: Annotated[str, Field(max_length=0)] | None = None
    """Empty."""
    add_special_tokens: Literal[True] | None = None
    """Of a text, those that the tokenizer puts before it."""
    crossbreed: ChunkExtension | None = None
    """What differs between prompts."""

    @property
    def prompts(self) -> Sequence[str | Sequence[int]]:
        """Each of them."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        ids = [one for one in self.prompt if isinstance(one, int)]  # a list is of one kind
        return [ids] if ids else [one for one in self.prompt if not isinstance(one, int)]

    @model_validator(mode="after")
    def _one_for_each(self) -> "CompletionQuestion":
        for values in (self.crossbreed.max_tokens, self.crossbreed.stop) if self.crossbreed else ():
            if values is not None and len(values) != len(self.prompts):
                raise ValueError("`crossbreed` must have one value for each prompt")
        return self


class TextPart(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """A turn of a conversation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)]
    name: str | None = None

    @property
    def text(self) -> str:
        """What is said."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatQuestion(OpenAIQuestion):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(fail_fast=True, min_length=1)]
    """The conversation; the last turn is the user's."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Most tokens of the answer. None: 512, or as many as fit."""
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """Its newer name."""
    logprobs: bool | None = None
    """Log-probabilities of the answer's tokens."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """And of so many of the most likely ones."""
    tools: Annotated[list[str], Field(max_length=0)] | None = None
    """None."""
