"""Tasks. A kind of task turns an item into requests, and the responses into one value.

`generate` compares generated text with a gold text, `choice` checks whether the gold option is the most likely one,
`likelihood` measures how likely the gold text is, `perplexity` how likely a text is, `lm_eval` is a task of
lm-evaluation-harness, `python` is scored by a function of the user's, `remote` by the engine itself; `agreement` and
`entropy` need no right answers. A new kind is a file with a `TaskConfig`, named below or as an entry point of another
package (docs/plugins.md).
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, TypeAlias

from crossbreed.errors import Collector
from crossbreed.fitness.item_files import legible_items
from crossbreed.fitness.item_mistakes import ItemMistakes
from crossbreed.fitness.items import check_items
from crossbreed.fitness.protocol import Surroundings
from crossbreed.fitness.tasks.choice import ChoiceTask
from crossbreed.fitness.tasks.config import SHOWN_KEYS, FileTaskConfig, PromptTaskConfig, TaskConfig
from crossbreed.fitness.tasks.generate import GenerateTask
from crossbreed.fitness.tasks.gold import gold_answer, right_request
from crossbreed.fitness.tasks.likelihood import LikelihoodTask
from crossbreed.fitness.tasks.metrics import METRICS, Metric
from crossbreed.fitness.tasks.perplexity import PerplexityTask
from crossbreed.fitness.tasks.prompts import fill_prompt
from crossbreed.fitness.tasks.questions import check_questions, judge_calls, own_kind, own_split, questions_of
from crossbreed.fitness.tasks.remote import RemoteTask, ServedItems
from crossbreed.fitness.tasks.task import Answer, Kind, Task
from crossbreed.fitness.tasks.teacher import AgreementTask, EntropyTask, TeacherAnswer, TeacherTask
from crossbreed.objects import OBJECT
from crossbreed.registry import Registry, Tagged

TASKS = Registry[type[TaskConfig]](
    "task kind",
    "crossbreed.tasks",
    {
        "generate": "crossbreed.fitness.tasks.generate:GenerateTask",
        "choice": "crossbreed.fitness.tasks.choice:ChoiceTask",
        "likelihood": "crossbreed.fitness.tasks.likelihood:LikelihoodTask",
        "perplexity": "crossbreed.fitness.tasks.perplexity:PerplexityTask",
        "lm_eval": "crossbreed.fitness.tasks.lm_eval.config:LmEvalTask",
        "python": "crossbreed.fitness.tasks.python:PythonTask",
        "agreement": "crossbreed.fitness.tasks.teacher:AgreementTask",
        "entropy": "crossbreed.fitness.tasks.teacher:EntropyTask",
        "remote": "crossbreed.fitness.tasks.remote:RemoteTask",
        "object": "crossbreed.fitness.tasks.python_object:TaskObject",
    },
    hidden=(OBJECT,),
    part=type,
    config=TaskConfig,
)
"""Kind -> its settings class, which implements the kind."""

AnyTaskConfig: TypeAlias = Annotated[TaskConfig, Tagged(TASKS, lambda kind: kind)]
"""A field that takes the settings of a task of any registered kind."""


def load_tasks(
    configs: Sequence[TaskConfig],
    served: Mapping[str, ServedItems] = MappingProxyType({}),
    *,
    engine: str = "",
    seed: int = 0,
    host: Path | None = None,
    context_tokens: int | None = None,
) -> list[Task]:
    """Loads the items of every task and renders each once, so that errors surface before any expensive step.

    Args:
        configs: The tasks' settings.
        served: The tasks that the engine scores itself.
        engine: Its kind, for messages.
        seed: The run's.
        host: The folder of the tokenizer that the engine uses; None: it has one of its own.
        context_tokens: The engine's own limit of prompt plus answer.

    Raises:
        InputError: files, items or fields are invalid; the message names the first few of each task.
    """
    tasks, mistakes = list[Task](), Collector()
    for config in configs:
        with mistakes.noted():
            if isinstance(config, RemoteTask):
                config.take(served, engine)
            seeded = config.with_seed(seed).for_host(host, context_tokens=context_tokens)
            seeded.require()
            tasks.append(_loaded(seeded))
    mistakes.require_none()
    return tasks


def begun_tasks(tasks: Sequence[Task], around: Surroundings, closing: ExitStack) -> list[Task]:
    """Returns tasks ready to score, in the process that does it: their judges can be asked.

    Args:
        tasks: The tasks.
        around: What a run lets judges use.
        closing: Ends the connections, when all is scored.

    Raises:
        InputError: a judge's key is not in the environment.
    """
    return [
        replace(task, kind=task.kind.begun(around, closing)) if isinstance(task.kind, TaskConfig) else task
        for task in tasks
    ]


def _loaded(config: TaskConfig) -> Task:
    """Returns a task; raises what is wrong with its file and with what its legible items ask, at once."""
    mistakes = ItemMistakes(of=getattr(config, "items", f"task `{config.name}`"))
    task = Task(kind=config, items=legible_items(config.load_items, mistakes))
    if task.items or not mistakes.errors:
        with mistakes.noted():
            check_items(task.items, task=task.name)
            check_questions(task)
    mistakes.require_none()
    return task


__all__ = [
    "METRICS",
    "SHOWN_KEYS",
    "TASKS",
    "AgreementTask",
    "Answer",
    "AnyTaskConfig",
    "ChoiceTask",
    "EntropyTask",
    "FileTaskConfig",
    "GenerateTask",
    "Kind",
    "LikelihoodTask",
    "Metric",
    "PerplexityTask",
    "PromptTaskConfig",
    "RemoteTask",
    "Task",
    "TaskConfig",
    "TeacherAnswer",
    "TeacherTask",
    "begun_tasks",
    "fill_prompt",
    "gold_answer",
    "judge_calls",
    "load_tasks",
    "own_kind",
    "own_split",
    "questions_of",
    "right_request",
]
