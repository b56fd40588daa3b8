"""What the transformers engine shows of a model's insides, against a Llama written out by hand."""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import silu

from crossbreed.errors import EngineError
from crossbreed.fitness import Generate, Loglikelihood, Observable, Prompt, TransformersConfig, build_engine
from crossbreed.fitness.engines.encoder import Encoder
from crossbreed.types import Recipe

REQUESTS = [
    Loglikelihood(prompt=Prompt(text="34 + 12 ="), continuation=" 46"),
    Loglikelihood(prompt=Prompt(text="The capital of France is"), continuation=" Paris"),
]


def inputs_by_hand(weights: Mapping[str, torch.Tensor], config: dict, ids: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """A Llama's forward pass in fp64: what every matrix is multiplied with. T tokens, H heads, D of a head."""
    seen: dict[str, torch.Tensor] = {}
    head, num_tokens = config["head_dim"], len(ids)
    theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    angles_TD = torch.outer(torch.arange(num_tokens), theta ** (-torch.arange(0, head, 2) / head)).repeat(1, 2).double()

    def norm(x_TN: torch.Tensor, name: str) -> torch.Tensor:
        return x_TN * (x_TN.square().mean(-1, keepdim=True) + config["rms_norm_eps"]).rsqrt() * weights[name].double()

    def through(name: str, x_TN: torch.Tensor) -> torch.Tensor:
        seen[name] = x_TN
        return x_TN @ weights[name].double().T

    def turned(x_HTD: torch.Tensor) -> torch.Tensor:
        first, second = x_HTD.chunk(2, -1)
        return x_HTD * angles_TD.cos() + torch.cat([-second, first], -1) * angles_TD.sin()

    x_TN = weights["model.embed_tokens.weight"].double()[list(ids)]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        h_TN = norm(x_TN, f"{prefix}.input_layernorm.weight")
        q, k, v = (
            through(f"{prefix}.self_attn.{one}_proj.weight", h_TN).view(num_tokens, -1, head).transpose(0, 1)
            for one in "qkv"
        )
        groups = len(q) // len(k)
        q, k, v = turned(q), turned(k).repeat_interleave(groups, 0), v.repeat_interleave(groups, 0)
        logits_HTT = q @ k.transpose(1, 2) / head**0.5
        causal_TT = torch.full((num_tokens, num_tokens), -torch.inf).triu(1)
        mixed_TN = ((logits_HTT + causal_TT).softmax(-1) @ v).transpose(0, 1).reshape(num_tokens, -1)
        x_TN = x_TN + through(f"{prefix}.self_attn.o_proj.weight", mixed_TN)
        h_TN = norm(x_TN, f"{prefix}.post_attention_layernorm.weight")
        gate, up = (through(f"{prefix}.mlp.{one}_proj.weight", h_TN) for one in ("gate", "up"))
        x_TN = x_TN + through(f"{prefix}.mlp.down_proj.weight", silu(gate) * up)
    return seen


@pytest.fixture
def engine(toy_base: Path) -> Observable:
    built = build_engine(TransformersConfig(kind="transformers"), toy_base)
    assert isinstance(built, Observable)
    weights = load_file(toy_base / "model.safetensors")
    built.adopt(Recipe(base="base", sources={"base": "hash"}, rules=()), iter(sorted(weights.items())))
    return built


def test_what_is_shown_is_what_each_matrix_is_multiplied_with(engine: Observable, toy_base: Path) -> None:
    weights, config = load_file(toy_base / "model.safetensors"), json.loads((toy_base / "config.json").read_text())
    encoder = Encoder(toy_base)
    by_hand = [inputs_by_hand(weights, config, encoder.encode(request).token_ids) for request in REQUESTS]
    shown: defaultdict[str, list[torch.Tensor]] = defaultdict(list)
    engine.activations(REQUESTS, by_hand[0].keys(), lambda name, inputs: shown[name].append(inputs[0].clone()))
    assert len(shown) == 7 * config["num_hidden_layers"]
    for name, inputs in shown.items():
        assert len(inputs) == len(REQUESTS)
        for found_TN, expected in zip(inputs, by_hand, strict=True):
            off = (found_TN.double() - expected[name]).norm() / expected[name].norm()
            assert off < 1e-4, (name, off)  # fp32 against fp64; the toys' weights are large


def test_matrices_with_the_same_inputs_are_shown_one_object(engine: Observable) -> None:
    names = [f"model.layers.0.self_attn.{one}_proj.weight" for one in "qkvo"]
    shown: list[torch.Tensor] = []
    engine.activations(REQUESTS[:1], names, lambda name, inputs: shown.append(inputs))
    q, k, v, o = shown
    assert q is k is v
    assert o is not q


def test_looking_leaves_no_trace(engine: Observable, toy_base: Path) -> None:
    request = Generate(prompt=Prompt(text="34 + 12 ="), max_tokens=8)
    weights = load_file(toy_base / "model.safetensors")
    handle = engine.adopt(Recipe(base="base", sources={"base": "hash"}, rules=()), iter(sorted(weights.items())))
    before = handle.answer([request])
    seen: list[str] = []
    engine.activations(REQUESTS, ["model.layers.0.mlp.up_proj.weight"], lambda name, inputs: seen.append(name))
    assert handle.answer([request]) == before
    assert len(seen) == 2, "nobody looks any more"


def test_a_matrix_that_is_no_linear_module_is_named(engine: Observable) -> None:
    with pytest.raises(EngineError, match=r"embed_tokens"):
        engine.activations(REQUESTS, ["model.embed_tokens.weight"], lambda name, inputs: None)
