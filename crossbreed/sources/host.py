"""Hashes of the base's files other than weights that affect answers: runs with equal tensors may differ in these.

A merge takes these files from the base, and from the experts the tokens that end an answer. Keys and files that change
no answer are left out, so that a folder may be copied, and a comment in it edited, while a run goes on.
"""

from blake3 import blake3

from crossbreed.sources.chat_templates import template_of
from crossbreed.sources.model_config import canonical_config
from crossbreed.sources.opening import Sources
from crossbreed.sources.tokenization import cleans_up, signature

_HASH_BYTES = 16
END_TOKENS = "end tokens"
"""The part that experts add to."""


def host_hashes(sources: Sources) -> dict[str, str]:
    """Returns part of the host -> hash of its content.

    Raises:
        InputError: a file cannot be read.
    """
    base = sources.base
    parts = {
        "config.json": canonical_config(base.config),
        "tokenizer": repr(signature(base.path)) + " cleans up" * cleans_up(base.path),
        "chat template": template_of(base.path) or "",
        END_TOKENS: repr(sorted(sources.end_token_ids)),
    }
    return {part: blake3(content.encode()).hexdigest(length=_HASH_BYTES) for part, content in parts.items()}
