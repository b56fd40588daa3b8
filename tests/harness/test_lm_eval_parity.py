"""Per document, tasks have the values that lm-eval finds with its own model on the same weights."""

import math
import random
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness_tasks import GROUPS, SIZES
from safetensors.torch import load_file

from crossbreed.fitness import (
    Handle,
    SearchItems,
    Task,
    TransformersConfig,
    build_engine,
    evaluate_tasks,
    load_tasks,
)
from crossbreed.fitness.tasks.lm_eval.config import LmEvalTask
from crossbreed.types import Recipe

pytest.importorskip("lm_eval")

CONTEXT = 322
"""Shorter than some texts."""
LN2 = math.log(2)


@pytest.fixture(scope="module")
def handle(toy_base: Path) -> Handle:
    engine = build_engine(TransformersConfig(kind="transformers", dtype="float32", max_model_len=CONTEXT), toy_base)
    weights = load_file(toy_base / "model.safetensors").items()
    return engine.adopt(Recipe(base="base", sources={"base": "0"}, rules=()), iter(sorted(weights)))


@pytest.fixture(scope="module")
def samples(toy_base: Path, tasks_folder: Path) -> Iterator[Callable[..., dict[str, list[dict[str, Any]]]]]:
    """What lm-eval says of each document, with its own model: all tasks that are asked alike in one call."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(toy_base, dtype=torch.float32)
    lm = HFLM(
        pretrained=model,
        tokenizer=AutoTokenizer.from_pretrained(toy_base),
        max_length=CONTEXT - 2,
        batch_size=1,
        dtype="float32",
    )
    manager = TaskManager(include_path=str(tasks_folder), include_defaults=False)

    @cache
    def evaluated(**settings: Any) -> dict[str, list[dict[str, Any]]]:
        names = ["shots", *(["chat"] if "apply_chat_template" in settings else [])]
        found = simple_evaluate(
            model=lm,
            tasks=names if settings else [*names, "quiz", "letters", "prose", "own", "ends"],
            task_manager=manager,
            bootstrap_iters=0,
            random_seed=None,
            numpy_random_seed=None,
            torch_random_seed=None,
            **settings,
        )
        return dict(found["samples"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)  # more than a second a call
        yield evaluated


def loaded(folder: Path, host: Path, **settings: Any) -> Task:
    config = LmEvalTask(kind="lm_eval", name="mine", include_path=str(folder), **settings)
    [task] = load_tasks([config], host=host, context_tokens=CONTEXT)
    return task


def entries(rows: Mapping[str, Mapping[str, Any]], metric: str) -> dict[str, float]:
    """Returns each document's value, of what lm-eval keeps of it; long texts weigh more."""
    found = {name: row[metric] for name, row in rows.items()}
    if metric.endswith(("_perplexity", "_byte")):
        mean = sum(size for _, size in found.values()) / len(found)
        return {name: -total / mean / (LN2 if metric == "bits_per_byte" else 1) for name, (total, _) in found.items()}
    if metric == "brier_score":
        return {name: sum((p - (i == gold)) ** 2 for i, p in enumerate(ps)) for name, (gold, ps) in found.items()}
    return {name: -value if metric == "perplexity" else float(value) for name, value in found.items()}


CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"task": "quiz", "metric": "acc"}, {}),
    ({"task": "quiz", "metric": "acc_norm"}, {}),
    ({"task": "options_norm", "metric": "exact_match"}, {}),
    ({"task": "options_info", "metric": "acc_mutual_info"}, {}),
    ({"task": "options_info", "metric": "brier_score", "minimize": True}, {}),
    ({"task": "letters", "filter": "strict"}, {}),
    ({"task": "letters", "metric": "exact_match,last"}, {}),
    ({"task": "prose", "metric": "byte_perplexity", "minimize": True}, {}),
    ({"task": "prose", "metric": "word_perplexity", "minimize": True}, {}),
    ({"task": "prose", "metric": "bits_per_byte", "minimize": True}, {}),
    ({"task": "shots"}, {}),
    (
        {"task": "shots", "num_fewshot": 1, "system": "Be quick.", "gen_kwargs": {"max_gen_toks": 3, "until": "x"}},
        {"num_fewshot": 1, "system_instruction": "Be quick.", "gen_kwargs": "max_gen_toks=3,until=x"},
    ),
    (
        {"task": "chat", "metric": "acc", "chat_template": True, "system": "Be brief."},
        {"apply_chat_template": True, "system_instruction": "Be brief."},
    ),
    (
        {"task": "chat", "metric": "acc", "chat_template": True, "fewshot_as_multiturn": False},
        {"apply_chat_template": True, "fewshot_as_multiturn": False},
    ),
    ({"task": "shots", "chat_template": True}, {"apply_chat_template": True}),
    ({"task": "own", "metric": "vowels"}, {}),
    ({"task": "ends", "metric": "perplexity", "minimize": True}, {}),
    ({"task": "ends", "metric": "acc"}, {}),
]


@pytest.mark.parametrize(("mine", "theirs"), CASES, ids=lambda one: " ".join(map(str, one.values())))
def test_a_documents_value_is_lm_evals(
    mine: dict[str, Any],
    theirs: dict[str, Any],
    handle: Handle,
    samples: Callable[..., dict[str, list[dict[str, Any]]]],
    tasks_folder: Path,
    toy_base: Path,
) -> None:
    """To the last digits of a sum in float32; and so are the likelihoods and texts that it is made of."""
    task = loaded(tasks_folder, toy_base, **mine)
    metric, _, behind = mine.get("metric", "exact_match").partition(",")
    behind = mine.get("filter") or behind or "none"
    leaves = GROUPS.get(mine["task"], [mine["task"]])
    items = tuple(item for item in task.items if "report" in item.splits)
    found = evaluate_tasks(handle, [task], {"mine": SearchItems(items)})
    rows = {
        f"{name}/test-{row['doc_id']}" if len(leaves) > 1 else f"test-{row['doc_id']}": row
        for name, of_task in samples(**theirs).items()
        for row in of_task
        if row["filter"] == behind and name in leaves
    }
    assert len(rows) == len(items) == SIZES["test"] * len(leaves)
    values = dict(zip(found.tasks["mine"].item_ids, found.tasks["mine"].values, strict=True))
    assert values == pytest.approx(entries(rows, metric), abs=2e-5)
    for item, text in zip(items, found.texts["mine"], strict=True):
        responses = [one[0] for one in rows[item.id]["resps"]]
        if isinstance(responses[0], str):
            assert text == responses[0]
        elif not isinstance(responses[0], float):
            asked = handle.answer(list(task.requests(item)))
            likelihoods = [math.fsum(response.logprobs) for response in asked]
            assert likelihoods == pytest.approx([one[0] for one in responses], abs=2e-4)


def test_global_generators_are_left_alone(handle: Handle, tasks_folder: Path, toy_base: Path) -> None:
    """Although lm-eval seeds them, and so does the function of a task; and no state of theirs changes a value."""

    def states() -> list[Any]:
        return [random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state().tolist()]  # noqa: NPY002

    before = states()
    task = loaded(tasks_folder, toy_base, task="own", metric="vowels")
    first = evaluate_tasks(handle, [task], {"mine": SearchItems(task.items)})
    np.testing.assert_equal(states(), before)
    random.random()
    assert evaluate_tasks(handle, [task], {"mine": SearchItems(task.items)}) == first
