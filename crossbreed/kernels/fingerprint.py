"""Which weights are these? A hash over a stream, the same whether the weights are in memory or in a published folder.

It covers names, dtypes, shapes and bytes in the order of names: shards, paddings and file headers do not enter it.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from blake3 import blake3

from crossbreed.sources.files import open_shards
from crossbreed.types import WeightStream, canonical_json


class Fingerprinted:
    """A weight stream that knows, once it is exhausted, which weights went through it.

    >>> stream = Fingerprinted(iter([("a", torch.zeros(2)), ("b", torch.ones(3))]))
    >>> [name for name, _ in stream], len(stream.value)
    (['a', 'b'], 64)
    """

    def __init__(self, stream: WeightStream) -> None:
        self._stream, self._last = stream, ""
        self._hash = blake3(max_threads=blake3.AUTO)
        self._done = False

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return self

    def __next__(self) -> tuple[str, torch.Tensor]:
        """Passes the next tensor on; it must not be written to before it is let go."""
        try:
            name, tensor = next(self._stream)
        except StopIteration:
            self._done = True
            raise
        assert name > self._last, f"{name} after {self._last}: a weight stream is sorted by name"
        self._last = name
        header = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        self._hash.update(canonical_json(header).encode() + b"\n")
        self._hash.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return name, tensor

    @property
    def value(self) -> str:
        """64 hex digits, once every tensor has gone through."""
        assert self._done, "the fingerprint of a stream is known at its end"
        return self._hash.hexdigest()


def fingerprint_checkpoint(folder: Path) -> str:
    """Returns the fingerprint of a published folder: `model.safetensors`, or all the shards that its index lists.

    Raises:
        InputError: when the folder has no such weights, or not all of them.
    """
    weights = {name: tensor for held in open_shards(folder, stem="model").values() for name, tensor in held.items()}
    stream = Fingerprinted(iter(sorted(weights.items())))
    for _ in stream:
        pass
    return stream.value
