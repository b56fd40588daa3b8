"""What in config.json counts, architecture by architecture, and what does not."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from copies import Copy
from transformers import AutoConfig, AutoModelForCausalLM

from crossbreed.errors import InputError
from crossbreed.sources import open_sources
from crossbreed.sources.model_config import HARMLESS, as_transformers_reads, compare_configs
from crossbreed.sources.skeletons import require_loadable

WHERE = (Path("base/config.json"), Path("expert/config.json"))
SIZE = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def config(model_type: str, **options: Any) -> dict[str, Any]:
    """As transformers writes it into a folder."""
    found: dict[str, Any] = AutoConfig.for_model(model_type, **{**SIZE, **options}).to_dict()
    return json.loads(json.dumps(found))


def differing(base: Mapping[str, Any], expert: Mapping[str, Any]) -> list[str]:
    return [one.key for one in compare_configs(base, expert, where=WHERE)]


COUNTS = [
    ("llama", {}, {"rope_scaling": {"type": "linear", "factor": 4.0}}, "rope_parameters.rope_type"),
    ("llama", {}, {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_parameters.rope_type"),
    ("llama", {}, {"rope_theta": 5000.0}, "rope_parameters.rope_theta"),
    ("llama", {}, {"num_attention_heads": 2}, "num_attention_heads"),
    ("llama", {}, {"num_key_value_heads": 4}, "num_key_value_heads"),
    ("llama", {}, {"head_dim": 8}, "head_dim"),
    ("llama", {}, {"rms_norm_eps": 1e-5}, "rms_norm_eps"),
    ("llama", {}, {"hidden_act": "relu"}, "hidden_act"),
    ("llama", {}, {"attention_bias": True}, "attention_bias"),
    ("llama", {}, {"a_key_of_next_year": 7}, "a_key_of_next_year"),
    ("mistral", {"sliding_window": 16}, {"sliding_window": None}, "sliding_window"),
    ("gpt2", {}, {"n_head": 8}, "n_head"),
    ("gpt2", {}, {"activation_function": "relu"}, "activation_function"),
    ("gpt2", {}, {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ("gpt2", {}, {"layer_norm_epsilon": 1e-3}, "layer_norm_epsilon"),
    ("granite", {}, {"attention_multiplier": 0.5}, "attention_multiplier"),
    ("granite", {}, {"residual_multiplier": 0.5}, "residual_multiplier"),
    ("granite", {}, {"logits_scaling": 8.0}, "logits_scaling"),
    ("gemma2", {}, {"query_pre_attn_scalar": 144}, "query_pre_attn_scalar"),
    ("gemma2", {}, {"final_logit_softcapping": None}, "final_logit_softcapping"),
    ("gemma2", {}, {"sliding_window": 8}, "sliding_window"),
    ("gemma3_text", {}, {"layer_types": ["full_attention"] * 4}, "layer_types"),
    ("gemma3_text", {}, {"rope_local_base_freq": 7.0}, "rope_parameters.sliding_attention.rope_theta"),
    ("smollm3", {"pad_token_id": 0}, {"no_rope_layers": [1, 0, 1, 0]}, "no_rope_layers"),
    ("smollm3", {"pad_token_id": 0}, {"no_rope_layer_interval": 2, "no_rope_layers": None}, "no_rope_layers"),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 8}, {"max_window_layers": 2}, "layer_types"),
    ("qwen3_moe", {"num_experts": 4}, {"num_experts_per_tok": 2}, "num_experts_per_tok"),
    ("qwen3_moe", {"num_experts": 4}, {"norm_topk_prob": True}, "norm_topk_prob"),
    ("deepseek_v3", {}, {"routed_scaling_factor": 1.0}, "routed_scaling_factor"),
    ("cohere", {}, {"logit_scale": 1.0}, "logit_scale"),
    ("gpt_neox", {}, {"use_parallel_residual": False}, "use_parallel_residual"),
    ("gpt_neox", {}, {"rotary_pct": 1.0}, "rope_parameters.partial_rotary_factor"),
    ("falcon", {}, {"alibi": True}, "alibi"),
    ("bloom", {}, {"apply_residual_connection_post_layernorm": True}, "apply_residual_connection_post_layernorm"),
    ("mpt", {}, {"attn_config": {"alibi_bias_max": 4}}, "attn_config.alibi_bias_max"),
    ("stablelm", {}, {"use_qkv_bias": True}, "use_qkv_bias"),
    ("olmo", {}, {"clip_qkv": 8.0}, "clip_qkv"),
    ("phi", {}, {"qk_layernorm": True}, "qk_layernorm"),
    ("mamba", {}, {"use_conv_bias": False}, "use_conv_bias"),
    ("mamba2", {"num_heads": 4, "head_dim": 8}, {"time_step_limit": [0.0, 1.0]}, "time_step_limit"),
    ("opt", {}, {"do_layer_norm_before": False}, "do_layer_norm_before"),
    ("starcoder2", {}, {"norm_epsilon": 1e-3}, "norm_epsilon"),
]


@pytest.mark.parametrize(("model_type", "of_base", "of_expert", "key"), COUNTS, ids=lambda value: str(value)[:60])
def test_what_changes_answers_counts(
    model_type: str, of_base: dict[str, Any], of_expert: dict[str, Any], key: str
) -> None:
    base = config(model_type, **of_base)
    expert = {**base, **of_expert}
    if "rope_scaling" in of_expert or "rope_theta" in of_expert:  # as transformers 4 wrote it
        expert.pop("rope_parameters")
    if model_type == "qwen2" or "no_rope_layer_interval" in of_expert or "rope_local_base_freq" in of_expert:
        for made in ("layer_types", "rope_parameters"):
            expert.pop(made, None)
    if isinstance(of_expert.get("attn_config"), dict):
        expert["attn_config"] = {**base["attn_config"], **of_expert["attn_config"]}
    if "rotary_pct" in of_expert:
        expert.pop("rope_parameters")
    assert key in differing(base, expert)
    assert key in differing(expert, base)


LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.0], "long_factor": [2.0, 2.0]}


@pytest.mark.parametrize(
    ("rope", "counts"),
    [
        ({"rope_type": "default"}, False),
        ({"rope_type": "linear", "factor": 2.0}, False),
        ({"rope_type": "dynamic", "factor": 2.0}, True),
        ({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32}, True),
        (LONG | {"original_max_position_embeddings": 32}, True),
    ],
)
def test_the_length_of_texts_counts_where_positions_are_scaled_by_it(rope: dict[str, Any], counts: bool) -> None:
    base = config("llama", rope_parameters={"rope_theta": 10000.0, **rope})
    assert differing(base, {**base, "max_position_embeddings": 128}) == ["max_position_embeddings"] * counts


SAME = [
    ("llama", {"rope_scaling": {"type": "linear", "factor": 4}, "rope_theta": 5e3}, {"rope_parameters": {
        "rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0}}),
    ("llama", {}, {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "rope_scaling": None}),
    ("llama", {}, {"torch_dtype": "float16", "use_cache": False, "_name_or_path": "x", "transformers_version": "4.1"}),
    ("llama", {}, {"head_dim": 4, "attention_bias": False, "mlp_bias": False, "hidden_act": "silu"}),
    ("llama", {}, {"eos_token_id": [7, 8], "pad_token_id": 3, "bos_token_id": None}),
    ("llama", {}, {"attention_dropout": 0.5, "initializer_range": 1.0, "pretraining_tp": 2}),
    ("llama", {}, {"temperature": 0.6, "top_p": 0.9, "do_sample": True, "max_length": 2048}),
    ("llama", {}, {"id2label": {"0": "A"}, "label2id": {"A": 0}, "problem_type": "regression"}),
    ("llama", {}, {"unsloth_version": "2025.1", "auto_map": {"AutoConfig": "x.Y"}, "architectures": ["Y"]}),
    ("llama", {}, {"max_position_embeddings": 4096}),
    ("gpt_neox", {"rotary_pct": 0.25, "rotary_emb_base": 20000}, {"rope_parameters": {
        "rope_theta": 20000.0, "partial_rotary_factor": 0.25, "rope_type": "default"}}),
    ("qwen2", {"sliding_window": 8, "max_window_layers": 2}, {"sliding_window": 64, "max_window_layers": 4}),
    ("qwen2", {}, {"use_sliding_window": False, "layer_types": ["full_attention"] * 4}),
    ("gemma2", {}, {"layer_types": ["sliding_attention", "full_attention"] * 2}),
    ("smollm3", {"pad_token_id": 0}, {"no_rope_layers": [1, 1, 1, 0], "no_rope_layer_interval": 7}),
    ("gpt2", {"n_embd": 16}, {"hidden_size": 16, "resid_pdrop": 0.0, "summary_type": "last", "n_inner": None}),
    ("qwen3_moe", {}, {"router_aux_loss_coef": 0.5, "output_router_logits": True}),
]  # fmt: skip


@pytest.mark.parametrize(("model_type", "one", "other"), SAME, ids=lambda value: str(value)[:60])
def test_two_spellings_of_one_thing_are_the_same(model_type: str, one: dict[str, Any], other: dict[str, Any]) -> None:
    short = {"model_type": model_type, **({} if model_type == "gpt2" else SIZE)}
    assert differing({**short, **one}, {**short, **other}) == []
    assert differing({**short, **other}, {**short, **one}) == []


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "phi3", "mamba2", "granitemoehybrid", "llama4_text"])
def test_what_transformers_saves_is_what_it_loaded(model_type: str, tmp_path: Path) -> None:
    """A fine-tune by a Trainer: loaded and saved again, with nothing left out of what is compared."""
    first = AutoConfig.for_model(model_type)
    first.save_pretrained(tmp_path / "a")
    AutoConfig.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    a, b = (json.loads((tmp_path / name / "config.json").read_text()) for name in "ab")
    assert differing(a, {**b, "transformers_version": "4.0"}) == []


def test_an_architecture_that_nobody_knows_is_compared_as_it_stands() -> None:
    base = {"model_type": "unheard-of", "rope_theta": 1.0, "x": [1, {"y": 2}]}
    assert differing(base, {**base, "x": [1, {"y": 3}]}) == ["x"]
    assert differing(base, {"model_type": "unheard-of", "x": [1, {"y": 2}], "rope_parameters": {"rope_theta": 1}}) == []
    assert differing(base, {**base, "text_config": {"z": 1}}) == ["text_config"]


def test_parts_of_a_model_are_compared_each_for_itself() -> None:
    base = {"model_type": "llava", "text_config": {"model_type": "llama", **SIZE}, "vision_config": {}}
    expert = json.loads(json.dumps(base))
    expert["text_config"] |= {"rms_norm_eps": 1e-3, "use_cache": False}
    expert["vision_config"] |= {"patch_size": 7}
    assert sorted(differing(base, expert)) == ["text_config.rms_norm_eps", "vision_config.patch_size"]


def test_numbers_that_are_none_or_without_end_are_themselves() -> None:
    base = {"model_type": "unheard-of", "limit": [0.0, float("inf")], "x": float("nan"), "flag": 1}
    assert differing(base, json.loads(json.dumps(base))) == []
    assert differing(base, {**base, "flag": True}) == ["flag"]


def test_another_architecture_is_the_one_thing_said() -> None:
    assert differing(config("llama"), config("mistral")) == ["model_type"]


def test_a_configuration_that_transformers_refuses_is_the_users_to_mend() -> None:
    with pytest.raises(InputError, match="transformers cannot read a configuration of `model_type: llama`") as caught:
        differing(config("llama"), config("llama") | {"hidden_size": "wide"})
    assert caught.value.where == "expert/config.json"


def test_the_page_lists_every_key_that_may_differ() -> None:
    page = (Path(__file__).parents[2] / "docs/sources.md").read_text()
    for key, why in HARMLESS.items():
        assert f"`{key}`" in page
        assert why in page


def scaled(base: Path, copy: Callable[[Path], Copy]) -> Path:
    """A copy whose positions are scaled, as context-extended fine-tunes are, and with other weights."""
    expert = copy(base).json("config.json", lambda c: c["rope_parameters"].update(rope_type="linear", factor=4.0))
    return expert.tensors(lambda tensors: tensors["model.norm.weight"].add_(1)).path


def test_a_difference_is_refused_by_key_values_and_files(toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    expert = scaled(toy_base, copy)
    with pytest.raises(InputError) as caught:
        open_sources(str(toy_base), {"long": str(expert)})
    error = caught.value
    assert error.problem == "expert `long` has another `rope_parameters.rope_type` than the base"
    assert error.expected == f"'default', as in {toy_base}/config.json"
    assert error.got == "'linear'; differing too: rope_parameters.factor"
    assert error.where == str(expert / "config.json")
    assert "sources: {accept: [rope_parameters]}" in error.fix
    assert "--accept rope_parameters" in error.fix


def test_what_is_accepted_is_the_bases_and_said(toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    sources = open_sources(str(toy_base), {"long": str(scaled(toy_base, copy))}, accept=["rope_parameters"])
    assert [one.key for one in sources.differences] == ["rope_parameters.rope_type", "rope_parameters.factor"]
    assert sources.notes == (
        "rope_parameters.rope_type: 'linear' in `long`, 'default' in the base, whose is used",
        "rope_parameters.factor: 4.0 in `long`, nothing in the base, whose is used",
    )


@pytest.mark.parametrize("accept", [[], ["rope"], ["rope_parameters.factor"], ["tokenizer", "chat_template"]])
def test_nothing_else_is_accepted(accept: list[str], toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    with pytest.raises(InputError, match=r"another `rope_parameters\.rope_type`"):
        open_sources(str(toy_base), {"long": str(scaled(toy_base, copy))}, accept=accept)


def test_another_architecture_cannot_be_accepted(toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    other = copy(toy_base).json("config.json", lambda c: c.update(model_type="mistral"))
    with pytest.raises(InputError, match="another `model_type`") as caught:
        open_sources(str(toy_base), {"x": str(other.path)}, accept=["model_type"])
    assert "accept" not in caught.value.fix


def test_the_expert_would_have_answered_otherwise(toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    """Why such a difference matters: the same weights, two functions."""
    expert = copy(toy_base).json("config.json", lambda c: c["rope_parameters"].update(rope_type="linear", factor=4.0))
    ids = torch.arange(12)[None]
    with torch.no_grad():
        one, other = (AutoModelForCausalLM.from_pretrained(path)(ids).logits for path in (toy_base, expert.path))
    assert (one - other).abs().max() > 0.1


def test_infinity_is_read_as_transformers_writes_it(tmp_path: Path) -> None:
    made = AutoConfig.for_model(
        "mamba2", vocab_size=48, hidden_size=16, num_heads=4, head_dim=8, state_size=4, n_groups=1, num_hidden_layers=1
    )
    made.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["time_step_limit"] == [0.0, {"__float__": "Infinity"}]
    assert as_transformers_reads(written, tmp_path)["time_step_limit"] == [0.0, float("inf")]
    plain = {**written, "time_step_limit": [0.0, float("inf")]}
    assert not compare_configs(written, plain, where=WHERE)
    assert differing(written, {**plain, "time_step_limit": [0.0, 1.0]}) == ["time_step_limit"]
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in AutoModelForCausalLM.from_config(made).named_parameters()}
    require_loadable(written, shapes)
    shapes.popitem()
    with pytest.raises(InputError, match="lacks tensors"):
        require_loadable(written, shapes)
