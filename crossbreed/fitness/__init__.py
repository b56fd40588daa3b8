"""Fitness: what a candidate is worth on the user's own items.

A *task* turns an item into requests and judges the responses; an *engine* adopts a candidate's weights and answers
requests; `evaluate` asks one the other's questions and keeps one value per item. Items are parted once into search,
selection and report items, three types that cannot be mistaken for one another. Nothing here knows of recipes' insides
or of the search.
"""

from crossbreed.fitness.canary import check_swap
from crossbreed.fitness.engines import (
    EngineConfig,
    FakeConfig,
    TransformersConfig,
    VllmConfig,
    build_engine,
)
from crossbreed.fitness.evaluation import Evaluation, evaluate
from crossbreed.fitness.items import (
    AnyItems,
    Item,
    ReportItems,
    SearchItems,
    SelectionItems,
    Split,
    SplitConfig,
    check_disjoint,
    load_items,
    split_items,
)
from crossbreed.fitness.protocol import (
    Differentiable,
    Engine,
    Generate,
    Handle,
    Loglikelihood,
    Observable,
    Prompt,
    Request,
    Response,
)
from crossbreed.fitness.tasks import (
    Answer,
    ChoiceTask,
    GenerateTask,
    Kind,
    PerplexityTask,
    Task,
    TaskConfig,
    load_tasks,
)

__all__ = [
    "Answer",
    "AnyItems",
    "ChoiceTask",
    "Differentiable",
    "Engine",
    "EngineConfig",
    "Evaluation",
    "FakeConfig",
    "Generate",
    "GenerateTask",
    "Handle",
    "Item",
    "Kind",
    "Loglikelihood",
    "Observable",
    "PerplexityTask",
    "Prompt",
    "ReportItems",
    "Request",
    "Response",
    "SearchItems",
    "SelectionItems",
    "Split",
    "SplitConfig",
    "Task",
    "TaskConfig",
    "TransformersConfig",
    "VllmConfig",
    "build_engine",
    "check_disjoint",
    "check_swap",
    "evaluate",
    "load_items",
    "load_tasks",
    "split_items",
]
