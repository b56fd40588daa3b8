"""Adapters that somebody edited, moved, converted or saved halfway: each is read rightly or refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from making import PLAIN, follow, logits, merged, sources_after, train
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from crossbreed.errors import InputError
from crossbreed.sources import Sources, open_sources

FACTOR = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
A, B = FACTOR.format("A"), FACTOR.format("B")


class Editable:
    """An adapter of `tied` whose files a test changes."""

    def __init__(self, base: Path, folder: Path) -> None:
        self.base, self.folder = base, folder
        self.live = train(base, folder)

    def options(self, **options: Any) -> "Editable":
        file = self.folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | options))
        return self

    def tensors(self, edit: Callable[[dict[str, torch.Tensor]], object]) -> "Editable":
        tensors = load_file(self.folder / "adapter_model.safetensors")
        edit(tensors)
        save_file(tensors, self.folder / "adapter_model.safetensors")
        return self

    def open(self, **others: str) -> Sources:
        return open_sources(str(self.base), {"x": str(self.folder), **others})

    def refusal(self) -> InputError:
        with pytest.raises(InputError) as caught:
            self.open()
        return caught.value


@pytest.fixture
def adapter(bases: dict[str, Path], tmp_path: Path) -> Editable:
    return Editable(bases["tied"], tmp_path / "adapter")


@pytest.mark.parametrize(("base", "target"), [("tied", "o_proj"), ("gpt2", "attn.c_proj"), ("phi3", "o_proj")])
@pytest.mark.parametrize("flag", [False, True])
def test_the_flag_for_transposed_layers_is_not_believed(
    flag: bool, base: str, target: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    """PEFT itself warns, and goes by the type of the layer; these matrices are square."""
    train(bases[base], tmp_path / "adapter", {**PLAIN, "target_modules": [target]})
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"fan_in_fan_out": flag}))
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(bases[base]), tmp_path / "adapter")
    ours = merged(open_sources(str(bases[base]), {"x": str(tmp_path / "adapter")}), tmp_path / "ours")
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(ours)), logits(theirs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8, torch.int32, torch.bool]
)
def test_factors_that_are_no_floats_are_refused(dtype: torch.dtype, adapter: Editable) -> None:
    adapter.tensors(lambda tensors: tensors.update({A: (10 * tensors[A]).to(dtype)}))
    assert f"`{A}` of the adapter is {dtype}, which means nothing without its scales" in adapter.refusal().problem


@pytest.mark.parametrize(
    "spelling",
    [
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight",
        "model.layers.0.self_attn.q_proj.lora_A.weight",
    ],
)
def test_a_factor_that_stands_there_twice_is_refused(spelling: str, adapter: Editable) -> None:
    adapter.tensors(lambda tensors: tensors.update({spelling: 2 * tensors[A]}))
    problem = adapter.refusal().problem
    assert A in problem
    assert spelling in problem


def test_two_spellings_of_one_matrix_are_refused(adapter: Editable) -> None:
    short = "base_model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    adapter.tensors(lambda tensors: tensors.update({short.format(s): tensors[FACTOR.format(s)] + 1 for s in "AB"}))
    error = adapter.refusal()
    assert error.problem == "the adapter changes `model.layers.0.self_attn.q_proj.weight` twice"
    assert A in error.got
    assert short.format("A") in error.got


@pytest.mark.parametrize("name", ["french", "default"])
def test_a_factor_may_bear_its_adapters_name(name: str, adapter: Editable) -> None:
    plain = merged(adapter.open(), adapter.folder.with_name("plain"))
    named = adapter.tensors(
        lambda tensors: [tensors.update({k.replace(".weight", f".{name}.weight"): tensors.pop(k)}) for k in [*tensors]]
    )
    ours, theirs = load_file(plain / "model.safetensors"), merged(named.open(), adapter.folder.with_name("named"))
    assert all(torch.equal(ours[key], tensor) for key, tensor in load_file(theirs / "model.safetensors").items())


def test_several_adapters_in_one_file_are_refused(adapter: Editable) -> None:
    adapter.tensors(lambda tensors: tensors.update({A.replace(".weight", ".french.weight"): tensors.pop(A)}))
    error = adapter.refusal()
    assert error.problem == "the file holds several adapters: default, french"


def test_the_folder_that_holds_a_named_adapter_says_where_it_is(bases: dict[str, Path], tmp_path: Path) -> None:
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(bases["tied"]), LoraConfig(**PLAIN), "french")
    model.add_adapter("german", LoraConfig(**PLAIN))
    model.save_pretrained(tmp_path / "adapters", selected_adapters=["french"])
    with pytest.raises(InputError, match="holds no model") as caught:
        open_sources(str(bases["tied"]), {"x": str(tmp_path / "adapters")})
    assert caught.value.fix == f"did you mean {tmp_path}/adapters/french?"
    assert open_sources(str(bases["tied"]), {"x": f"{tmp_path}/adapters/french"}).experts.keys() == {"x"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"lora_alpha": float("nan")}, "no `lora_alpha`"),
        ({"lora_alpha": float("inf")}, "no `lora_alpha`"),
        ({"lora_alpha": "8"}, "`lora_alpha` of the adapter is of the wrong kind"),
        ({"lora_alpha": True}, "`lora_alpha` of the adapter is of the wrong kind"),
        ({"lora_alpha": [8]}, "`lora_alpha` of the adapter is of the wrong kind"),
        ({"peft_type": ["LORA"]}, "`peft_type` of the adapter is of the wrong kind"),
        ({"modules_to_save": 7}, "`modules_to_save` of the adapter is of the wrong kind"),
        ({"lora_alpha": None}, "no `lora_alpha`"),
        ({"alpha_pattern": {"q_proj": float("-inf")}}, "no `lora_alpha`"),
        ({"r": 0}, "a rank of 0"),
        ({"r": -4}, "a rank of -4"),
        ({"r": 3.5}, "a rank of 3.5"),
        ({"r": float("nan")}, "no `r`"),
        ({"rank_pattern": {"q_proj": 0}}, "a rank of 0"),
        ({"rank_pattern": ["q_proj"]}, "`rank_pattern` of the adapter is of the wrong kind"),
        ({"alpha_pattern": "q_proj"}, "`alpha_pattern` of the adapter is of the wrong kind"),
        ({"alpha_pattern": {"no_such_module": "much"}}, "`alpha_pattern` of the adapter is of the wrong kind"),
        ({"rank_pattern": {"(q_proj": 4}}, "holds what is no pattern"),
        ({"rank_pattern": {"(?=a)b": 4}}, "no pattern that matches in linear time"),
        ({"alpha_pattern": {"a{99999999999999999999}": 4}}, "no pattern that matches in linear time"),
        ({"alpha_pattern": {r"(a)\1": 4}}, "no pattern that matches in linear time"),
        ({"alpha_pattern": {"a" * 5000: 4}}, "no pattern that matches in linear time"),
    ],
)
def test_ranks_and_alphas_that_mean_nothing_are_refused_at_once(
    options: dict[str, Any], says: str, adapter: Editable
) -> None:
    error = adapter.options(**options).refusal()
    assert says in error.problem
    assert error.where == str(adapter.folder / "adapter_config.json")
    assert len(str(error)) < 1000


@pytest.mark.timeout(20)
def test_patterns_with_escapes_and_sets_are_no_danger(adapter: Editable) -> None:
    runaways = {"(([a-z_.0-9])+)+!": 4, "(a|a|[a-z._0-9])*!": 4, "(a|b|[a-z._0-9]){1,90}!": 4, ".*.*.*.*.*.*!": 4}
    patterns = runaways | {r"model\.layers\.[01+*]\.self_attn\..*q_proj": 8, r"layers\.(0|1)?\.x": 2, "k_proj": 2}
    assert adapter.options(alpha_pattern=patterns).open().structure.touched["x"]


@pytest.mark.parametrize("part", ["A", "B"])
def test_nan_in_a_factor_names_it(part: str, adapter: Editable) -> None:
    error = adapter.tensors(lambda tensors: tensors[FACTOR.format(part)].fill_(torch.nan)).refusal()
    assert error.problem == f"`{FACTOR.format(part)}` holds NaN or Inf"


def test_a_file_without_tensors_is_refused(adapter: Editable) -> None:
    assert adapter.tensors(dict.clear).refusal().problem == "the adapter's file holds no tensor"


def test_tensors_of_size_0_are_named_for_what_they_are(adapter: Editable) -> None:
    """DeepSpeed's ZeRO-3 leaves them where weights were not gathered; no merge could help."""
    whole = load_file(adapter.folder / "adapter_model.safetensors")
    error = adapter.tensors(lambda tensors: tensors.update({A: torch.zeros(0)})).refusal()
    assert f"`{A}` of the adapter is empty" in error.problem
    assert error.fix.startswith("use a checkpoint saved whole")
    assert "python" not in error.fix
    save_file(whole, adapter.folder / "adapter_model.safetensors")
    assert adapter.open().structure.touched["x"]


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (lambda tensors: [tensor.zero_() for name, tensor in tensors.items() if "lora_B" in name], "lora_B is 0"),
        (lambda tensors: [tensor.zero_() for name, tensor in tensors.items() if "lora_A" in name], "lora_A is 0"),
    ],
)
def test_an_adapter_that_changes_nothing_is_named_beside_others(
    edit: Callable[[dict[str, torch.Tensor]], object], why: str, adapter: Editable, tmp_path: Path
) -> None:
    train(adapter.base, tmp_path / "trained")
    sources = adapter.tensors(edit).open(trained=str(tmp_path / "trained"))
    with pytest.raises(InputError) as caught:
        sources.require_changes()
    assert caught.value.problem == f"expert `x` equals the base in every tensor: was it trained? ({why})"
    open_sources(str(adapter.base), {"trained": str(tmp_path / "trained")}).require_changes()  # the advice


def test_an_alpha_of_0_changes_nothing(adapter: Editable, tmp_path: Path) -> None:
    train(adapter.base, tmp_path / "trained")
    with pytest.raises(InputError, match="lora_alpha is 0"):
        adapter.options(lora_alpha=0).open(trained=str(tmp_path / "trained")).require_changes()


@pytest.mark.parametrize("kind", ["arrow_config", "layer_replication", "alora_invocation_tokens"])
def test_what_no_merge_can_make_comes_without_a_command(kind: str, adapter: Editable) -> None:
    assert adapter.options(**{kind: [[0, 1]], "use_dora": True}).refusal().fix.startswith("leave it out")


@pytest.mark.parametrize("kind", ["pissa_niter_4", "corda", "loftq", "lora_ga", "of next year"])
def test_a_base_that_nobody_can_make_again_is_no_merges_business(kind: str, adapter: Editable) -> None:
    error = adapter.options(init_lora_weights=kind).refusal()
    assert "path_initial_model_for_weight_conversion" in error.fix
    assert "merge_and_unload" not in error.fix


def test_peft_writes_a_moved_base_as_a_plain_adapter(bases: dict[str, Path], tmp_path: Path) -> None:
    """What the message says for such initialisations, done."""
    base = AutoModelForCausalLM.from_pretrained(bases["untied"])
    model = get_peft_model(base, LoraConfig(**PLAIN, init_lora_weights="pissa_niter_4"))
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "before")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.1)
    live = logits(model)
    model.save_pretrained(tmp_path / "plain", path_initial_model_for_weight_conversion=str(tmp_path / "before"))
    sources = open_sources(str(bases["untied"]), {"x": str(tmp_path / "plain")})
    ours = AutoModelForCausalLM.from_pretrained(merged(sources, tmp_path / "ours"))
    torch.testing.assert_close(logits(ours), live, rtol=1e-4, atol=1e-4)


def test_copies_of_the_bases_own_ends_are_passed_over_and_trained_ones_are_not(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    """PEFT saves embeddings beside the factors whenever one is a target."""
    adapter = Editable(bases["untied"], tmp_path / "adapter")
    name = "base_model.model.model.embed_tokens.weight"
    embedding = load_file(bases["untied"] / "model.safetensors")["model.embed_tokens.weight"]
    adapter.tensors(lambda tensors: tensors.update({name: embedding.clone()}))
    assert adapter.open().structure.touched["x"]
    adapter.tensors(lambda tensors: tensors[name].add_(1))
    error = adapter.refusal()
    assert f"carries `{name}`" in error.problem
    live = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(bases["untied"]), adapter.folder))
    ours = merged(sources_after(error, bases["untied"], adapter.folder), tmp_path / "ours")
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(ours)), live, rtol=1e-4, atol=1e-4)


def test_an_adapter_of_another_base_says_which(bases: dict[str, Path], adapter: Editable) -> None:
    with pytest.raises(InputError, match="for another base") as caught:
        open_sources(str(bases["gpt2"]), {"x": str(adapter.folder)})
    assert caught.value.fix == f"use the base that the adapter was trained on: {bases['tied']}"
    assert open_sources(caught.value.fix.partition(": ")[2], {"x": str(adapter.folder)}).experts


@pytest.mark.parametrize("is_named", [True, False])
def test_an_adapter_alone_is_told_how_to_stand(is_named: bool, adapter: Editable) -> None:
    """As `crossbreed evaluate ADAPTER` opens it."""
    if not is_named:
        adapter.options(base_model_name_or_path=None)
    with pytest.raises(InputError, match="an adapter cannot stand alone") as caught:
        open_sources(str(adapter.folder), {})
    assert ("BASE, which its configuration does not name" in caught.value.fix) is not is_named
    follow(caught.value.fix.replace("BASE", str(adapter.base)))
    model = AutoModelForCausalLM.from_pretrained(f"{adapter.folder}-merged")
    torch.testing.assert_close(logits(model), adapter.live, rtol=1e-4, atol=1e-4)
    assert open_sources(f"{adapter.folder}-merged", {}).structure.tensors == adapter.open().structure.tensors


def test_an_adapter_of_a_model_with_pictures_gets_the_true_reason(tmp_path: Path) -> None:
    """Its files and transformers call the language model's layers differently."""
    text = LlamaConfig(vocab_size=48, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
    )
    model = LlavaForConditionalGeneration(LlavaConfig(text_config=text, vision_config=vision, image_token_index=47))
    model.save_pretrained(tmp_path / "base")
    tuned = get_peft_model(model, LoraConfig(**PLAIN))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
    tuned.save_pretrained(tmp_path / "adapter")
    with pytest.raises(InputError) as caught:
        open_sources(str(tmp_path / "base"), {"x": str(tmp_path / "adapter")})
    assert "as transformers has it in memory" in caught.value.problem
    sources = sources_after(caught.value, tmp_path / "base", tmp_path / "adapter")
    ours = LlavaForConditionalGeneration.from_pretrained(merged(sources, tmp_path / "ours"))
    torch.testing.assert_close(logits(ours), logits(tuned), rtol=1e-4, atol=1e-4)


def test_a_tied_expert_and_an_untied_base_are_made_alike_by_the_advice(bases: dict[str, Path], tmp_path: Path) -> None:
    tied = AutoModelForCausalLM.from_pretrained(bases["tied"])
    base, expert = tmp_path / "base", tmp_path / "expert"
    tied.save_pretrained(base)
    tied.save_pretrained(expert)
    with pytest.raises(InputError, match="another `tie_word_embeddings`") as caught:
        open_sources(str(bases["untied"]), {"x": str(expert)})
    follow(caught.value.fix)
    sources = open_sources(str(bases["untied"]), {"x": f"{expert}-untied"})
    assert "lm_head.weight" in sources.experts["x"].touched
    untied = AutoModelForCausalLM.from_pretrained(f"{expert}-untied")
    assert torch.equal(logits(untied), logits(tied))
    with pytest.raises(InputError, match="another `tie_word_embeddings`") as caught:
        open_sources(str(base), {"x": f"{expert}-untied"})
    follow(caught.value.fix)
    assert open_sources(f"{base}-untied", {"x": f"{expert}-untied"}).experts
