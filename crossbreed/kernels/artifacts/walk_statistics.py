"""Statistics of a regression's walk: what its matrices are solved from, for any setting of lambda, anchor and targets.

A recipe that uses them names them by content (`artifacts: {statistics: HASH}`). Files are safetensors, all fp32, and
their names are read as follows, TENSORS being the names, with commas between them, of the matrices that get the same
inputs, and TENSOR one of them:

    values/TENSORS        [N], eigenvalues of the inputs' Gram
    directions/TENSORS    [N, N], its eigenvectors, as rows
    own/TENSOR            [M, N], cross moments of the experts' own outputs, in those directions
    experts/TENSOR        [M, N], cross moments of what the experts' matrices make of the inputs
    anchor/TENSOR         [M, N], the anchor's delta

Rows are a Linear's outputs, whichever way round the base stores it. `crossbreed.kernels.linalg.walked` says what they
are good for. Files are mapped; a matrix's are read when it is merged, and their memory given back then.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from crossbreed.kernels.artifacts.files import Artifact
from crossbreed.kernels.linalg.walked import Walked

STATISTICS = "statistics"
"""What a recipe calls them."""
_VALUES, _DIRECTIONS, _OWN, _EXPERTS, _ANCHOR = "values", "directions", "own", "experts", "anchor"


@dataclass(frozen=True, eq=False, kw_only=True)
class WalkStatistics(Artifact):
    """Files of statistics, a layer in each."""

    name = STATISTICS
    title = "statistics of a regression"

    def of(self, tensor: str) -> Walked | None:
        """Returns what a matrix is solved from: views of the files. None if the walk has not solved it."""
        return self._held.get(tensor)

    @property
    def tensors(self) -> Collection[str]:
        """The names of the matrices that the walk has solved."""
        return self._held.keys()

    def release(self, tensor: str) -> None:
        """Gives back the memory that the statistics of a matrix have been read into."""
        for part in self._held[tensor]:
            self._pages.let_go(part)

    @cached_property
    def _held(self) -> Mapping[str, Walked]:
        stored = {name: tensor for held in self.shards.values() for name, tensor in held.items()}
        groups = [name.removeprefix(f"{_VALUES}/") for name in stored if name.startswith(f"{_VALUES}/")]
        return {
            tensor: Walked(
                values_N=stored[f"{_VALUES}/{group}"],
                directions_NN=stored[f"{_DIRECTIONS}/{group}"],
                own_MN=stored[f"{_OWN}/{tensor}"],
                experts_MN=stored[f"{_EXPERTS}/{tensor}"],
                anchor_MN=stored[f"{_ANCHOR}/{tensor}"],
            )
            for group in groups
            for tensor in group.split(",")
        }


def stored_as(group: Mapping[str, Walked]) -> dict[str, torch.Tensor]:
    """Returns the tensors of a file, by their names there, of matrices that get the same inputs."""
    first, tensors = next(iter(group.values())), ",".join(sorted(group))
    found = {f"{_VALUES}/{tensors}": first.values_N, f"{_DIRECTIONS}/{tensors}": first.directions_NN}
    for name, one in group.items():
        found |= {
            f"{_OWN}/{name}": one.own_MN,
            f"{_EXPERTS}/{name}": one.experts_MN,
            f"{_ANCHOR}/{name}": one.anchor_MN,
        }
    return found
