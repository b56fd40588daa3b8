"""Losses of an answer, from the logits at its tokens: what a gradient goes down.

Shapes: A tokens of the answer, V the vocabulary.
"""

import torch
from torch.nn.functional import cross_entropy

from crossbreed.fitness.engines.branches import Text


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


def _exact(logits_AV: torch.Tensor) -> torch.Tensor:
    return logits_AV if logits_AV.dtype == torch.float64 else logits_AV.float()
