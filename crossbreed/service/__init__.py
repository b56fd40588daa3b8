"""The provider's side of merging behind an API: sources and one engine, answering recipes over HTTP (docs/api.md).

One thread owns the engine (`engine_thread`), and everything that it is asked names a recipe. What a client may do is in
`accounts`, what a recipe may be in `recipes`, what a request may be in `guard` and `connections`. The rest translates:
`completions`, `chats`, `evaluations` between OpenAI's words and the engine's. The messages that are ours alone are in
`crossbreed.fitness.wire`, which both sides read.
"""

from crossbreed.errors import require
from crossbreed.runs.spec.serve import MODULES


def require_packages() -> None:
    """Raises MissingExtra where the packages of the extra `serve` are not installed."""
    for module in MODULES:
        require(module, extra="serve")
