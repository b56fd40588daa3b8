"""Merges with other layers or tokens than one model has: what is written says so, and transformers loads it whole."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
import yaml
from safetensors.torch import load_file, save_file

from crossbreed.errors import InputError
from crossbreed.runs import merge_recipe
from crossbreed.testing.toys import byte_tokenizer

SIZES = {
    "vocab_size": 272,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 6,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
GROUPED = {**SIZES, "num_key_value_heads": 1, "head_dim": 8}
OLD = {"vocab_size": 272, "n_layer": 6, "n_head": 2, "n_embd": 16, "n_positions": 16}
Made = Callable[..., str]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Saves a tiny model, without some keys of its configuration; returns its folder."""

    def make(name: str, config: tf.PretrainedConfig, *without: str, auto: Any = tf.AutoModelForCausalLM) -> str:
        folder = tmp_path / name
        auto.from_config(config).save_pretrained(folder)
        byte_tokenizer().save_pretrained(folder)
        stated = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({k: v for k, v in stated.items() if k not in without}))
        return str(folder)

    return make


def merged(config: dict[str, Any], folder: Path) -> tuple[Path, dict[str, Any]]:
    (folder / "merge.yml").write_text(yaml.safe_dump(config))
    out = folder / "out"
    merge_recipe(folder / "merge.yml", out, numerics="mergekit")
    return out, json.loads((out / "config.json").read_text())


def stack(*slices: tuple[str, int, int]) -> dict[str, Any]:
    sources = [{"sources": [{"model": model, "layer_range": [low, high]}]} for model, low, high in slices]
    return {"merge_method": "passthrough", "dtype": "float32", "slices": sources}


def loaded(out: Path) -> Any:
    model, info = tf.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model


def test_lists_with_an_entry_a_layer_follow_their_layers(tmp_path: Path, made: Made) -> None:
    one = made("one", tf.SmolLM3Config(**SIZES, num_key_value_heads=1))
    other = made("other", tf.SmolLM3Config(**SIZES, num_key_value_heads=1, no_rope_layers=[0, 1, 0, 1, 0, 1]))
    out, config = merged(stack((one, 0, 4), (other, 2, 6)), tmp_path)
    assert config["no_rope_layers"] == [1, 1, 1, 0, 0, 1, 0, 1]
    assert [bool(layer.self_attn.use_rope) for layer in loaded(out).model.layers] == [1, 1, 1, 0, 0, 1, 0, 1]


def test_layers_that_are_dropped_take_their_entries_along(tmp_path: Path, made: Made) -> None:
    one = made("one", tf.SmolLM3Config(**SIZES, num_key_value_heads=1))
    out, config = merged(stack((one, 0, 2), (one, 3, 6)), tmp_path)
    assert (config["num_hidden_layers"], config["no_rope_layers"]) == (5, [1, 1, 0, 1, 1])
    loaded(out)


FULL, SLIDING = "full_attention", "sliding_attention"


def test_a_pattern_that_only_transformers_knows_is_written_out(tmp_path: Path, made: Made) -> None:
    gemma = made("gemma", tf.Gemma2Config(**GROUPED, sliding_window=8), "layer_types")
    out, config = merged(stack((gemma, 0, 3), (gemma, 2, 6)), tmp_path)
    assert config["layer_types"] == [SLIDING, FULL, SLIDING, SLIDING, FULL, SLIDING, FULL]
    assert loaded(out).config.layer_types == config["layer_types"]


def test_windows_of_upper_layers_stay_with_them(tmp_path: Path, made: Made) -> None:
    settings = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 3}
    qwen = made("qwen", tf.Qwen2Config(**SIZES, num_key_value_heads=1, **settings), "layer_types")
    out, config = merged(stack((qwen, 0, 2), (qwen, 3, 6)), tmp_path)
    assert config["layer_types"] == [FULL, FULL, SLIDING, SLIDING, SLIDING]
    assert loaded(out).config.layer_types == config["layer_types"]


def test_patterns_of_gpt_neo_and_depths_of_mpt_are_written(tmp_path: Path, made: Made) -> None:
    neo = tf.GPTNeoConfig(
        vocab_size=272, hidden_size=16, num_layers=4, num_heads=2, attention_types=[[["global", "local"], 2]]
    )
    out, config = merged(stack((made("neo", neo), 0, 2), (made("neo", neo), 1, 4)), tmp_path)
    assert config["num_layers"] == 5
    assert [block.attn.attention_type for block in loaded(out).transformer.h] == [
        *("global", "local", "local", "global", "local"),
    ]


def test_the_depth_of_mpt_is_written(tmp_path: Path, made: Made) -> None:
    mpt = made("mpt", tf.MptConfig(vocab_size=272, d_model=16, n_layers=4, n_heads=2, max_seq_len=16))
    out, config = merged(stack((mpt, 0, 3), (mpt, 1, 4)), tmp_path)
    assert config["n_layers"] == 6
    assert len(loaded(out).transformer.blocks) == 6


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (tf.GPT2Config(**OLD, scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx"),
        (tf.DiffLlamaConfig(**SIZES, num_key_value_heads=2), "diffllama"),
    ],
    ids=["gpt2", "diffllama"],
)
def test_a_rule_that_no_list_says_is_refused(config: Any, key: str, tmp_path: Path, made: Made) -> None:
    one = made("one", config)
    with pytest.raises(InputError, match=key):
        merged(stack((one, 0, 3), (one, 2, 6)), tmp_path)
    merged(stack((one, 0, 3), (one, 3, 5)), tmp_path)  # in order: the rule holds


def test_an_encoders_depth_is_written(tmp_path: Path, made: Made) -> None:
    size = {key: value for key, value in SIZES.items() if key not in ("bos_token_id", "eos_token_id")}
    bert = made("bert", tf.BertConfig(**size), auto=tf.AutoModelForMaskedLM)
    models = [{"model": bert, "parameters": {"weight": [0, 1]}}]
    config = {"merge_method": "linear", "models": models, "parameters": {"normalize": False}}
    out, written = merged(config, tmp_path)
    assert written["num_hidden_layers"] == 6
    before, after = load_file(f"{bert}/model.safetensors"), load_file(out / "model.safetensors")
    name = "bert.encoder.layer.{}.output.dense.weight"
    torch.testing.assert_close(after[name.format(5)], before[name.format(5)])
    assert not after[name.format(0)].any()


def test_layers_under_unknown_names_are_refused(tmp_path: Path, made: Made) -> None:
    llama = Path(made("llama", tf.LlamaConfig(**SIZES)))
    weights = load_file(llama / "model.safetensors")

    renamed = {name.replace(".layers.", ".cells."): tensor for name, tensor in weights.items()}
    save_file(renamed, llama / "model.safetensors", metadata={"format": "pt"})
    twin = shutil.copytree(llama, tmp_path / "twin")
    save_file({name: tensor * 2 for name, tensor in renamed.items()}, twin / "model.safetensors")
    config = {"merge_method": "linear", "models": [{"model": str(llama), "parameters": {"weight": 1}}]}
    with pytest.raises(InputError, match="not found by the names") as refused:
        merged(config, tmp_path)
    assert "model.cells (6)" in refused.value.got

    models = [
        {"model": str(llama), "parameters": {"weight": [0, 1]}},
        {"model": str(twin), "parameters": {"weight": 1}},
    ]
    graded = {"merge_method": "linear", "models": models}
    (tmp_path / "merge.yml").write_text(yaml.safe_dump(graded))
    with pytest.raises(InputError, match="`weight` has values over the layers") as refused:
        merge_recipe(tmp_path / "merge.yml", tmp_path / "graded", numerics="accurate")
    assert "model.cells (6)" in refused.value.got
    models[0]["parameters"] = {"weight": [{"filter": "cells.0.", "value": 0.5}, {"value": 1}]}
    (tmp_path / "merge.yml").write_text(yaml.safe_dump(graded))
    merge_recipe(tmp_path / "merge.yml", tmp_path / "graded", numerics="accurate")


def test_every_tensor_with_token_rows_follows_the_tokens(tmp_path: Path, made: Made) -> None:

    neox = made("neox", tf.GPTNeoXConfig(**SIZES, tie_word_embeddings=False))
    more = made("more", tf.GPTNeoXConfig(**SIZES, tie_word_embeddings=False))
    tokenizer = tf.AutoTokenizer.from_pretrained(more)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(more)
    models = [{"model": model, "parameters": {"weight": 1}} for model in (neox, more)]
    out, config = merged({"merge_method": "linear", "models": models, "tokenizer_source": "union"}, tmp_path)
    assert config["vocab_size"] == len(tokenizer)
    assert loaded(out).get_output_embeddings().weight.shape[0] == len(tokenizer)


def test_the_bias_of_a_head_has_a_row_for_each_token(tmp_path: Path, made: Made) -> None:

    phi, swapped = (made(name, tf.PhiConfig(**SIZES)) for name in ("phi", "swapped"))
    weights = load_file(f"{swapped}/model.safetensors")
    weights["lm_head.bias"] = torch.arange(272.0)

    save_file(weights, f"{swapped}/model.safetensors", metadata={"format": "pt"})
    tokens = json.loads(Path(swapped, "tokenizer.json").read_text())
    vocabulary = tokens["model"]["vocab"]
    first, second = (token for token, row in vocabulary.items() if row in (40, 41))
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    Path(swapped, "tokenizer.json").write_text(json.dumps(tokens))
    assert tf.AutoTokenizer.from_pretrained(swapped).get_vocab()[first] == vocabulary[first]
    models = [{"model": swapped, "parameters": {"weight": 1}}, {"model": phi, "parameters": {"weight": 0}}]
    config = {"merge_method": "linear", "models": models, "tokenizer_source": phi, "dtype": "float32"}
    out, _ = merged(config, tmp_path)
    assert load_file(out / "model.safetensors")["lm_head.bias"][39:43].tolist() == [39.0, 41.0, 40.0, 42.0]
