"""What a task of lm-eval costs a candidate beside its answers, and what it costs to load.

    python -m benchmarks.lm_eval_overhead [DOCUMENTS]

Requests are made once; what is measured is all but the engine: one that knows its answers gives them at once.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from crossbreed.fitness import (
    Generate,
    Request,
    Response,
    SearchItems,
    evaluate_tasks,
    load_tasks,
)
from crossbreed.fitness.tasks.lm_eval.config import LmEvalTask

CONFIGS = {
    "options": {
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{q}}\nAnswer:",
        "doc_to_choice": "options",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True}],
    },
    "written": {
        "output_type": "generate_until",
        "doc_to_text": "{{q}} =",
        "doc_to_target": "{{gold}}",
        "generation_kwargs": {"until": ["\n"], "do_sample": False},
        "filter_list": [
            {"name": "number", "filter": [{"function": "regex", "regex_pattern": "(\\d)"}, {"function": "take_first"}]}
        ],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
}


class Ready:
    """Has all answers."""

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        """Returns the same for all."""
        return [self._answer(isinstance(request, Generate)) for request in requests]

    def _answer(self, writes: bool) -> Response:
        return Response(text="It is 7." * writes, token_ids=(1, 2), logprobs=(-1.0, -2.0), prompt_tokens=9)


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        rows = [{"q": f"What is {n}?", "options": ["a", "b", f"c{n}", "d"], "gold": n % 4} for n in range(count)]
        (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for name, config in CONFIGS.items():
            data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "test.jsonl")}}}
            (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, "test_split": "test", **data, **config}))
        for name in CONFIGS:
            began = time.process_time()
            [task] = load_tasks([LmEvalTask(kind="lm_eval", name=name, task=name, include_path=str(folder))])
            loaded = time.process_time()
            items = {name: SearchItems(task.items)}
            evaluate_tasks(Ready(), [task], items)
            first = time.process_time()
            evaluate_tasks(Ready(), [task], items)
            again = time.process_time() - first
            print(
                f"{name}: {count} documents load in {loaded - began:.2f} s of processor time, {again:.3f} s a candidate"
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
