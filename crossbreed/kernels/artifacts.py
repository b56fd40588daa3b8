"""What a run prepares before it merges: Grams of the inputs that the experts' matrices see, in a file with a hash.

A recipe that uses them names them by content (`artifacts: {grams: HASH}`), so that a merge cannot silently be made with
the Grams of other data. The file is safetensors: `EXPERT/TENSOR` -> fp32 [N, N], the mean of x x^T over the tokens,
where EXPERT is the expert's content hash. It is mapped; a Gram is read when its tensor is merged.
"""

import os
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import torch
from safetensors.torch import save_file

from crossbreed.errors import InputError
from crossbreed.sources.files import Shards, open_shards
from crossbreed.sources.hashes import digests_of, hash_of
from crossbreed.types import Recipe

GRAMS = "grams"
"""What a recipe calls them."""
_SUFFIX = ".safetensors"


@dataclass(frozen=True, eq=False, kw_only=True)
class Grams:
    """A file of Grams, opened."""

    path: Path
    shards: Shards

    @classmethod
    def open(cls, path: Path) -> Self:
        """Maps a file that `GramSums` wrote.

        Raises:
            InputError: there is no such file, or it is broken.
        """
        if not path.is_file():
            raise InputError("no such file of Grams", expected=f"a {_SUFFIX} file", got=str(path))
        return cls(path=path, shards=open_shards(path.parent, stem=path.name.removesuffix(_SUFFIX)))

    @cached_property
    def hash(self) -> str:
        """Content hash: the same for every copy."""
        digests = (digest for file, held in self.shards.items() for digest in digests_of(file, held).items())
        return hash_of(f"{name} {digest}" for name, digest in digests)

    def of(self, expert: str, tensor: str, num_columns: int) -> torch.Tensor:
        """Returns the Gram of the inputs that an expert (by hash) gives a tensor: a view of the file.

        Raises:
            InputError: the file has none of that size.
        """
        held = (tensors.get(f"{expert}/{tensor}") for tensors in self.shards.values())
        found = next((gram_NN for gram_NN in held if gram_NN is not None), None)
        if found is not None and found.shape == (num_columns, num_columns):
            return found
        raise InputError(
            f"the Grams have none for `{tensor}`",
            expected=f"[{num_columns}, {num_columns}], the mean x x^T of what expert {expert} gives it",
            got="none" if found is None else f"{list(found.shape)}",
            where=str(self.path),
            fix="collect Grams of every expert and every matrix that the rule matches, or give it a rule of its own",
        )


class GramSums:
    """Adds up the Grams of inputs as they pass by, then writes them.

    >>> sums = GramSums()
    >>> sums.add("4f2a", "layers.0.mlp.up_proj.weight", torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
    >>> sums.mean("4f2a", "layers.0.mlp.up_proj.weight").tolist()
    [[5.0, 1.0], [1.0, 2.0]]
    """

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._num_tokens: dict[str, int] = {}

    def add(self, expert: str, tensor: str, inputs: torch.Tensor) -> None:
        """Adds inputs [..., N] that an expert (by hash) gave the matrix `tensor`."""
        key, rows = f"{expert}/{tensor}", inputs.reshape(-1, inputs.shape[-1]).float()
        total = self._sums.setdefault(key, torch.zeros(rows.shape[1], rows.shape[1]))
        total.addmm_(rows.T, rows)
        self._num_tokens[key] = self._num_tokens.get(key, 0) + len(rows)

    def mean(self, expert: str, tensor: str) -> torch.Tensor:
        """Returns the mean of x x^T so far."""
        return self._sums[f"{expert}/{tensor}"] / self._num_tokens[f"{expert}/{tensor}"]

    def write(self, path: Path) -> Grams:
        """Writes all means to a new .safetensors file, whole or not at all, and opens it."""
        means = {key: total / self._num_tokens[key] for key, total in self._sums.items()}
        with TemporaryDirectory(dir=path.parent) as folder:
            save_file(means, Path(folder, path.name), metadata={"format": "pt"})
            os.replace(Path(folder, path.name), path)
        return Grams.open(path)


def bind_grams(recipe: Recipe, artifacts: Collection[Grams]) -> Grams | None:
    """Returns the Grams that a recipe names, found by hash; None when it names none.

    Raises:
        InputError: an artifact of the recipe was not opened.
    """
    opened = {artifact.hash: artifact for artifact in artifacts}
    for name, wanted in recipe.artifacts.items():
        if wanted not in opened:
            raise InputError(
                f"the recipe's artifact `{name}` is not among those that were opened",
                expected=f"content hash {wanted}",
                got=", ".join(f"{artifact.hash} {artifact.path}" for artifact in artifacts) or "none",
                where=f"recipe {recipe.id}",
                fix="open the file that the recipe was made with, unchanged since",
            )
    return opened[recipe.artifacts[GRAMS]] if GRAMS in recipe.artifacts else None
