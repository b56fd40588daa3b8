"""One tensor of a merge, in fp64."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch

from crossbreed.kernels.sketch import Sketch
from crossbreed.kernels.tensors import Parent, Parents
from crossbreed.sources import LowRank
from crossbreed.types import Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A tensor of the base and of every expert, those that leave it alone too."""

    name: str
    depth: float | None
    """Where its layer is, from 0 (first) to 1 (last); None outside the layers."""
    is_projection: bool
    """A Linear's matrix inside the model: no vector, no embedding, no head."""
    base_name: str
    base: torch.Tensor
    experts: Mapping[str, torch.Tensor]
    """Expert name -> tensor, sorted by content hash."""
    hashes: Mapping[str, str]
    """Expert name -> content hash, of those that change the tensor."""
    model: Callable[[], Iterator["Tensor"]]
    """All floating-point tensors of the merge, sorted by name."""
    grams: Mapping[str, torch.Tensor]
    """Expert name -> Gram of its inputs, if the recipe names them."""

    @classmethod
    def of(cls, parents: Parents) -> "Tensor":
        """Widens everything to fp64."""
        base = parents.base.double()
        experts = dict.fromkeys(parents.expert_names, base)
        return cls(
            name=parents.name,
            depth=parents.depth,
            is_projection=parents.is_projection,
            base_name=parents.base_name,
            base=base,
            experts=experts | {parent.name: full_tensor(parent, base) for parent in parents.experts},
            hashes={parent.name: parent.hash for parent in parents.experts},
            model=lambda: map(cls.of, parents.model()),
            grams=_grams(parents),
        )

    @property
    def deltas(self) -> dict[str, torch.Tensor]:
        """Expert name -> what it adds to the base."""
        return {name: tensor - self.base for name, tensor in self.experts.items()}


Reference: TypeAlias = Callable[[Tensor, Rule], torch.Tensor]


def _grams(parents: Parents) -> dict[str, torch.Tensor]:
    if parents.grams is None or not parents.is_projection:
        return {}
    held, num_columns = parents.grams, parents.base.shape[1]
    hashes = zip(parents.expert_names, parents.expert_hashes, strict=True)
    grams = {name: held.of(hash_, parents.name, num_columns) for name, hash_ in hashes}
    return {name: (g.whole() if isinstance(g, Sketch) else g).double() for name, g in grams.items()}


def full_tensor(parent: Parent, base: torch.Tensor) -> torch.Tensor:
    """Returns an expert's tensor."""
    if isinstance(parent.value, LowRank):
        return base + parent.value.scale * parent.value.b_MR.double() @ parent.value.a_RN.double()
    return parent.value.double()
