"""The swap test of a model: is a hot-swapped engine's answer that of one that was started on the exported checkpoint?

Law 9 for one folder and one engine.
"""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from safetensors.torch import save_file

from crossbreed.fitness import Generate, Handle, Loglikelihood, Prompt, Request, Response
from crossbreed.fitness.canary_probes import TOLERANCE, mean_gap
from crossbreed.fitness.canary_weights import other_weights
from crossbreed.fitness.protocol import Checkable, StartsOnHost
from crossbreed.sources.files import open_shards
from crossbreed.types import Recipe

TEXT = "Line 3: the seven thing stands beside the north one. 34 + 12 = 46; how old? "
REQUESTS: Sequence[Request] = (
    *(Generate(prompt=Prompt(text=f"{a} + {a + 3} ="), max_tokens=8) for a in range(3)),
    *(Generate(prompt=Prompt(text=TEXT * 2 + end), max_tokens=6) for end in ("A", "B")),
    Loglikelihood(prompt=Prompt(text="The capital of France is"), continuation=" Paris"),
)
_SCORED = Loglikelihood(prompt=Prompt(text=""), continuation=TEXT)
_RECIPE = Recipe(base="base", sources={"base": "swap test"}, rules=())


class Swappable(StartsOnHost, Checkable, Protocol):
    """What the test needs of an engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """The distances that a swap test found, in nats per token; infinite where tokens differ."""

    same: float
    """Between the engine as it started and after adopting the same weights."""
    other: float
    """Between the engine after adopting weights that all differ, and one started on a checkpoint of these."""
    back: float
    """Between the engine as it started and after adopting the first weights again."""
    truth: float
    """The mean distance from transformers in float32, for the other weights."""

    @property
    def is_right(self) -> bool:
        """Whether the engine may be trusted with swaps of this model; `truth` depends on the dtype."""
        return max(self.same, self.other, self.back) <= TOLERANCE


def swap_test(folder: Path, start: Callable[[Path], Swappable]) -> Swap:
    """Starts two engines, on a model and on one of the same shape whose tensors all differ, and swaps the first.

    Args:
        folder: A checkpoint with its tokenizer.
        start: Starts an engine.

    Raises:
        EngineError: an engine does not start, or does not take the weights.
    """
    requests = [*REQUESTS, _SCORED]
    engine = start(folder)
    before = _handle(engine).answer(requests)
    same = engine.adopt(_RECIPE, engine.host_weights()).answer(requests)
    swapped = engine.adopt(_RECIPE, other_weights(engine.host_weights())).answer(requests)
    back = engine.adopt(_RECIPE, engine.host_weights()).answer(requests)
    truth = engine.truth_of(other_weights(engine.host_weights()), [_SCORED])
    engine.close()
    with TemporaryDirectory() as scratch:
        fresh = start(_export(folder, Path(scratch) / "other"))
        expected = _handle(fresh).answer(requests)
        fresh.close()
    return Swap(
        same=_gap(same, before),
        other=_gap(swapped, expected),
        back=_gap(back, before),
        truth=mean_gap((swapped[-1].logprobs,), truth.exact),
    )


def _handle(engine: Swappable) -> Handle:
    started = engine.as_started()
    assert started is not None, "the engine does not start on the weights in its folder"
    return started


def _export(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.safetensors", "*.safetensors.index.json"))
    shards = open_shards(folder, stem="model").values()
    tensors = other_weights((name, tensor) for shard in shards for name, tensor in shard.items())
    save_file({name: tensor.contiguous() for name, tensor in tensors}, to / "model.safetensors", {"format": "pt"})
    return to


def _gap(some: Sequence[Response], others: Sequence[Response]) -> float:
    if [r.token_ids for r in some] != [r.token_ids for r in others]:
        return math.inf
    gaps = [abs(p - q) for a, b in zip(some, others, strict=True) for p, q in zip(a.logprobs, b.logprobs, strict=True)]
    return math.inf if any(map(math.isnan, gaps)) else max(gaps)
