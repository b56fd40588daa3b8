"""`crossbreed inspect`: what it says is what the files hold, and what a merge of them would do."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from crossbreed.errors import InputError
from crossbreed.runs.inspect import inspect_models
from crossbreed.runs.inspect_text import render
from crossbreed.sources import open_sources
from crossbreed.testing.toys import make_checkpoint

Edit = Callable[[dict[str, Any]], object]


def inspected(*folders: Path) -> dict[str, Any]:
    """What a script reads of `--json`."""
    found: dict[str, Any] = json.loads(json.dumps(inspect_models([str(folder) for folder in folders])))
    return found


def changed(original: Path, folder: Path, *, config: Edit = dict, tensors: Edit = dict) -> Path:
    """A copy of a model with another configuration or other tensors."""
    shutil.copytree(original, folder)
    weights = next(folder.glob("*.safetensors"))
    held = load_file(weights)
    tensors(held)
    save_file(held, weights, metadata={"format": "pt"})
    file = next(file for name in ("adapter_config.json", "config.json") if (file := folder / name).exists())
    value = json.loads(file.read_text())
    config(value)
    file.write_text(json.dumps(value))
    return folder


def test_a_checkpoint_is_described_as_its_files_are(toy_base: Path) -> None:
    (model,) = inspected(toy_base)["models"]
    stored = load_file(toy_base / "model.safetensors")
    assert model["hash"] == open_sources(str(toy_base), {}).base.hash
    assert (model["kind"], model["architecture"], model["model_type"]) == ("checkpoint", "LlamaForCausalLM", "llama")
    assert (model["num_layers"], model["layers"]) == (4, {"model.layers": 4})
    assert (model["tied"], model["vocab_size"]) == (True, 272)
    assert model["parameters"] == sum(tensor.numel() for tensor in stored.values())
    assert model["dtypes"] == {"bfloat16": model["parameters"]}
    assert [(token["id"], token["text"]) for token in model["end_tokens"]] == [(256, "<eos>")]
    counts = {kind: module["tensors"] for kind, module in model["modules"].items()}
    assert counts == {"attention": 16, "mlp": 12, "norm": 9, "embedding": 1}
    assert all(module["example"] in stored for module in model["modules"].values())
    assert sum(module["parameters"] for module in model["modules"].values()) == model["parameters"]
    assert (model["tensors"], model["unplaced"]) == (len(stored), 0)


def test_one_model_is_not_compared(toy_base: Path) -> None:
    assert inspected(toy_base)["merge"] is None
    assert inspected(toy_base, toy_base)["merge"] is None, "the same model twice is one model"


def test_tensors_that_cannot_be_placed_are_counted_and_shown(toy_base: Path, tmp_path: Path) -> None:
    name = "model.layers.0.odd_one.weight"
    odd = changed(toy_base, tmp_path / "odd", tensors=lambda held: held.update({name: torch.ones(2, 2)}))
    found = inspected(odd)
    (model,) = found["models"]
    assert model["unplaced"] == 1
    assert model["modules"]["other"] == {"tensors": 1, "parameters": 4, "example": name}
    assert f"1 of {model['tensors']} tensors could not be classified" in render(found)


def test_layers_are_counted_in_each_stack(toy_base: Path, tmp_path: Path) -> None:
    blocks = {f"visual.blocks.{block}.mlp.fc1.weight": torch.ones(2, 2) for block in range(6)}
    (model,) = inspected(changed(toy_base, tmp_path / "sees", tensors=lambda held: held.update(blocks)))["models"]
    assert model["layers"] == {"model.layers": 4, "visual.blocks": 6}


def test_several_dtypes_are_told_apart(toy_base: Path, tmp_path: Path) -> None:
    norm = "model.norm.weight"
    mixed = changed(toy_base, tmp_path / "mixed", tensors=lambda held: held.update({norm: held[norm].float()}))
    found = inspected(mixed)
    (model,) = found["models"]
    assert model["dtypes"] == {"bfloat16": model["parameters"] - 128, "float32": 128}
    assert "128 float32" in render(found)


def test_an_adapter_is_described_as_its_files_are(toy_base: Path, toy_adapters: dict[str, Path]) -> None:
    _, plain, stabilised = inspected(toy_base, *toy_adapters.values())["models"]
    hashes = open_sources(str(toy_base), {name: str(path) for name, path in toy_adapters.items()}).structure.hashes
    assert (plain["hash"], stabilised["hash"]) == (hashes["plain"], hashes["stabilised"])
    assert (plain["kind"], plain["type"], plain["base"]) == ("adapter", "LORA", str(toy_base))
    assert [(model["ranks"], model["alphas"], model["rslora"]) for model in (plain, stabilised)] == [
        ([4], [8], False),
        ([8], [16], True),
    ]
    assert plain["targets"] == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert (plain["dora"], plain["modules_to_save"], plain["num_others"]) == (False, [], 0)
    assert {kind: module["tensors"] for kind, module in plain["modules"].items()} == {"attention": 16, "mlp": 12}
    stored = load_file(toy_adapters["plain"] / "adapter_model.safetensors")
    assert plain["parameters"] == sum(tensor.numel() for tensor in stored.values())


def test_all_ranks_and_alphas_of_an_adapter_are_shown(
    toy_base: Path, toy_adapters: dict[str, Path], tmp_path: Path
) -> None:
    patterns = {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 3}}

    def shorten(held: dict[str, Any]) -> None:
        for name in [name for name in held if "q_proj" in name]:
            held[name] = (held[name][:2] if "lora_A" in name else held[name][:, :2]).contiguous()

    other = changed(
        toy_adapters["plain"], tmp_path / "other", config=lambda config: config.update(patterns), tensors=shorten
    )
    _, model = inspected(toy_base, other)["models"]
    assert (model["ranks"], model["alphas"]) == ([2, 4], [3, 8])
    assert model["hash"] is not None


def test_an_adapter_alone_has_a_hash_where_its_base_is_found(
    toy_adapters: dict[str, Path], tmp_path: Path, toy_base: Path
) -> None:
    alone, beside = inspected(toy_adapters["plain"]), inspected(toy_base, toy_adapters["plain"])
    assert alone["models"][0]["hash"] == beside["models"][1]["hash"]
    moved = changed(
        toy_adapters["plain"], tmp_path / "moved", config=lambda c: c.update(base_model_name_or_path="elsewhere/base")
    )
    found = inspected(moved)
    assert found["models"][0]["hash"] is None
    assert "give its base before it" in render(found)
    assert inspected(toy_base, moved)["models"][1]["hash"] == alone["models"][0]["hash"], "the advice is right"


@pytest.mark.parametrize("named", [None, ""])
def test_an_adapter_that_names_no_base_is_described(
    named: str | None, toy_adapters: dict[str, Path], tmp_path: Path
) -> None:
    nameless = changed(
        toy_adapters["plain"], tmp_path / "nameless", config=lambda c: c.update(base_model_name_or_path=named)
    )
    found = inspected(nameless)
    assert "covers the names" in found["models"][0]["why_no_hash"]["problem"]
    assert "unknown" in render(found)


def test_models_that_fit_can_be_merged_on_the_first_full_one(
    toy_base: Path, toy_experts: dict[str, Path], toy_adapters: dict[str, Path]
) -> None:
    found = inspected(toy_adapters["plain"], toy_base, toy_experts["attention"])
    structure = open_sources(
        str(toy_base), {"a": str(toy_adapters["plain"]), "b": str(toy_experts["attention"])}
    ).structure
    merge = found["merge"]
    assert (merge["base"], merge["ok"]) == (str(toy_base), True)
    assert [expert["model"] for expert in merge["experts"]] == [
        str(toy_adapters["plain"]),
        str(toy_experts["attention"]),
    ]
    assert [expert["touched"] for expert in merge["experts"]] == [len(names) for names in structure.touched.values()]
    assert merge["experts"][1]["share"] == 16 / 38
    assert "yes, differs in 16 tensors (42%)" in render(found)


def test_what_does_not_fit_is_described_and_refused_with_the_reason(
    tmp_path: Path, toy_base: Path, toy_experts: dict[str, Path]
) -> None:
    other = make_checkpoint(tmp_path / "qwen", architecture="qwen2")
    found = inspected(toy_base, other, toy_experts["attention"])
    assert found["models"][1]["architecture"] == "Qwen2ForCausalLM"
    merge = found["merge"]
    assert (merge["ok"], [expert["ok"] for expert in merge["experts"]]) == (False, [False, True])
    assert merge["experts"][0]["problem"]["problem"] == f"expert `{other}` has another `model_type` than the base"
    assert "these cannot all be merged" in render(found)
    assert "merge only fine-tunes of one base" in render(found)


def test_an_expert_that_cannot_be_opened_is_one_finding_among_others(toy_base: Path, tmp_path: Path) -> None:
    quantised = changed(
        toy_base, tmp_path / "q", config=lambda config: config.update(quantization_config={"quant_method": "fp8"})
    )
    found = inspected(toy_base, quantised)
    assert found["models"][1]["problem"]["problem"] == "quantised checkpoints cannot be merged"
    assert found["merge"]["experts"][0]["problem"]["problem"] == "quantised checkpoints cannot be merged"
    with pytest.raises(InputError, match="quantised"):
        inspected(quantised)
    with pytest.raises(InputError, match="quantised"):
        inspected(quantised, toy_base)


def test_an_adapter_that_is_more_than_lora_is_described_and_refused(
    toy_base: Path, toy_adapters: dict[str, Path], tmp_path: Path
) -> None:
    magnitude = "base_model.model.model.layers.0.mlp.up_proj.lora_magnitude_vector"
    dora = changed(
        toy_adapters["plain"],
        tmp_path / "dora",
        config=lambda config: config.update(use_dora=True, modules_to_save=["lm_head"]),
        tensors=lambda held: held.update({magnitude: torch.ones(192)}),
    )
    found = inspected(toy_base, dora)
    model, (expert,) = found["models"][1], found["merge"]["experts"]
    assert (model["dora"], model["modules_to_save"], model["num_others"]) == (True, ["lm_head"], 1)
    assert model["hash"] is None
    assert "use_dora" in model["why_no_hash"]["problem"]
    assert expert["problem"] == model["why_no_hash"]
    assert "LORA, DoRA" in render(found)


def test_adapters_alone_cannot_be_merged(toy_adapters: dict[str, Path], toy_base: Path) -> None:
    found = inspected(*toy_adapters.values())
    assert (found["merge"]["ok"], found["merge"]["base"]) == (False, None)
    assert "add their base" in render(found)
    assert inspected(toy_base, *toy_adapters.values())["merge"]["ok"], "the advice is right"


def test_weights_that_are_not_finite_are_named(toy_base: Path, tmp_path: Path) -> None:
    broken = changed(toy_base, tmp_path / "nan", tensors=lambda held: held["model.norm.weight"].fill_(torch.nan))
    with pytest.raises(InputError, match=r"`model\.norm\.weight` holds NaN or Inf"):
        inspected(broken)
    assert "NaN" in inspected(toy_base, broken)["models"][1]["problem"]["problem"]


def run(*arguments: object, program: str = "from crossbreed.cli import main; main()") -> tuple[int, str, str]:
    command = [sys.executable, "-c", program, "inspect", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_command_prints_a_table_or_one_json_document(toy_base: Path, toy_adapters: dict[str, Path]) -> None:
    code, text, _ = run(toy_base, toy_adapters["plain"])
    assert code == 0
    code, document, _ = run(toy_base, toy_adapters["plain"], "--json")
    assert code == 0
    found = json.loads(document)
    assert found == inspected(toy_base, toy_adapters["plain"])
    assert text == render(found) + "\n"
    assert all(model["hash"] in text for model in found["models"])


def test_a_wrong_name_ends_with_one_message(tmp_path: Path) -> None:
    code, out, err = run(tmp_path / "nowhere")
    assert (code, out) == (2, "")
    assert "is not a model folder" in err
    assert "Traceback" not in err


def test_without_torch_one_message_names_the_extra(toy_base: Path) -> None:
    program = 'import sys; sys.modules["torch"] = None; from crossbreed.cli import main; main()'
    code, out, err = run(toy_base, program=program)
    assert (code, out) == (2, "")
    assert "crossbreed[torch]" in err
    assert "Traceback" not in err
