"""`crossbreed import`: a configuration of mergekit-evolve becomes a spec that runs, or is refused with a reason."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from harness_tasks import write_tasks
from in_process import exit_code_of

from crossbreed.errors import InputError
from crossbreed.runs import load_spec, run
from crossbreed.runs.drafting.evolve import Arguments, import_evolve
from crossbreed.runs.results.show import open_run
from crossbreed.runs.spec import Spec
from crossbreed.search_spaces.mergekit_evolve import MergekitEvolveConfig


def written(
    folder: Path, base: Path, adapters: dict[str, Path], *, arguments: Arguments | None = None, **changes: Any
) -> Spec:
    genome = {
        "models": [str(base), *(f"{base}+{adapter}" for adapter in adapters.values())],
        "merge_method": "ties",
        "base_model": str(base),
        "layer_granularity": 2,
        "filters": ["self_attn", "mlp"],
    } | changes.pop("genome", {})
    config = {"genome": genome, "tasks": [{"name": "quiz", "metric": "acc_norm,none"}]} | changes
    (folder / "evolve.yml").write_text(yaml.safe_dump(config))
    import_evolve(folder / "evolve.yml", out=folder / "spec.yaml", arguments=arguments)
    return load_spec(folder / "spec.yaml")


def test_every_key_has_its_place(tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]) -> None:
    given = Arguments(trials=30, sigma0=0.3, popsize=6, seed=5, tasks=tmp_path / "mine", is_vllm=True)
    tasks = ["quiz", {"name": "poems", "metric": "word_perplexity,none", "weight": -0.5}]
    spec = written(
        *(tmp_path, toy_base, toy_adapters),
        arguments=given,
        tasks=tasks,
        limit=50,
        num_fewshot=2,
        genome={"allow_negative_weights": True, "normalize": False},
    )
    space = spec.space
    assert isinstance(space, MergekitEvolveConfig)
    assert space.models == ("base", *toy_adapters)
    assert (space.layer_granularity, space.filters, space.divides) == (2, ("self_attn", "mlp"), False)
    assert space.bounds("weight") == (-1.5, 1.5)
    assert spec.optimizer is not None
    raw = yaml.safe_load((tmp_path / "spec.yaml").read_text())
    assert raw["optimizer"] == {"kind": "cma_es", "budget": {"trials": 30}, "options": {"sigma0": 0.2, "popsize": 6}}
    assert raw["seed"] == 5
    quiz, poems = raw["fitness"]["tasks"]
    assert (quiz["task"], quiz["metric"], quiz["limit"], quiz["num_fewshot"]) == ("quiz", "acc,none", 50, 2)
    assert (poems["metric"], poems["minimize"]) == ("word_perplexity,none", True)
    assert raw["fitness"]["objectives"] == [{"mean": ["quiz", "poems"], "weights": [1.0, -0.5]}]
    assert raw["fitness"]["engine"]["kind"] == "vllm"


@pytest.mark.slow
def test_what_is_imported_runs(tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]) -> None:
    pytest.importorskip("lm_eval")
    write_tasks(tmp_path / "tasks")
    spec = written(tmp_path, toy_base, toy_adapters, arguments=Arguments(trials=4, tasks=tmp_path / "tasks"))
    run(spec, tmp_path / "run")
    bred = [trial for trial in open_run(tmp_path / "run").trials if trial.candidate.proposed_by.kind == "optimizer"]
    assert len({trial.recipe.id for trial in bred}) == 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"limits": 5}, "limits"),
        ({"genome": {"granularity": 2}}, "granularity"),
        ({"genome": {"merge_method": "della"}}, "merge_method"),
        ({"genome": {"base_model": None}}, "needs `base_model`"),
        ({"genome": {"merge_method": "slerp"}}, "`slerp` takes two models"),
        ({"genome": {"merge_method": "linear", "base_model": "other/model"}}, "not among the models"),
        ({"genome": {"models": ["other/model+lora", "x"]}}, "adapter of another model"),
        ({"tasks": []}, "tasks"),
        ({"tasks": [{"weight": 2}]}, "name"),
    ],
)
def test_what_no_spec_says_is_refused(
    tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError) as found:
        written(tmp_path, toy_base, toy_adapters, **changes)
    assert said in str(found.value)
    assert not (tmp_path / "spec.yaml").exists()


def test_the_command_writes_over_nothing(
    tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path, toy_base, toy_adapters)
    assert exit_code_of("import", tmp_path / "evolve.yml", "--out", tmp_path / "again.yaml") == 0
    assert "differs  numerics" in capsys.readouterr().err
    assert exit_code_of("import", tmp_path / "evolve.yml", "--out", tmp_path / "again.yaml") == 2
    (tmp_path / "merge.yml").write_text("merge_method: linear\nmodels: []\n")
    assert exit_code_of("import", tmp_path / "merge.yml", "--out", tmp_path / "third.yaml") == 2
    assert "crossbreed merge FILE" in capsys.readouterr().err
