"""A model run block by block is the model: on real architectures, and against a Llama written out by hand."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_activations import inputs_by_hand
from transformers import AutoModelForCausalLM

from crossbreed.errors import InputError
from crossbreed.fitness.engines.blocks import Blocks, Passage
from crossbreed.sources import open_sources
from crossbreed.sources.checkpoint import Checkpoint
from crossbreed.testing.tiny_models import ARCHITECTURES

ATTENTION = ["q_proj", "k_proj", "v_proj"]
LLAMA = [ATTENTION, ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]
GROUPS = {
    "llama": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "gemma2": LLAMA,
    "gemma3_text": LLAMA,
    "gpt2": [["c_attn"], ["c_proj"], ["c_fc"], ["c_proj"]],
    "gpt_neox": [["query_key_value"], ["dense"], ["dense_h_to_4h"], ["dense_4h_to_h"]],
    "mixtral": [ATTENTION, ["o_proj"]],
}
"""Architecture -> what a regression can solve of it. Experts of a mixture are no Linears of transformers."""


def saved(folder: Path, kind: str) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # noqa: TID251 - transformers initialises from the global generator, restored after
        AutoModelForCausalLM.from_config(ARCHITECTURES[kind](), dtype=torch.float32).save_pretrained(folder)
    return folder


def opened(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Blocks, Checkpoint]:
    base = open_sources(str(folder), {}).base
    return Blocks(folder, {name: info.shape for name, info in base.tensors.items()}, dtype=dtype), base


def placed(blocks: Blocks, base: Checkpoint, names: list[str]) -> dict[str, torch.Tensor]:
    return blocks.place((name, base.tensor(name)) for name in names)


def through(
    blocks: Blocks, base: Checkpoint, ids_BT: torch.Tensor
) -> Iterator[tuple[dict[str, torch.Tensor], Passage]]:
    """Yields each block's values, and the texts before it; at last, the texts behind all."""
    passage = blocks.begin(placed(blocks, base, blocks.outside), placed(blocks, base, [*blocks.tensors_of(0)]), ids_BT)
    for layer in range(len(blocks)):
        values = placed(blocks, base, [*blocks.tensors_of(layer)])
        yield values, passage
        passage, _ = blocks.run(layer, values, passage)
    yield {}, passage


@pytest.mark.parametrize("kind", GROUPS)
def test_texts_pass_as_through_the_model(kind: str, tmp_path: Path) -> None:
    """Padded texts too: what stands behind a text's end changes nothing before it."""
    blocks, base = opened(saved(tmp_path, kind))
    ids_BT = torch.randint(250, (2, 9), generator=torch.Generator().manual_seed(1))
    walked = list(through(blocks, base, ids_BT))
    found = [blocks.groups(n, *step, blocks.tensors_of(n)) for n, step in enumerate(walked[:-1])]
    assert [[name.split(".")[-2] for name in group] for group in found[0]] == GROUPS[kind]
    model, seen = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval(), []
    blocks_of_model = model.get_submodule(blocks.parameter(found[-1][0][0]).partition(f".{len(blocks) - 1}.")[0])
    blocks_of_model[-1].register_forward_hook(lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        model(ids_BT)
        model(ids_BT[:1, :5])
    whole, short = seen
    assert torch.allclose(walked[-1][1].hidden, whole, atol=1e-5)
    assert torch.allclose(walked[-1][1].hidden[:1, :5], short, atol=1e-5)


def test_what_is_seen_is_as_by_hand(toy_base: Path) -> None:
    blocks, base = opened(toy_base)
    weights, config = load_file(toy_base / "model.safetensors"), json.loads((toy_base / "config.json").read_text())
    ids = (52, 51, 32, 43, 49)
    by_hand, seen = inputs_by_hand(weights, config, ids), 0
    for layer, (values, passage) in enumerate(list(through(blocks, base, torch.tensor([ids])))[:-1]):
        groups = blocks.groups(layer, values, passage, blocks.tensors_of(layer))
        _, outputs = blocks.run(layer, values, passage, [name for group in groups for name in group])
        for name in (name for group in groups for name in group):
            x_TN = blocks.inputs(layer, values, passage, name)[0]
            scale = by_hand[name].abs().max()
            assert torch.allclose(x_TN.double(), by_hand[name], atol=1e-5 * float(scale))
            made_TM = by_hand[name] @ weights[name].double().T
            for out_TM in (outputs[name][0], blocks.apply(name, values, x_TN)):
                assert torch.allclose(out_TM.double(), made_TM, atol=1e-5 * float(made_TM.abs().max()))
            seen += 1
    assert seen == 7 * config["num_hidden_layers"]


def test_it_holds_no_weights(toy_base: Path) -> None:
    blocks, _ = opened(toy_base)
    assert all(parameter.is_meta for parameter in blocks._model.parameters())


def test_a_model_without_one_list_of_layers_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, "llama")
    shapes = {"model.norm.weight": (128,)}
    with pytest.raises(InputError, match="walked over"):
        Blocks(folder, shapes, dtype=torch.float32)
