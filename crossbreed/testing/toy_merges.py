"""Models of three tensors, and parameters drawn from an operator's declaration, for tests of operators."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch
from hypothesis import strategies as st

from crossbreed.kernels import SourceCache
from crossbreed.kernels.artifacts.input_grams import InputGrams, InputGramSums
from crossbreed.kernels.artifacts.walk_statistics import WalkStatistics, stored_as
from crossbreed.kernels.linalg.walked import walked
from crossbreed.kernels.tensors import ExpertTensor, TensorInputs
from crossbreed.recipes.operators import DEPTH_PROFILE, OperatorSpec, ParamKind, ParamSpec
from crossbreed.sources import LowRank
from crossbreed.sources.files import write_tensors
from crossbreed.types import ParamValue

Value: TypeAlias = torch.Tensor | LowRank

BASE = "base"
MATRIX = "model.layers.0.mlp.up_proj.weight"
EMBEDDING = "model.embed_tokens.weight"
VECTOR = "model.norm.weight"
SHAPES: Mapping[str, tuple[int, ...]] = {EMBEDDING: (48, 16), MATRIX: (24, 40), VECTOR: (40,)}
"""A tensor of each kind that operators distinguish."""


def inputs_of_tensors(
    base: torch.Tensor, experts: Mapping[str, Value], *, name: str = MATRIX, depth: float | None = 0.0
) -> TensorInputs:
    """Returns the inputs of a model's only tensor; an expert's name is its hash."""
    return ToyMerge(base={name: base}, experts={key: {name: value} for key, value in experts.items()}).inputs(
        name, depth=depth
    )


class ToyMerge:
    """Holds a base and experts in memory. Not a dataclass: hypothesis would print every element on failure."""

    def __init__(
        self,
        *,
        base: Mapping[str, torch.Tensor],
        experts: Mapping[str, Mapping[str, Value]],
        grams: InputGrams | None = None,
        statistics: WalkStatistics | None = None,
    ) -> None:
        """Holds the tensors.

        Args:
            base: Tensor name -> tensor.
            experts: Expert's hash -> tensor name -> what it has of the tensors that it changes.
            grams: The Grams of the experts' inputs.
            statistics: Those of a regression's walk.
        """
        self.base, self.experts, self.grams, self.statistics = base, experts, grams, statistics

    @classmethod
    def make(cls, experts: Sequence[str]) -> "ToyMerge":
        """Returns experts of the random base: `p` is an adapter of the matrix, others change most of all elements."""
        base = {name: _normal(shape, seed=seed) for seed, (name, shape) in enumerate(SHAPES.items())}
        made: dict[str, dict[str, Value]] = {"p": {MATRIX: _adapter(seed=100)}}
        for number, expert in enumerate(name for name in experts if name != "p"):
            seeds = range(1000 * (number + 1), 1000 * (number + 1) + len(base))
            made[expert] = {name: _changed(base[name], seed=seed) for name, seed in zip(base, seeds, strict=True)}
        return cls(base=base, experts={expert: made[expert] for expert in experts})

    @classmethod
    def of_adapters(cls, experts: Sequence[str]) -> "ToyMerge":
        """Returns adapters of one rank, of the matrix and of the embedding, which is stored transposed."""
        base = {name: _normal(shape, seed=seed) for seed, (name, shape) in enumerate(SHAPES.items())}
        made: dict[str, dict[str, Value]] = {
            expert: {MATRIX: _adapter(seed=100 * seed), EMBEDDING: _adapter(seed=100 * seed + 50, name=EMBEDDING)}
            for seed, expert in enumerate(experts, 1)
        }
        return cls(base=base, experts=made)

    def inputs(
        self,
        name: str,
        *,
        depth: float | None = None,
        names: Mapping[str, str] | None = None,
        cache: SourceCache | None = None,
    ) -> TensorInputs:
        """Returns the inputs of a tensor's merge.

        Args:
            name: The tensor's name.
            depth: The depth of its layer.
            names: Expert's hash -> what a recipe calls it; None: as its hash.
            cache: None: an empty one.
        """
        called = names or {expert: expert for expert in self.experts}
        ordered = sorted(self.experts)
        known = SourceCache() if cache is None else cache
        changing = [
            ExpertTensor(name=called[expert], hash=expert, value=self.experts[expert][name])
            for expert in ordered
            if name in self.experts[expert]
        ]
        return TensorInputs(
            name=name,
            depth=depth,
            base_name=BASE,
            base=self.base[name],
            base_hash=BASE,
            experts=tuple(changing),
            expert_names=tuple(called[expert] for expert in ordered),
            expert_hashes=tuple(ordered),
            cache=known,
            model=partial(self._model, called, known),
            grams=self.grams,
            statistics=self.statistics,
        )

    def with_value(self, expert: str, name: str, value: Value) -> "ToyMerge":
        """Returns the same merge with another tensor of one expert."""
        return self.with_experts({**self.experts, expert: {**self.experts[expert], name: value}})

    def with_experts(self, experts: Mapping[str, Mapping[str, Value]]) -> "ToyMerge":
        """Returns a merge of other experts with the same artifacts."""
        return ToyMerge(base=self.base, experts=experts, grams=self.grams, statistics=self.statistics)

    def with_grams(self, path: Path) -> "ToyMerge":
        """Returns the same merge with input Grams of the matrix, written to a file."""
        sums = InputGramSums()
        for seed, expert in enumerate(self.experts):
            sums.add(expert, MATRIX, _normal((200, SHAPES[MATRIX][1]), seed=10_000 + seed))
        return ToyMerge(base=self.base, experts=self.experts, grams=sums.write(path))

    def with_statistics(self, path: Path) -> "ToyMerge":
        """Returns the same merge with statistics of a walk over the matrix, written to a file."""
        rows, columns = SHAPES[MATRIX]
        x_TN, *targets = (_normal((200, width), seed=20_000 + width).double() for width in (columns, rows, rows + 1))
        values_N, vectors_NN = torch.linalg.eigh(x_TN.T @ x_TN / len(x_TN))
        own_MN, experts_MN = (0.1 * target_TM[:, :rows].T @ x_TN / len(x_TN) for target_TM in targets)
        anchor_MN = 0.1 * _normal((rows, columns), seed=20_000).double()
        found = walked(values_N, vectors_NN, own_MN=own_MN, experts_MN=experts_MN, anchor_MN=anchor_MN)
        write_tensors(path, stored_as({MATRIX: found}))
        return ToyMerge(base=self.base, experts=self.experts, grams=self.grams, statistics=WalkStatistics.open(path))

    def _model(self, names: Mapping[str, str], cache: SourceCache) -> Iterator[TensorInputs]:
        return (self.inputs(name, names=names, cache=cache) for name in sorted(self.base))


@st.composite
def params_of(draw: st.DrawFn, spec: OperatorSpec, experts: Sequence[str]) -> dict[str, ParamValue]:
    """Draws valid parameters of an operator from their search ranges, none of them negative.

    (Where signs cancel, no bound on rounding holds.) The depth profile is left out.
    """
    params: dict[str, ParamValue] = {}
    for param in spec.params:
        if param not in DEPTH_PROFILE:
            params[param.name] = draw(_values(param, experts))
    for param in spec.params:
        if param.limit is not None:
            bounds, given = _per_expert(params[param.limit.by], experts), _per_expert(params[param.name], experts)
            params[param.name] = {name: given[name] * 0.9 * param.limit.of(bounds[name]) for name in experts}
    return params


def choices(param: ParamSpec, experts: Sequence[str]) -> list[ParamValue]:
    """Returns a few values of a parameter that lie far apart."""
    match param.kind:
        case ParamKind.FLAG:
            return [False, True]
        case ParamKind.CHOICE:
            return [*param.options]
        case ParamKind.NAME:
            return [*experts, BASE]
        case ParamKind.EXPERT | ParamKind.SOURCE:
            low, high = _range(param)
            return [high, *({**dict.fromkeys(experts, high), expert: low} for expert in experts)]
        case ParamKind.NUMBERS:
            return [dict.fromkeys(experts, (low, high)) for low, high in ((0.0, 0.0), (0.3, 0.0), (0.0, 0.3))]
    low, high = _range(param)
    return [low, (low + high) / 2 if not param.integer else (low + high) // 2, high]


def _values(param: ParamSpec, experts: Sequence[str]) -> st.SearchStrategy[ParamValue]:
    match param.kind:
        case ParamKind.FLAG:
            return st.booleans()
        case ParamKind.CHOICE:
            return st.sampled_from(param.options)
        case ParamKind.NAME:
            return st.sampled_from([*experts, BASE])
        case ParamKind.EXPERT | ParamKind.SOURCE:
            owners = (*experts, BASE) if param.kind is ParamKind.SOURCE else experts
            return st.fixed_dictionaries({owner: _numbers(param) for owner in owners})
        case ParamKind.NUMBERS:
            several = st.lists(_numbers(param), min_size=1, max_size=3).map(tuple)
            return st.fixed_dictionaries(dict.fromkeys(experts, several))
    return _numbers(param)


def _numbers(param: ParamSpec) -> st.SearchStrategy[float]:
    low, high = _range(param)
    if param.integer:
        return st.integers(int(low), int(high))
    return st.integers(0, 1000).map(lambda part: low + part / 1000 * (high - low))


def _range(param: ParamSpec) -> tuple[float, float]:
    """Where a parameter is searched, or about its default where it is not; limited ones as fractions of the limit."""
    if param.limit is not None:
        return 0.0, 1.0
    if param.search is not None:
        low, high = param.search
        return (low, high) if low >= 0 else (high / 10, high)
    default = float(param.default)
    low, high = (0.0, 2 * default + 3) if param.integer else (default, 1000 * default) if default else (0.1, 1.0)
    return max(low, param.at_least), min(high, param.at_most)


def _per_expert(value: ParamValue, experts: Sequence[str]) -> Mapping[str, float]:
    if isinstance(value, Mapping):
        return {name: number for name, number in value.items() if not isinstance(number, tuple)}
    return dict.fromkeys(experts, float(value))


def _normal(shape: tuple[int, ...], *, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _changed(base: torch.Tensor, *, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    is_changed = torch.rand(base.shape, generator=generator) < 0.7
    return base + 0.1 * torch.randn(base.shape, generator=generator) * is_changed


def _adapter(*, seed: int, rank: int = 3, name: str = MATRIX) -> LowRank:
    rows, columns = SHAPES[name]
    a_RN, b_MR = _normal((rank, columns), seed=seed), _normal((rows, rank), seed=seed + 1)
    return LowRank(a_RN=a_RN, b_MR=b_MR, scale=0.05, transposed=name == EMBEDDING)
