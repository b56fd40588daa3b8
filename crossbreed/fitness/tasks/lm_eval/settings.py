"""The settings of an lm-eval task: what a spec says of it."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, TypeAdapter, ValidationInfo, model_validator

from crossbreed.config import InputPath
from crossbreed.fitness.tasks.config import TaskConfig
from crossbreed.fitness.tasks.lm_eval.documents import Part
from crossbreed.fitness.tasks.lm_eval.harness import EXTRA
from crossbreed.types import SplitName

_PATH: TypeAdapter[str] = TypeAdapter(InputPath)


def _resolved(name: str, info: ValidationInfo) -> str:
    return _PATH.validate_python(name, context=info.context) if name.endswith((".yaml", ".yml")) else name


class LmEvalSettings(TaskConfig):
    """What the spec says of a task."""

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
