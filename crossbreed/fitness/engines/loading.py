"""Where a checkpoint's tensors are in a transformers model, which may name, stack and join them otherwise.

Files keep the names under which a model was published. In memory, transformers 5 may call a tensor otherwise (the head
of GPT-NeoX), leave out or put in the prefix of the model without its head, and keep all experts of a layer as one
parameter. Every tensor of a file is a strided part of one parameter, or of a few: so it can be copied to its place
alone, without waiting for its neighbours, and the gradient with respect to it is the same part of the parameter's.

The mapping is transformers' own, the one that `from_pretrained` uses. `get_model_conversion_mapping`,
`rename_source_key` and the conversion classes are not in its documented interface (PEFT uses them too). They are used
as they are in transformers 5.19, and `tests/fitness/test_loading.py` compares the result with `from_pretrained`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import torch
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from crossbreed.errors import InputError, first_line
from crossbreed.fitness.engines.library import internals, require_internals
from crossbreed.sources.model_config import load_config
from crossbreed.sources.naming import is_derived, is_stored_transposed

with internals("transformers"):
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        Chunk,
        Concatenate,
        MergeModulelist,
        WeightConverter,
        WeightRenaming,
        rename_source_key,
    )

    signature(rename_source_key).bind("name", [], [], "prefix", {})

Model: TypeAlias = Any
"""transformers has no types."""
Shape: TypeAlias = Sequence[int]

_POSITIONS = re.compile(r"(?:^|\.)position_ids$")


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Part:
    """A strided part of a contiguous parameter, and the part of the checkpoint's tensor that is kept there.

    `Places` makes one object for each.
    """

    parameter: str
    layout: tuple[torch.Size, tuple[int, ...], int]
    """Its size, strides and offset."""
    dim: int = 0
    start: int = 0
    """Where the part begins in the checkpoint's tensor, along `dim`."""

    def of(self, parameter: torch.Tensor) -> torch.Tensor:
        """Returns the part of a contiguous tensor of the parameter's shape, as a view."""
        size, stride, offset = self.layout
        return parameter.as_strided(size, stride, parameter.storage_offset() + offset)

    def source(self, tensor: torch.Tensor) -> torch.Tensor:
        """Returns the part of a checkpoint's tensor that belongs there."""
        size = self.layout[0]
        return tensor if tensor.shape == size else tensor.narrow(self.dim, self.start, size[self.dim])


class Places:
    """Finds a model's places for tensors by their names in a checkpoint."""

    def __init__(self, model: Model) -> None:
        """Asks transformers for its mapping.

        Args:
            model: A causal language model of transformers, on any device.
        """
        owners = {id(tensor): name for name, tensor in reversed([*_tensors(model)])}
        self._names = {name: owners[id(tensor)] for name, tensor in _tensors(model)}
        """Name in the model's state -> name of the parameter; another where it is tied."""
        self._shapes = {name: tensor.shape for name, tensor in _tensors(model) if name in owners.values()}
        self.parameters = frozenset(dict(model.named_parameters()))
        """All that needs weights."""
        self._linears = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
        self._conv1ds = {name for name, module in model.named_modules() if isinstance(module, Conv1D)}
        self._model_type = model.config.model_type
        mapping = get_model_conversion_mapping(model)
        _check_internals(model, mapping)
        self._renamings = [one for one in mapping if isinstance(one, WeightRenaming)]
        self._converters = [one for one in mapping if isinstance(one, WeightConverter)]
        self._prefix: str = model.base_model_prefix
        self._ignored = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_unexpected]
        self._has_position_ids = any(name.endswith("position_ids") for name, _ in model.named_buffers())
        self._known: dict[str, tuple[tuple[int, ...] | None, tuple[Part, ...]]] = {}
        """Name -> shape, and places."""
        self._parts: dict[tuple[object, ...], Part] = {}

    def of(self, name: str, shape: Shape | None = None) -> tuple[Part, ...]:
        """Returns the places of a tensor; none if the model computes it by itself, as transformers does.

        Args:
            name: The tensor's name in the checkpoint.
            shape: Its shape there; None if an earlier call gave it.

        Raises:
            InputError: the model has no such tensor.
        """
        if name not in self._known:
            assert shape is not None, f"`{name}` has not been asked for"
            found = tuple(self._find(name, shape))
            self._known[name] = (_joined(found) if found else None), found
        size, found = self._known[name]
        if shape is not None and size is not None and size != tuple(shape):
            raise _no_place(name, shape, f"one of shape {list(size)}")
        return found

    def missing(self, names: Iterable[str]) -> list[str]:
        """Returns the parameters that a checkpoint with these tensors, which have places, does not fill."""
        filled: Counter[str] = Counter()
        for part in {part for name in names for part in self.of(name)}:
            filled[part.parameter] += prod(part.layout[0])
        return sorted(name for name in self.parameters if filled[name] < prod(self._shapes[name]))

    def linear(self, name: str) -> str | None:
        """Returns the module whose whole matrix a tensor is; None: it is no Linear's, nor a transposed one's."""
        parts = self.of(name)
        module, _, kind = parts[0].parameter.rpartition(".") if parts else ("", "", "")
        is_whole = len(parts) == 1 and kind == "weight" and parts[0].layout[0] == self._shapes[parts[0].parameter]
        linears = self._conv1ds if is_stored_transposed(name, self._model_type) else self._linears
        return module if is_whole and module in linears else None

    def _find(self, name: str, shape: Shape) -> Iterator[Part]:
        inside, _ = self._renamed(name, [])
        renamed, pattern = self._renamed(name, self._converters)
        if renamed not in self._names and name in self._names:  # as transformers does: it needs no conversion
            renamed, pattern = name, None
        if renamed not in self._names:
            if is_derived(name) or any(one.search(renamed) or one.search(name) for one in self._ignored):
                return
            if self._has_position_ids and _POSITIONS.search(name):
                return
            raise _no_place(name, shape, "none of that name")
        if pattern is None:
            yield self._part(renamed, self._view(renamed))
            return
        converter = next(one for one in self._converters if pattern in one.source_patterns)
        match [type(operation) for operation in converter.operations]:
            case [one] if one is Chunk and converter.operations[0].num_shards_attribute is None:
                yield from self._chunks(renamed, converter)
            case kinds if {*kinds} <= {MergeModulelist, Concatenate}:
                yield self._part(renamed, self._stacked(name, shape, inside, renamed, converter, pattern))
            case kinds:
                raise _no_place(name, shape, f"one made by {', '.join(kind.__name__ for kind in kinds)}")

    def _chunks(self, first: str, converter: WeightConverter) -> Iterator[Part]:
        """One tensor of the checkpoint is several parameters, one behind the other."""
        dim, start = converter.operations[0].dim, 0
        for target in converter.target_patterns:
            name = first.replace(converter.target_patterns[0], target)
            yield self._part(name, self._view(name), dim=dim, start=start)
            start += self._shapes[self._names[name]][dim]

    def _stacked(
        self, name: str, shape: Shape, inside: str, renamed: str, converter: WeightConverter, pattern: str
    ) -> torch.Tensor:
        """One parameter is several tensors of the checkpoint: joined, stacked, or both."""
        view = self._view(renamed)
        for operation in reversed(converter.operations):
            if isinstance(operation, Concatenate) and operation.num_shards_attribute is None:
                patterns = converter.source_patterns
                view = view.chunk(len(patterns), dim=operation.dim)[patterns.index(pattern)]
            elif isinstance(operation, MergeModulelist):
                number = re.search(pattern.replace("*.", r"(?P<number>\d+)\."), inside)
                if number is None or int(number["number"]) >= view.shape[operation.dim]:
                    raise _no_place(name, shape, f"{view.shape[operation.dim]} stacked in `{renamed}`")
                view = view.select(operation.dim, int(number["number"]))
            else:
                raise _no_place(name, shape, "one made of numbered shards")
        return view

    def _renamed(self, name: str, converters: list[WeightConverter]) -> tuple[str, str | None]:
        found: tuple[str, str | None] = rename_source_key(name, self._renamings, converters, self._prefix, self._meta)
        return found

    @cached_property
    def _meta(self) -> Mapping[str, torch.Tensor]:
        return {name: self._view(name) for name in self._names}

    def _view(self, name: str) -> torch.Tensor:
        return torch.empty(self._shapes[self._names[name]], device="meta")

    def _part(self, name: str, view: torch.Tensor, *, dim: int = 0, start: int = 0) -> Part:
        layout = (view.shape, view.stride(), int(view.storage_offset()))
        part = Part(parameter=self._names[name], layout=layout, dim=dim, start=start)
        return self._parts.setdefault((part.parameter, layout, dim, start), part)


def empty_model(host: Path) -> Model:
    """Returns the model of a folder's configuration, without weights.

    Raises:
        InputError: transformers cannot build it.
    """
    settings = load_config(host)
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(settings, trust_remote_code=False)
    except Exception as error:  # architectures check their settings each in its way
        raise InputError(
            "transformers cannot build the model of this configuration",
            got=first_line(error),
            where=str(host),
            fix="copy config.json again from where the model came from, or update transformers",
        ) from error


def check_places(host: Path, shapes: Mapping[str, Shape], *, linears: Iterable[str] = ()) -> None:
    """Refuses a checkpoint that the transformers engine could not load, or observe; reads no weights.

    Args:
        host: A folder with the configuration.
        shapes: The checkpoint's tensors.
        linears: Tensors whose inputs are to be observed.

    Raises:
        InputError: a tensor has no place in the model, a parameter has no tensor, or a matrix is no Linear's.
    """
    model = empty_model(host)
    places = Places(model)
    try:
        for name in sorted(shapes):
            places.of(name, shapes[name])
    except InputError as error:
        raise InputError(error.problem, expected=error.expected, got=error.got, where=str(host), fix=_FIX) from None
    if missing := places.missing(shapes):
        raise InputError(
            f"the checkpoint has no weights for the model's `{missing[0]}`",
            expected="a tensor for each parameter of the model of config.json",
            got=f"{len(missing)} without",
            where=str(host),
            fix=_FIX,
        )
    running = _running(model, host)
    if others := [name for name in linears if places.linear(name) not in running]:
        raise InputError(
            f"there are no Grams of the inputs of `{others[0]}`",
            expected="matrices that transformers has as a Linear module each, which it runs",
            got=f"{len(others)} that it stacks, as experts of a layer, or computes with by itself, as Mamba's dt_proj",
            where=str(host),
            fix="remove `artifacts.grams`, and use an operator that does not read it, for example `task_arithmetic`",
        )


_FIX = "load it with AutoModelForCausalLM.from_pretrained, see what it says of unexpected and missing keys, and save it"


def _running(model: Model, host: Path) -> set[str]:
    """Returns the modules that a model runs when it reads a text; all of them, if that takes numbers.

    Raises:
        InputError: its code does not go with its configuration, a mistake that numbers do not change.
    """
    running: set[str] = set()
    for name, module in model.named_modules():
        module.register_forward_pre_hook(lambda *_, name=name: running.add(name))
    try:
        with torch.no_grad():
            model(torch.zeros((1, 2), dtype=torch.long, device="meta"))
    except (AttributeError, LookupError, TypeError) as error:
        raise InputError(
            "transformers builds the model of this configuration, but cannot run it",
            expected="the configuration that belongs to the weights",
            got=first_line(error),
            where=str(host),
            fix="copy config.json again from where the model came from",
        ) from error
    except Exception:  # what a mixture does next depends on numbers, and there are none
        return {name for name, _ in model.named_modules()}
    return running


def _check_internals(model: Model, mapping: Sequence[Any]) -> None:
    require_internals("transformers", model, ("base_model_prefix", "_keys_to_ignore_on_load_unexpected"))
    for converter in (one for one in mapping if isinstance(one, WeightConverter)):
        require_internals("transformers", converter, ("operations", "source_patterns", "target_patterns"))
        for operation in converter.operations:
            if isinstance(operation, Chunk | Concatenate):
                require_internals("transformers", operation, ("dim", "num_shards_attribute"))
            elif isinstance(operation, MergeModulelist):
                require_internals("transformers", operation, ("dim",))


def _no_place(name: str, shape: Shape, got: str) -> InputError:
    return InputError(
        f"transformers' model has no place for the checkpoint's `{name}`",
        expected=f"a parameter for shape {list(shape)}",
        got=got,
    )


def _joined(parts: Sequence[Part]) -> tuple[int, ...]:
    """The shape of the checkpoint's tensor."""
    size = list(parts[0].layout[0])
    if len(parts) > 1:
        size[parts[0].dim] = sum(part.layout[0][part.dim] for part in parts)
    return tuple(size)


def _tensors(model: Model) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and stored buffers by all their names; tied ones are one object."""
    stored = model.state_dict().keys()
    yield from model.named_parameters(remove_duplicate=False)
    yield from ((name, tensor) for name, tensor in model.named_buffers(remove_duplicate=False) if name in stored)
