"""The engine protocol: who answers. An engine knows weights and text; it knows nothing of search, tasks or scores."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from crossbreed.types import Recipe, WeightStream

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What the model reads: plain text, or a message that the engine renders with the tokenizer's chat template."""

    text: str
    chat: bool = False
    """Render `system` and `text` through the chat template, with the generation prompt."""
    system: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Generate:
    """Continue the prompt, greedily unless a temperature is given."""

    prompt: Prompt
    max_tokens: int
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    seed: int = 0
    use_cache: bool = True
    """False: compute the prompt anew, whatever the engine remembers of it. The canary compares the two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loglikelihood:
    """How likely is `continuation` after the prompt? An empty prompt text scores the text from its second token on."""

    prompt: Prompt
    continuation: str


Request: TypeAlias = Generate | Loglikelihood


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """The answer to one request."""

    text: str
    """Generated text, before the stop string; empty for a Loglikelihood."""
    token_ids: tuple[int, ...]
    """The tokens generated, or the continuation's."""
    logprobs: tuple[float, ...]
    """Natural log-probability of each of `token_ids` given all before it."""
    prompt_tokens: int


class Handle(Protocol):
    """A candidate that an engine is ready to answer for, until its next `adopt`."""

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        """Answers one chunk, in order.

        Which requests share a call is part of what must be reproduced: callers pass the fixed chunks of the Spec.

        Log-probabilities may be NaN; `evaluate` makes that INVALID.

        Raises:
            EngineError: it could not answer (the trial is FAILED).
        """
        ...


class Engine(Protocol):
    """Adopts weights, answers requests."""

    def keeps(self, unchanged: Collection[str]) -> frozenset[str]:
        """Returns the tensors that need not come again, of those that the next candidate shares with the last.

        None, where the engine cannot take a part, or is not certain of what it holds: at first, and after an `adopt`
        that failed.
        """
        ...

    def adopt(self, recipe: Recipe, weights: WeightStream, *, kept: Collection[str] = ()) -> Handle:
        """Makes the candidate the one that answers. Consumes `weights` to the end, or never (an API engine).

        Args:
            recipe: what the weights are made by.
            weights: all its tensors but those of `kept`.
            kept: what `keeps` returned for this candidate; empty is always right.

        Raises:
            EngineError: the engine did not take the weights.
            InvalidWeights: the stream raised it. Whatever a stream raises passes through, and the engine is fit for the
                next `adopt`.
        """
        ...

    def close(self) -> None:
        """Frees memory and processes; called once."""
        ...


@runtime_checkable
class Differentiable(Engine, Protocol):
    """An engine that can also say where a loss rises. One may do that beside another that scores."""

    def gradient(self, requests: Sequence[Loglikelihood], weights: Sequence[float], *, tokens: int) -> WeightStream:
        """Returns the derivative of a loss with respect to every parameter, at the weights adopted last.

        The loss of a request is minus the log-probability of its continuation, the mean over tokens.

        Args:
            requests: with the continuations that a good model finds likely.
            weights: of each request's loss in their sum.
            tokens: how many one pass may hold, padding included; a longer request passes alone.

        Returns:
            (checkpoint tensor name, fp32 tensor), sorted by name, each let go of as the next is asked for. A tensor
            that is used in two places has one entry, the sum of both; one that the loss does not depend on has none.

        Raises:
            EngineError: the gradient could not be taken (the trial is FAILED).
            InvalidWeights: the loss is NaN or infinite.
        """
        ...


@runtime_checkable
class Observable(Engine, Protocol):
    """An engine that can also show what its matrices are given. One may do that beside another that scores."""

    def activations(
        self, requests: Sequence[Loglikelihood], tensors: Collection[str], see: "Callable[[str, torch.Tensor], None]"
    ) -> None:
        """Runs the weights adopted last over requests, and shows the inputs of some Linear modules.

        Args:
            requests: with their continuations: the model reads its own answers.
            tensors: checkpoint names of the modules' weights.
            see: called with such a name and inputs [..., columns], in the order of computation. Modules that are given
                the same inputs are shown the same object, one after the other.

        Raises:
            EngineError: the model has no such module, or cannot run.
        """
        ...
