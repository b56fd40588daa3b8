"""An operator of another package is one file, that of docs/plugins.md; wrong ones are caught by the suite or named."""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from crossbreed.errors import InputError
from crossbreed.recipes import parse_recipe

ROOT = Path(__file__).parents[2]
OPERATOR = (ROOT / "tests/plugin/package/src/example_parts/shrink.py").read_text()

WRONG = """
from dataclasses import replace

import shrink


def by_name(inputs, rule):
    program = shrink.arithmetic(inputs, rule)
    threshold, *weights = program.numbers
    renamed = sorted(zip(inputs.experts, weights), key=lambda pair: pair[0].name)
    experts, weights = zip(*renamed) if renamed else ((), ())
    return replace(program, experts=experts, numbers=(threshold, *weights))


def deaf(inputs, rule):
    program = shrink.arithmetic(inputs, rule)
    return replace(program, body=ignoring, numbers=(0.0, *program.numbers[1:]))


def ignoring(base, deltas, sides, numbers):
    return shrink._added(base, [delta.nan_to_num(0.0, 0.0, 0.0) for delta in deltas], sides, numbers)


def part(name, arithmetic):
    return replace(shrink.PART, spec=replace(shrink.SPEC, name=name), arithmetic=f"wrong_operators:{arithmetic}")


BY_NAME, DEAF, ABSENT = part("by_name", "by_name"), part("deaf", "deaf"), part("absent", "nowhere")
"""

SUITES = """
import pytest

from crossbreed.testing.operators import OperatorConformance


class TestByName(OperatorConformance):
    @pytest.fixture
    def operator(self):
        return "by_name"


class TestDeaf(OperatorConformance):
    @pytest.fixture
    def operator(self):
        return "deaf"
"""

ENTRY_POINTS = """
[crossbreed.operators]
shrink = shrink:PART
by_name = wrong_operators:BY_NAME
deaf = wrong_operators:DEAF
absent = wrong_operators:ABSENT
misnamed = wrong_operators:DEAF
number = wrong_operators:__name__
"""

MERGE = """
import json, sys

from crossbreed.errors import InputError
from crossbreed.kernels import ARITHMETIC, materialize
from crossbreed.kernels.reference import materialize_fp64
from crossbreed.recipes import parse_recipe
from crossbreed.recipes.operators import OPERATOR_SPECS
from crossbreed.recipes.operators import OPERATORS as DECLARED
from crossbreed.sources import open_sources

base, *experts = sys.argv[1:]
sources = open_sources(base, dict(zip("ab", experts)))


def recipe_of(operator):
    rule = {"match": ".*", "operator": operator, "params": {"weight": {"a": 0.7, "b": 0.4}}}
    hashes = dict(sources.structure.hashes)
    return parse_recipe({"schema": 1, "base": "base", "sources": hashes, "rules": [rule], "dtype": "float32"})


def fault_of(work):
    try:
        work()
    except InputError as error:
        return str(error)


recipe = recipe_of("shrink")
meant = dict(materialize_fp64(recipe, sources))
merged = dict(materialize(recipe, sources))
print(json.dumps({
    "error": max(float((merged[name].double() - meant[name]).abs().max()) for name in meant),
    "changed": sum(not merged[name].equal(sources.base.tensor(name).float()) for name in meant),
    "listed": ["shrink" in names for names in (ARITHMETIC, DECLARED, OPERATOR_SPECS)],
    "package": DECLARED.package_of("shrink"),
    "parameters": [param.name for param in OPERATOR_SPECS["shrink"].params],
    "misspelt": fault_of(lambda: recipe_of("shrinc")),
    "misnamed": fault_of(lambda: DECLARED["misnamed"]),
    "number": fault_of(lambda: DECLARED["number"]),
    "absent": fault_of(lambda: ARITHMETIC["absent"]),
}))
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that, on `sys.path`, is an installed package."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "shrink.py").write_text(OPERATOR)
    (folder / "wrong_operators.py").write_text(WRONG)
    (folder / "test_suites.py").write_text(SUITES)
    info = folder / "shrink-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shrink\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder


def run(plugin: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python where the package is installed; nothing is compiled."""
    path = os.pathsep.join([str(plugin), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": path, "CROSSBREED_COMPILER": ""}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, cwd=plugin, capture_output=True, text=True, check=False)


def test_it_merges_as_it_is_defined_and_is_found_by_name(
    plugin: Path, toy_base: Path, toy_experts: dict[str, Path]
) -> None:
    done = run(plugin, "-c", MERGE, str(toy_base), *map(str, toy_experts.values()))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["error"] < 1e-5
    assert found["changed"] > 0
    assert found["listed"] == [True] * 3
    assert found["package"] == "shrink 1.0"
    assert found["parameters"] == ["weight", "threshold", "lines_alpha", "lines_beta"]
    assert "did you mean `shrink`?" in found["misspelt"]
    assert "declares the name `deaf`" in found["misnamed"]
    assert "OperatorPart" in found["number"]
    assert "wrong_operators:nowhere" in found["absent"]
    assert "shrink 1.0" in found["absent"]


def test_wrong_operators_are_caught_by_the_suite(plugin: Path) -> None:
    report = plugin / "report.xml"
    chosen = ["-k", "TestByName or nan_and_infinity or every_parameter"]
    done = run(
        plugin, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *chosen, "test_suites.py"
    )
    failed: dict[str, set[str]] = {"TestByName": set(), "TestDeaf": set()}
    cases = list(ElementTree.parse(report).iter("testcase"))
    for case in cases:
        if case.find("failure") is not None or case.find("error") is not None:
            failed[case.attrib["classname"].rpartition(".")[2]].add(case.attrib["name"].partition("[")[0])
    assert len(cases) > 10, done.stdout
    assert failed["TestByName"] == {"test_permuting_experts_with_their_coefficients_changes_no_bit"}
    assert failed["TestDeaf"] >= {"test_nan_and_infinity_are_not_lost", "test_every_parameter_is_read"}


def test_where_it_is_not_installed_the_name_is_unknown() -> None:
    rule = {"match": ".*", "operator": "shrink", "params": {"weight": 0.5}}
    with pytest.raises(InputError, match="unknown operator `shrink`"):
        parse_recipe({"schema": 1, "base": "base", "sources": {"base": "0", "a": "1"}, "rules": [rule]})
