"""One tensor of a merge, in fp64."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch

from crossbreed.kernels.linalg.sketch import Sketch
from crossbreed.kernels.linalg.walked import Walked
from crossbreed.kernels.tensors import ExpertTensor, TensorInputs
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
    is_stored_transposed: bool
    """Whether it is a Linear's matrix as (inputs, outputs)."""
    base_name: str
    base: torch.Tensor
    experts: Mapping[str, torch.Tensor]
    """Expert name -> tensor, sorted by content hash."""
    hashes: Mapping[str, str]
    """Expert name -> content hash, of those that change the tensor."""
    factors: Mapping[str, LowRank]
    """Expert name -> factors, of the adapters that change the tensor."""
    model: Callable[[], Iterator["Tensor"]]
    """All floating-point tensors of the merge, sorted by name."""
    grams: Mapping[str, torch.Tensor]
    """Expert name -> Gram of its inputs, if the recipe names them."""
    walked: Walked | None
    """What a regression solves it from, in fp64, if the recipe names that; None of a matrix that is not solved."""

    @classmethod
    def of(cls, inputs: TensorInputs) -> "Tensor":
        """Widens everything to fp64."""
        base = inputs.base.double()
        experts = dict.fromkeys(inputs.expert_names, base)
        return cls(
            name=inputs.name,
            depth=inputs.depth,
            is_projection=inputs.is_projection,
            is_stored_transposed=inputs.is_stored_transposed,
            base_name=inputs.base_name,
            base=base,
            experts=experts | {expert.name: full_tensor(expert, base) for expert in inputs.experts},
            hashes={expert.name: expert.hash for expert in inputs.experts},
            factors={e.name: e.value for e in inputs.experts if isinstance(e.value, LowRank)},
            model=lambda: map(cls.of, inputs.model()),
            grams=_grams(inputs),
            walked=_walked(inputs),
        )

    @property
    def turned(self) -> "Tensor":
        """The transposed matrices."""
        experts = {name: value.T for name, value in self.experts.items()}
        factors = {name: low.turned for name, low in self.factors.items()}
        return replace(self, base=self.base.T, experts=experts, factors=factors, is_stored_transposed=False)

    @property
    def deltas(self) -> dict[str, torch.Tensor]:
        """Expert name -> what it adds to the base."""
        return {name: tensor - self.base for name, tensor in self.experts.items()}


Reference: TypeAlias = Callable[[Tensor, Rule], torch.Tensor]


def _grams(inputs: TensorInputs) -> dict[str, torch.Tensor]:
    if inputs.grams is None or not inputs.is_projection:
        return {}
    held, num_columns = inputs.grams, inputs.base.shape[0 if inputs.is_stored_transposed else 1]
    hashes = zip(inputs.expert_names, inputs.expert_hashes, strict=True)
    grams = {name: held.of(hash_, inputs.name, num_columns) for name, hash_ in hashes}
    return {name: (g.whole() if isinstance(g, Sketch) else g).double() for name, g in grams.items()}


def _walked(inputs: TensorInputs) -> Walked | None:
    found = None if inputs.statistics is None else inputs.statistics.of(inputs.name)
    return None if found is None else Walked(*(part.double() for part in found))


def full_tensor(expert: ExpertTensor, base: torch.Tensor) -> torch.Tensor:
    """Returns an expert's tensor."""
    if isinstance(expert.value, LowRank):
        return base + expert.value.scale * expert.value.b_MR.double() @ expert.value.a_RN.double()
    return expert.value.double()
