"""An lm-eval task, which is what its settings say of lm-eval's own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pydantic import PrivateAttr

from crossbreed.errors import InputError
from crossbreed.figures import Figure
from crossbreed.fitness.items import Item
from crossbreed.fitness.requests import Loglikelihood, Request, Response
from crossbreed.fitness.tasks.lm_eval.harness import require_harness, sources_in
from crossbreed.fitness.tasks.lm_eval.loaded import Loaded, load
from crossbreed.fitness.tasks.lm_eval.settings import LmEvalSettings
from crossbreed.fitness.tasks.task import Answer


@dataclass(slots=True)
class _Held:
    """What was loaded: what changes in the task's files later changes no score. Two tasks are equal without it."""

    loaded: Loaded | None = field(default=None, compare=False)


class LmEvalTask(LmEvalSettings):
    """A task or a group of lm-evaluation-harness: its documents, prompts, filters and metric, answered by the engine.

    One value per document, of all tasks of a group alike.
    """

    _seed: int = PrivateAttr(default=0)
    _host: str | None = PrivateAttr(default=None)
    _context: int | None = PrivateAttr(default=None)
    _sources: str = PrivateAttr(default="")
    """The hash of the task's files once it was loaded."""
    _held: _Held = PrivateAttr(default_factory=_Held)

    def with_seed(self, seed: int) -> Self:
        """Returns the task with the run's seed, for drawn texts."""
        seeded = self.model_copy()
        seeded._seed, seeded._held = seed, _Held()
        return seeded

    def for_host(self, host: Path | None, *, context_tokens: int | None) -> Self:
        """Returns the task as the models of a host are asked."""
        placed = self.model_copy()
        placed._host, placed._context = (None, None) if host is None else (str(host), context_tokens)
        placed._held = _Held()
        return placed

    def require(self) -> None:
        """Loads the task."""
        require_harness()
        if self.folder is not None and not self.folder.is_dir():
            raise InputError(
                "there is no folder of lm-eval tasks",
                expected="a folder with YAML files",
                got=str(self.folder),
                where=f"{self.where}, `include_path`" if self.include_path else self.where,
                fix="correct the path: it is relative to the spec",
            )
        if self.chat_template and self._host is None:
            raise InputError(
                "the chat template of whoever answers is not here",
                expected="an engine that uses the base's tokenizer, as `vllm` and `transformers` do",
                where=self.where,
                fix="use such an engine, or `chat_template: false`",
            )
        self._sources, self._held = "", _Held()
        self._sources = sources_in(self.folder)
        _ = self._loaded

    def load_items(self) -> tuple[Item, ...]:
        """Returns the documents."""
        return self._loaded.items

    def requests(self, item: Item) -> Sequence[Request]:
        """Returns lm-eval's requests."""
        return self._loaded.requests(item)

    def score(self, item: Item, responses: Sequence[Response]) -> Answer:
        """Has the task's own `process_results` score the document, behind the filter."""
        return self._loaded.score(item, responses)

    def figures(self, entries: Mapping[str, Mapping[str, object]]) -> Mapping[str, Figure]:
        """Returns corpus metrics; see HasFigures."""
        return self._loaded.figures(entries)

    def calibration(self, item: Item) -> Loglikelihood:
        """Returns the right answer as a request."""
        found = self._loaded.calibration(item)
        return super().calibration(item) if found is None else found

    def shown(self, item: Item) -> str:
        """Returns the right answer; of options, its text."""
        return self._loaded.shown(item)

    def right_texts(self, item: Item) -> tuple[str, ...]:
        """Returns the right answer."""
        return tuple(filter(None, (self.shown(item),)))

    def gold_position(self, item: Item) -> int | None:
        """Returns the place of the right option."""
        return self._loaded.gold_position(item)

    def num_options(self, item: Item) -> int | None:
        """Returns the number of options."""
        return self._loaded.num_options(item)

    def questions(self, item: Item) -> frozenset[str]:
        """See TaskConfig."""
        return self._loaded.questions(item)

    def notes(self) -> tuple[str, ...]:
        """See TaskConfig."""
        return self._loaded.notes

    def identity(self) -> dict[str, Any]:
        """Returns all settings except paths; of the task, a hash of its configuration, functions and prompts."""
        found = self.model_dump(mode="json", exclude={"include_path"})
        return found | {"task": f"{Path(self.task).name}@{self._loaded.identity}"}

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out what was loaded: a worker loads it itself."""
        state = super().__getstate__()
        private = state["__pydantic_private__"]
        return {**state, "__pydantic_private__": private and {**private, "_held": _Held()}}

    @property
    def _loaded(self) -> Loaded:
        """What was loaded in this process."""
        if (found := self._held.loaded) is None:
            found = load(self, seed=self._seed, host=self._host, context=self._context, sources=self._sources)
            self._held.loaded = found
        return found
