"""Where a continuation begins in tokens: one rule for engines that tokenize here and for services that do."""

from collections.abc import Sequence

from crossbreed.errors import InputError, excerpt


def num_prompt_tokens(alone: Sequence[int], whole: Sequence[int], *, continuation: str) -> int:
    """Returns how many tokens of a text belong to its prompt: those that it shares with the prompt alone.

    Args:
        alone: The tokens of the prompt.
        whole: The tokens of prompt and continuation, tokenized together.
        continuation: For the message.

    Raises:
        InputError: no token of the continuation is left to score.
    """
    pairs = zip(alone, whole, strict=False)
    num_common = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(alone), len(whole)))
    num_prompt = max(1, num_common)  # nothing predicts the first token
    if num_prompt >= len(whole):
        raise InputError(
            "a text is too short to score",
            expected="at least one token after the first",
            got=excerpt(repr(continuation), at_most=80),
        )
    return num_prompt
