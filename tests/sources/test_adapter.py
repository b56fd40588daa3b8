import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from copies import Copy
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from crossbreed.errors import InputError
from crossbreed.sources import Adapter, Checkpoint, SourceLocation, open_sources
from crossbreed.testing.toys import make_adapter, make_checkpoint

Q_PROJ = "model.layers.0.self_attn.q_proj"
Q_A = f"base_model.model.{Q_PROJ}.lora_A.weight"


def open_adapter(path: Path, base: Path) -> Adapter:
    return Adapter.open(SourceLocation(path=path), base=Checkpoint.open(SourceLocation(path=base)))


def delta(adapter: Adapter, name: str) -> torch.Tensor | float:
    factors = adapter.factors(name)
    return factors.scale * factors.b_MR @ factors.a_RN if factors else 0.0


@pytest.fixture(scope="module")
def trained(toy_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Has PEFT itself make an adapter with the options given, and non-zero factors."""
    from peft import LoraConfig, get_peft_model

    def make(name: str, **options: Any) -> Path:
        folder = tmp_path_factory.mktemp("peft") / name
        config = LoraConfig(task_type="CAUSAL_LM", **{"r": 4, "target_modules": ["q_proj", "down_proj"], **options})
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(toy_base), config)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in (p for key, p in model.named_parameters() if "lora_" in key):
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
        model.save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"lora_alpha": 16}, id="plain"),
        pytest.param({"lora_alpha": 16, "use_rslora": True}, id="rank-stabilised"),
        pytest.param({"rank_pattern": {"down_proj": 2, r"layers\.1\.self_attn\.q_proj": 6}}, id="rank pattern"),
        pytest.param(
            {"use_rslora": True, "rank_pattern": {"q_proj": 6}, "alpha_pattern": {"^model.layers.2.mlp.down_proj": 3}},
            id="both patterns, rank-stabilised",
            marks=pytest.mark.filterwarnings("ignore:Using Rank-Stabilized LoRA"),
        ),
    ],
)
def test_base_plus_deltas_is_what_peft_merges(
    options: dict[str, Any], toy_base: Path, trained: Callable[..., Path]
) -> None:
    from peft import PeftModel

    folder = trained("adapter", **options)
    adapter, base = open_adapter(folder, toy_base), load_file(toy_base / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(toy_base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(model, folder).merge_and_unload().state_dict()
    assert len(adapter.touched) == 8
    for name, weight in base.items():
        torch.testing.assert_close(weight.float() + delta(adapter, name), merged[name], rtol=1e-6, atol=1e-6)


def test_fan_in_fan_out_adds_the_transpose(tmp_path: Path) -> None:
    """GPT-2 stores its matrices as (in, out); PEFT's own merge is the witness."""
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import GPT2Config

    config = GPT2Config(vocab_size=32, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    options = LoraConfig(
        task_type="CAUSAL_LM", r=2, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), options)
    model.save_pretrained(tmp_path / "adapter")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    adapter = open_adapter(tmp_path / "adapter", tmp_path / "base")
    (name,) = adapter.touched
    base, merged = load_file(tmp_path / "base" / "model.safetensors"), model.merge_and_unload().state_dict()
    torch.testing.assert_close(base[name] + delta(adapter, name), merged[name])
    assert base[name].shape == (8, 24)


def test_factors_are_float32_whatever_is_stored(
    toy_base: Path, toy_adapters: dict[str, Path], copy: Callable[[Path], Copy]
) -> None:
    halved = copy(toy_adapters["plain"]).tensors(
        lambda tensors: tensors.update({name: tensor.bfloat16() for name, tensor in tensors.items()})
    )
    factors = open_adapter(halved.path, toy_base).factors(f"{Q_PROJ}.weight")
    assert factors is not None
    assert factors.a_RN.dtype == factors.b_MR.dtype == torch.float32


def test_an_untrained_adapter_touches_nothing(
    toy_base: Path, toy_adapters: dict[str, Path], copy: Callable[[Path], Copy]
) -> None:
    untrained = copy(toy_adapters["plain"]).tensors(
        lambda tensors: [tensor.zero_() for name, tensor in tensors.items() if "lora_B" in name]
    )
    adapter = open_adapter(untrained.path, toy_base)
    assert adapter.touched == frozenset()
    assert adapter.factors(f"{Q_PROJ}.weight") is None


def test_tensors_that_no_factor_changes_have_none(toy_base: Path, toy_adapters: dict[str, Path]) -> None:
    adapter = open_adapter(toy_adapters["plain"], toy_base)
    assert all(name.endswith("_proj.weight") for name in adapter.touched)
    assert adapter.factors("model.norm.weight") is None


@pytest.mark.parametrize(
    ("edit", "same"),
    [
        ({"base_model_name_or_path": "elsewhere", "lora_dropout": 0.5, "inference_mode": False}, True),
        ({"lora_alpha": 9}, False),
        ({"use_rslora": True}, False),
        ({"alpha_pattern": {"down_proj": 1}}, False),
    ],
)
def test_the_hash_covers_what_the_deltas_depend_on(
    edit: dict[str, Any], same: bool, toy_base: Path, toy_adapters: dict[str, Path], copy: Callable[[Path], Copy]
) -> None:
    original = toy_adapters["plain"]
    edited = copy(original).json("adapter_config.json", lambda config: config.update(edit))
    assert (open_adapter(edited.path, toy_base).hash == open_adapter(original, toy_base).hash) is same


def square(folder: Path, *, model_type: str, flag: bool) -> Adapter:
    """An adapter of one square matrix, of which only the architecture tells how it is stored."""
    (folder / "base").mkdir(parents=True)
    save_file({"h.0.attn.c_proj.weight": torch.eye(4)}, folder / "base" / "model.safetensors")
    (folder / "base" / "config.json").write_text(json.dumps({"tie_word_embeddings": False, "model_type": model_type}))
    factors = {"lora_A": torch.ones(1, 4), "lora_B": torch.arange(4.0).reshape(4, 1)}
    save_file(
        {f"base_model.model.transformer.h.0.attn.c_proj.{side}.weight": factor for side, factor in factors.items()},
        folder / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "fan_in_fan_out": flag}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return open_adapter(folder, folder / "base")


@pytest.mark.parametrize("flag", [False, True])
def test_the_architecture_says_what_is_stored_transposed_and_not_the_flag(flag: bool, tmp_path: Path) -> None:
    conv1d = square(tmp_path / "gpt2", model_type="gpt2", flag=flag)
    linear = square(tmp_path / "gpt_bigcode", model_type="gpt_bigcode", flag=flag)
    name = "h.0.attn.c_proj.weight"
    assert torch.equal(delta(linear, name), torch.arange(4.0).reshape(4, 1).expand(4, 4))
    assert torch.equal(delta(conv1d, name), delta(linear, name).T)
    assert conv1d.hash != linear.hash


def test_a_square_matrix_of_an_unknown_architecture_is_refused_if_it_may_be_transposed(tmp_path: Path) -> None:
    assert square(tmp_path / "plain", model_type="unheard-of", flag=False).touched
    with pytest.raises(InputError, match="cannot tell whether the base stores") as caught:
        square(tmp_path / "flagged", model_type="unheard-of", flag=True)
    assert '"fan_in_fan_out": false' in caught.value.fix


@pytest.mark.parametrize(
    "option",
    [
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"bias": "lora_only"},
        {"init_lora_weights": "pissa"},
        {"trainable_token_indices": [1, 2]},
        {"an_option_of_next_year": True},
        {"peft_type": "LOHA"},
    ],
)
def test_what_is_more_than_lora_is_refused_by_name(
    option: dict[str, Any], toy_base: Path, toy_adapters: dict[str, Path], copy: Callable[[Path], Copy]
) -> None:
    other = copy(toy_adapters["plain"]).json("adapter_config.json", lambda config: config.update(option))
    (name, value), *_ = option.items()
    with pytest.raises(InputError) as caught:
        open_adapter(other.path, toy_base)
    assert (str(value) if name == "peft_type" else f"`{name}: {value}`") in caught.value.problem
    assert "merge_and_unload" in caught.value.fix


def test_a_real_dora_adapter_is_refused(toy_base: Path, trained: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="use_dora"):
        open_adapter(trained("dora", use_dora=True), toy_base)


def test_trained_embeddings_are_refused_by_name(
    toy_base: Path, toy_adapters: dict[str, Path], copy: Callable[[Path], Copy]
) -> None:
    name = "base_model.model.model.embed_tokens.weight"
    other = copy(toy_adapters["plain"]).tensors(lambda tensors: tensors.update({name: torch.ones(3, 3)}))
    with pytest.raises(InputError, match=f"carries `{name}`"):
        open_adapter(other.path, toy_base)


def test_a_head_that_the_base_ties_is_refused(
    toy_base: Path, toy_adapters: dict[str, Path], copy: Callable[[Path], Copy]
) -> None:
    head = {"base_model.model.lm_head.lora_A.weight": torch.ones(4, 128)}
    head["base_model.model.lm_head.lora_B.weight"] = torch.ones(272, 4)
    other = copy(toy_adapters["plain"]).tensors(lambda tensors: tensors.update(head))
    with pytest.raises(InputError, match=r"`lm_head\.weight`, which the base ties"):
        open_adapter(other.path, toy_base)


def test_another_bases_adapter_is_refused_naming_the_tensor(tmp_path: Path, toy_base: Path) -> None:
    deeper = make_checkpoint(tmp_path / "deeper", num_layers=5)
    with pytest.raises(InputError, match=r"another base: it changes `model\.layers\.4\.mlp\.down_proj`"):
        open_adapter(make_adapter(tmp_path / "for-deeper", base=deeper, seed=0), toy_base)


def test_another_shape_is_refused_naming_the_tensor(
    toy_base: Path, toy_adapters: dict[str, Path], copy: Callable[[Path], Copy]
) -> None:
    wider = copy(toy_adapters["plain"]).tensors(lambda tensors: tensors.update({Q_A: torch.ones(4, 256)}))
    with pytest.raises(InputError, match=f"its change of `{Q_PROJ}.weight` has another shape") as caught:
        open_adapter(wider.path, toy_base)
    assert (caught.value.expected[:10], caught.value.got) == ("(128, 128)", "(128, 256)")


def test_rank_and_alpha_must_fit_the_factors(
    toy_base: Path, toy_adapters: dict[str, Path], copy: Callable[[Path], Copy]
) -> None:
    other = copy(toy_adapters["plain"])
    config = "adapter_config.json"
    with pytest.raises(InputError, match=r"lora_A\.weight` has another rank"):
        open_adapter(other.json(config, lambda c: c.update(r=8)).path, toy_base)
    with pytest.raises(InputError, match=r"gives `\S+` no `lora_alpha`"):
        open_adapter(other.json(config, lambda c: (c.update(r=4), c.pop("lora_alpha"))).path, toy_base)


@pytest.mark.parametrize("factor", [None, torch.ones(4, 4, 4), torch.ones(3, 128)])
def test_factors_that_make_no_product_are_refused(
    factor: torch.Tensor | None, toy_base: Path, toy_adapters: dict[str, Path], copy: Callable[[Path], Copy]
) -> None:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[Q_A]
        if factor is not None:
            tensors[Q_A] = factor

    with pytest.raises(InputError, match=r"without its other factor|make no product"):
        open_adapter(copy(toy_adapters["plain"]).tensors(edit).path, toy_base)


def test_a_pickled_adapter_is_refused(
    toy_base: Path, toy_adapters: dict[str, Path], copy: Callable[[Path], Copy]
) -> None:
    pickled = copy(toy_adapters["plain"])
    torch.save(load_file(pickled.weights), pickled.path / "adapter_model.bin")
    pickled.weights.unlink()
    with pytest.raises(InputError, match="pickle") as caught:
        open_adapter(pickled.path, toy_base)
    assert "adapter_model.safetensors" in caught.value.fix


def test_ranks_are_part_of_the_structure(
    toy_base: Path, toy_experts: dict[str, Path], toy_adapters: dict[str, Path]
) -> None:
    paths = toy_adapters | {"full": toy_experts["everything"]}
    structure = open_sources(str(toy_base), {name: str(path) for name, path in paths.items()}).structure
    assert {name: {*ranks.values()} for name, ranks in structure.ranks.items()} == {
        "plain": {4},
        "stabilised": {8},
        "full": set(),
    }
    assert structure.ranks["plain"].keys() == structure.touched["plain"]
