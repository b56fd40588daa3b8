"""Sources on a device: held there as far as memory goes, the rest sent ahead of the kernels that read it.

Tensors are merged in the order of their names, candidate after candidate. So what is kept is what came first (to keep
what was used last would drop each tensor just before it is asked for), and while one tensor is merged, the next one's
sources are on their way: a thread copies chunks of the mapped file into two pinned buffers in turn, and the device
fetches one on a stream of its own while the other is filled. Tensors keep the dtype in which they are stored.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TypeAlias

import torch

from crossbreed.sources import Adapter, Checkpoint, LowRank, Sources

CHUNK_BYTES = 64 << 20
"""Of a pinned buffer: a millisecond of PCIe 5.0, and long enough for its full speed."""
_WORKSPACE_BYTES = 1 << 30

Group: TypeAlias = Mapping[str, torch.Tensor]
"""Content hash -> a tensor of that source; all of one name."""


def place(sources: Sources, device: torch.device, budget_bytes: int | None = None) -> Sources:
    """Returns the same sources, whose weights are on `device` when they are asked for.

    Args:
        sources: The opened sources.
        device: The device of the engine that gets the merges.
        budget_bytes: The memory that they may keep there; default: all that is free but two tensors in flight.
    """
    base, device = sources.base, torch.device(device)
    full = {expert.hash: expert for expert in sources.experts.values() if isinstance(expert, Checkpoint)}
    if budget_bytes is None:
        budget_bytes = _free(base, 1 + len(full), device)
    shelf = _Shelf(base, full, device, budget_bytes)
    placed = {
        name: _PlacedAdapter.of(expert, device) if isinstance(expert, Adapter) else _PlacedCheckpoint.of(expert, shelf)
        for name, expert in sources.experts.items()
    }
    return replace(sources, base=_PlacedCheckpoint.of(base, shelf), experts=placed)


@dataclass(frozen=True, eq=False, kw_only=True)
class _PlacedCheckpoint(Checkpoint):
    stored: Checkpoint
    shelf: "_Shelf"

    @classmethod
    def of(cls, stored: Checkpoint, shelf: "_Shelf") -> "_PlacedCheckpoint":
        own = {field.name: getattr(stored, field.name) for field in fields(stored)}
        return cls(**own, stored=stored, shelf=shelf)

    def tensor(self, name: str) -> torch.Tensor:
        return self.shelf.tensor(self.stored, name)

    @cached_property
    def hash(self) -> str:
        return self.stored.hash

    @cached_property
    def touched(self) -> frozenset[str]:
        return self.stored.touched


@dataclass(frozen=True, eq=False, kw_only=True)
class _PlacedAdapter(Adapter):
    stored: Adapter
    device: torch.device

    @classmethod
    def of(cls, stored: Adapter, device: torch.device) -> "_PlacedAdapter":
        own = {field.name: getattr(stored, field.name) for field in fields(stored)}
        return cls(**own, stored=stored, device=device)

    def factors(self, name: str) -> LowRank | None:
        low = self.stored.factors(name)
        return None if low is None else replace(low, a_RN=low.a_RN.to(self.device), b_MR=low.b_MR.to(self.device))

    @cached_property
    def hash(self) -> str:
        return self.stored.hash

    @cached_property
    def touched(self) -> frozenset[str]:
        return self.stored.touched


class _Shelf:
    """The tensors on the device: those that stay, those of the name in use, those of the name that is next."""

    def __init__(
        self, base: Checkpoint, experts: Mapping[str, Checkpoint], device: torch.device, budget_bytes: int
    ) -> None:
        self._base, self._experts, self._device = base, experts, device
        names = sorted(base.tensors)
        self._after = dict(zip(names, [*names[1:], *names[:1]], strict=True))
        self._kept: dict[tuple[str, str], torch.Tensor] = {}
        self._left_bytes = budget_bytes
        self._lane = Lane(device)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="upload")
        self._name: str | None = None
        self._group: Group = {}
        self._next_name: str | None = None
        self._next: Future[Group] = Future()

    def tensor(self, source: Checkpoint, name: str) -> torch.Tensor:
        """Returns a source's tensor, as soon as the current stream may read it."""
        if name != self._name:
            coming = self._next if name == self._next_name else self._thread.submit(self._fetch, name)
            self._name, self._group = name, self._lane.ready(coming.result())
            self._next_name = self._after[name]
            self._next = self._thread.submit(self._fetch, self._next_name)
        if source.hash not in self._group:  # an expert's tensor that equals the base's
            return source.tensor(name).to(self._device)
        return self._group[source.hash]

    def _fetch(self, name: str) -> Group:
        experts = {hash_: expert for hash_, expert in self._experts.items() if name in expert.touched}
        return {hash_: self._get(source, name) for hash_, source in ({self._base.hash: self._base} | experts).items()}

    def _get(self, source: Checkpoint, name: str) -> torch.Tensor:
        key = (source.hash, name)
        if key in self._kept:
            return self._kept[key]
        tensor = self._lane.upload(source.tensor(name))
        if tensor.nbytes <= self._left_bytes:
            self._kept[key] = tensor
            self._left_bytes -= tensor.nbytes
        return tensor


class Lane:
    """The way to a device. On CPU, where tests walk it, there is neither a stream nor anything to wait for."""

    def __init__(self, device: torch.device, chunk_bytes: int = CHUNK_BYTES) -> None:
        is_cuda = device.type == "cuda"
        self._device = device
        self._stream = torch.cuda.Stream(device) if is_cuda else None
        self._buffers = [torch.empty(chunk_bytes, dtype=torch.uint8, pin_memory=is_cuda) for _ in range(2)]
        self._emptied = [torch.cuda.Event() for _ in self._buffers] if is_cuda else []

    def upload(self, tensor: torch.Tensor) -> torch.Tensor:
        """Returns a copy on the device, to be read after `ready`."""
        with torch.cuda.stream(self._stream):
            copy = torch.empty(tensor.shape, dtype=tensor.dtype, device=self._device)
            source, target = (part.view(-1).view(torch.uint8) for part in (tensor.contiguous(), copy))
            for turn, chunk in enumerate(_chunks(len(source), len(self._buffers[0]))):
                self._send(source[chunk], target[chunk], turn % 2)
        return copy

    def _send(self, source: torch.Tensor, target: torch.Tensor, which: int) -> None:
        if self._emptied:
            self._emptied[which].synchronize()
        filled = self._buffers[which][: len(source)].copy_(source)
        target.copy_(filled, non_blocking=True)
        if self._emptied:
            self._emptied[which].record(self._stream)

    def ready(self, group: Group) -> Group:
        """Lets the current stream read what was uploaded, and the memory be used again only when it has."""
        if self._stream is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(self._stream)
            for tensor in group.values():
                tensor.record_stream(current)
        return group


def _chunks(size: int, chunk: int) -> Iterator[slice]:
    return (slice(start, min(start + chunk, size)) for start in range(0, size, chunk))


def _free(base: Checkpoint, num_full: int, device: torch.device) -> int:
    """What is free now, less the largest tensor of all sources twice (in use, and next) and what merging it takes."""
    largest = max(base.tensor(name).nbytes for name in base.tensors)
    return max(0, torch.cuda.mem_get_info(device)[0] - 2 * num_full * largest - _WORKSPACE_BYTES)
