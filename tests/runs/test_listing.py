"""`crossbreed list`: every part, who brings it, and what it takes, from the declarations themselves."""

import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from plugged import write_package

from crossbreed.cli import main
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.registry import Registry
from crossbreed.runs import doctor
from crossbreed.runs.spec import listing
from crossbreed.runs.spec.docs_page import render
from crossbreed.runs.spec.listing import REGISTRIES, describe_part, list_parts
from crossbreed.runs.spec.presets import PRESETS, fill_in

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Calls `crossbreed list`; returns exit code, stdout and stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["crossbreed", "list", *arguments])
        monkeypatch.setattr("signal.signal", lambda *_: None)
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


@pytest.mark.parametrize("plural", REGISTRIES)
def test_every_part_is_listed_and_described(plural: str) -> None:
    found = list_parts(plural)
    assert [part["name"] for part in found["parts"]] == list(REGISTRIES[plural])
    for part in found["parts"]:
        assert part["package"] == "crossbreed"
        described = describe_part(plural, part["name"])
        assert part["about"]
        assert described["documentation"].startswith(part["about"].split()[0])
        assert json.loads(json.dumps(described)) == described


def test_settings_have_type_default_range_and_the_sentence_that_documents_them() -> None:
    settings = {setting["name"]: setting for setting in describe_part("optimizers", "cma_es")["settings"]}
    assert settings["options.sigma0"] == {
        "name": "options.sigma0",
        "type": "number",
        "range": "greater than 0 and at most 1",
        "default": "0.15",
        "about": "Initial step size, as a fraction of each coordinate's range.",
    }
    assert settings["budget.trials"]["default"] == "null"
    assert {setting["name"] for setting in describe_part("tasks", "perplexity")["settings"]} == {
        "kind", "name", "stratify", "chunk", "items", "text"
    }  # fmt: skip


def test_an_operator_shows_its_parameters() -> None:
    described = describe_part("operators", "ties")
    assert described["documentation"] == OPERATOR_SPECS["ties"].formula
    (density,) = (setting for setting in described["settings"] if setting["name"] == "density")
    assert density["valid"] == "a finite number greater than 0 and at most 1"
    assert density["of"] == "each expert"
    assert density["searched"] == "0.1 to 1, log scale, in steps of 1/1024"


def test_the_page_says_the_same() -> None:
    page = render()
    for kind, name in (("optimizers", "gp"), ("operators", "bmm"), ("engines", "vllm")):
        for setting in describe_part(kind, name)["settings"]:
            assert setting["about"].replace("|", "\\|") in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["optimizers"], "cma_es       CMA-ES, for one objective."),
        (["metrics", "number"], "The last number in the text equals the one number of the gold"),
        (["optimizers", "m2n2"], "paper: arXiv 2508.16204"),
        (["operators", "ties"], "paper: arXiv 2306.01708"),
        (["presets", "bmm"], "paper: arXiv 2605.12843"),
        (["presets", "m2n2"], "kind: lineage"),
        (["engines", "fake"], "fail_at: integer, at least 1, default 1"),
    ],
)
def test_people_get_a_table(cli: Cli, arguments: list[str], said: str) -> None:
    code, out, _ = cli(*arguments)
    assert code == 0
    assert said in out


def test_without_a_kind_the_kinds_are_listed(cli: Cli) -> None:
    code, out, _ = cli()
    assert code == 0
    shown = dict(line.split() for line in out.splitlines()[: len(REGISTRIES)])
    assert shown == {plural: str(len(registry)) for plural, registry in REGISTRIES.items()}
    _, out, _ = cli("--json")
    assert [kind["kind"] for kind in json.loads(out)["kinds"]] == [*REGISTRIES]


def reads_the_seed(seed: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """Needs what every spec has."""
    return {"seed": seed + len(given["sources"]), **given}


def test_a_preset_that_reads_the_spec_is_described_and_may_be_a_partial() -> None:
    with PRESETS.holding("reads", partial(reads_the_seed, 3)):
        described = describe_part("presets", "reads")
        assert (described["about"], described["facts"]) == ("Needs what every spec has.", {})
        assert fill_in({"preset": "reads", "sources": {"base": "b"}})["seed"] == 4


def test_what_cannot_be_called_is_no_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from functools import partial\nPART = partial(dict, seed=1)\nWRONG = 3\n"
    entry_points = {PRESETS.group: {"part": "partials:PART", "wrong": "partials:WRONG"}}
    write_package(tmp_path, "partials", files={"partials.py": source}, entry_points=entry_points)
    monkeypatch.syspath_prepend(tmp_path)
    presets = type(PRESETS)("preset", PRESETS.group, {}, part=PRESETS._part)
    assert list(presets.working()) == ["part"]
    assert "is int 3" in presets.faults()["wrong"].problem


def test_a_clash_of_names_is_listed_beside_ours(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_package(tmp_path, "taker", files={}, entry_points={"crossbreed.metrics": {"number": "taken:PART"}})
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry[object](
        "metric", "crossbreed.metrics", {"number": "crossbreed.fitness.tasks.metrics.plain:NUMBER"}
    )
    monkeypatch.setattr(listing, "REGISTRIES", {"metrics": registry})
    monkeypatch.setattr(doctor, "REGISTRIES", {"metrics": registry})
    _, out, _ = cli("metrics")
    assert "number of taker 1.0  BROKEN: two packages bring the metric `number`" in out
    shown = doctor.render(doctor.examine())
    assert "taker 1.0                       the metric number of taker 1.0" in shown
    assert "problem: two packages bring the metric `number`" in shown


def test_the_setting_of_a_metric_is_described(cli: Cli) -> None:
    _, out, _ = cli("metrics", "language")
    assert "takes: a text or keys code, among" in out
    assert "code: string, required" in out
    _, out, _ = cli("metrics", "json_schema")
    assert "takes: a text or a mapping" in out


def test_programs_get_json(cli: Cli) -> None:
    _, out, _ = cli("optimizers", "gp", "--json")
    assert json.loads(out) == describe_part("optimizers", "gp")
    _, out, _ = cli("spaces", "--json")
    assert json.loads(out) == list_parts("spaces")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["optimizer"], "did you mean `optimizers`?"),
        (["operators", "tie"], "did you mean `ties`?"),
        (["presets", "m2n3"], "did you mean `m2n2`?"),
        (["engines", "my_service"], "install the package that provides it"),
    ],
)
def test_what_is_misspelt_is_suggested(cli: Cli, arguments: list[str], said: str) -> None:
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert said in err


def test_parts_of_other_packages_are_listed_with_them_and_broken_ones_say_why(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "from crossbreed.fitness import Metric\nPART = Metric(function=lambda text, gold: len(text))\n"
    entry_points = {"crossbreed.metrics": {"length": "lengths:PART", "width": "widths:PART"}}
    write_package(tmp_path, "lengths", files={"lengths.py": source}, entry_points=entry_points)
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry[object](
        "metric", "crossbreed.metrics", {"number": "crossbreed.fitness.tasks.metrics.plain:NUMBER"}
    )
    monkeypatch.setattr(listing, "REGISTRIES", {"metrics": registry})
    code, out, _ = cli("metrics")
    assert code == 0
    assert "length" in out
    assert "[lengths 1.0]" in out
    assert "BROKEN: the metric `width` cannot be imported: ModuleNotFoundError" in out
