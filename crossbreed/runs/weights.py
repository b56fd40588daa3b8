"""The tensors of a run. A plan has them if its engine takes weights, and not if it takes recipes.

The search merges, compares and fingerprints through this module, which is imported only for a plan with weights; the
making of Grams (`workers.grams`) and `publishing` use the kernels, too. Running out of memory, or a decomposition that
does not converge, is a MachineError.
"""

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from crossbreed.errors import CrossbreedError, MachineError, first_line, is_out_of_memory, require
from crossbreed.fitness import Prompt, Task, TaskLengths
from crossbreed.kernels import (
    Fingerprinted,
    SourceCache,
    check_recipe,
    inner_products,
    materialize,
    slopes,
    unchanged,
)
from crossbreed.kernels.artifacts.files import Artifact
from crossbreed.mergekit import MergeConfig
from crossbreed.mergekit.recipe import recipe_of
from crossbreed.runs.adapter import check_adapter
from crossbreed.runs.artifact_files import artifacts_of, keep
from crossbreed.runs.made_sources import keep_made, with_made_of
from crossbreed.runs.spec import SourcesConfig, Spec
from crossbreed.sources import Sources, Structure, open_sources
from crossbreed.sources.depth import Filling, filling, require_depth, write_host
from crossbreed.sources.host import host_hashes
from crossbreed.sources.naming import is_projection, layer_of
from crossbreed.types import Recipe, SlopeKind, WeightStream

BYTES: Mapping[str, int] = {"bfloat16": 2, "float16": 2, "float32": 4}
"""Dtype of merges -> bytes per number."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Weights:
    """Sources that are open on this machine, and every operation on their tensors."""

    sources: Sources
    artifacts: tuple[Artifact, ...] = ()
    """What candidates are merged with, once prepared: Grams (`workers.grams`), statistics of a regression."""
    depth: int | None = None
    """The number of layers of an engine's model, to which merges are filled up; None: the base's, as merges have."""
    cache: SourceCache = field(default_factory=SourceCache)
    """Intermediate results of merges of these sources, for the next ones."""

    @property
    def structure(self) -> Structure:
        """The structure of the sources."""
        return self.sources.structure

    @property
    def host(self) -> Path:
        """The folder that engines start from."""
        return self.sources.base.path

    @property
    def host_hashes(self) -> dict[str, str]:
        """Hashes of that folder's files other than weights that affect answers: part -> content hash."""
        return host_hashes(self.sources)

    @property
    def artifact_hashes(self) -> dict[str, str]:
        """Their names and content hashes, as in recipes."""
        return {artifact.name: artifact.hash for artifact in self.artifacts}

    def keep_artifacts(self, into: Path) -> None:
        """Copies the artifacts into a folder, unless they are there."""
        for artifact in self.artifacts:
            keep(artifact, into)
        keep_made(self.sources, into)

    def recipe_of(self, config: MergeConfig) -> Recipe:
        """Returns a mergekit configuration as a recipe; its models are opened where it says they are."""
        recipe, _ = recipe_of(config, partial(open_sources, accept=self.sources.accept))
        return recipe

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the base's tensors."""
        return {name: info.shape for name, info in self.structure.tensors.items()}

    @property
    def projections(self) -> list[str]:
        """The projection matrices that some expert changes: regression covers no other tensors."""
        return [
            name
            for name in sorted(self.structure.touched_by_any)
            if is_projection(name, self.structure.tensors[name].shape)
        ]

    def check_reference(self, *, observed: bool) -> None:
        """Raises InputError unless transformers can load the base, to compute gradients or show inputs.

        Args:
            observed: Whether it is to show the inputs of all projections.
        """
        require("transformers", extra="torch")
        from crossbreed.fitness.engines.loading import check_places

        check_places(self.host, self.shapes, linears=self.projections if observed else ())

    def merged_bytes(self, dtype: str) -> int:
        """Returns the size of one candidate's tensors, idle layers included."""
        tensors, depth = self.structure.tensors, self.depth
        per_layer = sum(prod(info.shape) for name, info in tensors.items() if layer_of(name) == 0)
        further = 0 if depth is None else (depth - self.structure.num_layers) * per_layer
        return (sum(prod(info.shape) for info in tensors.values()) + further) * BYTES[dtype]

    @contextmanager
    def engine_host(self) -> Iterator[Path]:
        """Yields the folder that an engine of candidates starts from; it is there until the context ends."""
        if self.depth is None:
            yield self.host
            return
        with TemporaryDirectory(prefix="crossbreed-host-") as folder:
            yield write_host(self.sources, self.depth, Path(folder))

    def filling(self, recipe: Recipe) -> Filling:
        """Returns how a recipe's merge stands in an engine's model."""
        if self.depth is None:
            return Filling(num_idle=0, idle={})
        return filling(recipe, self.sources, self.depth)

    def with_depth(self, depth: int | None) -> "Weights":
        """Returns the weights for engines of models of this depth; None: of the base's.

        Raises:
            InputError: merges of these sources cannot be filled up to it.
        """
        if depth is not None:
            require_depth(self.sources, depth)
        return replace(self, depth=depth)

    def check(self, recipe: Recipe) -> None:
        """Raises InputError if a recipe cannot be merged; reads no weights."""
        check_recipe(recipe, self.sources, self.artifacts)

    def check_adapter(self, recipe: Recipe, *, rank: int) -> None:
        """Raises InputError if a recipe changes tensors that an adapter cannot change."""
        check_adapter(recipe, self.sources, rank=rank, artifacts=self.artifacts)

    def materialize(self, recipe: Recipe, *, without: Collection[str] = ()) -> WeightStream:
        """Returns the recipe's weights as a lazy stream; see `kernels.materialize`."""
        stream = materialize(recipe, self.sources, self.cache, without=without, artifacts=self.artifacts)
        return _guarded(stream, f"recipe {recipe.id} was not merged")

    def materialize_once(self, recipe: Recipe) -> WeightStream:
        """Returns the weights of the last recipe to be merged: the sources' memory is freed in the process."""
        stream = materialize(recipe, self.sources, artifacts=self.artifacts, once=True)
        return _guarded(stream, f"recipe {recipe.id} was not merged")

    def fingerprinted(self, recipe: Recipe, *, kept: Mapping[str, str]) -> Fingerprinted:
        """Returns the recipe's weights except kept ones (name -> digest), with the fingerprint of all."""
        return Fingerprinted(self.materialize(recipe, without=kept.keys()), base=self.sources.base, kept=kept)

    def unchanged(self, before: Recipe, after: Recipe) -> frozenset[str]:
        """Returns the tensors of the engine's model that are equal for two recipes; see `kernels.unchanged`."""
        old, new = self.filling(before), self.filling(after)
        shift = new.num_idle - old.num_idle
        with _machine_errors("two recipes were not compared"):
            same = unchanged(before, after, self.sources, self.cache, artifacts=self.artifacts, shift=shift)
        idle = {name for name, info in new.idle.items() if old.idle.get(name) == info}
        return frozenset(map(new.engine_name, same)) | idle

    def inner_products(self, names: Iterable[str]) -> NDArray[np.float64]:
        """Returns the inner products of base and deltas over some tensors; see `kernels.inner_products`."""
        return inner_products(names, self.sources)

    def slopes(self, gradient: WeightStream, kind: SlopeKind) -> dict[str, dict[str, float]]:
        """Returns a gradient's slopes along all experts: tensor -> expert -> slope; see `kernels.slopes`."""
        with _machine_errors("the gradient was not compared with the experts"):
            return slopes(gradient, self.sources, kind, self.cache)

    def check_lengths(
        self, tasks: Iterable[Task], *, context_tokens: int | None, calibration: Collection[str] = ()
    ) -> dict[str, TaskLengths]:
        """Returns task -> lengths of its items in tokens; refuses those beyond the base's context. Needs transformers.

        Args:
            tasks: The tasks of the run.
            context_tokens: The engine's own limit.
            calibration: The tasks whose right answers will be asked for, too.

        Raises:
            MissingExtra: transformers is not installed.
            InputError: an item is too long.
        """
        require("transformers", extra="torch")
        from crossbreed.fitness.engines.encoder import check_tasks

        return check_tasks(tasks, self.host, max_model_len=context_tokens, calibration=calibration)

    def shown(self, prompt: Prompt) -> str:
        """Returns a prompt as the base's tokenizer and chat template write it; needs transformers."""
        from crossbreed.fitness.engines.encoder import Encoder

        return Encoder(self.host, max_model_len=sys.maxsize).shown(prompt)  # whatever its length


def open_weights(spec: Spec) -> Weights:
    """Opens the sources of a spec; raises InputError if one is missing, broken or does not match the base."""
    assert isinstance(spec.sources, SourcesConfig), "an engine that takes weights has no sources of its own"
    return open_sources_of(spec.sources)


def open_sources_of(sources: SourcesConfig) -> Weights:
    """Opens what the section `sources` names; raises as `open_weights`."""
    return Weights(sources=open_sources(sources.base, sources.experts, accept=sources.accept))


def checkpoint_weights(model: str) -> Weights:
    """Opens a full checkpoint (a folder or hub id) as a base without experts."""
    return Weights(sources=open_sources(model, {}))


def recipe_weights(recipe: Recipe, spec: Spec) -> Weights:
    """Opens the sources and artifacts of a recipe of a spec's sources; raises the errors of `open_weights`."""
    opened = open_weights(spec)
    sources = with_made_of(recipe, opened.sources)
    found = replace(opened, sources=sources, artifacts=artifacts_of(recipe))
    if not recipe.layers or not spec.fitness.engine.builds_model:
        return found
    return found.with_depth(max(len(recipe.layers), sources.structure.num_layers))


def _guarded(stream: WeightStream, failure: str) -> WeightStream:
    with _machine_errors(failure):
        yield from stream


@contextmanager
def _machine_errors(failure: str) -> Iterator[None]:
    try:
        yield
    except CrossbreedError:
        raise
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) and not isinstance(error, LinAlgError):
            raise
        raise MachineError(f"{failure}: {first_line(error, at_most=None)}") from error
