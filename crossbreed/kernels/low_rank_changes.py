"""Recipe + sources -> what an adapter of the base has to add, matrix by matrix.

Where a tensor's program comes to the base plus a sum of adapters' deltas, the factors are put beside one another and
the change is exact: B = [c1 s1 B1 ... cn sn Bn], A = [A1; ...; An]. The work that the program is lowered to says so,
not the operator's name. Every other change, and one of too many ranks, is cut to the nearest one of the wanted rank,
and says what that leaves out.

Shapes: M rows, N columns, R ranks.
"""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import torch

from crossbreed.errors import InvalidWeights
from crossbreed.kernels.artifacts.files import Artifact
from crossbreed.kernels.executors import execute
from crossbreed.kernels.executors.lowering import Pass, Product, Same, lower
from crossbreed.kernels.linalg.blas import matmul_by_rows
from crossbreed.kernels.linalg.decompositions import Factors, qr, svd
from crossbreed.kernels.materialize import programs
from crossbreed.kernels.programs import Affine, Dense, Program
from crossbreed.kernels.source_cache import SourceCache
from crossbreed.kernels.tensors import as_matrix
from crossbreed.sources import LowRank, Sources
from crossbreed.types import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRankChange:
    """What is added to one matrix of the base."""

    low: LowRank
    """In fp32, with a scale of 1."""
    is_exact: bool
    """Whether it is the merge's own sum of adapters, rank beside rank."""
    norm: float = 0.0
    """Frobenius norm of the whole change, where a part of it was left out."""
    missing: float = 0.0
    """Frobenius norm of what was left out."""

    @property
    def rank(self) -> int:
        """How many ranks it has."""
        return len(self.low.a_RN)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorChange:
    """A tensor that a recipe changes."""

    name: str
    base: torch.Tensor
    program: Program
    product: Product | None
    """The sum of adapters that it comes to; None where it is more than that."""

    @property
    def exact_rank(self) -> int | None:
        """The ranks of that sum."""
        return None if self.product is None else len(self.product.a_RN)

    def cut(self, rank: int | None) -> LowRankChange:
        """Returns it with at most `rank` ranks; None: with all that the sum has.

        Raises:
            InvalidWeights: it holds NaN or Inf.
        """
        product = self.product
        if product is not None and (rank is None or len(product.a_RN) <= rank):
            return _exact(product)
        assert rank is not None, "only a sum of adapters has a rank of its own"
        return _nearest(_triplets(self._delta()) if product is None else _product_triplets(product), rank)

    def _delta(self) -> torch.Tensor:
        """What the merge adds to the base, in fp32."""
        program = self.program
        if isinstance(program, Affine):  # without the base, whose digits would hide the last ones of the change
            return execute(replace(program, of_base=program.of_base - 1), self.base, torch.float32)
        if isinstance(program, Dense):
            return program.factor * program.delta
        return execute(program, self.base, torch.float32) - self.base.float()


def tensor_changes(
    recipe: Recipe,
    sources: Sources,
    cache: SourceCache | None = None,
    *,
    without: Collection[str] = (),
    artifacts: Collection[Artifact] = (),
) -> Iterator[TensorChange]:
    """Yields the tensors that a recipe changes, sorted by name; nothing is computed yet but their programs.

    The arguments and errors are those of `materialize`.
    """
    for name, program in programs(recipe, sources, cache, without=without, artifacts=artifacts):
        base = sources.base.tensor(name)
        work = lower(program, base)
        if not (isinstance(work, Same) and work.tensor is base):
            yield TensorChange(name=name, base=base, program=program, product=_sum_of_adapters(program, work))


def _sum_of_adapters(program: Program, work: object) -> Product | None:
    if not isinstance(program, Affine) or not isinstance(work, Pass):
        return None
    is_sum = float(torch.tensor(work.of_base, dtype=torch.float32)) == 1  # as the executors have it
    values = work.values
    return values[0] if is_sum and len(values) == 1 and isinstance(values[0], Product) else None


def _exact(product: Product) -> LowRankChange:
    if not (product.b_MR.isfinite().all() and product.a_RN.isfinite().all()):
        raise InvalidWeights("a factor of the adapter is NaN or infinite")
    low = LowRank(a_RN=product.a_RN.contiguous(), b_MR=product.b_MR.contiguous(), scale=1.0)
    return LowRankChange(low=low, is_exact=True)


def _triplets(delta: torch.Tensor) -> tuple[Factors, float]:
    delta_MN = as_matrix(delta).double()
    return svd(delta_MN), float(delta_MN.square().sum())


def _product_triplets(product: Product) -> tuple[Factors, float]:
    """The singular triplets of B A, by way of a matrix of R times R."""
    left_MR, b_RR = qr(product.b_MR.double())
    right_NR, a_RR = qr(product.a_RN.double().T)
    core = svd(matmul_by_rows(b_RR, a_RR.T.contiguous()))
    found = Factors(matmul_by_rows(left_MR, core.left_MR), core.values_R, matmul_by_rows(right_NR, core.right_NR))
    return found, float(core.values_R.square().sum())


def _nearest(triplets: tuple[Factors, float], rank: int) -> LowRankChange:
    (left_MR, values_R, right_NR), square = triplets
    if not math.isfinite(square):
        raise InvalidWeights("the change is NaN or infinite")
    roots_R = values_R[:rank].sqrt()
    low = LowRank(
        a_RN=(right_NR[:, :rank] * roots_R).T.float().contiguous(),
        b_MR=(left_MR[:, :rank] * roots_R).float().contiguous(),
        scale=1.0,
    )
    kept = float(values_R[:rank].square().sum())
    return LowRankChange(low=low, is_exact=False, norm=math.sqrt(square), missing=math.sqrt(max(0.0, square - kept)))
