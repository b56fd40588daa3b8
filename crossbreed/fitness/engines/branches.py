"""A transformers model whose weights are a recipe's, plus parts of deltas times numbers: losses, and slopes of them.

A Linear of the model gets a branch beside it: x -> B (c * (A x)), the numbers c between two thin matrices. So a point
of thousands of coefficients is set by writing a vector, no weights are merged, and backward needs no gradient of a
matrix: the derivative of a number is the sum over tokens of (b . g) (a . x), with g the gradient of the module's
output. What is no Linear's whole matrix (norms, embeddings, stacked experts) and deltas that are no thin products are
added to the parameter itself, whose gradient then comes and goes, tensor by tensor.

Shapes: B texts, T tokens, V the vocabulary, A tokens of an answer, M and N of a matrix as the checkpoint stores it,
R components, H of a hidden state.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch
from torch.func import functional_call
from torch.nn.utils.rnn import pad_sequence
from transformers.pytorch_utils import Conv1D

from crossbreed.errors import InvalidWeights
from crossbreed.fitness.engines.library import engine_code
from crossbreed.fitness.engines.registry import TransformersConfig
from crossbreed.fitness.engines.transformers import TransformersEngine


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class ThinBranch:
    """Components of a matrix's delta, each times a number: sum_r c_r b_r a_r."""

    b_MR: torch.Tensor
    a_RN: torch.Tensor
    numbers_R: torch.Tensor
    """The place of each component's number among all."""

    def delta(self, numbers: torch.Tensor) -> torch.Tensor:
        """Returns what it adds to the tensor."""
        return (self.b_MR * numbers[self.numbers_R].to(self.b_MR.dtype)) @ self.a_RN


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class WholeBranch:
    """A tensor's whole delta, times a number."""

    value: torch.Tensor
    number: int
    """The place of its number among all."""

    def delta(self, numbers: torch.Tensor) -> torch.Tensor:
        """Returns what it adds to the tensor."""
        return numbers[self.number].to(self.value.dtype) * self.value


Branch: TypeAlias = ThinBranch | WholeBranch


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Text:
    """A text in tokens, the last of which are an answer."""

    token_ids: tuple[int, ...]
    num_prompt: int
    weight: float
    """Of its loss in the sum."""
    index: int = 0
    """What a measure knows it by."""


_PASS = 64
"""What a pass costs beside its tokens, in tokens."""


class Seen(NamedTuple):
    """What the model makes of a text."""

    logits_AV: torch.Tensor
    """At the answer's tokens."""
    hidden: tuple[torch.Tensor, ...] = ()
    """Hidden states [T, H] of all its tokens, behind each layer that was asked for."""


MeasureAnswer: TypeAlias = Callable[[Seen, Text], torch.Tensor]
"""What is made of a text -> its loss."""


class BranchedEngine(TransformersEngine):
    """The transformers engine, with branches."""

    def __init__(self, config: TransformersConfig, host: Path) -> None:
        """Builds the model; `adopt` loads the weights, `attach` the branches."""
        super().__init__(config, host)
        self._model.requires_grad_(False)
        self._numbers = torch.zeros(0)
        self._layers: Sequence[int] = ()
        self._added: list[tuple[str, Branch]] = []
        """Branches that are added to parameters, by their tensors."""
        self._keeps_logits = "logits_to_keep" in signature(self._model.forward).parameters

    def observe(self, layers: Sequence[int]) -> None:
        """Has measures see the hidden states behind these layers, the first of which is 1."""
        self._layers = layers

    def attach(self, branches: Mapping[str, Collection[Branch]]) -> None:
        """Puts branches beside tensors of the checkpoint that was adopted."""
        for name, of_tensor in branches.items():
            module = self._places.linear(name)
            for branch in of_tensor:
                placed = self._placed(branch)
                if module is None or isinstance(placed, WholeBranch):
                    self._added.append((name, placed))
                else:
                    self._model.get_submodule(module).register_forward_hook(partial(self._beside, placed))

    def loss(
        self, numbers: Sequence[float], texts: Sequence[Text], measure: MeasureAnswer, *, tokens: int, slopes: bool
    ) -> tuple[float, list[float]]:
        """Returns the weighted sum of the losses of texts, and its derivative by each number.

        Args:
            numbers: The numbers that branches are multiplied by.
            texts: What is read.
            measure: The loss of one answer.
            tokens: Tokens per forward and backward pass, padding included.
            slopes: Whether derivatives are wanted; else there are none.

        Raises:
            EngineError: transformers could not run the model.
            InvalidWeights: the loss or a derivative is NaN or infinite.
        """
        exact = torch.float64 if self._model.dtype == torch.float64 else torch.float32
        leaf = torch.tensor([*numbers], dtype=exact, device=self._model.device, requires_grad=slopes)
        total, self._numbers = 0.0, leaf
        failure = "transformers did not compute the loss; fewer `fitness.slopes.tokens` need less memory"
        with engine_code(failure), nullcontext() if slopes else torch.no_grad():
            for batch in batches(texts, tokens):
                loss = self._loss_of(batch, measure)
                if not loss.isfinite():
                    raise InvalidWeights("the calibration loss is NaN or infinite")
                total += float(loss.detach())
                if slopes:
                    loss.backward()  # type: ignore[no-untyped-call]
        found = [] if leaf.grad is None else leaf.grad.double().tolist()
        if slopes and not (leaf.grad is not None and leaf.grad.isfinite().all()):
            raise InvalidWeights("a slope of the calibration loss is NaN or infinite")
        return total, found

    def seen(self, numbers: Sequence[float], texts: Sequence[Text], *, tokens: int) -> Iterator[Seen]:
        """Yields what the model makes of each text, in the order of the texts."""
        self._numbers = torch.tensor([*numbers], device=self._model.device)
        found: dict[int, Seen] = {}
        with engine_code("transformers did not run the model"), torch.no_grad():
            for batch in batches(texts, tokens):
                for text, seen in zip(batch, self._seen(batch), strict=True):
                    found[id(text)] = Seen(seen.logits_AV.float(), tuple(hidden.clone() for hidden in seen.hidden))
        yield from (found[id(text)] for text in texts)

    def _loss_of(self, batch: Sequence[Text], measure: MeasureAnswer) -> torch.Tensor:
        terms = [text.weight * measure(seen, text) for text, seen in zip(batch, self._seen(batch), strict=True)]
        return torch.stack(terms).sum()

    def _seen(self, batch: Sequence[Text]) -> Iterator[Seen]:
        """Yields what the model makes of texts: logits from the token before an answer on, without the last one's."""
        device = self._model.device
        ids_BT = pad_sequence([torch.tensor(text.token_ids, device=device) for text in batch], batch_first=True)
        spans = [range(text.num_prompt - 1, len(text.token_ids) - 1) for text in batch]
        wanted = sorted(set[int]().union(*spans)) if self._keeps_logits else [*range(ids_BT.shape[1])]
        kept: dict[str, torch.Tensor | bool] = {}
        if self._keeps_logits:
            kept["logits_to_keep"] = torch.tensor(wanted, device=device)
        if self._layers:
            kept["output_hidden_states"] = True
        made = functional_call(
            self._model, self._changed(), (ids_BT,), {"use_cache": False, **kept}
        )  # padding is last: masked by causal attention
        hidden = [made.hidden_states[layer] for layer in self._layers]
        places = {place: index for index, place in enumerate(wanted)}
        for number, (text, span) in enumerate(zip(batch, spans, strict=True)):
            logits_AV = made.logits[number][[places[place] for place in span]]
            yield Seen(logits_AV, tuple(one_BTH[number, : len(text.token_ids)] for one_BTH in hidden))

    def _beside(
        self, branch: ThinBranch, module: torch.nn.Module, given: tuple[torch.Tensor, ...], made: torch.Tensor
    ) -> torch.Tensor:
        """Adds what a branch makes of a module's inputs to its outputs."""
        into, out = (branch.b_MR, branch.a_RN) if isinstance(module, Conv1D) else (branch.a_RN.T, branch.b_MR.T)
        numbers_R = self._numbers[branch.numbers_R]
        within_TR = (given[0] @ into).to(numbers_R.dtype) * numbers_R
        return made + within_TR.to(made.dtype) @ out

    def _changed(self) -> dict[str, torch.Tensor]:
        """Returns the parameters that branches are added to, by name."""
        changed: dict[str, torch.Tensor] = {}
        for name, branch in self._added:
            delta = branch.delta(self._numbers)
            for part in self._places.of(name):
                if part.parameter not in changed:
                    changed[part.parameter] = self._state[part.parameter].clone()
                part.of(changed[part.parameter]).add_(part.source(delta))
        return changed

    def _placed(self, branch: Branch) -> Branch:
        """Returns a branch in the model's dtype, on its device."""
        model = self._model
        if isinstance(branch, WholeBranch):
            return WholeBranch(value=branch.value.to(model.device, model.dtype), number=branch.number)
        return ThinBranch(
            b_MR=branch.b_MR.to(model.device, model.dtype),
            a_RN=branch.a_RN.to(model.device, model.dtype),
            numbers_R=branch.numbers_R.to(model.device),
        )


def batches(texts: Sequence[Text], tokens: int) -> list[list[Text]]:
    """Returns texts of similar length together: as few passes and as little padding as cost least, each within a limit.

    A text that is longer than the limit has a pass of its own.
    """
    ordered = sorted(texts, key=lambda text: len(text.token_ids))
    least: list[tuple[int, int]] = [(0, 0)]
    """For the first texts: what they cost in tokens, and where their last batch begins."""
    for end, last in enumerate(ordered, start=1):
        longest = len(last.token_ids)
        first = max(0, end - max(1, tokens // longest))
        least.append(min((least[start][0] + (end - start) * longest + _PASS, start) for start in range(first, end)))
    found, end = list[list[Text]](), len(ordered)
    while end:
        start = least[end][1]
        found.append(ordered[start:end])
        end = start
    return found[::-1]
