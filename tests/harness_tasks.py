"""lm-eval tasks over data made here, one of each sort: no network, a few documents each."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

SIZES = {"train": 4, "validation": 6, "test": 6}
UTILS = """
import random


def process_docs(docs):
    return docs.map(lambda doc: {"asked": doc["q"].upper()})


def doc_to_text(doc):
    return f"{doc['asked']} ->"


def process_results(doc, results):
    random.seed(0)
    said = results[0]
    return {"vowels": sum(letter in "aeiou" for letter in said) / (1 + len(said)), "length": len(said)}
"""
ACC = {"metric": "acc", "aggregation": "mean", "higher_is_better": True}
EXACT = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
OPTIONS = {"output_type": "multiple_choice", "doc_to_text": "Question: {{q}}\nAnswer:", "doc_to_choice": "options"}
WRITTEN = {
    "output_type": "generate_until",
    "doc_to_text": "{{q}} =",
    "doc_to_target": "{{a}}",
    "generation_kwargs": {"until": ["\n", "e"], "max_gen_toks": 12, "do_sample": False},
}
LETTERS = [
    {"name": "strict", "filter": [{"function": "regex", "regex_pattern": "^ ?([a-z])"}, {"function": "take_first"}]},
    {
        "name": "last",
        "filter": [{"function": "regex", "regex_pattern": "([^ ])", "group_select": -1}, {"function": "take_first"}],
    },
]
TASKS: dict[str, dict[str, Any]] = {
    "options_norm": {
        **OPTIONS,
        "doc_to_target": "gold",
        "metric_list": [ACC, {**ACC, "metric": "acc_norm"}, {**ACC, "metric": "exact_match"}],
    },
    "options_info": {
        **OPTIONS,
        "doc_to_text": "Which one is right of {{q}}? ",
        "doc_to_target": "{{options[gold]}}",
        "metric_list": [
            ACC,
            {**ACC, "metric": "acc_norm"},
            {**ACC, "metric": "acc_mutual_info"},
            {"metric": "brier_score", "aggregation": "brier_score", "higher_is_better": False},
        ],
    },
    "letters": {**WRITTEN, "filter_list": LETTERS, "metric_list": [EXACT]},
    "prose": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
    },
    "shots": {**WRITTEN, "num_fewshot": 2, "fewshot_split": "train", "description": "Add. ", "metric_list": [EXACT]},
    "chat": {
        **OPTIONS,
        "doc_to_target": "gold",
        "num_fewshot": 1,
        "fewshot_split": "train",
        "gen_prefix": "The answer is",
        "metric_list": [ACC],
    },
    "own": {
        **WRITTEN,
        "process_docs": "!function utils.process_docs",
        "doc_to_text": "!function utils.doc_to_text",
        "process_results": "!function utils.process_results",
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("vowels", "length")
        ],
    },
    "ends": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{text[:20]}}",
        "doc_to_target": "{{text[20:26]}}",
        "metric_list": [{"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}, ACC],
    },
    "corpus": {
        **WRITTEN,
        "metric_list": [{"metric": "bleu", "aggregation": "bleu", "higher_is_better": True}, EXACT],
    },
}
GROUPS = {"quiz": ["options_norm", "options_info"]}


def write_task(folder: Path, name: str, config: Mapping[str, Any], parts: Mapping[str, str]) -> None:
    """Writes a task's YAML.

    Args:
        folder: Where.
        name: The task.
        config: What is in it; a text that begins with `!function` is that tag.
        parts: lm-eval's word for a part of the data -> the data set's.
    """
    files = {split: str(folder / f"{split}.jsonl") for split in SIZES}
    whole = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        **{f"{part}_split": split for part, split in parts.items()},
        **config,
    }
    text = yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)
    (folder / f"{name}.yaml").write_text(re.sub("'(!function [^']*)'", r"\1", text))


def write_tasks(folder: Path) -> Path:
    """Writes all tasks, a group and their data into a new folder."""
    folder.mkdir(parents=True)
    for split, size in SIZES.items():
        rows = [document(split, n) for n in range(size)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    (folder / "utils.py").write_text(UTILS)
    for name, config in TASKS.items():
        write_task(folder, name, config, {"training": "train", "validation": "validation", "test": "test"})
    for name, members in GROUPS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"group": name, "task": members}))
    return folder


def document(split: str, n: int) -> dict[str, Any]:
    """Returns a document; one in three has a text that is longer than a toy's context."""
    text = f"Once upon a {split} {n} time, there was an é, and nobody knew why it was there."
    return {
        "q": f"{split} {n} + {n * 7 % 5}",
        "a": str(n + n * 7 % 5),
        "options": [f"a{n}", f"bee{n * 7}", "c of it"],
        "gold": n % 3,
        "text": text * (9 if n % 3 == 1 else 1),
    }
