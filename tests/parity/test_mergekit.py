"""mergekit 0.1.5, given the exported configuration, writes what `materialize` yields.

mergekit runs in a process of its own: it sets global state on import. Both compute in fp32 and round once, in another
order: a bf16 element may fall on the other side of a rounding boundary. Adapters are merged by mergekit into rounded
fp32 checkpoints first. For TIES, elements whose magnitude equals an expert's threshold are chosen by another rule.
"""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from crossbreed.kernels import materialize
from crossbreed.kernels.materialize import parts_of
from crossbreed.kernels.tensors import as_matrix
from crossbreed.kernels.ties import find_cut
from crossbreed.operators import OPERATOR_SPECS
from crossbreed.recipes import rule_finder, to_mergekit
from crossbreed.sources import LowRank, Sources, open_sources
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
config, out, cache = sys.argv[1:]
options = MergeOptions(lora_merge_cache=cache, lora_merge_dtype="float32", quiet=True, write_model_card=False)
run_merge(MergeConfiguration.model_validate(yaml.safe_load(open(config))), out, options)
"""
FULL = {"a": "attention", "b": "everything"}
LORA = {"p": "plain", "s": "stabilised"}


@pytest.fixture(scope="module")
def folders(toy_base: Path, toy_experts: dict[str, Path], toy_adapters: dict[str, Path]) -> dict[str, Path]:
    return {"base": toy_base, **toy_experts, **toy_adapters}


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


def compare(recipe: Recipe, sources: Sources, folder: Path) -> None:
    paths = {"base": str(sources.base.path), **{name: str(source.path) for name, source in sources.experts.items()}}
    lora = {name: paths["base"] for name, path in paths.items() if (Path(path) / "adapter_config.json").exists()}
    config = to_mergekit(recipe, sources.structure, paths, lora)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-c", RUN, str(folder / "config.yml"), str(folder / "out"), str(folder / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = load_file(folder / "out" / "model.safetensors")
    differing = count = 0
    for name, ours in materialize(recipe, sources):
        assert theirs[name].dtype == ours.dtype
        off = (ours != theirs[name]) & ~tied_at_a_threshold(recipe, sources, name)
        differing, count = differing + int(off.sum()), count + ours.numel()
        assert within_one_ulp(ours[off], theirs[name][off], size_of_terms(sources, name)[off]), name
    assert theirs.keys() == sources.base.tensors.keys()
    assert differing <= 1e-3 * count


def within_one_ulp(ours: torch.Tensor, theirs: torch.Tensor, terms: torch.Tensor) -> bool:
    """One step of the dtype; or, where the terms cancel to almost nothing, eight fp32 ulps of their magnitudes."""
    step = torch.nextafter(ours.abs(), torch.full_like(ours, torch.inf)) - ours.abs()
    allowed = torch.maximum(step.double(), 8 * 2**-24 * terms.double())
    return bool(((ours.double() - theirs.double()).abs() <= allowed).all())


def size_of_terms(sources: Sources, name: str) -> torch.Tensor:
    """Magnitudes of the base and of every delta, summed."""
    base_MN = as_matrix(sources.base.tensor(name)).float()
    deltas = (parent.delta(base_MN, slice(None)).abs() for parent in parts_of(name, sources.experts))
    return sum(deltas, base_MN.abs()).view(sources.base.tensor(name).shape)


def tied_at_a_threshold(recipe: Recipe, sources: Sources, name: str) -> torch.Tensor:
    """Elements whose magnitude equals (in an adapter: nearly equals) the last one that an expert keeps."""
    base_MN = as_matrix(sources.base.tensor(name))
    tied_MN, rule = torch.zeros(base_MN.shape, dtype=torch.bool), rule_finder(recipe)(name)
    if rule is not None and rule.operator == "ties":
        densities = OPERATOR_SPECS["ties"].per_source(rule, "density", tuple(sources.experts))
        for parent in parts_of(name, sources.experts):
            if densities[parent.name] < 1:
                delta_MN = parent.delta(base_MN.float(), slice(None))
                bound = find_cut(delta_MN, densities[parent.name]).magnitude
                near = 4 * 2**-24 * base_MN.double().abs() if isinstance(parent.value, LowRank) else 0.0
                tied_MN |= (delta_MN.abs().double() - bound).abs() <= near
    return tied_MN.view(sources.base.tensor(name).shape)


CASES = [
    ("task_arithmetic", {"scale": 0.8}),
    ("linear", {}),
    ("linear", {"normalize": False}),
    ("ties", {"density": 0.35, "scale": 1.2}),
    ("ties", {"density": 0.6, "normalize": False}),
]


@pytest.mark.parametrize("experts", [FULL, LORA, {"b": "everything", "p": "plain"}], ids=["full", "lora", "mixed"])
@pytest.mark.parametrize(("operator", "params"), CASES)
def test_mergekit_writes_the_same_tensors(
    folders: dict[str, Path], tmp_path: Path, operator: str, params: dict, experts: dict[str, str]
) -> None:
    sources = open_sources(str(folders["base"]), {name: str(folders[key]) for name, key in experts.items()})
    x, y = experts
    first, second = {x: 0.7123, y: 0.4517}, {x: -0.2039, y: 0.8971}
    of_base = {"base": 0.3989} if operator == "linear" else {}
    recipe = Recipe(
        base="base",
        sources=sources.structure.hashes,
        rules=rules(operator, first | of_base, second | of_base, **params),
    )
    compare(recipe, sources, tmp_path)


def test_an_average_of_full_experts_has_the_same_roundings(folders: dict[str, Path], tmp_path: Path) -> None:
    """Where elements fall halfway between two bfloat16 numbers, both round as exact arithmetic does."""
    sources = open_sources(str(folders["base"]), {name: str(folders[key]) for name, key in FULL.items()})
    average = Rule(match=".*", operator="task_arithmetic", params={"weight": 0.5})
    compare(Recipe(base="base", sources=sources.structure.hashes, rules=(average,)), sources, tmp_path)


def test_an_untied_head_and_a_final_norm_take_their_own_parameters(tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base", tied=False, num_layers=2)
    experts = {name: str(make_expert(tmp_path / name, base=base, seed=i)) for i, name in enumerate("xy")}
    sources = open_sources(str(base), experts)
    outside = tuple(
        Rule(match=match, operator="task_arithmetic", params={"weight": {"x": weight}})
        for match, weight in [(r"lm_head\.weight", 0.9), (r"model\.embed_tokens\.weight", 0.3), (r".*q_proj.*", 0.6)]
    )
    compare(Recipe(base="base", sources=sources.structure.hashes, rules=outside), sources, tmp_path / "merge")
