"""The least squares of a tensor: what its Grams are, and the system that is solved once for all candidates.

Matrices of more than MOST_COLUMNS inputs are refused: their Grams and eigenvectors in fp64 would take 4 GB and minutes
each. (Where all experts are adapters and the Grams are those of their deltas, or where the Grams are sketched, nothing
as large is made.)
"""

import math
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass

import torch

from crossbreed.errors import InputError
from crossbreed.kernels.artifacts.input_grams import GRAMS, InputGram, InputGrams
from crossbreed.kernels.linalg.blas import matmul_by_rows
from crossbreed.kernels.linalg.decompositions import qr
from crossbreed.kernels.linalg.least_squares import (
    Directions,
    Sketched,
    SketchedTerm,
    System,
    Term,
    directions,
    solve,
    solve_sketched,
)
from crossbreed.kernels.linalg.sketch import Sketch
from crossbreed.kernels.tensors import ExpertTensor, TensorInputs
from crossbreed.sources import LowRank

MOST_COLUMNS = 10_240


@dataclass(frozen=True, slots=True, kw_only=True)
class RegressionProblem:
    """How much each expert's inputs count, and what is taken for their Grams."""

    inputs: TensorInputs
    weights: Mapping[str, float]
    """Expert name -> weight, none negative."""
    grams: str
    """`deltas`, `data` or `mixed`."""
    eta: float = 1.0
    """Of `mixed`: the data's part."""
    alpha: float = 1.0
    """Factor on what is off the diagonal."""

    @property
    def votes(self) -> Mapping[str, float]:
        """Content hash -> weight, in their order: copies vote together, those without a weight or a Gram do not."""
        inputs, by_hash = self.inputs, dict[str, list[float]]()
        changing = {expert.hash for expert in inputs.experts}
        for name, hash_ in zip(inputs.expert_names, inputs.expert_hashes, strict=True):
            if self.weights[name] and (hash_ in changing or self.grams != "deltas"):
                by_hash.setdefault(hash_, []).append(self.weights[name])
        return {hash_: math.fsum(weights) for hash_, weights in by_hash.items()}

    @property
    def key(self) -> tuple[Hashable, ...]:
        """What the system depends on beside the sources."""
        found = self.inputs.grams
        data = None if self.grams == "deltas" or found is None else found.hash
        return *self.votes.items(), self.grams, self.eta, self.alpha, data

    def system(self) -> System | Sketched:
        """Solves it once."""
        if self._is_shared:
            minimiser_MR = self.inputs.cached("minimiser", self._minimiser, *self.key)
            return System(*self._directions(), minimiser_MR)
        return self.inputs.cached("system", self.solve, *self.key)

    def check(self) -> None:
        """Raises InputError for a matrix that is too large, or Grams that are not there."""
        if self.grams != "deltas":
            for expert in self.votes:
                self._stored(expert)
        if self._is_spanned or self._is_sketched:
            return
        if (num_columns := self.inputs.base.shape[1]) > MOST_COLUMNS:
            raise InputError(
                f"`{self.inputs.name}` has too many inputs to be regressed on",
                expected=f"at most {MOST_COLUMNS:,}: the work grows with their cube",
                got=f"{num_columns:,}",
                fix="give it a rule of its own, before this one, with another operator (for example tsv_m); or let "
                f"`bmm` read sketched Grams (`grams: data`, `artifacts.grams.max_columns` below {num_columns:,})",
            )

    def solve(self) -> System | Sketched:
        """Solves it: in the span of the adapters' A where nothing is outside of it, else in all columns.

        Raises:
            InputError: as `check`.
        """
        self.check()
        if self._is_sketched:
            return solve_sketched(self._sketched_terms())
        if self._is_shared:
            return System(*self._directions(), self._minimiser())
        within_NR = self._span() if self._is_spanned else None
        return solve(self._terms(within_NR), within_NR, are_stored=self.grams != "deltas")

    def sum_of_deltas(self) -> torch.Tensor:
        """Returns the weighted sum, fp32."""
        changing = {expert.hash: expert for expert in self.inputs.experts}
        total_MN = torch.zeros_like(self.inputs.base, dtype=torch.float32)
        for hash_, weight in self.votes.items():
            if hash_ in changing:
                total_MN += weight * changing[hash_].whole_delta(self.inputs.base)
        return total_MN

    @property
    def _is_spanned(self) -> bool:
        """Whether the rows of all deltas span less than the columns, and the Grams need no others."""
        lows = self._lows
        rank = sum(len(low.a_RN) for low in lows)
        is_small = len(lows) == len(self.inputs.experts) and rank < self.inputs.base.shape[1]
        return is_small and self.grams == "deltas" and self.alpha == 1

    @property
    def _is_sketched(self) -> bool:
        """Whether no Gram that is needed is there whole."""
        return self.grams == "data" and all(isinstance(self._stored(expert), Sketch) for expert in self.votes)

    @property
    def _is_shared(self) -> bool:
        """Whether other matrices get the same inputs, and so have a system with the same eigenvectors."""
        return self.grams == "data" and not self._is_sketched and all("," in name for name in self._names)

    @property
    def _names(self) -> tuple[str, ...]:
        """What the files of Grams call those that are needed."""
        return tuple(self._artifact.name_of(expert, self.inputs.name) for expert in self.votes)

    def _directions(self) -> Directions:
        """Finds the eigenvectors once for all matrices that get the same inputs."""

        def find() -> Directions:
            self.check()
            summed_NN = torch.zeros((), dtype=torch.float64)
            for expert, weight in self.votes.items():
                summed_NN = summed_NN + weight * self._with_alpha(self._data(expert))
            return directions(summed_NN, are_stored=True)

        votes = zip(self._names, self.votes.values(), strict=True)
        return self.inputs.cache.get(("directions", self._artifact.hash, *votes, self.alpha), find)

    def _minimiser(self) -> torch.Tensor:
        target_MN = torch.zeros_like(self.inputs.base, dtype=torch.float64)
        for weight, delta_MN, gram_NN in self._terms(None):
            target_MN += weight * matmul_by_rows(delta_MN, gram_NN)
        return self._directions().minimiser(target_MN)

    @property
    def _lows(self) -> list[LowRank]:
        return [expert.value for expert in self.inputs.experts if isinstance(expert.value, LowRank)]

    def _span(self) -> torch.Tensor:
        """Orthonormal columns [N, R] that span the rows of all deltas."""
        span_NR, _ = qr(torch.cat([low.a_RN for low in self._lows]).double().T)
        return span_NR

    def _terms(self, within_NR: torch.Tensor | None) -> Iterator[Term]:
        changing = {expert.hash: expert for expert in self.inputs.experts}
        for hash_, weight in self.votes.items():
            delta_MR = self._delta(changing.get(hash_), within_NR)
            yield Term(weight, delta_MR, self._gram(hash_, delta_MR))

    def _sketched_terms(self) -> Iterator[SketchedTerm]:
        """With `alpha`, diag(d) + U^T U becomes diag(alpha d + (1 - alpha) g) + alpha U^T U, g being its diagonal."""
        changing = {expert.hash: expert for expert in self.inputs.experts}
        for hash_, weight in self.votes.items():
            stored = self._stored(hash_)
            assert isinstance(stored, Sketch), "asked for where all are"
            wide = Sketch(*(self._read(hash_, part) for part in stored))
            diagonal_N = self.alpha * wide.diagonal_N + (1 - self.alpha) * wide.diagonal()
            gram = Sketch(self.alpha**0.5 * wide.rows_KN, diagonal_N)
            yield SketchedTerm(weight, self._delta(changing.get(hash_), None), gram)

    def _delta(self, expert: ExpertTensor | None, within_NR: torch.Tensor | None) -> torch.Tensor:
        base = self.inputs.base
        if expert is None:
            return torch.zeros_like(base, dtype=torch.float64)
        if isinstance(expert.value, LowRank) and within_NR is not None:
            low = expert.value
            return matmul_by_rows(low.scale * low.b_MR.double(), matmul_by_rows(low.a_RN.double(), within_NR))
        return expert.whole_delta(base).double()

    def _gram(self, expert: str, delta_MR: torch.Tensor) -> torch.Tensor:
        match self.grams:
            case "data":
                gram_RR = self._data(expert)
            case "deltas":
                gram_RR = _of_trace_1(matmul_by_rows(delta_MR.T, delta_MR))
            case _:
                own_RR = _of_trace_1(matmul_by_rows(delta_MR.T, delta_MR))
                gram_RR = self.eta * _of_trace_1(self._data(expert)) + (1 - self.eta) * own_RR
        return self._with_alpha(gram_RR)

    def _with_alpha(self, gram_RR: torch.Tensor) -> torch.Tensor:
        if self.alpha == 1:
            return gram_RR
        return self.alpha * gram_RR + (1 - self.alpha) * gram_RR.diagonal().diag()

    def _data(self, expert: str) -> torch.Tensor:
        stored = self._stored(expert)
        return self._read(expert, stored.whole() if isinstance(stored, Sketch) else stored)

    def _read(self, expert: str, part: torch.Tensor) -> torch.Tensor:
        """Returns a Gram, or a part of it, in fp64; of the file nothing is kept in memory."""
        wide = part.to(self.inputs.base.device).double()
        self._artifact.release(expert, self.inputs.name)
        return wide

    def _stored(self, expert: str) -> InputGram:
        return self._artifact.of(expert, self.inputs.name, self.inputs.base.shape[1])

    @property
    def _artifact(self) -> InputGrams:
        inputs = self.inputs
        if inputs.grams is None:
            raise InputError(
                f"Grams of inputs are wanted for `{inputs.name}`, and the recipe has none",
                expected=f"an artifact `{GRAMS}`",
                fix="name it in the recipe's `artifacts`, or let the rule say `grams: deltas`",
            )
        return inputs.grams


def _of_trace_1(gram_NN: torch.Tensor) -> torch.Tensor:
    return gram_NN / (gram_NN.trace().item() or 1.0)  # nothing, where all is 0
