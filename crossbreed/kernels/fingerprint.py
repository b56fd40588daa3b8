"""Which weights are these? A hash over a stream, the same whether the weights are in memory or in a published folder.

It is the content hash that the published checkpoint has when it is opened as a source: over names and the digests of
their tensors (dtype, shape, bytes). Shards, paddings and file headers do not enter it, and a tensor whose digest is
known already, because it is the base's or was hashed for the candidate before, is not read again.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import torch

from crossbreed.sources import Checkpoint
from crossbreed.sources.files import open_shards
from crossbreed.sources.hashes import digest_each, digest_of, hash_of_tensors
from crossbreed.types import WeightStream


class Fingerprinted:
    """A weight stream that knows, once it is exhausted, which weights went through it.

    >>> stream = Fingerprinted(iter([("a", torch.zeros(2)), ("b", torch.ones(3))]))
    >>> [name for name, _ in stream], len(stream.value)
    (['a', 'b'], 32)
    """

    def __init__(
        self,
        stream: WeightStream,
        *,
        base: Checkpoint | None = None,
        kept: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Begins with what is known already.

        Args:
            stream: The stream to hash.
            base: Tensors of the stream that are this checkpoint's own memory have its digests.
            kept: Digests of the tensors that do not come, because they are already where the stream goes to.
        """
        self._stream, self._base, self._last = stream, base, ""
        self._digests = dict(kept)
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
        assert name not in self._digests, f"{name} was to be kept, and comes"
        self._last = name
        self._digests[name] = self._digest_in_base(name, tensor) or digest_of(tensor)
        return name, tensor

    def _digest_in_base(self, name: str, tensor: torch.Tensor) -> str | None:
        base = self._base
        is_its_own = base is not None and name in base.tensors and tensor is base.tensor(name)
        return base.digests[name] if base is not None and is_its_own else None

    @property
    def digests(self) -> Mapping[str, str]:
        """Of every tensor, those that were kept too, once all have gone through."""
        assert self._done, "the fingerprint of a stream is known at its end"
        return self._digests

    @property
    def value(self) -> str:
        """32 hex digits, once every tensor has gone through."""
        return hash_of_tensors(self.digests)


def fingerprint_checkpoint(folder: Path) -> str:
    """Returns the fingerprint of a published folder: `model.safetensors`, or all the shards that its index lists.

    Raises:
        InputError: when the folder has no such weights, or not all of them.
    """
    shards = open_shards(folder, stem="model")
    weights = {name: tensor for held in shards.values() for name, tensor in held.items()}
    return hash_of_tensors(digest_each(weights, [file.path for file in shards], lambda _, tensor: digest_of(tensor)))
