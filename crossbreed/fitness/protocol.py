"""The engine protocols: requests in, responses out. An engine is independent of search, tasks and scores.

There are three kinds. A `WeightEngine` takes a candidate's tensors. An `AdapterEngine` holds the base, and takes what
the candidate adds to it as a LoRA adapter. A `RecipeEngine` takes the recipe and makes the weights out of our reach:
behind a service, for example. An engine's registration declares its kind (`EnginePart.takes`), so that a run without
weights never imports a tensor library.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from crossbreed.fitness.requests import Generate, Loglikelihood, Predict, Predicted, Request, Response
from crossbreed.types import Recipe, WeightStream

if TYPE_CHECKING:
    import torch

    from crossbreed.fitness.items import Item


class Handle(Protocol):
    """A candidate that an engine has loaded, valid until its next `adopt`.

    Errors of the engine's library are raised as EngineError; other exceptions count as bugs and end the run.
    """

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        """Answers one chunk, in order.

        Answers can depend on which requests share a call, so callers pass the fixed chunks of the Spec.

        Log-probabilities may be NaN; `evaluate_tasks` turns that into INVALID. It refuses responses of other types,
        and those to a Loglikelihood that lack log-probabilities or have positive ones, as an EngineError.

        Raises:
            EngineError: it could not answer (the trial is FAILED).
        """
        ...


@runtime_checkable
class Predicts(Handle, Protocol):
    """A candidate whose engine tells the log-probabilities of chosen tokens, which may be unlikely ones."""

    def predict(self, asked: Sequence[Predict]) -> list[Predicted]:
        """Returns what is predicted at given answers, for one chunk, in order.

        It depends on weights and chunk alone, not on what was asked before.

        Raises:
            EngineError: it could not (the trial is FAILED).
        """
        ...


@runtime_checkable
class ScoresItems(Handle, Protocol):
    """A candidate whose engine also scores tasks of its own, whose items are seen by nobody else (`kind: remote`)."""

    def score_items(self, task: str, items: Sequence[str]) -> list[float]:
        """Returns the value of each item, in order.

        Args:
            task: the engine's name of the task.
            items: ids, one chunk of them.

        Raises:
            EngineError: it could not score them (the trial is FAILED).
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitMean:
    """The mean of a task over one of its provider's splits."""

    mean: float
    standard_error: float | None
    """As the provider says; None: not told."""


@runtime_checkable
class ScoresSplits(Handle, Protocol):
    """A candidate whose engine tells, of some tasks of its own, nothing but the mean over each split."""

    def score_split(self, task: str, split: str, *, count: int) -> SplitMean:
        """Returns the mean of a task over a split.

        Args:
            task: the engine's name of the task.
            split: `search`, `select` or `report`.
            count: the number of items that the split was said to have.

        Raises:
            EngineError: it could not score them (the trial is FAILED).
        """
        ...


@runtime_checkable
class EvaluatesItems(Handle, Protocol):
    """A candidate whose engine scores items instead of answering requests (`engine: {kind: python}`)."""

    def evaluate(self, items: "Sequence[Item]") -> list[float]:
        """Returns a value for each item, in order.

        Raises:
            InputError: a function of the user's fails.
            EngineError: it could not score them (the trial is FAILED).
        """
        ...


class RecipeHandle(Handle, Protocol):
    """A candidate whose weights were made elsewhere."""

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the loaded weights, if the engine can vouch for one; else None.

        Equal recipes have equal fingerprints as long as the engine makes the same weights from them.
        """
        ...


class Engine(Protocol):
    """The common part of all engines."""

    def close(self) -> None:
        """Frees memory and processes; called once."""
        ...


class RecipeEngine(Engine, Protocol):
    """An engine that adopts recipes."""

    def adopt(self, recipe: Recipe) -> RecipeHandle:
        """Prepares the candidate.

        Raises:
            EngineError: the engine could not make the candidate (the trial is FAILED).
            InvalidWeights: its weights contain NaN or Inf.
        """
        ...


class AdapterEngine(Engine, Protocol):
    """An engine that has the base loaded, and adopts adapters of it."""

    @property
    def room(self) -> Path:
        """The folder in which adapters are written, where the engine can read them."""
        ...

    def base(self) -> Handle:
        """Returns the base itself, without an adapter."""
        ...

    def adopt(self, recipe: Recipe, folder: Path) -> Handle:
        """Loads an adapter under a name that no other ever had, and lets go of the one adopted before.

        Args:
            recipe: the recipe of the adapter.
            folder: a new folder in `room`, with adapter_config.json and adapter_model.safetensors; stays until another
                has been adopted.

        Raises:
            EngineError: the engine could not load it (the trial is FAILED).
            InvalidWeights: its answers are NaN or infinite, if that is known by now.
        """
        ...


def _say_nothing(text: str) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a run lets its engines use."""

    seed: int = 0
    """Of the run."""
    folder: Path | None = None
    """Where an engine may keep what it was answered, so that a run that goes on does not ask it again."""
    say: Callable[[str], None] = _say_nothing
    """Tells the user something, at once and in log.txt."""


@runtime_checkable
class UsesRun(Engine, Protocol):
    """An engine that uses what is around it."""

    notes: tuple[str, ...]
    """What it cannot do here, a sentence each; for log.txt, with the canary's notes. Known once it has begun."""

    def begin(self, around: Surroundings) -> None:
        """Is called once, before the first candidate."""
        ...


@runtime_checkable
class Remembers(Engine, Protocol):
    """An engine that may answer with what an earlier process of the run was answered."""

    def asking_anew(self) -> AbstractContextManager[None]:
        """Has everything in the block asked, whatever was answered before, and leaves what was answered as it is."""
        ...


@runtime_checkable
class Publishes(RecipeEngine, Protocol):
    """An engine that can have a candidate written where its weights are."""

    def publish(self, recipe: Recipe) -> tuple[str, str]:
        """Writes a checkpoint over there; returns its name there and the fingerprint of the written weights.

        Raises:
            InputError: the engine may not.
            EngineError: it could not.
        """
        ...


class WeightEngine(Engine, Protocol):
    """An engine that adopts weights."""

    def keeps(self, unchanged: Collection[str]) -> frozenset[str]:
        """Returns the tensors that need not be sent again, among those that the next candidate shares with the last.

        Empty if the engine cannot take a part of the tensors, or is not certain of its state: at first, and after a
        failed `adopt`.
        """
        ...

    def adopt(self, recipe: Recipe, weights: WeightStream, *, kept: Collection[str] = ()) -> Handle:
        """Loads the candidate's weights. Consumes `weights` to the end.

        Args:
            recipe: the recipe of the weights.
            weights: all its tensors except those of `kept`.
            kept: the result of `keeps` for this candidate; empty is always valid.

        Raises:
            EngineError: the engine could not load the weights.
            InvalidWeights: the stream raised it. Any error of the stream passes through, and the engine is ready for
                the next `adopt`.
        """
        ...


@runtime_checkable
class EndsAnswers(Engine, Protocol):
    """An engine that generates token by token, and can be told which tokens end an answer."""

    def end_at(self, token_ids: Collection[int]) -> None:
        """Ends answers at these tokens too, besides those that the host's files name.

        A merge may end an answer as any of its experts does. Called before the first candidate; tokens add up.
        """
        ...


Logprobs: TypeAlias = tuple[tuple[float, ...], ...]
"""The log-probabilities of each request's tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What a library that computes plainly says of some weights."""

    exact: Logprobs
    """Computed in float32."""
    rounded: Logprobs
    """Computed in the engine's dtype: as far from `exact` as the dtype's rounding takes it."""


@runtime_checkable
class StartsOnHost(WeightEngine, Protocol):
    """An engine that reads its host's weights by itself when it starts."""

    def as_started(self) -> Handle | None:
        """Returns the host's own weights, as the engine has read them; None if it read none, or has adopted since."""
        ...

    def host_weights(self) -> WeightStream:
        """Returns the same weights as a stream, from the host's files."""
        ...


@runtime_checkable
class Checkable(Engine, Protocol):
    """An engine whose answers another library can check."""

    advice: str
    """What to use where it answers wrongly, for messages; empty if there is nothing else."""

    def truth_of(self, weights: WeightStream, requests: Sequence[Loglikelihood]) -> Truth:
        """Scores requests with these weights and the other library.

        Raises:
            EngineError: that cannot be done here, for example because the model is too large.
        """
        ...


@runtime_checkable
class Differentiable(WeightEngine, Protocol):
    """An engine that also computes gradients; it may be a second engine beside the one that scores."""

    def gradient(self, requests: Sequence[Loglikelihood], weights: Sequence[float], *, tokens: int) -> WeightStream:
        """Returns the derivative of a loss with respect to every parameter, at the weights adopted last.

        The loss of a request is the negative log-probability of its continuation, averaged over tokens.

        Args:
            requests: with the continuations to which a good model assigns a high probability.
            weights: the weight of each request's loss in their sum.
            tokens: maximum number per pass, padding included; a longer request has a pass of its own.

        Returns:
            (checkpoint tensor name, fp32 tensor), sorted by name; each tensor is freed when the next one is requested.
            A tensor that is used in two places has one entry, the sum of both; one without influence on the loss has
            none.

        Raises:
            EngineError: the gradient could not be computed (the trial is FAILED).
            InvalidWeights: the loss is NaN or infinite.
        """
        ...


@runtime_checkable
class Observable(WeightEngine, Protocol):
    """An engine that also exposes the inputs of its matrices; it may be a second engine beside the one that scores."""

    def activations(
        self, requests: Sequence[Loglikelihood], tensors: Collection[str], see: "Callable[[str, torch.Tensor], None]"
    ) -> None:
        """Runs the weights adopted last on requests, and passes the inputs of some Linear modules to a callback.

        Args:
            requests: with their continuations, which are part of the input (teacher forcing).
            tensors: checkpoint names of the modules' weights.
            see: called with such a name and inputs [..., columns], in the order of computation. For modules that share
                their input, it is called with the same object, one after the other.

        Raises:
            EngineError: the model has no such module, or cannot run.
        """
        ...


@runtime_checkable
class Writing(WeightEngine, Protocol):
    """An engine that also writes many texts at once, where no score depends on them."""

    def write(self, requests: Sequence[Generate]) -> list[Response]:
        """Answers with the weights adopted last; a text may depend by rounding on those beside it.

        Returns:
            Responses with whole texts, a stop string included, and without log-probabilities.

        Raises:
            EngineError: it could not.
        """
        ...
