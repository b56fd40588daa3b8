"""The plan of a merge: configuration + the models' structures -> the inputs of every tensor. No weights are read.

The rules are mergekit 0.1.5's. The depth of a layer is its position in its slice. Embeddings come from the first
slice's models, final norm and head from the last's; both are at depth 0 (with `weight: [0, 1]` the head gets 0). A
value comes from the model's own parameters, else its slice's, else the configuration's, each by the first filter that
matches the name: the name in the model for values of a model, the name in the merge for those of the merge.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from crossbreed.errors import InputError
from crossbreed.mergekit.config import MergeConfig, ModelReference, Settings, Slice
from crossbreed.mergekit.methods import BaseRole, Method, Parameter, Scope
from crossbreed.parsing import any_of
from crossbreed.recipes import weights_cancel
from crossbreed.sources.naming import (
    HEAD,
    embedding_names,
    has_token_rows,
    in_layer,
    is_before_layers,
    layer_of,
    may_be_tied,
)
from crossbreed.sources.structure import Structure
from crossbreed.types import ParamValue

Values = Mapping[str, ParamValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputTensor:
    """One model's part in an output tensor."""

    model: ModelReference
    tensor: str
    """Its name in the model."""
    parameters: Values
    """The model's own parameters, for this tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputTensor:
    """A tensor of the merge."""

    name: str
    inputs: tuple[InputTensor, ...]
    """In the order of the configuration; a base that it does not list is last."""
    base: ModelReference | None
    """The input that is the base; None if the method has none, or treats it like the others."""
    parameters: Values
    """The merge's parameters, for this tensor."""
    has_token_rows: bool
    """Whether each row belongs to a token, as in embeddings and heads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergePlan:
    """A whole merge."""

    config: MergeConfig
    tensors: tuple[OutputTensor, ...]
    """Sorted by name."""
    layers: tuple[tuple[ModelReference, int], ...]
    """For each layer of the merge, its first model and the layer in that model."""
    tied: bool
    """Whether the merge has no head of its own, because none of its models has one."""

    @property
    def donor(self) -> ModelReference:
        """The model whose configuration the merge uses."""
        return self.config.models[0]


def plan_merge(config: MergeConfig, structures: Mapping[ModelReference, Structure]) -> MergePlan:
    """Returns the plan of a merge.

    Args:
        config: The merge.
        structures: The structures of all its models.

    Raises:
        InputError: the models' tensors or shapes do not match, or a parameter has no value.
    """
    planner = _Planner(config=config, structures=structures)
    layers: list[tuple[ModelReference, int]] = []
    tensors: list[OutputTensor] = []
    for entry in config.slices:
        ranges = planner.ranges(entry)
        tensors += planner.layers(entry, ranges, first=len(layers))
        layers += [(entry.inputs[0].model, number) for number in ranges[0]]
    tensors += planner.outside(config.slices[0], before=True)
    tensors += planner.outside(config.slices[-1], before=False)
    tensors.sort(key=lambda tensor: tensor.name)
    names = {tensor.name for tensor in tensors}
    return MergePlan(
        config=config,
        tensors=tuple(tensors),
        layers=tuple(layers),
        tied=HEAD not in names and any(planner.structures[model].tied for model in config.slices[-1].models),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planner:
    config: MergeConfig
    structures: Mapping[ModelReference, Structure]

    def ranges(self, entry: Slice) -> list[range]:
        """Returns the layers of each input in the slice."""
        ranges = []
        for source in entry.inputs:
            have = self.structures[source.model].num_layers
            ranges.append(range(have) if source.layers is None else source.layers)
            if ranges[-1].stop > have:
                raise InputError(
                    f"`{source.model}` has no layer {ranges[-1].stop - 1}",
                    expected=f"layer_range within [0, {have}]",
                    got=f"[{ranges[-1].start}, {ranges[-1].stop}]",
                )
        if len({len(layers) for layers in ranges}) > 1:
            counts = (f"{source.model}: {len(layers)}" for source, layers in zip(entry.inputs, ranges, strict=True))
            raise InputError("the models of a slice have different numbers of layers", got=any_of(counts))
        return ranges

    def layers(self, entry: Slice, ranges: Sequence[range], *, first: int) -> Iterator[OutputTensor]:
        for step, numbers in enumerate(zip(*ranges, strict=True)):
            depth = step / (len(ranges[0]) - 1) if len(ranges[0]) > 1 else 1.0
            held = [
                {in_layer(name, first + step): name for name in self.structures[model].tensors if layer_of(name) == own}
                for model, own in zip(entry.models, numbers, strict=True)
            ]
            for name in _common(held, entry):
                yield self._tensor(name, entry, depth, [names[name] for names in held], [names[name] for names in held])

    def outside(self, entry: Slice, *, before: bool) -> Iterator[OutputTensor]:
        """Yields tensors outside the layers: before the first (embeddings), or after the last (norm and head)."""
        held = [
            {
                name: name
                for name in self.structures[model].tensors
                if layer_of(name) is None and is_before_layers(name) == before
            }
            for model in entry.models
        ]
        if any(HEAD in names for names in held):
            for names, model in zip(held, entry.models, strict=True):
                if HEAD not in names and (embedding := self._tied_head(model)):
                    names[HEAD] = embedding
        for name in _common(held, entry):
            yield self._tensor(name, entry, 0.0, [names[name] for names in held], [name] * len(held))

    def _tied_head(self, model: ModelReference) -> str | None:
        structure = self.structures[model]
        return next((name for name in structure.tensors if structure.tied and may_be_tied(name)), None)

    def _tensor(
        self, name: str, entry: Slice, depth: float, read: Sequence[str], filtered: Sequence[str]
    ) -> OutputTensor:
        """Returns one output tensor; `read` has its name in each model, `filtered` the names that filters match."""
        method = self.config.method
        self._check_shapes(name, entry, read)
        above = (entry.settings, self.config.settings)
        base = entry.base if method.base is not BaseRole.ORDINARY and entry.base in entry.models else None
        inputs = []
        for source, own, matched in zip(entry.inputs, read, filtered, strict=True):
            scopes = (Scope.MODEL,) if source.model == base else (Scope.MODEL, Scope.EXPERT)
            levels = (source.settings, *above)
            values = _values(method, scopes, levels, matched, depth, of=f"`{source.model}`")
            inputs.append(InputTensor(model=source.model, tensor=own, parameters=values))
        parameters = _values(method, (Scope.GLOBAL,), above, name, depth, of="the merge")
        if method.divides_if and parameters[method.divides_if]:
            _check_sum(method.name, inputs, where=f"`{name}`", flag=method.divides_if)
        return OutputTensor(
            name=name,
            inputs=tuple(inputs),
            base=base,
            parameters=parameters,
            has_token_rows=self._has_token_rows(name, entry, read),
        )

    def _check_shapes(self, name: str, entry: Slice, read: Sequence[str]) -> None:
        shapes = [self.structures[m].tensors[own].shape for m, own in zip(entry.models, read, strict=True)]
        has_rows = self._has_token_rows(name, entry, read)
        aligned = has_rows and self.config.tokenizer is not None
        if len({shape[1:] if aligned else shape for shape in shapes}) > 1:
            got = any_of(f"{model}: {shape}" for model, shape in zip(entry.models, shapes, strict=True))
            by_token = (
                "align the vocabularies by token: `tokenizer_source: base` (or union), in place of mergekit's option "
            )
            fix = f"{by_token}--unsafe-truncate-embeddings" if has_rows else ""
            raise InputError(f"`{name}` has different shapes in the models", expected="one", got=got, fix=fix)

    def _has_token_rows(self, name: str, entry: Slice, read: Sequence[str]) -> bool:
        """Whether it is an embedding or head by its name, and as long as the model's input embedding.

        Raises:
            InputError: an embedding has rows for another number of tokens, and they are to be aligned.
        """
        if not has_token_rows(name):
            return False
        for model, own in zip(entry.models, read, strict=True):
            shapes = {n: info.shape for n, info in self.structures[model].tensors.items()}
            lengths = [shapes[n][0] for n in embedding_names(shapes)]
            if lengths and shapes[own][0] != max(lengths):
                if own in embedding_names(shapes) and self.config.tokenizer is not None:
                    raise InputError(
                        f"`{own}` of `{model}` has rows for another number of tokens than the input embedding",
                        expected=f"{max(lengths)} rows, as the longest embedding has",
                        got=str(shapes[own][0]),
                        fix="merge models of one vocabulary, without `tokenizer_source`",
                    )
                return False
        return True


def _check_sum(method: str, inputs: Sequence[InputTensor], *, where: str, flag: str) -> None:
    given = ((str(one.model), one.parameters.get("weight")) for one in inputs)
    weights = {model: float(weight) for model, weight in given if isinstance(weight, int | float)}
    if weights and math.fsum(weights.values()) == 0:
        raise weights_cancel(method, weights, where=where, flag=flag)


def _common(held: Sequence[Mapping[str, str]], entry: Slice) -> list[str]:
    """Returns the names of a slice's tensors, which must be the same in all its models."""
    for model, names in zip(entry.models, held, strict=True):
        if strays := sorted(held[0].keys() ^ names.keys()):
            has, lacks = (entry.models[0], model) if strays[0] in held[0] else (model, entry.models[0])
            raise InputError(
                f"`{lacks}` lacks `{strays[0]}`",
                expected=f"the tensors of `{has}`",
                got=f"{len(strays)} names differ",
                fix="merge models of one architecture",
            )
    return list(held[0])


def _values(
    method: Method, scopes: Sequence[Scope], levels: Sequence[Settings], name: str, depth: float, *, of: str
) -> Values:
    found: dict[str, ParamValue] = {}
    for parameter in method.parameters:
        if parameter.scope in scopes:
            value = _value(parameter, levels, name, depth)
            if value is not None:
                found[parameter.name] = value
            elif parameter.required:
                raise InputError(
                    f"`{parameter.name}` of {of} has no value for `{name}`",
                    expected="a number, or a filter that matches",
                    fix=f"add `{parameter.name}` to its parameters, or for all models to those at the top",
                )
    return found


def _value(parameter: Parameter, levels: Sequence[Settings], name: str, depth: float) -> float | bool | None:
    for settings in levels:
        for conditional in settings.get(parameter.name, ()):
            if conditional.filter is None or conditional.filter in name:
                return conditional.at(depth)
    return parameter.default
