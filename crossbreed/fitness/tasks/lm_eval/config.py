"""The settings of an lm-eval task, which are the kind itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, PrivateAttr, TypeAdapter, ValidationInfo, model_validator

from crossbreed.config import InputPath
from crossbreed.errors import InputError
from crossbreed.fitness.items import Item
from crossbreed.fitness.requests import Loglikelihood, Request, Response
from crossbreed.fitness.tasks.config import TaskConfig
from crossbreed.fitness.tasks.lm_eval.documents import Part
from crossbreed.fitness.tasks.lm_eval.harness import EXTRA, require_harness, sources_in
from crossbreed.fitness.tasks.lm_eval.loaded import Loaded, load
from crossbreed.fitness.tasks.task import Answer
from crossbreed.types import SplitName

_PATH: TypeAdapter[str] = TypeAdapter(InputPath)


def _resolved(name: str, info: ValidationInfo) -> str:
    return _PATH.validate_python(name, context=info.context) if name.endswith((".yaml", ".yml")) else name


class LmEvalTask(TaskConfig):
    """A task or a group of lm-evaluation-harness: its documents, prompts, filters and metric, answered by the engine.

    One value per document, of all tasks of a group alike.
    """

    best: ClassVar[float | None] = None
    needs: ClassVar[tuple[str, ...]] = ("lm_eval",)
    extra: ClassVar[str] = EXTRA

    kind: Literal["lm_eval"]
    task: Annotated[str, AfterValidator(_resolved)]
    """The name of a task, group or tag of lm-eval, or the path of a YAML file, relative to this file."""
    include_path: InputPath | None = None
    """A folder with YAML files of your own tasks, in which the name is looked up first."""
    metric: str | None = None
    """The metric that is a document's value: `exact_match`, or with its filter, `exact_match,strict-match`. Needed
    where the task has several."""
    filter: str | None = None
    """The filter behind which answers are scored. Needed where the task has several."""
    minimize: bool = False
    """Whether smaller values are better. lm-eval says so too: it is refused if this says something else."""
    documents: dict[SplitName, Part] | None = None
    """The part of the data that each split takes its documents from. Default: the report those that lm-eval evaluates,
    search and selection the validation documents; all the same ones where there is one part."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Only so many documents of each part, the first ones."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """Number of examples before each document. Default: as the task says, else none."""
    fewshot_seed: int = 1234
    """What examples are drawn with: lm-eval's own number."""
    chat_template: bool = False
    """Send prompts through the tokenizer's chat template, whose date is fixed at 26 July 2024."""
    fewshot_as_multiturn: bool = True
    """With a chat template: whether examples are turns of the chat, or part of the one message."""
    system: str | None = None
    """Text before everything: the system message, with a chat template."""
    gen_kwargs: dict[str, JsonValue] = Field(default_factory=dict)
    """Settings of generation in the place of the task's: `{max_gen_toks: 64, until: ["\\n"]}`; null removes one."""
    allow: Literal["running_generated_code"] | None = None
    """Needed for tasks that run programs which the model wrote, without a sandbox."""
    _seed: int = PrivateAttr(default=0)
    _host: str | None = PrivateAttr(default=None)
    _context: int | None = PrivateAttr(default=None)
    _sources: str = PrivateAttr(default="")
    """The hash of the task's files once it was loaded: what changes in them later changes no score."""

    @model_validator(mode="after")
    def _splits_are_complete(self) -> Self:
        if self.documents is not None and set(self.documents) != {"search", "select", "report"}:
            raise ValueError("`documents` names a part for each of `search`, `select` and `report`")
        if self.metric is not None and "," in self.metric and self.filter is not None:
            raise ValueError("`metric` names a filter behind its comma, and `filter` another: remove one")
        return self

    @property
    def metric_name(self) -> str:
        """The metric, with lm-eval's word for its filter behind a comma if the spec names one; see Kind."""
        return ",".join(filter(None, (self.metric or self.kind, self.filter)))

    @property
    def higher_is_better(self) -> bool:
        """See Kind."""
        return not self.minimize

    @property
    def folder(self) -> Path | None:
        """The folder of the task's files; None: they are lm-eval's own."""
        if self.include_path is not None:
            return Path(self.include_path)
        return Path(self.task).parent if self.task.endswith((".yaml", ".yml")) else None

    @property
    def where(self) -> str:
        """The task in the spec, for messages."""
        return f"task `{self.name}`"

    def with_seed(self, seed: int) -> Self:
        """Returns the task with the run's seed, for drawn texts."""
        seeded = self.model_copy()
        seeded._seed = seed
        return seeded

    def for_host(self, host: Path | None, *, context_tokens: int | None) -> Self:
        """Returns the task as the models of a host are asked."""
        placed = self.model_copy()
        placed._host, placed._context = (None, None) if host is None else (str(host), context_tokens)
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
        self._sources = ""
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

    @property
    def _loaded(self) -> Loaded:
        """What was loaded in this process; loaded anew where a worker got the task by pickle."""
        return load(self, seed=self._seed, host=self._host, context=self._context, sources=self._sources)
