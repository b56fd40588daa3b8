"""The calibration loss of a space's merges, with slopes: see `crossbreed.optimizer.CalibrationLoss`.

It is computed in the driver's process, with transformers, on search items alone: a part of each task's is held out.
What was computed once lies in the cache folder of this machine, under a hash of all that it depends on: replaying a run
costs no gradient there, and nothing depends on the cache but time.
"""

import io
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crossbreed.cache import cache_folder, sealed, unsealed
from crossbreed.durable import write_atomically
from crossbreed.errors import InputError
from crossbreed.optimizer import CalibrationNeeds
from crossbreed.randomness import spawn
from crossbreed.runs.calibration.inputs import CalibrationInputs
from crossbreed.runs.calibration.questions import (
    Question,
    calibrated,
    experts_of,
    num_held_out,
    prompts_by_task,
    question_of,
)
from crossbreed.runs.events import Listener, Note, ignore
from crossbreed.search_spaces import SearchSpace, require_terms
from crossbreed.sources.hashes import hash_of
from crossbreed.types import Point, canonical_json

if TYPE_CHECKING:
    from crossbreed.runs.calibration.model import CalibrationModel

_SCHEMA = 2
"""The version of what is computed. Increment it with every change."""


class MergeLoss:
    """The loss at the points of a space, one task's items after the other's."""

    def __init__(
        self, inputs: CalibrationInputs, space: SearchSpace, needs: CalibrationNeeds, *, on_event: Listener = ignore
    ) -> None:
        """Chooses the items; no model is started.

        Args:
            inputs: The parts of the run that the loss is made of.
            space: The space that is searched.
            needs: What the optimizer asks for.
            on_event: Called with what is computed.

        Raises:
            InputError: the merges of the space are no sums, a task has no right answers, or prompts are no such.
        """
        self._inputs, self._space, self._on_event = inputs, require_terms(space), on_event
        self._needs = _with_layers(needs, inputs)
        self._losses, self._num_slopes = list[float](), 0
        self._questions, self._held, self._tasks = list[Question](), list[Question](), list[tuple[int, ...]]()
        prompts = prompts_by_task(inputs, needs)
        for task, share in calibrated(inputs.tasks, inputs.objective):
            items = inputs.items["search"][task.name].items[: needs.items]
            held = _held_out(len(items), needs.held_out, seed=inputs.seed, task=task.name)
            weight = share if needs.loss == "cross_entropy" else abs(share)
            asked = [question_of(task, item, weight) for item in items]
            self._held += [one for index, one in enumerate(asked) if index in held]
            first = len(self._questions)
            self._questions += [one for index, one in enumerate(asked) if index not in held]
            self._questions += [
                Question(task=task, prompt=prompt, weight=weight) for prompt in prompts.get(task.name, ())
            ]
            self._tasks.append(tuple(range(first, len(self._questions))))

    @property
    def tasks(self) -> Sequence[Sequence[int]]:
        """See CalibrationLoss."""
        return self._tasks

    @property
    def num_held_out(self) -> int:
        """The number of items that are held out."""
        return len(self._held)

    def slopes(self, point: Point, items: Sequence[int]) -> tuple[float, NDArray[np.float64]]:
        """See CalibrationLoss."""

        def find() -> NDArray[np.float64]:
            loss, found = self._model.loss(point, items, slopes=True)
            return np.array([loss, *found])

        loss, *found = self._remembered(["slopes", [*point], [*items]], find)
        self._losses.append(float(loss))
        return float(loss), np.array(found)

    def held_out(self, point: Point) -> float | None:
        """See CalibrationLoss."""
        if not self._held:
            return None

        def find() -> NDArray[np.float64]:
            numbers = range(len(self._questions), len(self._questions) + len(self._held))
            loss, _ = self._model.loss(point, numbers, slopes=False)
            self._tell(loss)
            return np.array([loss])

        found = float(self._remembered(["held out", [*point]], find)[0])
        self._num_slopes, self._losses = self._num_slopes + len(self._losses), []
        return found

    def _tell(self, held_out: float) -> None:
        """Says what the loss was since the last time, and is on held-out items: over-fitting sets them apart."""
        if self._losses:
            first, last = self._num_slopes + 1, self._num_slopes + len(self._losses)
            text = f"calibration loss {np.mean(self._losses):.4f} in steps {first} to {last}, "
            text += f"then {held_out:.4f} on {len(self._held)} held-out items"
            self._on_event(Note(text=text))

    @cached_property
    def _model(self) -> "CalibrationModel":
        from crossbreed.runs.calibration.model import CalibrationModel  # transformers takes seconds to import

        return CalibrationModel(self._inputs, self._space, [*self._questions, *self._held], self._needs)

    @cached_property
    def _folder(self) -> Path:
        """Where what is computed is kept: named by all that it depends on but the point and the items."""
        import torch

        inputs, slopes = self._inputs, self._inputs.slopes
        assert inputs.weights is not None, "gradients need weights"
        rule: dict[str, Any] = {
            "schema": _SCHEMA,
            "sources": dict(inputs.weights.structure.hashes),
            "host": inputs.weights.host_hashes,
            "origin": self._space.origin.to_json(),
            "terms": [[t.tensor, t.expert, [*t.coordinates], t.is_whole] for t in self._space.terms],
            "loss": self._needs.loss,
            "items": [one.rule() for one in (*self._questions, *self._held)],
            "experts": {task.name: experts_of(task, inputs) for task in inputs.tasks},
            "dtype": slopes.dtype,
            "device": slopes.device,
            "tokens": slopes.tokens,
            "context_tokens": inputs.context_tokens,
            "threads": torch.get_num_threads(),
            "versions": {package: version(package) for package in ("torch", "transformers")},
        }
        if (needs := self._needs).loss == "distillation" or needs.hidden:
            rule["compared"] = [needs.temperature, needs.hidden, [*needs.hidden_layers]]
        return cache_folder() / "slopes" / _hash(rule)

    def _remembered(self, key: Any, find: Callable[[], NDArray[np.float64]]) -> NDArray[np.float64]:  # any JSON value
        path = self._folder / f"{_hash(key)}.npy"
        if (content := unsealed(path)) is not None:
            held: NDArray[np.float64] = np.load(io.BytesIO(content), allow_pickle=False)
            return held
        found, written = find(), io.BytesIO()
        np.save(written, found, allow_pickle=False)
        with suppress(OSError):  # a cache that cannot be written costs time, not the run
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, sealed(written.getvalue()))
        return found


def _with_layers(needs: CalibrationNeeds, inputs: CalibrationInputs) -> CalibrationNeeds:
    """Returns the needs with the layers behind which hidden states are compared, if any are.

    Raises:
        InputError: the model has no such layer.
    """
    if not needs.hidden or inputs.weights is None:
        return needs
    number = inputs.weights.structure.num_layers
    layers = needs.hidden_layers or (max(1, number // 2),)
    if max(layers) > number:
        raise InputError(
            "there is no such layer behind which hidden states could be compared",
            expected=f"1 to {number}",
            got=str(max(layers)),
            where="optimizer.options.hidden_layers",
            fix="name layers of the model, or none: the middle one",
        )
    return replace(needs, hidden_layers=layers)


def _held_out(number: int, part: float, *, seed: int, task: str) -> frozenset[int]:
    chosen = spawn(seed, "held-out items", task).permutation(number)[: num_held_out(number, part)]
    return frozenset(map(int, chosen))


def _hash(value: Any) -> str:  # any JSON value
    return hash_of([canonical_json(value)])
