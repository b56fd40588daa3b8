"""Task objects passed to `crossbreed.run` from Python."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Literal, Self

from pydantic import Field, JsonValue, PrivateAttr

from crossbreed.fitness.items import Item
from crossbreed.fitness.protocol import Surroundings
from crossbreed.fitness.requests import Loglikelihood, Request, Response
from crossbreed.fitness.tasks.config import TaskConfig
from crossbreed.fitness.tasks.task import Answer, Task
from crossbreed.objects import absent


class TaskObject(TaskConfig):
    """A task passed from Python: `crossbreed.run(spec, out, tasks=[...])`. Cannot be given in a file."""

    kind: Literal["object"] = "object"
    object: str = ""
    """The name of its kind, which must be the same on resume, as must the items."""
    metric: str = "score"
    """The name of its value."""
    minimized: bool = False
    """Whether smaller values are better."""
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    """The settings of its kind, if it has any, which must be the same on resume."""
    _task: Task | None = PrivateAttr(default=None)

    def hold(self, given: Task) -> None:
        """Keeps the object."""
        self._task = given

    @property
    def task(self) -> Task:
        """The object.

        Raises:
            InputError: it was not given.
        """
        if self._task is None:
            raise absent("tasks", self.object)
        return self._task

    @property
    def metric_name(self) -> str:
        """See Kind."""
        return self.metric

    @property
    def higher_is_better(self) -> bool:
        """See Kind."""
        return not self.minimized

    def require(self) -> None:
        """Refuses what the object's kind refuses, if it is one that a spec can name."""
        if isinstance(self.task.kind, TaskConfig):
            self.task.kind.require()

    def begun(self, around: Surroundings, closing: ExitStack) -> Self:
        """Returns the task with an object that is ready to score."""
        if not isinstance(self.task.kind, TaskConfig):
            return self
        begun = self.model_copy()
        begun._task = replace(self.task, kind=self.task.kind.begun(around, closing))
        return begun

    def load_items(self) -> tuple[Item, ...]:
        """Returns the object's items."""
        return self.task.items

    def requests(self, item: Item) -> Sequence[Request]:
        """See Kind."""
        return self.task.requests(item)

    def score(self, item: Item, responses: Sequence[Response]) -> Answer:
        """See Kind."""
        return self.task.score(item, responses)

    def calibration(self, item: Item) -> Loglikelihood:
        """See Kind."""
        return self.task.calibration(item)

    def shown(self, item: Item) -> str:
        """See Kind."""
        return self.task.kind.shown(item)
