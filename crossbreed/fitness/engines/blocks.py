"""A transformers model run layer by layer, with the weights of one layer at a time: of a base, an expert or a merge.

A model of the host's configuration is built without weights. Its decoder layers (blocks) are transformers' own modules.
A forward pass in which every block hands its input on shows what the model gives each of them beside the hidden states
(positions, masks); these calls are made again, block by block, with weights that the caller has made. So a walk over
the layers holds the hidden states of its texts and the weights of one layer, however large the model is.

Shapes: B texts, T tokens, N inputs of a Linear.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from torch.func import functional_call
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import AutoModelForCausalLM

from crossbreed.errors import EngineError, InputError
from crossbreed.fitness.engines.library import engine_code, library_call
from crossbreed.fitness.engines.loading import Model, Places
from crossbreed.sources.model_config import load_config
from crossbreed.sources.naming import place_of
from crossbreed.types import WeightStream

Values: TypeAlias = Mapping[str, torch.Tensor]
"""Parameter of the model, by the name that it has there -> values."""


class Call(NamedTuple):
    """What a block is called with beside the hidden states, which come first."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Passage:
    """A batch of texts on its way through one model."""

    hidden: torch.Tensor
    calls: Sequence[Call]
    """Of each block."""


class _Enough(BaseException):
    """Ends a forward pass of which nothing more is wanted. No Exception: a library's own code must not catch it."""


class Blocks:
    """The blocks of a host's model, each run with weights that it is given."""

    def __init__(
        self, host: Path, shapes: Mapping[str, Sequence[int]], *, dtype: torch.dtype, device: str = "cpu"
    ) -> None:
        """Builds the model without weights.

        Args:
            host: A folder with the configuration.
            shapes: The checkpoint's tensors, all of which have places (`check_places`).
            dtype: The dtype to compute in.
            device: The device to compute on.

        Raises:
            InputError: its layers are not one list of blocks.
        """
        self._device = torch.device(device)
        self._model = _model_without_values(host, dtype)
        self._places = Places(self._model)
        self._buffers = {name: buffer.to(self._device) for name, buffer in self._model.named_buffers()}
        self._stored = {**dict(self._model.named_parameters()), **self._buffers}
        """All that a checkpoint may have values for; parameters have none here."""
        layers = {name: self._layer_of(name, shape) for name, shape in shapes.items()}
        stacks = sorted({stack for stack, _ in layers.values() if stack is not None})
        if len(stacks) != 1:
            raise InputError(
                "the model's layers cannot be walked over",
                expected="one list of decoder layers",
                got=", ".join(stacks) or "none",
                where=str(host),
                fix="leave out the regression: operators that merge each tensor by itself need no layers",
            )
        self._paths = [f"{stacks[0]}.{layer}." for layer in range(1 + max(layer for _, layer in layers.values()))]
        self._tensors: list[list[str]] = [[] for _ in self._paths]
        self.outside = sorted(name for name, (stack, _) in layers.items() if stack is None)
        """The checkpoint's tensors that belong to no block."""
        for name, (stack, layer) in sorted(layers.items()):
            if stack is not None:
                self._tensors[layer].append(name)
        self._is_tuple: bool | None = None
        """Whether blocks return a tuple; None until one has been run."""

    def __len__(self) -> int:
        return len(self._paths)

    def tensors_of(self, layer: int) -> Sequence[str]:
        """Returns the checkpoint's tensors of a block, sorted by name."""
        return self._tensors[layer]

    def place(self, stream: WeightStream) -> dict[str, torch.Tensor]:
        """Returns tensors of a checkpoint as parameters, on the device."""
        placed: dict[str, torch.Tensor] = {}
        for name, tensor in stream:
            for part in self._places.of(name, tensor.shape):
                if part.parameter not in placed:
                    stored = self._stored[part.parameter]
                    placed[part.parameter] = torch.empty_like(stored, device=self._device, requires_grad=False)
                part.of(placed[part.parameter]).copy_(part.source(tensor))
        return placed

    def parameter(self, name: str) -> str:
        """Returns the parameter that a tensor of one of the `groups` is."""
        return f"{self._path(name)}.weight"

    def parameters(self, name: str) -> list[str]:
        """Returns the parameters of the Linear with this weight: its bias, too, if it has one."""
        return [f"{self._path(name)}.{own}" for own, _ in self._module(name).named_parameters()]

    def begin(self, outside: Values, first: Values, ids_BT: torch.Tensor) -> Passage:
        """Brings texts to the first block.

        Args:
            outside: The values of all parameters of no block.
            first: Those of the first block.
            ids_BT: Tokens. Padding stands behind a text, where causal attention does not look.

        Raises:
            EngineError: the model does not run its blocks one after the other, each once.
        """
        ids_BT = ids_BT.to(self._device)
        if self._is_tuple is None:
            [passage] = self._calls(outside, ids_BT, 1)
            self._is_tuple = isinstance(self._run(0, first, passage[0], passage[1]), tuple | list)
        found = self._calls(outside, ids_BT, len(self))
        return Passage(hidden=found[0][0], calls=[call for _, call in found])

    def run(
        self, layer: int, values: Values, passage: Passage, tensors: Iterable[str] = ()
    ) -> tuple[Passage, dict[str, torch.Tensor]]:
        """Returns the texts behind a block, and the outputs of its Linears with these weights."""
        outputs: dict[str, torch.Tensor] = {}

        def keep(name: str, module: torch.nn.Module, given: object, made: torch.Tensor) -> None:
            outputs[name] = made

        with ExitStack() as hooks:
            for name in tensors:
                hooks.callback(self._module(name).register_forward_hook(partial(keep, name)).remove)
            made = self._run(layer, values, passage.hidden, passage.calls[layer])
        return replace(passage, hidden=made[0] if self._is_tuple else made), outputs

    def inputs(self, layer: int, values: Values, passage: Passage, tensor: str) -> torch.Tensor:
        """Runs a block up to the Linear with this weight, and returns its inputs [B, T, N]."""
        seen: list[torch.Tensor] = []

        def stop(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            seen.append(given[0])
            raise _Enough

        hook = self._module(tensor).register_forward_pre_hook(stop)
        try:
            self._run(layer, values, passage.hidden, passage.calls[layer])
        except _Enough:
            return seen[0]
        finally:
            hook.remove()
        raise EngineError(f"layer {layer} runs the module of `{tensor}` on some texts alone")

    @torch.no_grad()
    def apply(self, tensor: str, values: Values, inputs_BTN: torch.Tensor) -> torch.Tensor:
        """Returns what the Linear with this weight makes of some inputs, its bias included."""
        own = {name.rpartition(".")[2]: values[name] for name in self.parameters(tensor)}
        made: torch.Tensor = functional_call(self._module(tensor), own, (inputs_BTN,))
        return made

    def groups(self, layer: int, values: Values, passage: Passage, tensors: Iterable[str]) -> list[list[str]]:
        """Returns those tensors that are the weights of Linears, run once and on every token.

        They are in the order of computation, those that share their inputs together.
        """
        seen: list[tuple[str, torch.Tensor]] = []

        def note(name: str, module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            seen.append((name, given[0]))

        with ExitStack() as hooks:
            for name in tensors:
                if self._places.linear(name) is not None:
                    hooks.callback(self._module(name).register_forward_pre_hook(partial(note, name)).remove)
            self._run(layer, values, passage.hidden, passage.calls[layer])
        names, found = [name for name, _ in seen], list[tuple[torch.Tensor, list[str]]]()
        for name, inputs in seen:
            if inputs.shape[:-1] != passage.hidden.shape[:-1] or names.count(name) > 1:
                continue
            if found and found[-1][0] is inputs:
                found[-1][1].append(name)
            else:
                found.append((inputs, [name]))
        return [group for _, group in found]

    def _layer_of(self, name: str, shape: Sequence[int]) -> tuple[str | None, int]:
        """The list of blocks and the block that a checkpoint's tensor belongs to; None and -1: none."""
        parts = self._places.of(name, shape)
        place = place_of(parts[0].parameter) if parts else None
        if place is None or place.stack is None or place.layer is None:
            return None, -1
        return place.stack, place.layer

    @torch.no_grad()
    def _calls(self, outside: Values, ids_BT: torch.Tensor, number: int) -> list[tuple[torch.Tensor, Call]]:
        """Returns what the first blocks are called with, by running the model with blocks that hand their input on."""
        order, called = list[int](), list[tuple[torch.Tensor, Call]]()

        def hand_on(layer: int, *args: Any, **kwargs: Any) -> Any:  # as transformers calls it
            hidden = args[0] if args else kwargs.pop("hidden_states")
            order.append(layer)
            called.append((hidden, Call(args[1:], kwargs)))
            if len(called) == number:
                raise _Enough
            return (hidden,) if self._is_tuple else hidden

        with self._replaced(hand_on), library_call("transformers did not run the model"), suppress(_Enough):
            functional_call(self._model, {**self._buffers, **outside}, (ids_BT,), {"use_cache": False})
        if order != [*range(number)]:
            raise EngineError(f"the model does not run its {len(self)} layers once and one after the other: {order}")
        return called

    @contextmanager
    def _replaced(self, forward: Callable[..., Any]) -> Iterator[None]:
        """Has all blocks run another function, given their number first."""
        blocks = [self._model.get_submodule(path.removesuffix(".")) for path in self._paths]
        try:
            for layer, block in enumerate(blocks):
                block.forward = partial(forward, layer)
            yield
        finally:
            for block in blocks:
                vars(block).pop("forward", None)

    @torch.no_grad()
    def _run(self, layer: int, values: Values, hidden: torch.Tensor, call: Call) -> Any:  # a tensor, or a tuple
        path = self._paths[layer]
        own = {
            name.removeprefix(path): value
            for held in (self._buffers, values)
            for name, value in held.items()
            if name.startswith(path)
        }
        with engine_code(f"transformers did not run layer {layer}"):
            block = self._model.get_submodule(path.removesuffix("."))
            return functional_call(block, own, (hidden, *call.args), {**call.kwargs})

    def _path(self, tensor: str) -> str:
        path = self._places.linear(tensor)
        assert path is not None, f"`{tensor}` is no Linear's"
        return path

    def _module(self, tensor: str) -> torch.nn.Module:
        found: torch.nn.Module = self._model.get_submodule(self._path(tensor))
        return found


def _model_without_values(host: Path, dtype: torch.dtype) -> Model:
    """Returns the model of a folder's configuration: parameters on the meta device, buffers as it computes them."""
    settings = load_config(host)
    with library_call(f"transformers did not build the model of {host}"), torch.random.fork_rng(devices=[]):
        hook = register_module_parameter_registration_hook(_without_values)  # type: ignore[arg-type]
        try:
            return AutoModelForCausalLM.from_config(settings, dtype=dtype, trust_remote_code=False).eval()
        finally:
            hook.remove()


def _without_values(module: torch.nn.Module, name: str, parameter: torch.Tensor | None) -> torch.nn.Parameter | None:
    """Replaces a parameter that is being registered; None: it stays."""
    if parameter is None or parameter.is_meta:
        return None
    return torch.nn.Parameter(parameter.to("meta"), requires_grad=False)
