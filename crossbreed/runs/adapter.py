"""A recipe as a LoRA adapter of its base: exact where the merge is a sum of adapters, else cut to a rank.

An exact one holds the very factors that the merge is made of, in fp32: merged into the base by crossbreed, it gives the
same bits. A cut one is another model than the recipe's, and says by how much.
"""

import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from crossbreed.errors import InputError, InvalidWeights, MachineError
from crossbreed.kernels import SourceCache
from crossbreed.kernels.artifacts.files import Artifact
from crossbreed.kernels.low_rank_changes import LowRankChange, TensorChange, tensor_changes
from crossbreed.randomness import spawn
from crossbreed.sources import Adapter, LowRank, SourceLocation, Sources
from crossbreed.sources.adapter import ADAPTER_CONFIG, ADAPTER_STEM
from crossbreed.sources.adapter_writing import Carrier, adapter_config, adapter_tensors, carriers
from crossbreed.sources.files import write_tensors
from crossbreed.sources.hashes import digest_of, hash_of_tensors
from crossbreed.types import Recipe, WeightStream

WEIGHTS = f"{ADAPTER_STEM}.safetensors"
_PROBE_RANK = 8
_NAMED = 3
"""How many tensors a message names."""


@dataclass(frozen=True, kw_only=True)
class RecipeAdapter:
    """A recipe as an adapter, in memory."""

    recipe: Recipe
    changes: Mapping[str, LowRankChange]
    """Tensor of the base -> what is added to it; nothing, where the recipe changes nothing."""
    tensors: Mapping[str, torch.Tensor]
    """Those of the adapter's file."""
    config: Mapping[str, Any]
    """What stands in adapter_config.json."""

    @property
    def is_exact(self) -> bool:
        """Whether it holds the merge's own factors."""
        return all(change.is_exact for change in self.changes.values())

    @property
    def rank(self) -> int:
        """The largest rank of a matrix."""
        return max((change.rank for change in self.changes.values()), default=0)

    @property
    def errors(self) -> dict[str, float]:
        """Tensor -> the part of its change that is left out (relative Frobenius norm), of those that were cut."""
        return {
            name: change.missing / change.norm
            for name, change in self.changes.items()
            if not change.is_exact and change.norm > 0
        }

    @property
    def error(self) -> float:
        """The same of all tensors that were cut, together."""
        cut = [change for change in self.changes.values() if not change.is_exact]
        norm = math.hypot(*(change.norm for change in cut))
        return math.hypot(*(change.missing for change in cut)) / norm if norm else 0.0

    @cached_property
    def fingerprint(self) -> str:
        """The content hash of the file's tensors."""
        return hash_of_tensors({name: digest_of(tensor) for name, tensor in self.tensors.items()})

    @property
    def summary(self) -> str:
        """What it is, in a sentence."""
        if self.is_exact:
            return f"the adapter is exact, of rank {self.rank}"
        worst = max(self.errors, key=self.errors.__getitem__, default=None)
        most = "" if worst is None else f", at most {self.errors[worst]:.2%} (`{worst}`)"
        return f"the adapter is cut to rank {self.rank} and lacks {self.error:.2%} of the change{most}"

    def merged(self, sources: Sources) -> WeightStream:
        """Returns the base with the adapter in it, in fp32."""
        for name in sorted(sources.base.tensors):
            tensor = sources.base.tensor(name)
            if name in self.changes:
                low = self.changes[name].low
                tensor = tensor.float() + low.b_MR @ low.a_RN
            yield name, tensor

    def write(self, folder: Path) -> None:
        """Writes its two files into a folder."""
        write_tensors(folder / WEIGHTS, self.tensors)
        text = json.dumps(self.config, indent=2, sort_keys=True) + "\n"
        (folder / ADAPTER_CONFIG).write_text(text, encoding="utf-8")

    def reopened(self, folder: Path, sources: Sources) -> Adapter:
        """Returns what it was written to a folder as, read back.

        Raises:
            MachineError: that is not what was written.
        """
        try:
            found = Adapter.open(SourceLocation(path=folder), base=sources.base)
        except InputError as error:
            raise MachineError(f"the written adapter does not load: {error}") from error
        for name, change in self.changes.items():
            low = found.factors(name)
            if low is None or not (torch.equal(low.a_RN, change.low.a_RN) and torch.equal(low.b_MR, change.low.b_MR)):
                raise MachineError(f"the written adapter has another change of `{name}`: is the disk faulty?")
        return found


def recipe_adapter(
    recipe: Recipe,
    sources: Sources,
    *,
    rank: int | None = None,
    cache: SourceCache | None = None,
    artifacts: Collection[Artifact] = (),
    found: Mapping[str, Carrier] | None = None,
) -> RecipeAdapter:
    """Makes the adapter of a recipe.

    Args:
        recipe: The recipe.
        sources: Opened.
        rank: The largest rank of a matrix; None: whatever the sum of the adapters has, and nothing is cut.
        cache: Of the sources, for a search.
        artifacts: Opened; those that the recipe names.
        found: The carriers of the base, for a search.

    Raises:
        InputError: it changes tensors that no adapter can change, or is no sum of adapters and no rank is given.
        InvalidWeights: it holds NaN or Inf.
    """
    found = carriers(sources.base) if found is None else found
    _check_carried(recipe, sources, found, artifacts)
    changed = list(tensor_changes(recipe, sources, cache, artifacts=artifacts))
    if rank is None:
        _check_sums(changed, recipe)
    changes = {change.name: _cut(change, recipe, rank) for change in changed}
    lows = {name: change.low for name, change in changes.items() if change.low.a_RN.any() and change.low.b_MR.any()}
    return RecipeAdapter(
        recipe=recipe,
        changes={name: changes[name] for name in lows},
        tensors=adapter_tensors(lows, found),
        config=adapter_config(lows, found, sources.base) if lows else {},
    )


def probe_adapter(
    recipe: Recipe,
    sources: Sources,
    names: Iterable[str],
    found: Mapping[str, Carrier],
    *,
    rank: int,
    size: float,
) -> RecipeAdapter:
    """Returns an adapter that changes given matrices at random, to test what an engine makes of one.

    Args:
        recipe: What it is called after.
        sources: Opened.
        names: The matrices.
        found: The carriers of the base.
        rank: The largest rank.
        size: The changes' norms, as multiples of the base's; 0: they change nothing.
    """
    changes: dict[str, LowRankChange] = {}
    for name in names:
        rng, (rows, columns) = spawn(0, "probe adapter", name), sources.base.tensors[name].shape
        ranks = min(rank, _PROBE_RANK, rows, columns)
        b_MR, a_RN = (torch.from_numpy(rng.standard_normal(s)).float() for s in ((rows, ranks), (ranks, columns)))
        norm = ((b_MR.T @ b_MR) * (a_RN @ a_RN.T)).sum().sqrt()
        b_MR = b_MR * (size * sources.base.tensor(name).float().norm() / norm)
        changes[name] = LowRankChange(low=LowRank(a_RN=a_RN, b_MR=b_MR, scale=1.0), is_exact=True)
    lows = {name: change.low for name, change in changes.items()}
    return RecipeAdapter(
        recipe=recipe,
        changes=changes,
        tensors=adapter_tensors(lows, found),
        config=adapter_config(lows, found, sources.base),
    )


def check_adapter(
    recipe: Recipe, sources: Sources, *, rank: int | None = None, artifacts: Collection[Artifact] = ()
) -> None:
    """Refuses a recipe that `recipe_adapter` would refuse; nothing is cut."""
    _check_carried(recipe, sources, carriers(sources.base), artifacts)
    if rank is None:
        _check_sums(tensor_changes(recipe, sources, artifacts=artifacts), recipe)


def _check_carried(
    recipe: Recipe, sources: Sources, found: Mapping[str, Carrier], artifacts: Collection[Artifact]
) -> None:
    if recipe.layers:
        raise InputError(
            "the recipe has layers of its own, and an adapter changes the base's in their places",
            expected="a recipe without `layers`",
            got=f"{len(recipe.layers)} layers",
            where=f"recipe {recipe.id}",
            fix="publish a checkpoint: leave out --as",
        )
    changed = tensor_changes(recipe, sources, without=found.keys(), artifacts=artifacts)
    if strays := [change.name for change in changed]:
        raise InputError(
            f"an adapter cannot change {_listed(strays)}: {'it has' if len(strays) == 1 else 'they have'} no factors",
            expected="changes of the matrices of linear layers and embeddings alone",
            where=f"recipe {recipe.id}",
            fix="publish a checkpoint, or leave these tensors as the base has them: no rule that matches them",
        )


def _check_sums(changed: Iterable[TensorChange], recipe: Recipe) -> None:
    if dense := [change.name for change in changed if change.product is None]:
        raise InputError(
            f"the change of {_listed(dense)} is no sum of adapters, so an adapter of it has to be cut to a rank",
            expected="--rank R; or experts that are adapters, and an operator that adds their deltas",
            where=f"recipe {recipe.id}",
            fix="give a rank, such as --rank 64: what is left out is told",
        )


def _cut(change: TensorChange, recipe: Recipe, rank: int | None) -> LowRankChange:
    try:
        return change.cut(rank)
    except InvalidWeights as fault:
        raise InvalidWeights(f"`{change.name}` of recipe {recipe.id}: {fault}") from None


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" * (len(names) > _NAMED)
    return ", ".join(f"`{name}`" for name in names[:_NAMED]) + more
