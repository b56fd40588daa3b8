"""A package outside the repository brings parts of every kind, and a spec that names them all runs to its end."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from example_package import PACKAGE, crossbreed
from plugged import write_package
from service import Service, serve

from crossbreed.errors import EngineError, InputError
from crossbreed.runs import merge_recipe
from crossbreed.types import BASE, Recipe

BROUGHT = {
    "operators": "shrink",
    "optimizers": "hill_climbing",
    "spaces": "one_weight",
    "engines": "merge_service",
    "tasks": "sums",
    "metrics": "similarity",
    "presets": "first_look",
}
"""Kind of part -> the one that the package brings."""
NAMED_AT = {
    "operators": ("space", "operator"),
    "optimizers": ("optimizer", "kind"),
    "spaces": ("space", "kind"),
    "engines": ("fitness", "engine", "kind"),
    "tasks": ("fitness", "tasks", 0, "kind"),
    "metrics": ("fitness", "tasks", 1, "metric"),
    "presets": ("preset",),
}
"""Kind of part -> where a spec names one."""


def named(spec: dict[str, Any], plural: str, name: str) -> dict[str, Any]:
    """A copy of the spec that names another part."""
    copy: Any = json.loads(json.dumps(spec))
    *parents, last = NAMED_AT[plural]
    place = copy
    for parent in parents:
        place = place[parent]
    place[last] = name
    return dict(copy)


@pytest.fixture
def spec(tmp_path: Path, address: str) -> dict[str, Any]:
    """The package's own, which names every part of it, with prompts that the service here can answer."""
    lines = [json.dumps({"q": f"{i}", "a": f"{i * 7 % 97}"}) for i in range(60)]
    (tmp_path / "words.jsonl").write_text("\n".join(lines))
    spec: dict[str, Any] = yaml.safe_load((PACKAGE / "spec.yaml").read_text())
    sums, words = spec["fitness"]["tasks"]
    sums["prompt"], words["prompt"] = "sums|{a} + {b}|{sum}", "words|{q}|{a}"
    spec["fitness"]["engine"]["url"] = address
    return spec


@pytest.fixture
def ours(spec: dict[str, Any]) -> dict[str, Any]:
    """A spec like that one which names none of them."""
    _, words = spec["fitness"]["tasks"]
    tasks = [{"name": "sums", "kind": "perplexity", "items": words["items"]}, {**words, "metric": "exact_match"}]
    fitness = {**spec["fitness"], "engine": {"kind": "fake_recipes"}, "tasks": tasks}
    optimizer = {"kind": "random", "budget": {"trials": 6}}
    space = {"kind": "coefficients", "operator": "ties"}
    return {**spec, "preset": "evolutionary_recipes", "space": space, "optimizer": optimizer, "fitness": fitness}


def write(spec: dict[str, Any], path: Path) -> Path:
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return path


def test_a_spec_that_names_every_part_runs_to_its_end(spec: dict[str, Any], tmp_path: Path, installed: Path) -> None:
    path, out = write(spec, tmp_path / "spec.yaml"), tmp_path / "run"
    run, show = ("run", path, "--out", out), ("show", out, "--json")
    checked, ran, again, shown = crossbreed(("check", path), run, run, show, path=installed)
    assert [code for code, *_ in (checked, ran, again, shown)] == [0, 0, 0, 0], ran
    assert set(json.loads((out / "report.json").read_text())["winner"]["tasks"]) == {"sums", "words"}
    found = json.loads(shown[1])
    assert found["state"] == "finished"
    assert sum(trial["status"] == "OK" for trial in found["trials"]) >= 6
    first = json.loads((out / "journal.jsonl").read_text().splitlines()[0])
    assert first["clock"]["versions"]["example-parts"] == "0.1.0"
    assert first["coordinates"] == ["weight of all experts"]
    assert first["spec"]["optimizer"] == {"kind": "hill_climbing", "options": {"step": 0.1}}
    (code, elsewhere, _), (_, text, _) = crossbreed(show, ("show", out))
    assert code == 0
    found["trials"] = [trial | {"weights": trial["weights"] and "not known here"} for trial in found["trials"]]
    assert json.loads(elsewhere) == found | {"trials_wanted": None}  # the budget stands in the spec
    assert text.startswith("first-look: finished")
    (out / "report.json").unlink()
    [(code, _, message)] = crossbreed(("show", out))
    assert code == 2
    assert "crossbreed: 5 mistakes" in message
    assert "1. unknown space `one_weight`" in message


def test_an_operator_of_another_package_merges_weights(
    spec: dict[str, Any], tmp_path: Path, installed: Path, toy_base: Path, toy_adapters: dict[str, Path]
) -> None:
    spec["sources"] = {"base": str(toy_base), "experts": {name: str(path) for name, path in toy_adapters.items()}}
    spec["fitness"]["engine"] = {"kind": "fake"}
    path, out = write(spec, tmp_path / "spec.yaml"), tmp_path / "run"
    publish = ("publish", out, "--out", tmp_path / "model", "--trial", 9, "--no-report", "--licence", "mit")
    ran, published = crossbreed(("run", path, "--out", out), publish, path=installed)
    assert [ran[0], published[0]] == [0, 0], (ran[2], published[2])
    assert "operator: shrink" in (tmp_path / "model/recipe.yaml").read_text()
    recipe = tmp_path / "model/recipe.yaml"
    with pytest.raises(InputError, match="unknown operator `shrink`"):  # the package is not installed here
        merge_recipe(recipe, tmp_path / "again")


def test_a_run_goes_on_when_its_service_has_moved(spec: dict[str, Any], tmp_path: Path, installed: Path) -> None:
    path, out = write(spec, tmp_path / "spec.yaml"), tmp_path / "run"
    with serve() as url:
        moved = ("--set", f"fitness.engine.url={url}", "--set", "fitness.engine.timeout_s=7")
        [ran] = crossbreed(("run", path, "--out", out), path=installed)
        lines = (out / "journal.jsonl").read_text().splitlines(keepends=True)
        (out / "journal.jsonl").write_text("".join(lines[:9]))
        [again] = crossbreed(("run", path, "--out", out, *moved), path=installed)
    assert [ran[0], again[0]] == [0, 0], again[2]
    assert json.loads(lines[0])["spec"]["fitness"]["engine"] == {"kind": "merge_service"}
    assert len((out / "journal.jsonl").read_text().splitlines()) == len(lines)


@pytest.mark.parametrize("reply", [{"surprise": 1}, ["surprise"], "surprise", None])
def test_a_strange_reply_is_an_engine_s_fault(
    reply: Any, address: str, monkeypatch: pytest.MonkeyPatch, installed: Path
) -> None:
    monkeypatch.syspath_prepend(installed)
    from example_parts.merge_service import MergedModel, MergeService, MergeServiceConfig

    for name in ("adopt", "answer", "sources"):
        monkeypatch.setattr(Service, name, lambda self, body: reply)
    config = MergeServiceConfig(url=address)
    with pytest.raises(EngineError, match="adopt answers something else"):
        MergeService(config).adopt(Recipe(base=BASE, sources={}, rules=(), dtype="float32"))
    with pytest.raises(EngineError, match="answer answers something else"):
        MergedModel(config, model="m", fingerprint=None).answer([])
    with pytest.raises((EngineError, InputError)):
        config.describe_sources("a", {})
    with pytest.raises(EngineError, match="no answer from"):
        config.post("nothing", {})


ENGINE = """
from typing import Literal

from crossbreed.fitness import EngineConfig, EnginePart

class Config(EngineConfig):
    kind: Literal["theirs"] = "theirs"

PART = EnginePart(config=Config, takes="weights", make="their_engine:Engine", needs={needs})
"""


@pytest.mark.parametrize("needs", [(), ("their_client",)])
def test_an_engine_without_its_library_is_refused_by_check(
    needs: tuple[str, ...], spec: dict[str, Any], tmp_path: Path, toy_base: Path, toy_adapters: dict[str, Path]
) -> None:
    files = {"their_part.py": ENGINE.format(needs=needs), "their_engine.py": "import their_client\n"}
    entry_points = {"crossbreed.engines": {"theirs": "their_part:PART"}}
    write_package(tmp_path / "site", "their-package", files=files, entry_points=entry_points)
    path = write(on_weights(spec, "theirs", toy_base, toy_adapters), tmp_path / "spec.yaml")
    commands = ("check", path), ("run", path, "--out", tmp_path / "run")
    for code, _, message in crossbreed(*commands, path=tmp_path / "site"):
        assert code == 2, message
        assert "Traceback" not in message
        assert "the engine `theirs`" in message
        assert "their_client" in message
        assert "their-package 1.0" in message


def on_weights(spec: dict[str, Any], engine: str, toy_base: Path, toy_adapters: dict[str, Path]) -> dict[str, Any]:
    """A spec of none but our own parts with another engine."""
    words = spec["fitness"]["tasks"][1]
    tasks = [{**words, "metric": "exact_match"}]
    return {
        **{key: value for key, value in spec.items() if key != "preset"},
        "sources": {"base": str(toy_base), "experts": {name: str(path) for name, path in toy_adapters.items()}},
        "space": {"kind": "coefficients", "operator": "ties"},
        "optimizer": {"kind": "random", "budget": {"trials": 2}},
        "fitness": {**spec["fitness"], "engine": {"kind": engine}, "tasks": tasks},
    }


def check_each(specs: dict[str, dict[str, Any]], folder: Path, *, path: Path | None = None) -> dict[str, str]:
    """Checks specs that must be refused, in one process; returns the message to each."""
    commands = [("check", write(spec, folder / f"{name}.yaml")) for name, spec in specs.items()]
    checked = crossbreed(*commands, path=path)
    assert [code for code, *_ in checked] == [2] * len(specs)
    return {name: message for name, (_, _, message) in zip(specs, checked, strict=True)}


def test_what_is_misspelt_is_suggested(spec: dict[str, Any], tmp_path: Path, installed: Path) -> None:
    misspelt = {plural: named(spec, plural, name[:-1] + "x") for plural, name in BROUGHT.items()}
    for plural, message in check_each(misspelt, tmp_path, path=installed).items():
        assert f"did you mean `{BROUGHT[plural]}`?" in message
        assert f"{BROUGHT[plural]} (example-parts 0.1.0)" in message


def test_without_the_package_the_missing_kind_is_named(ours: dict[str, Any], tmp_path: Path) -> None:
    specs = {plural: named(ours, plural, name) for plural, name in BROUGHT.items()}
    for plural, message in check_each(specs, tmp_path).items():
        assert f"`{BROUGHT[plural]}`" in message
        assert "example-parts" not in message


def test_parts_are_listed_with_the_package_that_brings_them(installed: Path) -> None:
    lists = [("list", plural, "--json") for plural in BROUGHT]
    *listed, shown, doctor = crossbreed(*lists, ("list", "optimizers", "hill_climbing"), ("doctor",), path=installed)
    for name, (_, out, _) in zip(BROUGHT.values(), listed, strict=True):
        part = json.loads(out)["parts"][-1]
        assert (part["name"], part["package"]) == (name, "example-parts 0.1.0")
        assert any(line.startswith("example-parts 0.1.0") and line.endswith(name) for line in doctor[1].splitlines())
    assert "options.step: number, greater than 0 and at most 1, default 0.2" in shown[1]
