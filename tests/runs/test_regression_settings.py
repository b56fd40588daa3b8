"""A search of a regression's settings: from the statistics of its walk, in a stage after it, polished, resumed."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from test_regression_run import TEXTS, cache, furthest, opened, summed
from toy_runs import journal_of, write_spec

from crossbreed.errors import InputError
from crossbreed.kernels.artifacts.walk_statistics import WalkStatistics
from crossbreed.recipes.named import scaled_merge
from crossbreed.recipes.operators.walked import ANCHORED
from crossbreed.runs.regression.walk import Keeping, Settings, Text, walk
from crossbreed.runs.weights import Weights
from crossbreed.types import BASE, Recipe, Rule

__all__ = ["cache"]
MATRICES = ("q_proj", "o_proj", "gate_proj", "down_proj")
