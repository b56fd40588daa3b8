"""Tasks: what is asked. A kind turns an item into requests and the responses into one value.

`generate` compares what the model writes with a gold text, `choice` asks which option it finds likeliest, `perplexity`
how well it expects a text. A new kind is a file with settings that satisfy `Kind`, and a name in `TaskConfig`.
"""

from collections.abc import Sequence
from typing import Annotated, TypeAlias

from pydantic import Field

from crossbreed.fitness.items import load_items
from crossbreed.fitness.tasks.choice import ChoiceTask
from crossbreed.fitness.tasks.generate import GenerateTask
from crossbreed.fitness.tasks.perplexity import PerplexityTask
from crossbreed.fitness.tasks.task import Answer, Kind, Task

TaskConfig: TypeAlias = Annotated[GenerateTask | ChoiceTask | PerplexityTask, Field(discriminator="kind")]
"""Settings of one task."""


def load_tasks(configs: Sequence[TaskConfig]) -> list[Task]:
    """Reads the items of every task, and renders each once: what is wrong with one is found before anything heavy.

    Raises:
        InputError: a file, an item or a field of it; the message says which.
    """
    tasks = [Task(kind=config, items=load_items(config.items)) for config in configs]
    for task in tasks:
        for item in task.items:
            task.requests(item)
    return tasks


__all__ = ["Answer", "ChoiceTask", "GenerateTask", "Kind", "PerplexityTask", "Task", "TaskConfig", "load_tasks"]
