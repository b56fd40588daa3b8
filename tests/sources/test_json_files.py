"""Files of strangers: configurations, indexes and adapters' options that are broken on purpose or by accident."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from copies import Copy
from huggingface_hub import constants

from crossbreed.errors import InputError
from crossbreed.json_text import MAX_DEPTH
from crossbreed.sources import Checkpoint, SourceLocation, locate, open_sources
from crossbreed.sources.json_files import MAX_BYTES, read_json, read_json_if_there

INDEX = "model.safetensors.index.json"


def deep(depth: int) -> str:
    return '{"x": ' + "[" * (depth - 1) + "]" * (depth - 1) + "}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "Expecting property name"),
        ("", "Expecting value"),
        ("[]", "list"),
        ("null", "NoneType"),
        ('{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ('{"a": {"b": 1, "b": 1}}', "the key 'b' stands twice"),
        ('{"a": 1' + "0" * 5000 + "}", "an integer of 5001 digits"),
        ('{"a": 1' + "0" * 50 + "}", "an integer of 51 digits"),
        (deep(MAX_DEPTH + 1), f"objects or lists {MAX_DEPTH} deep"),
        (deep(100_000), ""),
        ('{"a": "\\ud800"}', "surrogates not allowed"),
        ('{"\\udfff": 1}', "surrogates not allowed"),
        ("\ufeff{}", "BOM"),
        (" " * (MAX_BYTES + 1), "more than"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_sound_object_is_refused_in_a_screen(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_json(tmp_path / "config.json")
    assert says in caught.value.got
    assert caught.value.where == str(tmp_path / "config.json")
    assert len(str(caught.value)) < 1000


def test_what_models_hold_is_read(tmp_path: Path) -> None:
    text = '{"limit": [0.0, Infinity], "x": NaN, "most": 1000000000000000019884624838656, "e": 1e-05, "n": null}'
    (tmp_path / "config.json").write_text(text)
    value = read_json(tmp_path / "config.json")
    assert value["limit"] == [0.0, math.inf]
    assert math.isnan(value["x"])
    assert value["most"] == int(1e30)
    (tmp_path / "config.json").write_text(deep(MAX_DEPTH - 1))
    assert read_json(tmp_path / "config.json")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(InputError, match="cannot read a source's JSON file"):
        read_json(tmp_path / "config.json")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), os.mkdir])
def test_a_pipe_a_device_or_a_folder_is_no_file(make: Callable[[Path], object], tmp_path: Path) -> None:
    make(tmp_path / "config.json")
    with pytest.raises(InputError, match="cannot read a source's JSON file"):
        read_json(tmp_path / "config.json")


def test_a_file_that_is_not_there_is_not_called_broken(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`config\.json` is missing") as caught:
        read_json(tmp_path / "config.json")
    assert "save_pretrained" in caught.value.fix
    assert read_json_if_there(tmp_path / "config.json") == {}


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "tokenizer_config.json",
        "tokenizer.json",
        "README.md",
        "x.py",
        "additional_chat_templates/a.jinja",
    ],
)
def test_a_folder_with_a_pipe_in_it_is_refused_before_anybody_waits(
    name: str, toy_base: Path, copy: Callable[[Path], Copy]
) -> None:
    folder = copy(toy_base).path
    (folder / name).unlink(missing_ok=True)
    (folder / name).parent.mkdir(exist_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(InputError, match=f"`{Path(name).name}` is neither a file nor a folder"):
        open_sources(str(folder), {})


@pytest.mark.parametrize(
    ("name", "edit", "says"),
    [
        ("config.json", lambda c: c.update(text_config=[1]), "`text_config` is no mapping"),
        ("config.json", lambda c: c.update(eos_token_id="</s>"), "`eos_token_id` names no tokens"),
        ("config.json", lambda c: c.update(eos_token_id=[[1]]), "`eos_token_id` names no tokens"),
        ("config.json", lambda c: c.update(rope_parameters="wide"), "transformers cannot read a configuration"),
        ("generation_config.json", lambda c: c.update(eos_token_id=True), "`eos_token_id` names no tokens"),
        ("tokenizer_config.json", lambda c: c.update(added_tokens_decoder=7), "cannot read a tokenizer"),
    ],
)
def test_a_value_of_the_wrong_kind_is_the_users_to_mend(
    name: str, edit: Callable[[dict[str, object]], object], says: str, toy_base: Path, copy: Callable[[Path], Copy]
) -> None:
    broken = copy(toy_base).json(name, edit).path
    with pytest.raises(InputError, match=says) as caught:
        assert open_sources(str(toy_base), {"x": str(broken)}).end_token_ids
    assert str(broken) in caught.value.where


@pytest.mark.parametrize("text", ["[]", "{", '{"eos_token_id": {}}'])
def test_a_broken_generation_config_is_named(text: str, toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    broken = copy(toy_base).path
    (broken / "generation_config.json").write_text(text)
    with pytest.raises(InputError) as caught:
        assert open_sources(str(broken), {}).end_token_ids
    assert caught.value.where.endswith("generation_config.json")


@pytest.mark.parametrize("value", [7, None, ["model-00001-of-00003.safetensors"], {}])
def test_an_index_that_maps_to_no_names_is_refused(value: object, toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    broken = copy(toy_base).sharded()
    broken.json(INDEX, lambda index: index["weight_map"].update({"model.norm.weight": value}))
    with pytest.raises(InputError, match="the index lists no tensors"):
        locate_and_open(broken.path)


def locate_and_open(path: Path) -> Checkpoint:
    return Checkpoint.open(locate(str(path)))


@pytest.mark.parametrize("change", ["listed", "unlisted"])
@pytest.mark.parametrize("name", ["lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"])
def test_an_index_may_be_wrong_about_what_loaders_make_themselves(
    name: str, change: str, toy_base: Path, copy: Callable[[Path], Copy]
) -> None:
    """transformers loads such checkpoints, and some on the hub are so: no second download would help."""
    sharded = copy(toy_base).sharded()
    whole = Checkpoint.open(SourceLocation(path=toy_base))
    shard = sorted(sharded.path.glob("*.safetensors"))[0]
    if change == "listed":
        sharded.json(INDEX, lambda index: index["weight_map"].update({name: shard.name}))
    else:
        sharded.weights = shard
        value = (
            whole.tensor("model.embed_tokens.weight") if name == "lm_head.weight" else whole.tensor("model.norm.weight")
        )
        sharded.tensors(lambda tensors: tensors.update({name: value.clone()}))
    found = locate_and_open(sharded.path)
    assert found.tensors == whole.tensors
    assert found.hash == whole.hash


def test_a_file_without_tensors_is_no_checkpoint(toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    with pytest.raises(InputError, match="the checkpoint holds no tensor"):
        locate_and_open(copy(toy_base).tensors(dict.clear).path)


@pytest.mark.parametrize("refs", [True, False])
def test_the_hubs_own_folder_says_where_its_snapshot_is(
    refs: bool, toy_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--org--name"
    for commit in ("aaa", "bbb"):
        Copy(toy_base, repository / "snapshots" / commit)
    if refs:
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("bbb")
    with pytest.raises(InputError, match="holds no model") as caught:
        locate(str(repository))
    named = caught.value.fix.removeprefix("did you mean ").removesuffix("?").split(" or ")
    assert named[0] == str(repository / "snapshots" / ("bbb" if refs else "aaa"))
    assert [locate(path).path for path in named] == [Path(path) for path in named]


def test_a_folder_without_a_model_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="holds no model") as caught:
        locate(str(tmp_path))
    assert caught.value.got == "notes.txt"


def test_code_of_a_models_folder_does_not_run(
    toy_base: Path, copy: Callable[[Path], Copy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where a user would answer yes to everything."""
    from crossbreed.fitness import TransformersConfig, build_engine
    from crossbreed.fitness.engines.encoder import Encoder

    folder = copy(toy_base).path
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "unheard-of", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C"}}
    config.pop("tie_word_embeddings")
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    for open_ in (
        lambda: Encoder(folder),
        lambda: build_engine(TransformersConfig(kind="transformers", max_model_len=64), folder),
        lambda: open_sources(str(folder), {}),
    ):
        with pytest.raises(InputError):
            open_()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("front", ["date: 2024-02-30", "x: " + "[" * 5000, "license: !!python/object:os.system x"])
def test_a_card_that_does_not_parse_states_no_licence(front: str, toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    folder = copy(toy_base).path
    (folder / "README.md").write_text(f"---\nlicense: mit\n{front}\n---\n# A model\n")
    assert Checkpoint.open(SourceLocation(path=folder)).licence is None
