import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from simulated import MEAN, scores_on, search

from crossbreed.errors import InputError, InvalidWeights, MachineError
from crossbreed.kernels import Fingerprinted, fingerprint_checkpoint, materialize
from crossbreed.recipes import load_recipe
from crossbreed.runs.publishing.checkpoint import Merge, publish_checkpoint, write_checkpoint
from crossbreed.runs.publishing.contents import checkpoint_contents, mergekit_config
from crossbreed.runs.publishing.hub_upload import push
from crossbreed.runs.publishing.model_card import CardInfo
from crossbreed.runs.publishing.shards import write_shards
from crossbreed.runs.results.report import make_report
from crossbreed.runs.results.winner import reported
from crossbreed.sources import Sources, open_sources
from crossbreed.testing.toys import make_adapter, make_checkpoint, make_expert
from crossbreed.types import Recipe, Rule, WeightStream

WINNER = 25


def licensed(folder: Path, licence: str = "apache-2.0") -> Path:
    (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n# A parent\n")
    return folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    root = tmp_path_factory.mktemp("sources")
    base = licensed(make_checkpoint(root / "base", num_layers=2))
    (base / "generation_config.json").write_text('{"max_new_tokens": 7}')
    sums = licensed(make_expert(root / "sums", base=base, seed=1))
    french = licensed(make_adapter(root / "french", base=base, seed=2))
    return open_sources(str(base), {"sums": str(sums), "french": str(french)})


@pytest.fixture(scope="module")
def recipe(sources: Sources) -> Recipe:
    rule = Rule(match=r".*_proj\.weight", operator="task_arithmetic", params={"weight": {"sums": 0.4, "french": 0.7}})
    return Recipe(base="base", sources=sources.structure.hashes, rules=(rule,))


@pytest.fixture(scope="module")
def origins() -> CardInfo:
    trials = search()
    report = make_report(
        trials=trials, winner=WINNER, scores=scores_on("report", reported(trials, [MEAN], WINNER)), objectives=[MEAN]
    )
    return CardInfo(
        name="toys",
        seed=7,
        trial=next(trial for trial in trials if trial.number == WINNER),
        num_trials=len(trials),
        is_over=True,
        report=report,
        engine={"kind": "vllm", "dtype": "bfloat16"},
        objectives=(MEAN,),
        constraints=(),
        metrics={"sums": "exact_match", "french": "exact_match"},
        versions={"crossbreed": "1"},
        run_versions={"crossbreed": "0"},
    )


def fingerprint_of(stream: WeightStream) -> str:
    fingerprinted = Fingerprinted(stream)
    for _ in fingerprinted:
        pass
    return fingerprinted.value


def test_published_folder_is_the_scored_weights_and_an_ordinary_checkpoint(
    tmp_path: Path, sources: Sources, recipe: Recipe, origins: CardInfo
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    scored = fingerprint_of(materialize(recipe, sources))
    out = tmp_path / "deep" / "merge"
    found = publish_checkpoint(
        Merge(recipe=recipe, sources=sources, stream_factory=lambda: materialize(recipe, sources), fingerprint=scored),
        out,
        info=origins,
    )
    assert found == scored == fingerprint_checkpoint(out)
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.dtype == torch.bfloat16
    state = model.state_dict()
    for name, tensor in materialize(recipe, sources):
        assert torch.equal(state[name], tensor)
    assert "lm_head.weight" not in load_file(out / "model.safetensors")
    assert torch.equal(state["lm_head.weight"], state["model.embed_tokens.weight"])
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(sources.base.path).chat_template
    assert GenerationConfig.from_pretrained(out).max_new_tokens == 7
    assert load_recipe(out / "recipe.yaml") == recipe
    record = json.loads((out / "crossbreed.json").read_text())
    assert record["fingerprint"] == scored
    assert {name: source["hash"] for name, source in record["sources"].items()} == dict(recipe.sources)
    assert (record["run"]["seed"], record["optimised_on"]) == (7, ["sums", "french"])
    assert (record["run"]["versions"], record["versions"]) == ({"crossbreed": "0"}, {"crossbreed": "1"})
    assert record["engine"] == {"kind": "vllm", "dtype": "bfloat16"}
    assert os.listdir(out.parent) == ["merge"]
    assert out.stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_card_states_scores_parents_and_how_to_reproduce(
    tmp_path: Path, sources: Sources, recipe: Recipe, origins: CardInfo
) -> None:
    from huggingface_hub import ModelCard

    publish_checkpoint(
        Merge(
            recipe=recipe,
            sources=sources,
            stream_factory=lambda: materialize(recipe, sources),
            fingerprint=fingerprint_of(materialize(recipe, sources)),
        ),
        tmp_path / "merge",
        info=origins,
    )
    card = ModelCard.load(tmp_path / "merge" / "README.md")
    data = card.data.to_dict()
    assert data["license"] == "apache-2.0"
    assert data["base_model_relation"] == "merge"
    assert data["tags"] == ["merge", "mergekit"]
    assert "base_model" not in data  # both parents are local folders: a path is no hub id
    results = {r.dataset_name: r for r in card.data.eval_results}
    for task, expected in origins.report.winner.tasks.items():
        found = results[f"{task} (held out)"]
        assert (found.metric_type, found.dataset_split) == ("exact_match", "report")
        assert found.metric_value == pytest.approx(expected.mean)
        assert found.metric_args == pytest.approx({"n": 100, "low": expected.low, "high": expected.high})
    assert "Optimised on: sums, french" in card.text
    assert "mergekit-yaml mergekit_config.yml merged --lora-merge-dtype float32" in card.text
    assert "| french (LoRA adapter) |" in card.text
    assert "| layers 0-1 · attention, mlp | task_arithmetic | 0.400 | 0.700 |" in card.text
    assert "200 report items not used in the search" in card.text
    assert "Answered by vllm, bfloat16." in card.text
    assert str(tmp_path) not in card.text


def test_hub_parents_are_listed_with_their_revisions(origins: CardInfo, sources: Sources, recipe: Recipe) -> None:
    from dataclasses import replace

    from huggingface_hub import ModelCard

    from crossbreed.runs.publishing.model_card import model_card, source_infos
    from crossbreed.runs.results.recipe_table import coefficient_map

    parents = source_infos(recipe, sources)
    hub = [replace(parents[0], hub_id="org/base", revision="abc123"), replace(parents[1], hub_id="org/sums")]
    text = model_card(
        title="t",
        parents=hub,
        licence="smol-community",
        info=origins,
        coefficients=coefficient_map(recipe, sources.structure),
        in_mergekit=False,
    )
    data = ModelCard(text).data.to_dict()
    assert data["base_model"] == ["org/base", "org/sums"]
    assert data["tags"] == ["merge"]
    assert (data["license"], data["license_name"]) == ("other", "smol-community")
    assert "[org/base](https://huggingface.co/org/base) | `abc123`" in text
    assert "mergekit" not in text


def test_mergekit_config_is_written_with_the_base_under_each_adapter(
    tmp_path: Path, sources: Sources, recipe: Recipe
) -> None:
    write_checkpoint(
        Merge(recipe=recipe, sources=sources, stream_factory=lambda: materialize(recipe, sources)), tmp_path / "merge"
    )
    config = yaml.safe_load((tmp_path / "merge" / "mergekit_config.yml").read_text())
    assert (config["dtype"], config["out_dtype"]) == ("float32", "bfloat16")
    assert "path/to/base+path/to/french" in json.dumps(config)
    for name in ("mergekit_config.yml", "crossbreed.json", "recipe.yaml"):
        assert str(sources.base.path.parent) not in (tmp_path / "merge" / name).read_text()


def test_it_is_not_written_for_a_model_of_other_tensors(tmp_path: Path, toy_base: Path) -> None:
    """mergekit would leave out what it does not list, and end at what is missing."""
    weights = load_file(toy_base / "model.safetensors")
    bias = {"model.layers.0.self_attn.q_proj.bias": torch.zeros(128, dtype=torch.bfloat16)}
    changes: dict[str, tuple[dict[str, torch.Tensor], dict[str, object]]] = {
        "as it is": ({}, {}),
        "a bias more": (bias, {"attention_bias": True}),
        "an unknown architecture": ({}, {"architectures": ["OtherForCausalLM"]}),
    }
    found = {}
    for name, (more, keys) in changes.items():
        folder = shutil.copytree(toy_base, tmp_path / name)
        save_file(weights | more, folder / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((folder / "config.json").read_text()) | keys
        (folder / "config.json").write_text(json.dumps(config))
        opened = open_sources(str(folder), {"sums": str(make_expert(tmp_path / "e" / name, base=folder, seed=1))})
        rule = Rule(match=".*", operator="task_arithmetic", params={"weight": 0.5})
        recipe = Recipe(base="base", sources=opened.structure.hashes, rules=(rule,))
        found[name] = mergekit_config(recipe, opened) is not None
    assert found == {"as it is": True, "a bias more": False, "an unknown architecture": False}


@pytest.mark.parametrize(
    ("stated", "written"), [([256, None], 256), ([None, 256, 256], 256), ([256], None), (3, [3, 256])]
)
def test_end_tokens_are_written_without_null(stated: object, written: object, toy_base: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(toy_base, tmp_path / "base"))
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": stated, "max_new_tokens": 7}))
    expert = make_expert(tmp_path / "expert", base=base, seed=1)
    sources = open_sources(str(base), {"a": str(expert)})
    rule = Rule(match=".*", operator="task_arithmetic", params={"weight": {"a": 1.0}})
    contents = checkpoint_contents(Recipe(base="base", sources=sources.structure.hashes, rules=(rule,)), sources)
    text = contents.texts.get("generation_config.json")
    assert (text and json.loads(text)) == (written and {"eos_token_id": written, "max_new_tokens": 7})


def test_other_dtype_and_several_shards(tmp_path: Path, sources: Sources, recipe: Recipe) -> None:
    from dataclasses import replace

    from transformers import AutoModelForCausalLM

    recipe = replace(recipe, dtype="float32")
    out = tmp_path / "merge"
    write_checkpoint(
        Merge(recipe=recipe, sources=sources, stream_factory=lambda: materialize(recipe, sources)),
        out,
        max_shard_bytes=300_000,
    )
    shards = sorted(path.name for path in out.glob("*.safetensors"))
    assert len(shards) > 2
    assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    assert all(path.stat().st_size < 310_000 for path in out.glob("*.safetensors"))
    assert json.loads((out / "config.json").read_text())["dtype"] == "float32"
    assert not (out / "README.md").exists()
    state = AutoModelForCausalLM.from_pretrained(out).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in materialize(recipe, sources))


def test_parents_without_a_common_licence_are_a_question(
    tmp_path: Path, sources: Sources, recipe: Recipe, origins: CardInfo
) -> None:
    card = sources.experts["sums"].path / "README.md"
    before = card.read_text()
    arguments = {"recipe": recipe, "sources": sources, "stream_factory": lambda: materialize(recipe, sources)}
    try:
        for text, got in (("---\nlicense: llama3\n---\n", "sums: llama3"), ("no front matter", "sums: not stated")):
            card.write_text(text)
            with pytest.raises(InputError, match=got) as caught:
                publish_checkpoint(Merge(**arguments, fingerprint=""), tmp_path / "a", info=origins)
            assert "--licence" in str(caught.value)
            assert os.listdir(tmp_path) == []
        publish_checkpoint(
            Merge(**arguments, fingerprint=fingerprint_of(materialize(recipe, sources))),
            tmp_path / "b",
            info=origins,
            licence="mit",
        )
        assert "license: mit" in (tmp_path / "b" / "README.md").read_text()
    finally:
        card.write_text(before)


def test_other_weights_than_those_scored_are_not_published(tmp_path: Path, sources: Sources, recipe: Recipe) -> None:
    with pytest.raises(MachineError, match="not the weights that were scored"):
        write_checkpoint(
            Merge(
                recipe=recipe,
                sources=sources,
                stream_factory=lambda: materialize(recipe, sources),
                fingerprint="0" * 64,
            ),
            tmp_path / "merge",
        )
    assert os.listdir(tmp_path) == []


def test_nothing_is_left_of_a_publish_that_fails_midway(tmp_path: Path, sources: Sources, recipe: Recipe) -> None:
    def broken() -> Iterator[tuple[str, torch.Tensor]]:
        stream = materialize(recipe, sources)
        yield next(stream)
        raise InvalidWeights("NaN")

    with pytest.raises(InvalidWeights):
        write_checkpoint(Merge(recipe=recipe, sources=sources, stream_factory=broken), tmp_path / "merge")
    assert os.listdir(tmp_path) == []


def test_bytes_that_the_disk_changed_are_found(
    tmp_path: Path, sources: Sources, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_and_rot(folder: Path, *arguments: object) -> None:
        write_shards(folder, *arguments)
        content = bytearray((folder / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (folder / "model.safetensors").write_bytes(content)

    module = import_module("crossbreed.runs.publishing.contents")
    monkeypatch.setattr(module, "write_shards", write_and_rot)
    with pytest.raises(MachineError, match="are not the merged ones"):
        write_checkpoint(
            Merge(recipe=recipe, sources=sources, stream_factory=lambda: materialize(recipe, sources)),
            tmp_path / "merge",
        )
    assert os.listdir(tmp_path) == []


def never() -> WeightStream:
    raise AssertionError("refused too late")


def test_a_used_output_folder_is_refused_and_left_alone(tmp_path: Path, sources: Sources, recipe: Recipe) -> None:
    (tmp_path / "merge").mkdir()
    (tmp_path / "merge" / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="in use"):
        write_checkpoint(Merge(recipe=recipe, sources=sources, stream_factory=never), tmp_path / "merge")
    with pytest.raises(InputError, match="a file"):
        write_checkpoint(Merge(recipe=recipe, sources=sources, stream_factory=never), tmp_path / "merge" / "thesis.tex")
    assert (tmp_path / "merge" / "thesis.tex").read_text() == "mine"


def test_an_empty_folder_and_the_rest_of_a_killed_publish_are_fine(
    tmp_path: Path, sources: Sources, recipe: Recipe
) -> None:
    (tmp_path / "merge").mkdir()
    (tmp_path / ".merge.crossbreed-partial").mkdir()
    (tmp_path / ".merge.crossbreed-partial" / "model.safetensors").write_text("half")
    write_checkpoint(
        Merge(recipe=recipe, sources=sources, stream_factory=lambda: materialize(recipe, sources)), tmp_path / "merge"
    )
    assert os.listdir(tmp_path) == ["merge"]


def test_two_writers_of_one_folder_publish_no_mixture(tmp_path: Path, sources: Sources, recipe: Recipe) -> None:
    """The second would write into the files that the first has verified."""

    def meanwhile() -> WeightStream:
        for name, tensor in materialize(recipe, sources):
            if name.endswith("norm.weight"):
                with pytest.raises(InputError, match="another process is writing this output folder"):
                    write_checkpoint(Merge(recipe=recipe, sources=sources, stream_factory=never), tmp_path / "merge")
            yield name, tensor

    write_checkpoint(Merge(recipe=recipe, sources=sources, stream_factory=meanwhile), tmp_path / "merge")
    assert os.listdir(tmp_path) == ["merge"]


def test_no_room_is_found_before_anything_is_made(
    tmp_path: Path, sources: Sources, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type(usage)(usage.total, usage.used, 1000))
    with pytest.raises(InputError, match="not enough disk"):
        write_checkpoint(Merge(recipe=recipe, sources=sources, stream_factory=never), tmp_path / "merge")
    assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_written_is_the_users_to_mend(sources: Sources, recipe: Recipe) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write_checkpoint(Merge(recipe=recipe, sources=sources, stream_factory=never), Path("/proc/nowhere/merge"))


class RecordingHub:
    """Takes everything, or refuses as the hub's client does."""

    def __init__(self, refusal: Exception | None = None) -> None:
        self.calls: list[dict[str, object]] = []
        self._refusal = refusal

    def create_repo(self, repo_id: str, **options: object) -> None:
        if self._refusal:
            raise self._refusal
        self.calls.append({"repo_id": repo_id, **options})

    def upload_folder(self, **options: object) -> None:
        self.calls.append(options)


@pytest.fixture(scope="module")
def published_once(
    tmp_path_factory: pytest.TempPathFactory, sources: Sources, recipe: Recipe, origins: CardInfo
) -> Path:
    out = tmp_path_factory.mktemp("published") / "merge"
    scored = fingerprint_of(materialize(recipe, sources))
    merge = Merge(
        recipe=recipe, sources=sources, stream_factory=lambda: materialize(recipe, sources), fingerprint=scored
    )
    publish_checkpoint(merge, out, info=origins, max_shard_bytes=300_000)
    return out


@pytest.fixture
def published(published_once: Path, tmp_path: Path) -> Path:
    return shutil.copytree(published_once, tmp_path / "merge")


def test_every_file_is_listed_with_its_digest(published: Path) -> None:
    record = json.loads((published / "crossbreed.json").read_text())
    on_disk = {path.relative_to(published).as_posix(): path for path in published.rglob("*") if path.is_file()}
    assert record["files"].keys() == on_disk.keys() - {"crossbreed.json"}
    for name, file in record["files"].items():
        content = on_disk[name].read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())


def test_push_is_private_unless_told_and_uploads_what_is_listed(published: Path) -> None:
    from huggingface_hub.utils import filter_repo_objects

    (published / ".env").write_text("TOKEN=secret")
    hub = RecordingHub()
    assert push(published, "org/merge", hub=hub) == "https://huggingface.co/org/merge"
    create, upload = hub.calls
    assert create == {"repo_id": "org/merge", "private": True, "exist_ok": True}
    assert (upload["repo_id"], upload["folder_path"]) == ("org/merge", str(published))
    present = [path.relative_to(published).as_posix() for path in published.rglob("*") if path.is_file()]
    sent = set(filter_repo_objects(present, allow_patterns=upload["allow_patterns"]))
    assert sent == set(present) - {".env"}


def test_dry_run_lists_files_and_touches_nothing(published: Path) -> None:
    (published / "id_ed25519").write_text("secret")
    hub = RecordingHub()
    text = push(published, "org/merge", dry_run=True, hub=hub)
    assert hub.calls == []
    config = (published / "config.json").stat().st_size
    assert f"{config:,}  config.json" in text
    assert "org/merge (private)" in text
    assert "id_ed25519" not in text


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _relink(path: Path) -> None:
    elsewhere = path.parents[1] / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


@pytest.mark.parametrize("change", [_flip, _relink, Path.unlink, lambda path: path.write_text("")])
@pytest.mark.parametrize("name", ["model-00001-of-*.safetensors", "README.md", "config.json", "tokenizer.json"])
def test_a_folder_that_has_changed_is_not_uploaded(
    published: Path, name: str, change: Callable[[Path], object]
) -> None:
    (path,) = published.glob(name)
    change(path)
    hub = RecordingHub()
    for dry_run in (True, False):
        with pytest.raises(InputError, match=f"has changed since it was published(.|\n)*{path.name}"):
            push(published, "org/merge", hub=hub, dry_run=dry_run)
    assert hub.calls == []


@pytest.mark.parametrize("content", ["{}", '{"files": {"a": 1}, "fingerprint": "b"}', "[]", "{", '{"files": []}'])
def test_a_record_that_lists_no_files_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "crossbreed.json").write_text(content)
    with pytest.raises(InputError):
        push(tmp_path, "org/merge", hub=RecordingHub())


@pytest.mark.parametrize("num_bytes", ["Infinity", "1e999", "1.5", '"7"', "true", "null"])
def test_a_record_with_a_size_that_is_no_number_is_refused(published: Path, num_bytes: str) -> None:
    text = (published / "crossbreed.json").read_text()
    (published / "crossbreed.json").write_text(re.sub(r'"bytes": \d+', f'"bytes": {num_bytes}', text, count=1))
    with pytest.raises(InputError):
        push(published, "org/merge", hub=RecordingHub())


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 300, "", "."])
def test_a_record_with_a_name_that_no_file_has_is_refused(published: Path, name: str) -> None:
    record = json.loads((published / "crossbreed.json").read_text())
    record["files"][name] = {"bytes": 1, "sha256": "0" * 64}
    (published / "crossbreed.json").write_text(json.dumps(record))
    with pytest.raises(InputError) as caught:
        push(published, "org/merge", hub=RecordingHub())
    str(caught.value).encode()


def test_push_refusals_are_the_users_to_mend(published: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(InputError, match="hf auth login"):
        push(published, "org/merge", hub=RecordingHub(OSError("401 Unauthorized")))
    with pytest.raises(InputError, match="not published by crossbreed"):
        push(tmp_path_factory.mktemp("other"), "org/merge", hub=RecordingHub())


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b"])
def test_a_record_that_lists_files_elsewhere_is_refused(published: Path, name: str) -> None:
    record = json.loads((published / "crossbreed.json").read_text())
    record["files"][name] = {"bytes": 1, "sha256": "0" * 64}
    (published / "crossbreed.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="does not list the files of its folder"):
        push(published, "org/merge", hub=RecordingHub(), dry_run=True)


def test_experts_with_equal_tensors_keep_their_own_names_and_licences(tmp_path: Path) -> None:
    from crossbreed.runs.publishing.model_card import choose_licence, source_infos

    base = licensed(make_checkpoint(tmp_path / "base", num_layers=1), "mit")
    one = licensed(make_expert(tmp_path / "one", base=base, seed=1), "apache-2.0")
    two = licensed(Path(shutil.copytree(one, tmp_path / "two")), "gemma")
    sources = open_sources(str(base), {"one": str(one), "two": str(two)})
    hashes = sources.structure.hashes
    assert hashes["one"] == hashes["two"]
    made = Recipe(base="base", sources=hashes, rules=())
    parents = source_infos(made, sources)
    assert [(parent.name, parent.licence) for parent in parents] == [
        ("base", "mit"),
        ("one", "apache-2.0"),
        ("two", "gemma"),
    ]
    assert [parent.reference for parent in parents[1:]] == [str(one), str(two)]
    with pytest.raises(InputError, match="the licence of the merge is not known") as caught:
        choose_licence(parents[1:], None)
    assert "two: gemma" in caught.value.got
    renamed = Recipe(base="b", sources={"b": hashes["base"], "other": hashes["two"]}, rules=())
    assert [parent.name for parent in source_infos(renamed, sources)] == ["b", "other"]
