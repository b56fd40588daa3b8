"""Metrics: comparisons of a generated text with the gold answer.

A metric is a function with a few facts about it (`Metric`); `METRICS` lists them by name. What a spec writes under
`metric` is a comparison: a metric, one with its setting, or several combined (`expression`).
"""

from crossbreed.fitness.tasks.metrics.expression import Comparison, MetricField, WrittenMetric, comparison_of
from crossbreed.fitness.tasks.metrics.metric import Metric
from crossbreed.fitness.tasks.metrics.registry import METRICS

__all__ = ["METRICS", "Comparison", "Metric", "MetricField", "WrittenMetric", "comparison_of"]
