"""Recipe + sources -> the merged tensors, one after the other, none of them kept.

The same stream is what an engine is given, what is fingerprinted and what is published. Which tensors it has, and what
each is made of, is planned in `sources.output_tensors`: a recipe may have another depth than the base.
"""

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeAlias, TypeVar

import torch

from crossbreed.errors import InputError, InvalidWeights
from crossbreed.kernels.artifacts.binding import Bound, bind_artifacts
from crossbreed.kernels.artifacts.files import Artifact
from crossbreed.kernels.executors import Waiting, start_programs
from crossbreed.kernels.executors.protocol import checked
from crossbreed.kernels.operators import ARITHMETIC, CHECKS
from crossbreed.kernels.programs import Affine, Program
from crossbreed.kernels.source_cache import SourceCache
from crossbreed.kernels.tensors import ExpertTensor, TensorInputs
from crossbreed.kernels.transposed import is_to_turn, turned, turning
from crossbreed.recipes import rule_finder
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.sources import Adapter, Checkpoint, Sources
from crossbreed.sources.naming import count_layers, depth_of, in_layer, is_stored_transposed, layer_of
from crossbreed.sources.output_tensors import OutputTensor, output_tensors
from crossbreed.sources.pages import MappedPages
from crossbreed.types import BASE, Recipe, Rule, WeightStream

T = TypeVar("T")
Experts: TypeAlias = Mapping[str, Checkpoint | Adapter]

_AHEAD_BYTES = 64 << 20
"""Size of the tensors that are begun before they are asked for."""
_CACHE_OF_ONE_BYTES = 256 << 20
"""Budget of the cache of a single merge, which seldom looks up anything twice."""


def materialize(
    recipe: Recipe,
    sources: Sources,
    cache: SourceCache | None = None,
    *,
    without: Collection[str] = (),
    artifacts: Collection[Artifact] = (),
    once: bool = False,
) -> WeightStream:
    """Returns the recipe's weights: every tensor of its plan, sorted by name, made when asked for.

    Tensors that nothing changes are the base's own, mapped and not copied where the dtype agrees: do not write to
    them. Sources are found by content hash; what they are called in the recipe and in `sources` need not agree.

    Args:
        recipe: The recipe to merge.
        sources: Opened.
        cache: The results that earlier merges of the same sources found; a search keeps one for its life.
        without: Names of tensors that are not wanted and not made.
        artifacts: Opened; those that the recipe names are found by content hash.
        once: The sources will not be read again soon: the memory that they are mapped into is given back.

    Raises:
        InputError: at once, when `sources` lacks a source of the recipe, or `artifacts` an artifact; as `check_recipe`.
        InvalidWeights: on reaching a tensor that holds NaN or Inf.
    """
    merge = _Merge(recipe, sources, cache or SourceCache(budget_bytes=_CACHE_OF_ONE_BYTES), artifacts)
    merge.check()
    stream = _stream([name for name in merge.outputs if name not in without], [merge])
    if once:
        stream = releasing_pages(stream, sources.base, sources.experts)
    return ((name, merged) for name, (merged,) in stream)


def materialize_many(
    recipes: Sequence[Recipe],
    sources: Sources,
    cache: SourceCache | None = None,
    *,
    artifacts: Collection[Artifact] = (),
    once: bool = False,
) -> Iterator[tuple[str, list[torch.Tensor]]]:
    """Returns the weights of several recipes, tensor by tensor: where they use the same operator, one pass makes all.

    The arguments are those of `materialize`. The recipes have one dtype, and the same `layers`.

    Raises:
        InputError: as `materialize`.
        InvalidWeights: on reaching a tensor that holds NaN or Inf in one of them.
    """
    assert len({(recipe.dtype, recipe.layers) for recipe in recipes}) == 1, "such recipes have no pass in common"
    cache = cache or SourceCache(budget_bytes=_CACHE_OF_ONE_BYTES)
    merges = [_Merge(recipe, sources, cache, artifacts) for recipe in recipes]
    for merge in merges:
        merge.check()
    stream = _stream(merges[0].outputs, merges)
    return releasing_pages(stream, sources.base, sources.experts) if once else stream


def programs(
    recipe: Recipe,
    sources: Sources,
    cache: SourceCache | None = None,
    *,
    without: Collection[str] = (),
    artifacts: Collection[Artifact] = (),
) -> Iterator[tuple[str, Program]]:
    """Yields what merging each tensor comes to, sorted by name, without those that no rule changes.

    The arguments and errors are those of `materialize`; the recipe has the base's own layers.
    """
    assert not recipe.layers, "a tensor of the base may be several of the merge's, or none"
    merge = _Merge(recipe, sources, cache or SourceCache(budget_bytes=_CACHE_OF_ONE_BYTES), artifacts)
    merge.check()
    found = ((name, merge.program(name)) for name in sorted(sources.base.tensors.keys() - without))
    return ((name, program) for name, program in found if program is not None)


def check_recipe(recipe: Recipe, sources: Sources, artifacts: Collection[Artifact] = ()) -> None:
    """Refuses, before any weight is read, a recipe that could not be merged.

    Raises:
        InputError: an operator that cannot merge a tensor of this size, or lacks an artifact; or as `materialize`.
    """
    _Merge(recipe, sources, SourceCache(), artifacts).check()


def unchanged(
    before: Recipe,
    after: Recipe,
    sources: Sources,
    cache: SourceCache | None = None,
    *,
    artifacts: Collection[Artifact] = (),
    shift: int = 0,
) -> frozenset[str]:
    """Returns the names of tensors that two recipes make alike, as far as that costs nothing to know.

    A tensor depends on sources, dtype, what it is planned to be made of and the rule that it obeys, and on no other
    tensor's rule. A tensor that no expert changes is made under both recipes and compared by identity: usually both
    return the base's own tensor.

    Args:
        before: A recipe.
        after: Another one, whose names are returned.
        sources: Opened.
        cache: As for `materialize`.
        artifacts: As for `materialize`.
        shift: A layer of `after` is compared with that of `before` whose number is larger by this.

    Raises:
        InputError: `sources` lacks a source of the recipes, or `artifacts` an artifact.
        InvalidWeights: a rule means nothing for a tensor.
    """
    if replace(before, rules=(), layers=()) != replace(after, rules=(), layers=()):
        return frozenset()
    cache = cache or SourceCache()
    old, new = (_Merge(recipe, sources, cache, artifacts) for recipe in (before, after))
    touched = sources.structure.touched_by_any

    def is_unchanged(output: OutputTensor) -> bool:
        named = _shifted(output.name, shift)
        other = None if named is None else old.outputs.get(named)
        if other is None or replace(other, name=output.name) != output:
            return False
        source = output.tensor
        if output.expert is not None or old.rule(source) == new.rule(source):
            return True
        if source in touched:
            return False
        return _made(other.name, old) is _made(output.name, new)

    return frozenset(output.name for output in new.outputs.values() if is_unchanged(output))


def bind_experts(recipe: Recipe, sources: Sources) -> dict[str, Checkpoint | Adapter]:
    """Returns the recipe's experts by their names in it, sorted by content hash.

    Raises:
        InputError: when `sources` has another base, or lacks an expert.
    """
    opened = {expert.hash: expert for expert in sources.experts.values()}
    for name, wanted in recipe.sources.items():
        if (wanted != sources.base.hash) if name == recipe.base else (wanted not in opened):
            have = {BASE: sources.base, **sources.experts}
            raise InputError(
                f"the recipe's source `{name}` is not among the models that were opened",
                expected=f"content hash {wanted}",
                got=", ".join(f"{key} {source.hash}" for key, source in have.items()),
                where=f"recipe {recipe.id}",
                fix="open the models that the recipe was made for, unchanged since",
            )
    experts = [(name, opened[hash_]) for name, hash_ in recipe.sources.items() if name != recipe.base]
    return dict(sorted(experts, key=lambda item: (item[1].hash, item[0])))


class _Merge:
    """A recipe, bound to its sources."""

    def __init__(
        self, recipe: Recipe, sources: Sources, cache: SourceCache, artifacts: Collection[Artifact] = ()
    ) -> None:
        self.recipe, self.base, self.rule = recipe, sources.base, rule_finder(recipe)
        self.outputs = output_tensors(recipe, sources.base.tensors, sources.base.config)
        self._alone = {name: _alone(name) for name in recipe.sources}
        self._experts, self._cache = bind_experts(recipe, sources), cache
        self._bound = bind_artifacts(recipe, artifacts)

    def check(self) -> None:
        """Imports the operators, and has them check every tensor that an expert changes."""
        for operator in {rule.operator for rule in self.recipe.rules}:
            ARITHMETIC[operator]  # raises InputError where a package's arithmetic cannot be imported
        if not any(rule.operator in CHECKS for rule in self.recipe.rules):
            return
        for name in sorted(set[str]().union(*(expert.touched for expert in self._experts.values()))):
            rule = self.rule(name)
            if rule is not None and (check := CHECKS.get(rule.operator)):
                inputs = self._inputs(name)
                check(turned(inputs) if is_to_turn(inputs, rule) else inputs, rule)

    def num_bytes(self, name: str) -> int:
        """Returns the size of what a tensor of the merge is made of in the base."""
        return self.base.tensor(self.outputs[name].tensor).nbytes

    def program(self, name: str, expert: str | None = None) -> Program | None:
        """Returns the program of a tensor of the base, or of this expert; None if it stays the base's."""
        rule = self.rule(name) if expert is None else self._alone[expert]
        base = self.base.tensor(name)
        if rule is None or not base.is_floating_point() or not base.numel():
            return None
        try:
            return program_of(self._inputs(name), rule)
        except InvalidWeights as fault:
            raise self.named(name, fault) from None

    def _inputs(self, name: str) -> TensorInputs:
        """The same for every candidate of a search."""

        def find() -> TensorInputs:
            return inputs_of(name, self.recipe.base, self.base, self._experts, self._cache, self._bound)

        experts = tuple((expert, source.hash) for expert, source in self._experts.items())
        return self._cache.get(("inputs", name, self.recipe.base, self.base.hash, experts, self._bound.key), find)

    def named(self, name: str, fault: InvalidWeights) -> InvalidWeights:
        """Returns an error that names the tensor and the recipe."""
        return InvalidWeights(f"`{name}` of recipe {self.recipe.id}: {fault}")


def _stream(names: Iterable[str], merges: Sequence[_Merge]) -> Iterator[tuple[str, list[torch.Tensor]]]:
    """Begins tensors before they are asked for: threads merge while the consumer takes what is done."""
    ahead: deque[tuple[str, list[Waiting]]] = deque()
    num_bytes = 0
    for name in names:
        ahead.append((name, _begin(name, merges)))
        num_bytes += merges[0].num_bytes(name) * len(merges)
        while num_bytes > _AHEAD_BYTES:
            num_bytes -= merges[0].num_bytes(ahead[0][0]) * len(merges)
            yield _end(*ahead.popleft(), merges)
    while ahead:
        yield _end(*ahead.popleft(), merges)


def releasing_pages(walk: Iterator[tuple[str, T]], base: Checkpoint, experts: Experts) -> Iterator[tuple[str, T]]:
    """Gives back the pages of each tensor that a walk over the model has passed."""
    full = [source for source in (base, *experts.values()) if isinstance(source, Checkpoint)]
    pages = MappedPages(file.path for checkpoint in full for file in checkpoint.shards)
    for name, made in walk:
        yield name, made
        for checkpoint in full:
            if name in checkpoint.tensors:
                pages.let_go(checkpoint.tensor(name))


def _made(name: str, merge: _Merge) -> torch.Tensor:
    ((_, (made,)),) = _stream([name], [merge])
    return made


def _shifted(name: str, shift: int) -> str | None:
    """Returns the name in another layer; None: there is none before the first."""
    layer = layer_of(name) if shift else None
    if layer is None:
        return name
    return None if layer + shift < 0 else in_layer(name, layer + shift)


def _begin(name: str, merges: Sequence[_Merge]) -> list[Waiting]:
    output = merges[0].outputs[name]
    base = merges[0].base.tensor(output.tensor)
    dtype = getattr(torch, merges[0].recipe.dtype) if base.is_floating_point() else base.dtype
    programs = [merge.program(output.tensor, output.expert) or Affine(shares=()) for merge in merges]
    if output.factor == 1:
        return start_programs(programs, base, dtype)
    assert base.is_floating_point(), f"{name} is multiplied, and no weight"
    return [partial(_scaled, one, output.factor, dtype) for one in start_programs(programs, base, torch.float32)]


def _scaled(waiting: Waiting, factor: float, dtype: torch.dtype) -> torch.Tensor:
    """Returns a tensor times a number, rounded once."""
    return checked((waiting() * factor).to(dtype))


def _alone(source: str) -> Rule:
    """Returns the rule of a source as it is."""
    return Rule(match=".*", operator="task_arithmetic", params={"weight": {source: 1.0}})


def _end(name: str, waits: Sequence[Waiting], merges: Sequence[_Merge]) -> tuple[str, list[torch.Tensor]]:
    made = []
    for merge, waiting in zip(merges, waits, strict=True):
        try:
            made.append(waiting())
        except InvalidWeights as fault:
            raise merge.named(name, fault) from None
    return name, made


def program_of(inputs: TensorInputs, rule: Rule) -> Program:
    """Returns what a rule computes of one tensor: its operator's program, with the rule's depth profile."""
    operator = ARITHMETIC[rule.operator]
    program = turning(operator, inputs, rule) if is_to_turn(inputs, rule) else operator(inputs, rule)
    factor = OPERATOR_SPECS[rule.operator].depth_factor(rule, inputs.depth)
    return program if factor == 1 else program.scaled(factor)


def inputs_of(
    name: str, base_name: str, base: Checkpoint, experts: Experts, cache: SourceCache, bound: Bound | None = None
) -> TensorInputs:
    """Returns what one tensor of a merge is made from."""

    def model() -> Iterator[TensorInputs]:
        names = (other for other in sorted(base.tensors) if base.tensor(other).is_floating_point())
        walk = ((other, inputs_of(other, base_name, base, experts, cache, bound)) for other in names)
        return (inputs for _, inputs in releasing_pages(walk, base, experts))

    known = bound or Bound()
    num_layers = cache.get(("number of layers", base.hash), lambda: count_layers(base.tensors))
    return TensorInputs(
        name=name,
        depth=depth_of(name, num_layers),
        base_name=base_name,
        base=base.tensor(name),
        base_hash=base.hash,
        experts=tuple(expert_tensors(name, experts)),
        expert_names=tuple(experts),
        expert_hashes=tuple(expert.hash for expert in experts.values()),
        cache=cache,
        model=model,
        is_stored_transposed=is_stored_transposed(name, base.config.get("model_type")),
        grams=known.grams,
        statistics=known.statistics,
    )


def expert_tensors(name: str, experts: Experts) -> Iterator[ExpertTensor]:
    """Yields what each expert that changes the tensor has of it, in the order of `experts`."""
    for expert_name, expert in experts.items():
        if name in expert.touched:
            value = expert.factors(name) if isinstance(expert, Adapter) else expert.tensor(name)
            assert value is not None, f"{expert_name} lists {name} as changed and has no tensor for it"
            yield ExpertTensor(name=expert_name, hash=expert.hash, value=value)
