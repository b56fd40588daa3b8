"""`publish --as adapter` and `merge --as adapter`: what was scored is written, and what is cut claims no score."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from toy_runs import records_of, write_spec
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from crossbreed.cli import app
from crossbreed.errors import InputError, MachineError
from crossbreed.fitness.engines.registry import FakeConfig
from crossbreed.kernels import fingerprint_checkpoint
from crossbreed.recipes import dump_recipe
from crossbreed.runs import load_spec, merge_recipe, publish_run, run
from crossbreed.runs.adapter import RecipeAdapter
from crossbreed.runs.events import Event
from crossbreed.runs.publishing.hub_upload import push
from crossbreed.runs.publishing.manifest import published_folder
from crossbreed.testing.fakes import FakeEngine
from crossbreed.testing.toys import make_adapter, make_checkpoint, make_expert
from crossbreed.types import Recipe, Rule

UNIFORM = 3
IDS = torch.tensor([[3, 14, 15, 92, 65, 35]])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("models") / "base", num_layers=2)


def run_with(base: Path, folder: Path, experts: Mapping[str, Path], **more: Any) -> Path:
    spec = write_spec(folder, base=base, experts=experts, trials=4, **more)
    run(load_spec(spec), folder / "run", engine=FakeEngine(FakeConfig(kind="fake"), base))
    return folder / "run"


@pytest.fixture(scope="module")
def of_adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over two adapters."""
    experts = {name: make_adapter(base.with_name(name), base=base, seed=seed) for seed, name in enumerate("ab", 1)}
    return run_with(base, tmp_path_factory.mktemp("adapters"), experts)


@pytest.fixture(scope="module")
def of_models(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over a full expert and an adapter."""
    experts = {
        "full": make_expert(base.with_name("full"), base=base, seed=3, pattern="_proj"),
        "a": make_adapter(base.with_name("lora"), base=base, seed=4),
    }
    return run_with(base, tmp_path_factory.mktemp("models"), experts)


def publish(folder: Path, out: Path, **options: Any) -> list[str]:
    events: list[Event] = []
    base = load_spec(folder / "spec.yaml").sources.base
    given = FakeEngine(FakeConfig(kind="fake"), Path(base))
    publish_run(folder, out, licence="mit", engine=given, on_event=events.append, **options)
    return [str(event) for event in events]


@torch.no_grad()
def logits(folder: Path, adapter: Path | None = None) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found: torch.Tensor = (PeftModel.from_pretrained(model, adapter) if adapter else model)(IDS).logits
    return found


def test_an_exact_adapter_has_the_winners_scores_and_fingerprint(base: Path, of_adapters: Path, tmp_path: Path) -> None:
    publish(of_adapters, tmp_path / "model", trial=UNIFORM)
    told = publish(of_adapters, tmp_path / "adapter", form="adapter", trial=UNIFORM)
    assert "the adapter is exact, of rank 8" in told
    model, adapter = (json.loads((tmp_path / name / "crossbreed.json").read_text()) for name in ("model", "adapter"))
    assert model["fingerprint"] == adapter["fingerprint"]
    assert model["scores"] == adapter["scores"]
    assert model["scores"] is not None
    assert (adapter["adapter"]["exact"], adapter["adapter"]["rank"], adapter["adapter"]["error"]) == (True, 8, 0.0)
    card = (tmp_path / "adapter/README.md").read_text()
    assert "base_model_relation: adapter" in card
    assert "nothing is left out" in card
    assert "**this model**" in card
    assert "of base and adapter merged, each number rounded once to bfloat16" in card, "PEFT's answers are others"
    theirs, ours = logits(tmp_path / "model"), logits(base, tmp_path / "adapter")
    assert (theirs - ours).abs().max() < 0.1 * theirs.std(), "the checkpoint is rounded to bfloat16, the adapter is not"
    noted = [record for record in records_of(of_adapters) if record["kind"] == "publish"]
    assert {Path(record["clock"]["folder"]).name for record in noted} == {"model", "adapter"}
    publish(
        of_adapters, tmp_path / "adapter", form="adapter", trial=UNIFORM
    )  # is there already: verified, and not written again
    assert len([record for record in records_of(of_adapters) if record["kind"] == "publish"]) == len(noted)


def test_a_warm_start_says_nothing_of_what_is_published(of_adapters: Path, base: Path, tmp_path: Path) -> None:
    """One that is no sum of adapters, beside a trial that is one."""
    sources = records_of(of_adapters)[0]["sources"]
    rule = Rule(match=".*", operator="ties", params={"weight": 1.0, "density": 0.5})
    (tmp_path / "warm.yaml").write_text(dump_recipe(Recipe(base="base", sources=sources, rules=(rule,))))
    experts = {name: base.with_name(name) for name in "ab"}
    found = run_with(base, tmp_path, experts, warm_start=[str(tmp_path / "warm.yaml")])
    [warm] = [record["number"] for record in records_of(found) if record.get("origin") == "warm_start:0"]
    publish(found, tmp_path / "adapter", form="adapter", trial=UNIFORM, with_scores=False)
    with pytest.raises(InputError, match="is no sum of adapters"):
        publish(found, tmp_path / "other", form="adapter", trial=warm, with_scores=False)


def test_an_adapter_that_is_cut_claims_no_score(of_models: Path, base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no sum of adapters.*\n.*--rank R"):
        publish(of_models, tmp_path / "adapter", form="adapter", trial=UNIFORM)
    told = publish(of_models, tmp_path / "adapter", form="adapter", rank=8, trial=UNIFORM)
    assert any(text.startswith("the adapter is cut to rank 8 and lacks ") for text in told)
    assert "the scores of the merge are not the adapter's, and its card has none" in told
    record = json.loads((tmp_path / "adapter/crossbreed.json").read_text())
    assert record["scores"] is None
    assert not record["adapter"]["exact"]
    assert 0 < record["adapter"]["error"] < max(record["adapter"]["errors"].values()) < 1
    card = (tmp_path / "adapter/README.md").read_text()
    assert f"lacks {record['adapter']['error']:.2%} of the merge's change" in card
    assert "Not measured on held-out items." in card
    assert "results: []" in card
    publish(of_models, tmp_path / "adapter", form="adapter", rank=8, trial=UNIFORM)
    with pytest.raises(InputError, match="the output folder is in use"):
        publish(of_models, tmp_path / "adapter", form="adapter", rank=16, trial=UNIFORM)


def test_a_dry_run_lists_what_is_written(of_adapters: Path, tmp_path: Path) -> None:
    publish(of_adapters, tmp_path / "adapter", form="adapter")
    told = publish(of_adapters, tmp_path / "other", form="adapter", push_to="org/adapter", dry_run=True)
    listed = dict(reversed(line.split()) for line in told[-1].splitlines()[1:-1])
    written = {file.name: f"{file.stat().st_size:,}" for file in (tmp_path / "adapter").iterdir()}
    assert listed.keys() == written.keys()
    assert {name for name in listed if listed[name] != written[name]} <= {"README.md", "crossbreed.json"}, "its title"
    assert not (tmp_path / "other").exists()
    assert "would upload" in push(tmp_path / "adapter", "org/adapter", dry_run=True)


def test_a_changed_folder_is_not_published_again(of_adapters: Path, tmp_path: Path) -> None:
    publish(of_adapters, tmp_path / "adapter", form="adapter")
    config = tmp_path / "adapter/adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha"', '"alpha"'))
    with pytest.raises(InputError, match="has changed since it was published"):
        publish(of_adapters, tmp_path / "adapter", form="adapter")


def test_an_adapter_of_other_weights_than_were_scored_is_not_written(
    of_adapters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_folder = shutil.copytree(of_adapters, tmp_path / "run")
    kept = RecipeAdapter.write

    def written(made: RecipeAdapter, folder: Path) -> None:
        kept(made, folder)
        file = folder / "adapter_config.json"
        config = json.loads(file.read_text())
        file.write_text(json.dumps(config | {"lora_alpha": config["lora_alpha"] + 1}))

    monkeypatch.setattr(RecipeAdapter, "write", written)
    with pytest.raises(MachineError, match="is not what was scored"):
        publish(run_folder, tmp_path / "adapter", form="adapter", trial=UNIFORM)
    assert not (tmp_path / "adapter").exists()


def merge(recipe: Path, out: Path, run_folder: Path, **options: Any) -> list[str]:
    spec, events = load_spec(run_folder / "spec.yaml"), list[Event]()
    sources = {"base": spec.sources.base, **spec.sources.experts}
    merge_recipe(recipe, out, sources=[f"{n}={path}" for n, path in sources.items()], on_event=events.append, **options)
    return [str(event) for event in events]


def uniform(run_folder: Path, path: Path) -> Path:
    """The recipe of the uniform merge, in a file."""
    asked = next(r for r in records_of(run_folder) if r["kind"] == "ask" and r["number"] == UNIFORM)
    path.write_text(json.dumps(asked["recipe"]))
    return path


def test_merge_writes_adapters_too(of_adapters: Path, of_models: Path, tmp_path: Path) -> None:
    recipe = uniform(of_adapters, tmp_path / "recipe.json")
    told = merge(recipe, tmp_path / "adapter", of_adapters, form="adapter")
    assert f"{tmp_path / 'adapter'}: the adapter is exact, of rank 8" in told
    merge(recipe, tmp_path / "model", of_adapters)
    adapter = published_folder(tmp_path / "adapter")
    assert adapter is not None
    assert adapter.fingerprint == fingerprint_checkpoint(tmp_path / "model")
    adapter.verify()

    mixed = uniform(of_models, tmp_path / "mixed.json")
    with pytest.raises(InputError, match="is no sum of adapters"):
        merge(mixed, tmp_path / "cut", of_models, form="adapter")
    assert any("cut to rank 4" in text for text in merge(mixed, tmp_path / "cut", of_models, form="adapter", rank=4))
    with pytest.raises(InputError, match="a rank is an adapter's"):
        merge(mixed, tmp_path / "wrong", of_models, rank=4)


def test_the_command_passes_on_what_is_asked(of_models: Path, tmp_path: Path) -> None:
    spec, recipe = load_spec(of_models / "spec.yaml"), uniform(of_models, tmp_path / "mixed.json")
    sources = {"base": spec.sources.base, **spec.sources.experts}
    flags = [flag for name, path in sources.items() for flag in ("--source", f"{name}={path}")]
    command = ["merge", str(recipe), *flags, "--out", str(tmp_path / "cut"), "--as", "adapter", "--rank", "3"]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert json.loads((tmp_path / "cut/adapter_config.json").read_text())["r"] == 3
