"""Grams of the inputs that the experts' matrices see.

A recipe that uses them names them by content (`artifacts: {grams: HASH}`), so that a merge cannot silently be made with
the Grams of other data. A file is safetensors, and its names are read as follows, EXPERT being an expert's content hash
and TENSORS the names, with commas between them, of the matrices that get the same inputs (query, key and value do):

    EXPERT/TENSORS                fp32 [N, N], the mean of x x^T over the tokens
    EXPERT/TENSORS/rows           where that would be too large: fp32 [K, N] ...
    EXPERT/TENSORS/diagonal       ... and fp32 [N], of which the mean is made as `crossbreed.kernels.linalg.sketch` says

Files are mapped; a Gram is read when its tensor is merged, and its memory given back when it has been read.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TypeAlias

import torch

from crossbreed.durable import scratch_folder, sync
from crossbreed.errors import InputError, InvalidWeights, MachineError, first_line
from crossbreed.kernels.artifacts.files import Artifact
from crossbreed.kernels.linalg.sketch import FrequentDirections, Sketch
from crossbreed.sources.files import write_tensors

GRAMS = "grams"
"""What a recipe calls them."""
_ROWS, _DIAGONAL = "/rows", "/diagonal"

InputGram: TypeAlias = torch.Tensor | Sketch
"""Whole [N, N], or its sketch."""


@dataclass(frozen=True, eq=False, kw_only=True)
class InputGrams(Artifact):
    """Files of Grams, which `InputGramSums` wrote."""

    name = GRAMS
    title = "Grams"

    def of(self, expert: str, tensor: str, num_columns: int) -> InputGram:
        """Returns the Gram of the inputs that an expert (by hash) gives a tensor: a view of the file.

        Raises:
            InputError: the files have none of that size.
        """
        _, gram = self._held.get(f"{expert}/{tensor}", ("", None))
        columns = gram.diagonal_N if isinstance(gram, Sketch) else gram
        if gram is not None and columns is not None and len(columns) == num_columns:
            return gram
        raise InputError(
            f"the Grams have none for `{tensor}`",
            expected=f"[{num_columns}, {num_columns}], the mean x x^T of what expert {expert} gives it",
            got="none" if columns is None else f"[{len(columns)}, {len(columns)}]",
            where=self.where,
            fix="collect Grams of every expert and every matrix that the rule matches, or give it a rule of its own",
        )

    def name_of(self, expert: str, tensor: str) -> str:
        """Returns the name of a Gram in the files: one name for all matrices that get the same inputs."""
        return self._held[f"{expert}/{tensor}"][0]

    def release(self, expert: str, tensor: str) -> None:
        """Gives back the memory that a Gram has been read into."""
        _, gram = self._held[f"{expert}/{tensor}"]
        for part in gram if isinstance(gram, Sketch) else (gram,):
            self._pages.let_go(part)

    @cached_property
    def _held(self) -> Mapping[str, tuple[str, InputGram]]:
        """EXPERT/TENSOR -> EXPERT/TENSORS, and their Gram."""
        stored = dict(chain.from_iterable(held.items() for held in self.shards.values()))
        found: dict[str, tuple[str, InputGram]] = {}
        for name, tensor in stored.items():
            if name.endswith(_DIAGONAL):
                continue
            key = name.removesuffix(_ROWS)
            gram = tensor if key == name else Sketch(tensor, stored[key + _DIAGONAL])
            expert, _, tensors = key.partition("/")
            found |= dict.fromkeys((f"{expert}/{one}" for one in tensors.split(",")), (key, gram))
        return found


class InputGramSums:
    """Adds up the Grams of inputs as they pass by, then writes them.

    Inputs that are the same object as those before them are not added up a second time: query, key and value projection
    share a Gram, and so do gate and up projection.

    >>> sums = InputGramSums()
    >>> sums.add("4f2a", "layers.0.mlp.up_proj.weight", torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
    >>> sums.mean("4f2a", "layers.0.mlp.up_proj.weight").tolist()
    [[5.0, 1.0], [1.0, 2.0]]
    """

    def __init__(self, *, max_columns: int | None = None, rank: int = 256) -> None:
        """Starts with nothing.

        Args:
            max_columns: Wider inputs are sketched; None: none are.
            rank: How many rows a sketch keeps.
        """
        self._max_columns, self._rank = max_columns, rank
        self._sums: dict[str, torch.Tensor | FrequentDirections] = {}
        self._num_tokens: dict[str, int] = {}
        self._leaders: dict[str, str] = {}
        """EXPERT/TENSOR -> the first EXPERT/TENSOR that got the same inputs."""
        self._last: tuple[str, torch.Tensor] | None = None

    def add(self, expert: str, tensor: str, inputs: torch.Tensor) -> None:
        """Adds inputs [..., N] that an expert (by hash) gave the matrix `tensor`.

        Raises:
            InvalidWeights: they hold NaN or Inf.
        """
        leader = key = f"{expert}/{tensor}"
        if self._last is not None and self._last[1] is inputs and self._last[0].startswith(f"{expert}/"):
            leader = self._last[0]
        known = self._leaders.setdefault(key, leader)
        assert known == leader, f"`{tensor}` shares its inputs only at times"
        if leader != key:
            return
        self._last = key, inputs
        rows = inputs.reshape(-1, inputs.shape[-1]).float().cpu()
        if not rows.isfinite().all():
            raise InvalidWeights(f"what expert {expert} gives `{tensor}` holds NaN or Inf")
        self._num_tokens[key] = self._num_tokens.get(key, 0) + len(rows)
        if key not in self._sums:
            self._sums[key] = self._new_sum(rows.shape[1])
        match self._sums[key]:
            case FrequentDirections() as sketcher:
                sketcher.add(rows)
            case total:
                total.addmm_(rows.T, rows)

    def mean(self, expert: str, tensor: str) -> InputGram:
        """Returns the mean of x x^T so far."""
        leader = self._leaders[f"{expert}/{tensor}"]
        num_tokens, total = self._num_tokens[leader], self._sums[leader]
        if isinstance(total, torch.Tensor):
            return total / num_tokens
        sketch = total.sketch()
        return Sketch(sketch.rows_KN / num_tokens**0.5, sketch.diagonal_N / num_tokens)

    def write(self, path: Path) -> InputGrams:
        """Writes all means to a new .safetensors file, whole or not at all, and opens it.

        Raises:
            MachineError: the disk is full, or cannot be written for another reason.
        """
        with scratch_folder(path.parent) as folder:
            whole = folder / path.name
            try:
                write_tensors(whole, self._means())
                sync(whole)
            except OSError as error:
                raise MachineError(
                    f"the Grams {path} could not be written: {first_line(error)}\n"
                    "Make room, or set CROSSBREED_CACHE to a folder on another disk; the same command makes them again"
                ) from error
            os.replace(whole, path)
        sync(path.parent)
        return InputGrams.open(path)

    def _means(self) -> dict[str, torch.Tensor]:
        """The tensors of a file, by their names there."""
        sharing: dict[str, list[str]] = {}
        for key, leader in self._leaders.items():
            sharing.setdefault(leader, []).append(key.partition("/")[2])
        means: dict[str, torch.Tensor] = {}
        for leader, tensors in sharing.items():
            expert, _, tensor = leader.partition("/")
            name = f"{expert}/{','.join(sorted(tensors))}"
            match self.mean(expert, tensor):
                case Sketch() as sketch:
                    means |= {name + _ROWS: sketch.rows_KN, name + _DIAGONAL: sketch.diagonal_N}
                case gram:
                    means[name] = gram
        return means

    def _new_sum(self, num_columns: int) -> torch.Tensor | FrequentDirections:
        if self._max_columns is not None and num_columns > self._max_columns:
            return FrequentDirections(num_columns=num_columns, rank=self._rank)
        return torch.zeros(num_columns, num_columns)
