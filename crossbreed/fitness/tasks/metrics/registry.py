"""The registry of metrics: our own, and those of other packages (docs/plugins.md)."""

from crossbreed.fitness.tasks.metrics.metric import Metric
from crossbreed.registry import Registry

_ROOM = "crossbreed.fitness.tasks.metrics"

METRICS = Registry[Metric](
    "metric",
    "crossbreed.metrics",
    {
        "exact_match": f"{_ROOM}.plain:EXACT_MATCH",
        "contains": f"{_ROOM}.plain:CONTAINS",
        "number": f"{_ROOM}.plain:NUMBER",
        "regex": f"{_ROOM}.plain:REGEX",
        "choice_letter": f"{_ROOM}.plain:CHOICE_LETTER",
        "math": f"{_ROOM}.mathematical:MATH",
        "f1": f"{_ROOM}.overlap:F1",
        "rouge_l": f"{_ROOM}.overlap:ROUGE_L",
        "chrf": f"{_ROOM}.overlap:CHRF_2",
        "bleu": f"{_ROOM}.overlap:BLEU_4",
        "json": f"{_ROOM}.structured:JSON",
        "json_schema": f"{_ROOM}.structured:JSON_SCHEMA",
        "language": f"{_ROOM}.language:LANGUAGE",
        "judge": f"{_ROOM}.judge.metric:JUDGE",
        "passes_tests": f"{_ROOM}.programs:PASSES_TESTS",
    },
    part=Metric,
)
"""Name -> metric."""
