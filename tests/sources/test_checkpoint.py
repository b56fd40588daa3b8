import contextlib
import io
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from copies import Copy
from safetensors.torch import load_file, save_file

from crossbreed.errors import InputError
from crossbreed.sources import Checkpoint, SourceLocation, TensorInfo
from crossbreed.testing.toys import make_checkpoint

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
INDEX = "model.safetensors.index.json"


def open_checkpoint(path: Path) -> Checkpoint:
    return Checkpoint.open(SourceLocation(path=path))


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("untied") / "untied", tied=False, num_layers=1)


def test_lists_the_tensors_of_the_file_sorted_by_name(toy_base: Path) -> None:
    checkpoint = open_checkpoint(toy_base)
    stored = load_file(toy_base / "model.safetensors")
    assert list(checkpoint.tensors) == sorted(stored)
    assert checkpoint.tensors[EMBEDDING] == TensorInfo(shape=(272, 128), dtype="bfloat16")
    assert all(torch.equal(checkpoint.tensor(name), stored[name]) for name in stored)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_tensors_are_views_of_the_mapped_file(toy_base: Path) -> None:
    checkpoint = open_checkpoint(toy_base)
    maps = [
        line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines() if str(toy_base) in line
    ]
    for name in checkpoint.tensors:
        address = checkpoint.tensor(name).data_ptr()
        assert any(int(low, 16) <= address < int(high, 16) for low, high in maps)


def test_shards_hold_the_same_checkpoint(toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    whole, sharded = open_checkpoint(toy_base), open_checkpoint(copy(toy_base).sharded().path)
    assert sharded.tensors == whole.tensors
    assert all(torch.equal(sharded.tensor(name), whole.tensor(name)) for name in whole.tensors)


def test_a_truncated_file_is_named(toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    broken = copy(toy_base)
    broken.weights.write_bytes(broken.weights.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"`model\.safetensors` is not a whole safetensors file"):
        open_checkpoint(broken.path)


def test_a_missing_shard_is_named(toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    broken = copy(toy_base).sharded()
    (broken.path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(InputError, match=r"shard `model-00002-of-00003\.safetensors` is missing"):
        open_checkpoint(broken.path)


def test_an_index_outside_its_folder_is_refused(toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    broken = copy(toy_base).sharded()
    broken.json(INDEX, lambda index: index["weight_map"].update({EMBEDDING: f"../{toy_base.name}/model.safetensors"}))
    with pytest.raises(InputError, match=r"is missing"):
        open_checkpoint(broken.path)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b.safetensors", "", "."])
def test_an_index_with_a_name_that_no_file_has_is_refused(
    name: str, toy_base: Path, copy: Callable[[Path], Copy]
) -> None:
    broken = copy(toy_base).sharded()
    broken.json(INDEX, lambda index: index["weight_map"].update({EMBEDDING: name}))
    with pytest.raises(InputError, match=r"is missing"):
        open_checkpoint(broken.path)


def test_a_tensor_that_the_index_forgets_is_named(toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    broken = copy(toy_base).sharded().json(INDEX, lambda index: index["weight_map"].pop(EMBEDDING))
    with pytest.raises(InputError, match=f"holds `{EMBEDDING}`, which the index does not list"):
        open_checkpoint(broken.path)


def test_a_tensor_that_no_shard_holds_is_named(toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    shard = "model-00001-of-00003.safetensors"
    broken = copy(toy_base).sharded().json(INDEX, lambda index: index["weight_map"].update(ghost=shard))
    with pytest.raises(InputError, match=f"`{shard}` lacks `ghost`"):
        open_checkpoint(broken.path)


def test_an_empty_folder_says_what_it_should_hold(toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    broken = copy(toy_base)
    broken.weights.unlink()
    with pytest.raises(InputError, match="no weights in the folder") as caught:
        open_checkpoint(broken.path)
    assert "config.json" in caught.value.got


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.pt"])
def test_the_command_given_for_pickles_converts_them(
    name: str, toy_base: Path, copy: Callable[[Path], Copy], request: pytest.FixtureRequest
) -> None:
    pickled = copy(toy_base)
    torch.save(load_file(pickled.weights), pickled.path / name)
    pickled.weights.unlink()
    with pytest.raises(InputError, match="pickle weights are not read") as caught:
        open_checkpoint(pickled.path)
    program, option, code = shlex.split(caught.value.fix.splitlines()[-1])
    assert (program, option) == ("python", "-c")
    with contextlib.redirect_stderr(io.StringIO()):
        exec(code, {})
    assert open_checkpoint(pickled.path).hash == open_checkpoint(toy_base).hash


def test_a_tied_copy_of_the_embedding_is_not_listed(toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    doubled = copy(toy_base).tensors(lambda tensors: tensors.update({HEAD: tensors[EMBEDDING].clone()}))
    assert open_checkpoint(doubled.path).tied
    assert open_checkpoint(doubled.path).tensors == open_checkpoint(toy_base).tensors
    assert open_checkpoint(doubled.path).hash == open_checkpoint(toy_base).hash


def test_a_tied_head_that_differs_is_refused(toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    trained = copy(toy_base).tensors(lambda tensors: tensors.update({HEAD: tensors[EMBEDDING] + 1}))
    with pytest.raises(InputError, match=r"ties `lm_head\.weight` to `model\.embed_tokens\.weight`"):
        open_checkpoint(trained.path)


def test_an_untied_head_is_listed_and_may_not_be_missing(untied: Path, copy: Callable[[Path], Copy]) -> None:
    assert not open_checkpoint(untied).tied
    assert HEAD in open_checkpoint(untied).tensors
    headless = copy(untied).tensors(lambda tensors: tensors.pop(HEAD))
    with pytest.raises(InputError, match="the file has no head"):
        open_checkpoint(headless.path)


def test_a_configuration_silent_on_tying_has_its_architectures_default(
    untied: Path, copy: Callable[[Path], Copy]
) -> None:
    silent = copy(untied).json("config.json", lambda config: config.pop("tie_word_embeddings"))
    assert not open_checkpoint(silent.path).tied
    silent.json("config.json", lambda config: config.update(model_type="no-such-model"))
    with pytest.raises(InputError, match="cannot tell whether lm_head is tied"):
        open_checkpoint(silent.path)


def test_buffers_that_loaders_recompute_are_not_listed(toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    old = copy(toy_base).tensors(lambda tensors: tensors.update({name: torch.ones(16)}))
    assert open_checkpoint(old.path).tensors == open_checkpoint(toy_base).tensors


def test_an_index_may_list_a_tied_head_and_leave_out_what_loaders_recompute(
    toy_base: Path, copy: Callable[[Path], Copy]
) -> None:
    """Repositories of the hub are so, and transformers loads them."""
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    old = copy(toy_base).tensors(lambda tensors: tensors.update({name: torch.ones(16)})).sharded()

    def edit(weight_map: dict[str, str]) -> None:
        del weight_map[name]
        weight_map[HEAD] = weight_map[EMBEDDING]

    old.json(INDEX, lambda index: edit(index["weight_map"]))
    assert open_checkpoint(old.path).tensors == open_checkpoint(toy_base).tensors


def test_quantised_weights_are_refused(toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    eight_bit = copy(toy_base)
    eight_bit.tensors(lambda tensors: tensors.update({EMBEDDING: tensors[EMBEDDING].to(torch.float8_e4m3fn)}))
    with pytest.raises(InputError, match=f"`{EMBEDDING}` is torch.float8_e4m3fn"):
        open_checkpoint(eight_bit.path)
    eight_bit.json("config.json", lambda config: config.update(quantization_config={"quant_method": "fp8"}))
    with pytest.raises(InputError, match="quantised checkpoints cannot be merged"):
        open_checkpoint(eight_bit.path)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_configuration_is_named(text: str, toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    broken = copy(toy_base)
    (broken.path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json"):
        open_checkpoint(broken.path)


@pytest.mark.parametrize(
    ("front", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: llama3\n---\n", "llama3"),
        ("---\nlicense: [\n---\n", None),
        ("no front matter\n---\nlicense: mit\n---\n", None),
        ("", None),
    ],
)
def test_the_licence_is_the_cards(
    front: str, licence: str | None, toy_base: Path, copy: Callable[[Path], Copy]
) -> None:
    checkpoint = open_checkpoint(copy(toy_base).path)
    assert checkpoint.licence is None
    (checkpoint.path / "README.md").write_text(f"{front}# A model\n")
    assert checkpoint.licence == licence


def test_a_checkpoint_need_not_be_a_language_model(tmp_path: Path) -> None:
    save_file({"weight": torch.eye(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"tie_word_embeddings": false}')
    assert list(open_checkpoint(tmp_path).tensors) == ["weight"]


@pytest.mark.parametrize("junk", [["llama"], {"a": 1}, 5, True])
def test_a_model_type_or_an_architecture_that_is_no_text_is_refused(
    junk: object, toy_base: Path, copy: Callable[[Path], Copy]
) -> None:
    """All readers behind take it for text: a LoRA's target looks it up in tables."""
    broken = copy(toy_base)
    for key, value in {"model_type": junk, "architectures": [junk]}.items():
        whole = (broken.path / "config.json").read_bytes()
        broken.json("config.json", lambda config, key=key, value=value: config.update({key: value}))
        with pytest.raises(InputError, match=f"`{key}` is no (text|list of texts)"):
            open_checkpoint(broken.path)
        (broken.path / "config.json").write_bytes(whole)


def test_quantised_parts_and_other_files_in_a_configurations_place_are_refused(
    toy_base: Path, copy: Callable[[Path], Copy]
) -> None:
    broken = copy(toy_base).json("config.json", lambda config: config.update(configuration_files=["config.9.json"]))
    with pytest.raises(InputError, match="the configuration names other files"):
        open_checkpoint(broken.path)
    part = {"quantization_config": {"quant_method": "fp8"}}
    broken.json("config.json", lambda config: config.update(text_config=part))
    with pytest.raises(InputError, match="quantised checkpoints cannot be merged"):
        open_checkpoint(broken.path)
