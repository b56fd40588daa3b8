"""Losses of an answer, from the logits at its tokens: what a gradient goes down.

Shapes: A tokens of the answer, V the vocabulary, T tokens of the text, H of a hidden state.
"""

from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy

from crossbreed.fitness.engines.branches import Text

_LEAST = 1e-30
"""The smallest probability."""


def right_answer(logits_AV: torch.Tensor, text: Text) -> torch.Tensor:
    """Returns the mean negative log-probability of the answer's tokens."""
    answer_A = torch.tensor(text.token_ids[text.num_prompt :], device=logits_AV.device)
    return cross_entropy(_exact(logits_AV), answer_A)


def entropy(logits_AV: torch.Tensor) -> torch.Tensor:
    """Returns the mean entropy of what is predicted at the answer's tokens, in nats (AdaMerging)."""
    logprobs_AV = _exact(logits_AV).log_softmax(-1)
    return -(logprobs_AV.exp() * logprobs_AV).sum(-1).mean()


def jensen_shannon(logits_AV: torch.Tensor, expert_AV: torch.Tensor) -> torch.Tensor:
    """Returns the mean Jensen-Shannon divergence of two predictions at the answer's tokens, in nats (DivMerge).

    Args:
        logits_AV: Of the merge.
        expert_AV: Log-probabilities of the expert.
    """
    ours_AV, theirs_AV = _exact(logits_AV).log_softmax(-1), _exact(expert_AV)
    mean_AV = torch.logaddexp(ours_AV, theirs_AV) - torch.log(torch.tensor(2.0, dtype=ours_AV.dtype))
    parts = [(one_AV.exp() * (one_AV - mean_AV)).sum(-1) for one_AV in (ours_AV, theirs_AV)]
    return ((parts[0] + parts[1]) / 2).mean()


def kullback_leibler(logits_AV: torch.Tensor, expert_AV: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Returns the mean divergence of the merge's prediction from the expert's at the answer's tokens, in nats.

    Both are softened by a temperature, and the mean is multiplied by its square, which leaves slopes as large.

    Args:
        logits_AV: Of the merge.
        expert_AV: Log-probabilities of the expert.
        temperature: 1: as they are.
    """
    ours_AV, theirs_AV = ((_exact(one_AV) / temperature).log_softmax(-1) for one_AV in (logits_AV, expert_AV))
    return temperature**2 * (theirs_AV.exp() * (theirs_AV - ours_AV)).sum(-1).mean()


def hidden_error(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns the mean squared difference of hidden states [T, H]: over numbers, tokens and layers."""
    errors = [(_exact(a_TH) - _exact(b_TH)).square().mean() for a_TH, b_TH in zip(ours, theirs, strict=True)]
    return torch.stack(errors).mean()


def listed_jensen_shannon(logits_AV: torch.Tensor, ids_AK: torch.Tensor, expert_AK: torch.Tensor) -> torch.Tensor:
    """Returns the divergence over listed tokens, all others as one: the value of a task of kind `agreement`.

    Args:
        logits_AV: Of the merge.
        ids_AK: The tokens that are listed at each place.
        expert_AK: The expert's log-probabilities of them.
    """
    ours_AV = _exact(logits_AV).log_softmax(-1)
    p_AK, q_AK = (_with_rest(logprobs_AK) for logprobs_AK in (ours_AV.gather(-1, ids_AK), _exact(expert_AK)))
    mean_AK = (p_AK + q_AK) / 2
    parts = [(one_AK * (one_AK / mean_AK).log()).sum(-1) for one_AK in (p_AK, q_AK)]
    return ((parts[0] + parts[1]) / 2).mean()


def listed_entropy(logits_AV: torch.Tensor, number: int) -> torch.Tensor:
    """Returns the entropy over the most likely tokens, all others as one: the value of a task of kind `entropy`."""
    logprobs_AV = _exact(logits_AV).log_softmax(-1)
    p_AK = _with_rest(logprobs_AV.topk(min(number, logprobs_AV.shape[-1])).values)
    return -(p_AK * p_AK.log()).sum(-1).mean()


def _with_rest(logprobs_AK: torch.Tensor) -> torch.Tensor:
    """Returns the probabilities of listed tokens and of all others together; none is 0, which has no slope."""
    listed_AK = logprobs_AK.double().exp()
    rest_A1 = 1 - listed_AK.sum(-1, keepdim=True)
    return torch.cat([listed_AK, rest_A1], -1).clamp_min(_LEAST)


def _exact(logits_AV: torch.Tensor) -> torch.Tensor:
    return logits_AV if logits_AV.dtype == torch.float64 else logits_AV.float()
