"""mergekit 0.1.5, given the exported configuration, writes what `materialize` yields.

mergekit runs in a process of its own: it sets global state on import. Both compute in fp32 and round once, in another
order: a bf16 element may fall on the other side of a rounding boundary. Adapters are merged by mergekit into rounded
fp32 checkpoints first. Elements whose magnitude equals an expert's threshold may be chosen by another rule.
"""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from crossbreed.kernels import materialize
from crossbreed.kernels.linalg.order_statistics import find_threshold
from crossbreed.kernels.materialize import expert_tensors
from crossbreed.kernels.prepared.thresholds import num_kept
from crossbreed.kernels.tensors import as_matrix
from crossbreed.mergekit import to_mergekit
from crossbreed.recipes import rule_finder
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.sources import Adapter, LowRank, Sources, open_sources
from crossbreed.testing.toys import make_checkpoint, make_expert
from crossbreed.types import Recipe, Rule

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(find_spec("mergekit") is None, reason="mergekit 0.1.5 is not installed (pip install --no-deps)"),
]

RUN = """
import sys, torch, yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

torch.set_num_threads(1)
cache, *folders = sys.argv[1:]
options = MergeOptions(lora_merge_cache=cache, lora_merge_dtype="float32", quiet=True, write_model_card=False)
for folder in folders:
    run_merge(MergeConfiguration.model_validate(yaml.safe_load(open(folder + "/config.yml"))), folder + "/out", options)
"""
Cases: TypeAlias = dict[str, tuple[Recipe, Sources]]
Merged: TypeAlias = dict[str, dict[str, torch.Tensor]]

FULL = {"a": "attention", "b": "everything"}
LORA = {"p": "plain", "s": "stabilised"}


def rules(operator: str, first: dict[str, float], second: dict[str, float], **params: float | bool) -> tuple[Rule, ...]:
    """Two bands of layers with their own weights in attention, one weight in every MLP, an embedding, the rest bare."""
    extra = dict(params)
    return tuple(
        Rule(match=match, operator=operator, params={"weight": weight, **extra})
        for match, weight in [
            (r"model\.layers\.[01]\.self_attn\..*", first),
            (r"model\.layers\.[23]\.self_attn\..*", second),
            (r".*\.mlp\..*|model\.embed_tokens\.weight|model\.norm\.weight", {**second, **first}),
        ]
    )


def compare(recipe: Recipe, sources: Sources, theirs: Mapping[str, torch.Tensor]) -> None:
    assert theirs.keys() == sources.base.tensors.keys()
    differing = count = 0
    for name, ours in materialize(recipe, sources):
        assert theirs[name].dtype == ours.dtype
        off = (ours != theirs[name]) & ~at_a_threshold(recipe, sources, name)
        differing, count = differing + int(off.sum()), count + ours.numel()
        assert within_one_ulp(ours[off], theirs[name][off], size_of_terms(sources, name)[off]), name
    assert differing <= 1e-3 * count


def within_one_ulp(ours: torch.Tensor, theirs: torch.Tensor, terms: torch.Tensor) -> bool:
    """One step of the dtype; or, where the terms cancel to almost nothing, eight fp32 ulps of their magnitudes."""
    step = torch.nextafter(ours.abs(), torch.full_like(ours, torch.inf)) - ours.abs()
    allowed = torch.maximum(step.double(), 8 * 2**-24 * terms.double())
    return bool(((ours.double() - theirs.double()).abs() <= allowed).all())


def size_of_terms(sources: Sources, name: str) -> torch.Tensor:
    """Magnitudes of the base and of every delta, summed."""
    base_MN = as_matrix(sources.base.tensor(name)).float()
    deltas = (expert.delta(base_MN, slice(None)).abs() for expert in expert_tensors(name, sources.experts))
    return sum(deltas, base_MN.abs()).view(sources.base.tensor(name).shape)


def at_a_threshold(recipe: Recipe, sources: Sources, name: str) -> torch.Tensor:
    """Elements whose magnitude equals (in an adapter: nearly equals) one at which an expert's are told apart."""
    base_MN = as_matrix(sources.base.tensor(name))
    tied_MN, rule = torch.zeros(base_MN.shape, dtype=torch.bool), rule_finder(recipe)(name)
    if rule is None:
        return tied_MN.view(sources.base.tensor(name).shape)
    for expert in expert_tensors(name, sources.experts):
        delta_MN = expert.delta(base_MN.float(), slice(None))
        near = 4 * 2**-24 * base_MN.double().abs() if isinstance(expert.value, LowRank) else 0.0
        for bound in thresholds(rule, expert.name, delta_MN):
            tied_MN |= (delta_MN.abs().double() - bound).abs() <= near
    return tied_MN.view(sources.base.tensor(name).shape)


def thresholds(rule: Rule, expert: str, delta: torch.Tensor) -> Iterator[float]:
    """The magnitudes at which a rule cuts a delta, as we count what it keeps and as mergekit does."""
    spec, size = OPERATOR_SPECS[rule.operator], delta.numel()
    if rule.operator.startswith("ram"):
        yield float(np.float32(spec.scalar(rule, "epsilon")))
    if spec.param("density") is None or (density := spec.per_source(rule, "density", (expert,))[expert]) >= 1:
        return
    counts = {num_kept(density, size)}
    if spec.param("gamma") is not None:
        gamma = spec.per_source(rule, "gamma", (expert,))[expert]
        counts = {num_kept(density + gamma, size), int(density * size) + int(gamma * size), num_kept(gamma, size)}
    for count in counts:
        yield find_threshold(delta, count).magnitude


OPERATORS = [
    ("task_arithmetic", {"scale": 0.8}),
    ("linear", {}),
    ("linear", {"normalize": False}),
    ("ties", {"density": 0.35, "scale": 1.2}),
    ("ties", {"density": 0.6, "normalize": False}),
]
OTHERS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "breadcrumbs": ("breadcrumbs", [{"weight": 0.7, "density": 0.6, "gamma": 0.05, "scale": 0.8}, {"weight": -0.2}]),
    "elected crumbs": ("breadcrumbs_ties", [{"weight": 0.7, "density": 0.4, "normalize": True}, {"weight": 0.9}]),
    "ram": ("ram", [{"epsilon": 0.02}, {"epsilon": 0.05}]),
    "ramplus": ("ramplus", [{"epsilon": 0.02, "r": 0.3, "alpha": 0.5}, {"epsilon": 0.05}]),
    "nuslerp": ("nuslerp", [{"weight": 0.7123}, {"weight": {0: 0.2, 1: 0.9}}]),
    "nuslerp of rows": (
        "nuslerp",
        [{"weight": {0: 0.2, 1: 0.9}, "along": "rows"}, {"weight": 0.5, "along": "columns"}],
    ),
    "model_stock": ("model_stock", [{}]),
    "slerp": ("slerp", [{"t": 0.3123}, {"t": 0.7}]),
    "nearswap": ("nearswap", [{"t": 0.01}, {"t": 0.05}]),
    "swap": ("passthrough", [{"source": 0, "scale": 1.0}, {"source": 1, "scale": 0.8971}]),
}
"""Operator, and what it is told in the first layers and in the others."""
OF_ONE = {"slerp", "nearswap"}
LEAVES_NOTHING = {"nuslerp", "model_stock", "passthrough"}
"""Methods with which no changed tensor stays the base's, or (in a slice) not beside others."""
EXPERTS = {"full": FULL, "lora": LORA, "mixed": {"b": "everything", "p": "plain"}}
CASES = [f"{experts}-{name}" for experts in EXPERTS for name in OTHERS]
BANDS = [f"{experts}-{number}" for experts in EXPERTS for number in range(len(OPERATORS))]


@pytest.fixture(scope="module")
def cases(
    toy_base: Path,
    toy_experts: dict[str, Path],
    toy_adapters: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Cases:
    folders = {"base": toy_base, **toy_experts, **toy_adapters}
    made = {}
    for kind, experts in EXPERTS.items():
        sources = open_sources(str(toy_base), {name: str(folders[key]) for name, key in experts.items()})
        x, y = experts
        for number, (operator, params) in enumerate(OPERATORS):
            of_base = {"base": 0.3989} if operator == "linear" else {}
            first, second = {x: 0.7123, y: 0.4517, **of_base}, {x: -0.2039, y: 0.8971, **of_base}
            made[f"{kind}-{number}"] = recipe_of(sources, *rules(operator, first, second, **params)), sources
        average = Rule(match=".*", operator="task_arithmetic", params={"weight": 0.5})
        made[f"{kind}-average"] = recipe_of(sources, average), sources
        alone = open_sources(str(toy_base), {y: str(folders[experts[y]])})
        for name, (operator, told) in OTHERS.items():
            merged = alone if operator in OF_ONE else sources
            made[f"{kind}-{name}"] = recipe_of(merged, *told_rules(operator, told, tuple(merged.experts))), merged
    made["untied"] = untied_case(tmp_path_factory.mktemp("untied"))
    return made


def recipe_of(sources: Sources, *rules: Rule) -> Recipe:
    return Recipe(base="base", sources=sources.structure.hashes, rules=rules)


def told_rules(operator: str, told: list[dict[str, Any]], experts: tuple[str, ...]) -> Iterator[Rule]:
    """One band of layers and another; where tensors can be left as they are, most of the MLPs are."""
    matches = [r"model\.layers\.[01]\.(?:mlp\.up|self_attn\.q).*", r".*\.self_attn\..*|model\.embed_tokens\.weight"]
    if operator in LEAVES_NOTHING:
        matches = [r"model\.layers\.[01]\..*|model\.embed_tokens\.weight", ".*"]
    for match, params in zip(matches, (told[0], told[-1]), strict=True):
        named = {
            key: experts[value]
            if key == "source"
            else {experts[place]: number for place, number in value.items()}
            if isinstance(value, dict)
            else value
            for key, value in params.items()
        }
        yield Rule(match=match, operator=operator, params=named)


def untied_case(folder: Path) -> tuple[Recipe, Sources]:
    base = make_checkpoint(folder / "base", tied=False, num_layers=2)
    experts = {name: str(make_expert(folder / name, base=base, seed=i)) for i, name in enumerate("xy")}
    sources = open_sources(str(base), experts)
    weights = [(r"lm_head\.weight", 0.9), (r"model\.embed_tokens\.weight", 0.3), (r".*q_proj.*", 0.6)]
    outside = (Rule(match=match, operator="task_arithmetic", params={"weight": {"x": x}}) for match, x in weights)
    return recipe_of(sources, *outside), sources


@pytest.fixture(scope="module")
def merged_by_mergekit(cases: Cases, tmp_path_factory: pytest.TempPathFactory) -> Merged:
    """What mergekit writes for every case, all in one process: its imports take longer than its merges."""
    root = tmp_path_factory.mktemp("mergekit")
    for case, (recipe, sources) in cases.items():
        paths = {"base": str(sources.base.path), **{name: str(expert.path) for name, expert in sources.experts.items()}}
        lora = {name: paths["base"] for name, expert in sources.experts.items() if isinstance(expert, Adapter)}
        (root / case).mkdir()
        config = to_mergekit(recipe, sources.structure, paths, lora)
        assert config is not None, case
        (root / case / "config.yml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-c", RUN, str(root / "cache"), *(str(root / case) for case in cases)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return {case: load_file(root / case / "out" / "model.safetensors") for case in cases}


@pytest.mark.parametrize("case", BANDS)
def test_mergekit_writes_the_same_tensors(case: str, cases: Cases, merged_by_mergekit: Merged) -> None:
    compare(*cases[case], merged_by_mergekit[case])


@pytest.mark.parametrize("case", CASES)
def test_so_it_does_by_its_other_methods(case: str, cases: Cases, merged_by_mergekit: Merged) -> None:
    compare(*cases[case], merged_by_mergekit[case])


@pytest.mark.parametrize("kind", EXPERTS)
def test_an_average_has_the_same_roundings(kind: str, cases: Cases, merged_by_mergekit: Merged) -> None:
    """Elements of full experts fall halfway between two bfloat16 numbers: both round as exact arithmetic does."""
    compare(*cases[f"{kind}-average"], merged_by_mergekit[f"{kind}-average"])


def test_an_untied_head_and_a_final_norm_take_their_own_parameters(cases: Cases, merged_by_mergekit: Merged) -> None:
    compare(*cases["untied"], merged_by_mergekit["untied"])
