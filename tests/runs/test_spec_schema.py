"""The JSON schema of specs, for editors: current, of one mind with docs/spec.md, and neither too strict nor too lax."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from test_messages import SPEC
from typer.testing import CliRunner

from crossbreed.cli import app
from crossbreed.errors import InputError
from crossbreed.runs import dump_spec, load_spec, parse_spec
from crossbreed.runs.spec.docs_page import render_schema
from crossbreed.runs.spec.json_schema import schema_text
from crossbreed.runs.spec.presets import PRESETS
from crossbreed.runs.spec.provider import Provided, load_spec_to_check

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs/spec.schema.json"
SPECS = sorted(
    [
        *ROOT.glob("examples/*/*.yaml"),
        *ROOT.glob("tests/golden/runs/*/*/*/spec.yaml"),
        *ROOT.glob("tests/plugin/package/*.yaml"),
    ]
)


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = json.loads(FILE.read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_the_file_is_what_the_models_say() -> None:
    assert FILE.read_text() == render_schema(), "if the change is meant: python -m crossbreed.runs.spec.docs_page"


def test_the_command_prints_it() -> None:
    """To the byte, but for what other packages bring."""
    text = CliRunner().invoke(app, ["schema"]).stdout
    assert text == schema_text()
    assert FILE.read_text() == schema_text(of_others=False)
    printed, committed = json.loads(text), json.loads(FILE.read_text())
    assert printed["$defs"].keys() >= committed["$defs"].keys()
    assert printed["properties"].keys() == committed["properties"].keys()


@pytest.mark.parametrize("path", SPECS, ids=lambda path: str(path.relative_to(ROOT)))
def test_specs_of_this_repository_are_valid(path: Path, validator: Draft202012Validator) -> None:
    assert len(SPECS) > 10
    text = path.read_text().replace("@sources@", "")
    if "kind: m2n2" in text:  # an option's old name, of which a run says what it is called now
        text = text.replace("vertex_scale", "seed_scale")
    assert [error.message for error in validator.iter_errors(yaml.safe_load(text))] == []


def test_sources_may_be_left_to_an_engine_that_names_them(validator: Draft202012Validator) -> None:
    raw = yaml.safe_load(SPEC)
    del raw["sources"]
    assert not validator.is_valid(raw)
    raw["fitness"]["engine"] = {"kind": "api", "url": "http://127.0.0.1:8000"}
    assert validator.is_valid(raw)


@pytest.mark.parametrize(
    ("changes", "is_valid"),
    [
        ({}, True),
        ({"serve": {"split": {"search": 1, "select": 1, "report": 1}, "detail": "aggregate"}}, True),
        ({"serve": ...}, False),
        ({"sources": ...}, False),
        ({"serve": {"prot": 1}}, False),
        ({"serve": {"tokens": {"alice": {"key": "secret", "rights": ["answers"]}}}}, False),
        ({"seed": 1}, False),
        ({"fitness": {"engine": {"kind": "vllm"}, "split": {"search": 1, "select": 1, "report": 1}}}, False),
        ({"fitness": {}}, False),
    ],
)
def test_a_provider_s_spec_has_its_own_keys(
    changes: dict[str, Any], is_valid: bool, validator: Draft202012Validator, tmp_path: Path
) -> None:
    raw = yaml.safe_load((ROOT / "examples/smollm2/provider.yaml").read_text()) | changes
    raw = {key: value for key, value in raw.items() if value is not ...}
    assert validator.is_valid(raw) is is_valid
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(raw))
    if is_valid:
        assert isinstance(load_spec_to_check(tmp_path / "spec.yaml"), Provided)
    else:
        with pytest.raises(InputError):
            load_spec_to_check(tmp_path / "spec.yaml")


def test_a_spec_with_every_default_is_valid(validator: Draft202012Validator, tmp_path: Path) -> None:
    spec = load_spec(ROOT / "examples/smollm2/pareto.yaml")
    assert [*validator.iter_errors(yaml.safe_load(dump_spec(spec)))] == []


@pytest.mark.parametrize("preset", PRESETS.ours)
def test_a_preset_fills_in(preset: str, validator: Draft202012Validator) -> None:
    raw = yaml.safe_load(SPEC)
    del raw["space"], raw["optimizer"]
    assert not validator.is_valid(raw)
    for more in ({}, {"optimizer": {"budget": {"minutes": 3}}}, {"space": {"groups": {"layers": 2}}}):
        assert validator.is_valid({**raw, "preset": preset, **more})


def changed(key: str, value: Any) -> dict[str, Any]:
    raw = yaml.safe_load(SPEC)
    *parents, last = key.split(".")
    place = raw
    for parent in parents:
        place = place[int(parent) if parent.isdigit() else parent]
    if value is ...:
        del place[last]
    else:
        place[int(last) if last.isdigit() else last] = value
    return dict(raw)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sead", 1),
        ("seed", -1),
        ("seed", "x"),
        ("name", [1]),
        ("sources", ...),
        ("sources.experts", {}),
        ("optimizer", ...),
        ("optimizer.budget", ...),
        ("optimizer.budget.trails", 3),
        ("optimizer.kind", ...),
        ("space.weight", [1, 2, 3]),
        ("space", {"kind": "coefficients", "grups": {}}),
        ("space", {"grups": {}}),
        ("fitness.engine.kind", ...),
        ("fitness.engine", {"kind": "vllm", "dtyp": "bfloat16"}),
        ("fitness.tasks.0.kind", ...),
        ("fitness.tasks.0.answer", ...),
        ("fitness.tasks.0.max_tokens", 0),
        ("fitness.tasks", []),
        ("fitness.split.search", "x"),
        ("warm_start", "x"),
        ("workers", {"count": "many"}),
    ],
)
def test_what_a_parse_refuses_an_editor_marks(key: str, value: Any, validator: Draft202012Validator) -> None:
    raw = changed(key, value)
    with pytest.raises(InputError):
        parse_spec(raw)
    assert not validator.is_valid(raw)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("space", {"kind": "of_a_plugin", "anything": 1}),
        ("optimizer", {"kind": "of_a_plugin", "budget": {"trials": 3}, "options": {"a": 1}}),
        ("space", {"operator": ["ties", "of_a_plugin"]}),
        ("fitness.engine", {"kind": "of_a_plugin", "own": 1}),
        ("fitness.tasks.0", {"kind": "of_a_plugin", "name": "t", "own": 1}),
        ("fitness.tasks.0.metric", "of_a_plugin"),
        ("preset", "of_a_plugin"),
    ],
)
def test_parts_of_other_packages_are_let_through(key: str, value: Any, validator: Draft202012Validator) -> None:
    assert [*validator.iter_errors(changed(key, value))] == []


def test_it_has_the_keys_of_the_page(validator: Draft202012Validator) -> None:
    page = (ROOT / "docs/spec.md").read_text()
    schema = json.loads(FILE.read_text())
    models = {"Spec": schema, **schema["$defs"]}
    sections = re.findall(r"^## (\w+)\n(.*?)(?=^## )", page, re.MULTILINE | re.DOTALL)
    found = {name: re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) for name, text in sections if name in models}
    assert len(found) > 25
    for name, keys in found.items():
        assert keys == [*models[name]["properties"]]
