"""Least squares on what the experts do to their inputs.

What is no projection has no Gram: `regmean` and `swudi` average its deltas, and `bmm` leaves it to its anchor. Matrices
of more than MOST_COLUMNS inputs are refused: their Grams and eigenvectors in fp64 would take 4 GB and minutes each.
(Where all experts are adapters and the Grams are those of their deltas, or where the Grams are sketched, nothing as
large is made.)
"""

import math
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass

import torch

from crossbreed.errors import InputError
from crossbreed.kernels.artifacts import GRAMS, Gram, Grams
from crossbreed.kernels.basis_core import qr
from crossbreed.kernels.blas import product
from crossbreed.kernels.execute import execute
from crossbreed.kernels.linear_solve import (
    FILTERS,
    Directions,
    Sketched,
    SketchedTerm,
    System,
    Term,
    approach,
    directions,
    solve,
    solve_sketched,
)
from crossbreed.kernels.operators.linear import task_arithmetic
from crossbreed.kernels.operators.sparse import ties
from crossbreed.kernels.operators.spectral import mean_of_deltas, tsv_m
from crossbreed.kernels.programs import Affine, Dense, Operator, Program
from crossbreed.kernels.sketch import Sketch
from crossbreed.kernels.tensors import Parent, Parents
from crossbreed.operators import OPERATOR_SPECS
from crossbreed.sources import LowRank
from crossbreed.types import ParamValue, Rule

MOST_COLUMNS = 10_240
_BASE = Affine(shares=())


def regmean(parents: Parents, rule: Rule) -> Affine | Dense:
    """The merge that is nearest to each expert on its own inputs (arXiv 2212.09849).

    Where the Grams leave it open, that is the weighted mean of the experts. One that leaves the tensor as it is votes
    for the base's, if Grams of inputs are given.
    """
    spec = OPERATOR_SPECS["regmean"]
    weights = spec.per_source(rule, "weight", parents.expert_names)
    if not _any_weight(parents, weights):
        return _BASE
    total = math.fsum(weights.values())
    shares = {name: weight / total for name, weight in weights.items()}
    if not parents.is_projection:
        return mean_of_deltas(parents, shares, len(shares))
    problem = _problem(parents, rule, shares)

    def find() -> torch.Tensor:
        system = problem.solve()
        return system.regularised(system.anchored(problem.sum_of_deltas()), 0.0)

    return Dense(delta=parents.fact("regmean", find, *problem.key))


def swudi(parents: Parents, rule: Rule) -> Affine | Dense:
    """From the sum of deltas towards WUDI's minimiser (arXiv 2503.08099), as far as a spectral filter allows.

    The minimiser itself over-fits; where gradient descent towards it stops early is better, and is a filter.
    """
    spec = OPERATOR_SPECS["swudi"]
    weights, scale = spec.per_source(rule, "weight", parents.expert_names), spec.scalar(rule, "scale")
    if not _any_weight(parents, weights):
        return _BASE
    if not parents.is_projection:
        return mean_of_deltas(parents, weights, scale)
    problem = _problem(parents, rule, weights)
    system = problem.system()
    assert isinstance(system, System), "the Grams of deltas are never sketched"
    start = parents.fact("sum of deltas", lambda: system.anchored(problem.sum_of_deltas()), *problem.key)
    name = spec.word(rule, "filter")
    return Dense(delta=approach(system, start, FILTERS[name](system, spec.scalar(rule, _NUMBERS[name]))), factor=scale)


def bmm(parents: Parents, rule: Rule) -> Program:
    """Bayesian regression with a prior around a merge that is good already (arXiv 2605.12843).

    For given weights and density, lambda costs a diagonal and one product, and scale nothing. (Where the Grams are
    sketched, lambda costs a system of as many equations as they have rows.)
    """
    spec = OPERATOR_SPECS["bmm"]
    weights, densities = (spec.per_source(rule, name, parents.expert_names) for name in ("weight", "density"))
    scale, name = spec.scalar(rule, "scale"), spec.word(rule, "anchor")
    params: dict[str, ParamValue] = {"weight": weights, "density": densities} if name == "ties" else {"weight": weights}
    anchor = _ANCHORS[name](parents, Rule(match=rule.match, operator=name, params=params))
    if not parents.is_projection or not _any_weight(parents, weights):
        return anchor.scaled(scale)
    problem = _problem(parents, rule, weights)
    system = problem.system()
    settings = sorted((parent.hash, weights[parent.name], densities[parent.name]) for parent in parents.experts)
    prior = parents.fact(
        "anchor",
        lambda: system.anchored(execute(anchor, parents.base, torch.float32) - parents.base.float()),
        name,
        *settings,
        *problem.key,
    )
    ridge = spec.scalar(rule, "lambda") * system.mean_eigenvalue
    return Dense(delta=system.regularised(prior, ridge), factor=scale)


def check(parents: Parents, rule: Rule) -> None:
    """Refuses, from shapes and names alone, what an operator of this family could not solve.

    Raises:
        InputError: a matrix that is too large, or Grams of inputs that are not there.
    """
    weights = OPERATOR_SPECS[rule.operator].per_source(rule, "weight", parents.expert_names)
    if parents.is_projection and _any_weight(parents, weights):
        _problem(parents, rule, weights).check()


def _problem(parents: Parents, rule: Rule, weights: Mapping[str, float]) -> "_Problem":
    spec = OPERATOR_SPECS[rule.operator]
    match spec.name:
        case "regmean":
            kind = "deltas" if parents.grams is None else "data"
            return _Problem(parents=parents, weights=weights, grams=kind, alpha=spec.scalar(rule, "alpha"))
        case "bmm":
            kind = spec.word(rule, "grams")
            eta = spec.scalar(rule, "eta") if kind == "mixed" else 1.0
            return _Problem(parents=parents, weights=weights, grams=kind, eta=eta)
        case _:
            return _Problem(parents=parents, weights=weights, grams="deltas")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Problem:
    """Whose inputs count how much, and what is taken for their Grams."""

    parents: Parents
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
        parents, by_hash = self.parents, dict[str, list[float]]()
        changing = {parent.hash for parent in parents.experts}
        for name, hash_ in zip(parents.expert_names, parents.expert_hashes, strict=True):
            if self.weights[name] and (hash_ in changing or self.grams != "deltas"):
                by_hash.setdefault(hash_, []).append(self.weights[name])
        return {hash_: math.fsum(weights) for hash_, weights in by_hash.items()}

    @property
    def key(self) -> tuple[Hashable, ...]:
        """What the system depends on beside the sources."""
        found = self.parents.grams
        data = None if self.grams == "deltas" or found is None else found.hash
        return *self.votes.items(), self.grams, self.eta, self.alpha, data

    def system(self) -> System | Sketched:
        """Solves it once."""
        if self._is_shared:
            minimiser_MR = self.parents.fact("minimiser", self._minimiser, *self.key)
            return System(*self._directions(), minimiser_MR)
        return self.parents.fact("system", self.solve, *self.key)

    def check(self) -> None:
        """Raises InputError for a matrix that is too large, or Grams that are not there."""
        if self.grams != "deltas":
            for expert in self.votes:
                self._stored(expert)
        if self._is_spanned or self._is_sketched:
            return
        if (num_columns := self.parents.base.shape[1]) > MOST_COLUMNS:
            raise InputError(
                f"`{self.parents.name}` has too many inputs to be regressed on",
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
        changing = {parent.hash: parent for parent in self.parents.experts}
        total_MN = torch.zeros_like(self.parents.base, dtype=torch.float32)
        for hash_, weight in self.votes.items():
            if hash_ in changing:
                total_MN += weight * changing[hash_].whole_delta(self.parents.base)
        return total_MN

    @property
    def _is_spanned(self) -> bool:
        """Whether the rows of all deltas span less than the columns, and the Grams need no others."""
        lows = self._lows
        rank = sum(len(low.a_RN) for low in lows)
        is_small = len(lows) == len(self.parents.experts) and rank < self.parents.base.shape[1]
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
        return tuple(self._artifact.name_of(expert, self.parents.name) for expert in self.votes)

    def _directions(self) -> Directions:
        """Finds the eigenvectors once for all matrices that get the same inputs."""

        def find() -> Directions:
            self.check()
            summed_NN = torch.zeros((), dtype=torch.float64)
            for expert, weight in self.votes.items():
                summed_NN = summed_NN + weight * self._with_alpha(self._data(expert))
            return directions(summed_NN, are_stored=True)

        votes = zip(self._names, self.votes.values(), strict=True)
        return self.parents.facts.get(("directions", self._artifact.hash, *votes, self.alpha), find)

    def _minimiser(self) -> torch.Tensor:
        target_MN = torch.zeros_like(self.parents.base, dtype=torch.float64)
        for weight, delta_MN, gram_NN in self._terms(None):
            target_MN += weight * product(delta_MN, gram_NN)
        return self._directions().minimiser(target_MN)

    @property
    def _lows(self) -> list[LowRank]:
        return [parent.value for parent in self.parents.experts if isinstance(parent.value, LowRank)]

    def _span(self) -> torch.Tensor:
        """Orthonormal columns [N, R] that span the rows of all deltas."""
        span_NR, _ = qr(torch.cat([low.a_RN for low in self._lows]).double().T)
        return span_NR

    def _terms(self, within_NR: torch.Tensor | None) -> Iterator[Term]:
        changing = {parent.hash: parent for parent in self.parents.experts}
        for hash_, weight in self.votes.items():
            delta_MR = self._delta(changing.get(hash_), within_NR)
            yield Term(weight, delta_MR, self._gram(hash_, delta_MR))

    def _sketched_terms(self) -> Iterator[SketchedTerm]:
        """With `alpha`, diag(d) + U^T U becomes diag(alpha d + (1 - alpha) g) + alpha U^T U, g being its diagonal."""
        changing = {parent.hash: parent for parent in self.parents.experts}
        for hash_, weight in self.votes.items():
            stored = self._stored(hash_)
            assert isinstance(stored, Sketch), "asked for where all are"
            wide = Sketch(*(self._read(hash_, part) for part in stored))
            diagonal_N = self.alpha * wide.diagonal_N + (1 - self.alpha) * wide.diagonal()
            gram = Sketch(self.alpha**0.5 * wide.rows_KN, diagonal_N)
            yield SketchedTerm(weight, self._delta(changing.get(hash_), None), gram)

    def _delta(self, parent: Parent | None, within_NR: torch.Tensor | None) -> torch.Tensor:
        base = self.parents.base
        if parent is None:
            return torch.zeros_like(base, dtype=torch.float64)
        if isinstance(parent.value, LowRank) and within_NR is not None:
            low = parent.value
            return product(low.scale * low.b_MR.double(), product(low.a_RN.double(), within_NR))
        return parent.whole_delta(base).double()

    def _gram(self, expert: str, delta_MR: torch.Tensor) -> torch.Tensor:
        match self.grams:
            case "data":
                gram_RR = self._data(expert)
            case "deltas":
                gram_RR = _of_trace_1(product(delta_MR.T, delta_MR))
            case _:
                own_RR = _of_trace_1(product(delta_MR.T, delta_MR))
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
        wide = part.to(self.parents.base.device).double()
        self._artifact.let_go(expert, self.parents.name)
        return wide

    def _stored(self, expert: str) -> Gram:
        return self._artifact.of(expert, self.parents.name, self.parents.base.shape[1])

    @property
    def _artifact(self) -> Grams:
        parents = self.parents
        if parents.grams is None:
            raise InputError(
                f"Grams of inputs are wanted for `{parents.name}`, and the recipe has none",
                expected=f"an artifact `{GRAMS}`",
                fix="name it in the recipe's `artifacts`, or let the rule say `grams: deltas`",
            )
        return parents.grams


def _of_trace_1(gram_NN: torch.Tensor) -> torch.Tensor:
    return gram_NN / (gram_NN.trace().item() or 1.0)  # nothing, where all is 0


def _any_weight(parents: Parents, weights: Mapping[str, float]) -> bool:
    return any(weights[parent.name] for parent in parents.experts)


_NUMBERS = {"exponential": "time", "tikhonov": "ridge", "landweber": "steps", "top_k": "ratio"}
"""Filter -> the parameter that it reads."""
_ANCHORS: Mapping[str, Operator] = {"task_arithmetic": task_arithmetic, "ties": ties, "tsv_m": tsv_m, "swudi": swudi}

OPERATORS: Mapping[str, Operator] = {
    "regmean": regmean,
    "swudi": swudi,
    "bmm": bmm,
}
