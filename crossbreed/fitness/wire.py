"""What a merge service and its clients say to each other besides the words of the OpenAI API (docs/api.md).

Completions, chat completions and models are as OpenAI's API has them; prompt log-probabilities and `/tokenize` as
vLLM's server has them. The rest is here, so that both sides read one definition. Errors have OpenAI's shape,
`{"error": {"message", "type", "param", "code"}}`; the codes that a client decides by are below.
"""

from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import ConfigDict, Field, FiniteFloat, model_validator

from crossbreed.field_docs import Documented
from crossbreed.types import SplitName

SCHEMA = 1
"""The version of these messages."""
MODEL_PREFIX = "crossbreed:"
"""A merge's model id is this and the recipe's content hash. Base and experts are asked by their names."""

Right: TypeAlias = Literal["answers", "logprobs", "scores", "publish"]
"""What a token may do: texts, log-probabilities, values of the provider's own tasks, checkpoints on its disk."""

INVALID_WEIGHTS = "invalid_weights"
"""422: the merge was made and has NaN or infinite weights or answers: a measurement, not a fault."""
MODEL_NOT_FOUND = "model_not_found"
"""404: no such model, or one that the service has forgotten: a merge is named again by `POST /v1/merges`."""
RECIPE_REFUSED = "recipe_refused"
"""400: the recipe is beyond the service's limits, or names what it does not have."""
BUDGET_SPENT = "budget_spent"
"""403: the token's merges, requests or tokens are spent; waiting does not help."""
NO_RIGHT = "no_right"
"""403: the token has no right to this."""
RATE_LIMITED = "rate_limited"
"""429, with Retry-After."""
OVERLOADED = "overloaded"
"""503, with Retry-After: too many requests wait."""


class Message(Documented):
    """Base of the messages. A newer side may say more than this one knows."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Question(Message):
    """Base of what is asked: an unknown key is a mistake that would change nothing in silence."""

    model_config = ConfigDict(extra="forbid")


class Abilities(Message):
    """What this token can ask for, and what answers depend on."""

    rights: tuple[Right, ...]
    """What the token may do."""
    deterministic: bool
    """Whether equal chunks are answered equally."""
    batch_invariant: bool
    """Whether an answer is independent of the other prompts of its chunk."""
    max_model_len: Annotated[int, Field(ge=1)] | None = None
    """Longest prompt plus answer, in tokens; None: not said."""
    alternatives: Annotated[int, Field(ge=0)] = 0
    """How many of the most likely tokens can be listed at each place."""
    chunk: Annotated[int, Field(ge=1)]
    """Most prompts in one request."""
    host: str = ""
    """Content hash of what changes answers and is no weight: tokenizer, configuration, templates. Empty: not said."""
    engine: str = ""
    """Content hash of the engine's settings, on which answers depend too. Empty: not said."""


class Limits(Message):
    """What recipes may be."""

    operators: tuple[str, ...]
    """The operators that rules may name."""
    coefficients: tuple[float, float]
    """Smallest and largest number in a rule's parameters."""
    rules: int
    """Most rules."""
    ranges: dict[str, tuple[float, float]] = Field(default_factory=dict)
    """`operator.parameter` -> smallest and largest value, of parameters that `coefficients` does not bound."""


class Sources(Message):
    """`GET /v1/sources`: what can be merged."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    structure: dict[str, Any]
    """Names, shapes and content hashes of base and experts, as `Structure.from_json` reads them."""
    abilities: Abilities
    limits: Limits
    tasks: tuple["ServedTask", ...] = ()
    """The provider's own tasks, for a token with the right `scores`."""


class ServedTask(Message):
    """A task that the provider asks and scores itself: its items never leave the service."""

    name: str
    higher_is_better: bool
    items: tuple[str, ...] | None
    """Ids of its items, in order; None: only aggregates are told."""
    count: int
    """Number of its items."""
    splits: dict[SplitName, Annotated[int, Field(ge=1)]] | None = None
    """Where only aggregates are told: split -> number of its items, for all three; None: of all items together."""

    @model_validator(mode="after")
    def _has_all_splits(self) -> "ServedTask":
        if self.splits is not None and set(self.splits) != set(get_args(SplitName)):
            raise ValueError("`splits` must have `search`, `select` and `report`")
        return self


class InnerProducts(Message):
    """`GET /v1/sources/inner_products`: for SLERP, a token with the right `logprobs`."""

    tensors: dict[str, list[list[FiniteFloat]]]
    """Tensor -> matrix of inner products of the base's weights and the experts' deltas, in the sources' order."""


class MergeQuestion(Question):
    """`POST /v1/merges`."""

    recipe: dict[str, Any]
    """A recipe (docs/recipe.md) of the service's sources, by their names and hashes."""


class Merge(Message):
    """The merge has been made, and is asked by its id."""

    id: str
    """Model id: `crossbreed:` and the recipe's content hash."""
    object: Literal["crossbreed.merge"] = "crossbreed.merge"
    created: int
    """Unix time."""
    fingerprint: str
    """The content hash of the merged weights, as the service computes it."""
    host: str = ""
    """As in `Abilities`, like `engine`: the service may be another than when it was asked for its sources."""
    engine: str = ""


class TokenizeQuestion(Question):
    """`POST /tokenize`, as on vLLM's server: of a prompt, or of a conversation through the chat template."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[tuple[dict[str, str], ...], Field(fail_fast=True)] | None = None
    add_special_tokens: bool = True
    """For a prompt. A chat template has its own."""
    add_generation_prompt: bool = True
    """For a conversation."""
    continuation: str = ""
    """For a conversation, beyond vLLM's words: how the answer begins."""


class Tokens(Message):
    """The tokens of a prompt."""

    tokens: tuple[int, ...]
    count: int
    max_model_len: int


class EvaluationQuestion(Question):
    """`POST /v1/evaluations`: scores a model on one of the provider's tasks."""

    model: str
    task: str
    items: Annotated[tuple[str, ...], Field(fail_fast=True)] | None = None
    """Ids of items; None: all of them."""
    split: SplitName | None = None
    """Where only aggregates are told: the items of a split alone."""


class Evaluation(Message):
    """The values of one model on one task."""

    model: str
    task: str
    fingerprint: str
    values: tuple[FiniteFloat, ...] | None
    """One for each item that was asked for, in that order; None: only aggregates are told."""
    mean: FiniteFloat
    count: int
    """Number of items in the mean."""
    split: SplitName | None = None
    """Whose items they are; None: not of one split."""
    standard_error: Annotated[FiniteFloat, Field(ge=0)] | None = None
    """Of the mean, by the values of its items; None: of one item, or not told."""
    content: str = ""
    """Content hash of the task: its items, their splits, and how they are asked and scored. Empty: not said."""


class PublishQuestion(Question):
    """`POST /v1/checkpoints`: has the provider write a merge as a checkpoint folder of its own."""

    model: str


class Checkpoint(Message):
    """A checkpoint on the provider's side; where it lies is the provider's affair."""

    id: str
    """The model id."""
    name: str
    """Name of the folder under the provider's `serve.checkpoints`."""
    fingerprint: str
    """The content hash of the weights that were written."""
