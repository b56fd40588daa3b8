"""Parts by name: ours and those of other packages, imported when they are named; messages name what is missing."""

import itertools
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from plugged import write_package
from pydantic import Field, ValidationError

from crossbreed.config import Config
from crossbreed.errors import InputError
from crossbreed.optimizer import OptimizerConfig, OptimizerPart
from crossbreed.registry import Named, Registry, Tagged
from crossbreed.runs.record.versions import versions

GROUP = "crossbreed.tests"
OURS = {"fraction": "fractions:Fraction", "decimal": "decimal:Decimal"}
Bring = Callable[..., Registry[Any]]


def registry() -> Registry[Any]:
    return Registry[Any]("test", GROUP, OURS)


_numbers = itertools.count()


@pytest.fixture
def bring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bring:
    """Installs a package with one part, and returns a registry that has not looked yet."""
    monkeypatch.syspath_prepend(tmp_path)

    def bring(source: str, name: str = "theirs", package: str = "their-package") -> Registry[Any]:
        module = f"brought_{next(_numbers)}"
        entry_points = {GROUP: {name: f"{module}:PART"}}
        write_package(tmp_path, package, files={f"{module}.py": source}, entry_points=entry_points)
        return registry()

    return bring


def test_a_part_of_another_package_is_one_of_ours(bring: Bring) -> None:
    parts = bring("PART = 7\n")
    assert list(parts) == ["fraction", "decimal", "theirs"]
    assert (parts["fraction"], parts["theirs"]) == (Fraction, 7)
    assert (parts.package_of("fraction"), parts.package_of("theirs")) == ("crossbreed", "their-package 1.0")
    assert parts.ours == ("fraction", "decimal")


def test_a_misspelt_name_is_suggested_and_others_are_said_with_their_packages(bring: Bring) -> None:
    parts = bring("PART = 7\n")
    with pytest.raises(InputError) as caught:
        parts.look_up("Theirz", where="here")
    assert caught.value.problem == "unknown test `Theirz`"
    assert caught.value.expected == "one of theirs (their-package 1.0), fraction, decimal"
    assert (caught.value.where, caught.value.fix) == ("here", "did you mean `theirs`?")


@pytest.mark.parametrize("name", ["gone", 7, None, ["a", "b"]])
def test_a_name_that_nobody_brings_is_named(name: object) -> None:
    with pytest.raises(InputError) as caught:
        registry().look_up(name)
    assert f"`{name}`" in caught.value.problem
    assert "install the package that provides it" in caught.value.fix


def test_parts_are_imported_when_they_are_named(bring: Bring) -> None:
    parts = bring("raise ImportError('no such library')\n")
    assert len(parts) == 3
    assert "theirs" in parts
    parts.require("theirs")
    with pytest.raises(InputError, match=r"`theirs` cannot be imported: ImportError: no such library") as caught:
        parts.look_up("theirs")
    assert "their-package 1.0" in caught.value.got


def test_a_broken_part_leaves_the_others_alone(bring: Bring) -> None:
    parts = bring("1 / 0\n")
    assert list(parts.working()) == ["fraction", "decimal"]
    assert list(parts.faults()) == ["theirs"]
    assert "ZeroDivisionError" in parts.faults()["theirs"].problem


def test_a_name_that_two_packages_bring_is_refused_when_it_is_looked_up(bring: Bring) -> None:
    bring("PART = 7\n")
    bring("PART = 9\n", name="alone", package="third-package")
    parts = bring("PART = 8\n", package="second-package")
    assert (list(parts), parts["alone"]) == (["fraction", "decimal", "alone", "theirs"], 9)
    with pytest.raises(InputError, match="two packages bring the test `theirs`") as caught:
        parts.look_up("theirs")
    assert caught.value.got == "second-package 1.0 and their-package 1.0"
    assert list(parts.faults()) == ["theirs"]
    assert list(parts.working()) == ["fraction", "decimal", "alone"]


def test_nobody_takes_a_name_of_ours(bring: Bring) -> None:
    parts = bring("PART = 7\n", name="decimal")
    assert parts["decimal"] is Decimal
    assert list(parts.working()) == ["fraction", "decimal"]
    assert list(parts.faults()) == ["decimal of their-package 1.0"]
    assert parts.faults()["decimal of their-package 1.0"].got == "crossbreed and their-package 1.0"
    assert parts.package_of("decimal of their-package 1.0") == "their-package 1.0"


@pytest.mark.parametrize("name", ["warm_start:x", "2nd", "a b"])
def test_a_name_that_a_journal_could_not_write_is_refused(bring: Bring, name: str) -> None:
    parts = bring("PART = 7\n", name=name)
    with pytest.raises(InputError, match="is no name"):
        parts[name]
    assert list(parts.faults()) == [name]


SETTINGS = """
from dataclasses import dataclass
from typing import Literal
from crossbreed.config import Config
class Good(Config):
    kind: Literal["theirs"] = "theirs"
class Other(Config):
    kind: Literal["another"] = "another"
class Any(Config):
    kind: str
@dataclass
class Part:
    config: object
"""


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        ("Good", None),
        ("Good()", "is Good"),
        ("Other", "has settings of another `kind`: Other"),
        ("Any", "has settings of another `kind`: Any"),
        ("int", "has type <class 'int'> for its settings"),
    ],
)
def test_settings_are_a_class_of_the_group_with_the_entry_point_s_name(
    bring: Bring, part: str, problem: str | None
) -> None:
    bring(f"{SETTINGS}PART = {part}\n")
    parts = Registry[Any]("test", GROUP, {}, part=type, config=Config)
    if problem is None:
        assert parts["theirs"].__name__ == "Good"
    else:
        with pytest.raises(InputError) as caught:
            parts["theirs"]
        assert problem in caught.value.problem


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        ("OptimizerPart", "is type"),
        ("OptimizerPart(config=int, make=print, searches=None)", "has type <class 'int'> for its settings"),
        ("OptimizerPart(config=OptimizerConfig, make=print, searches=None)", "has settings of another `kind`"),
    ],
)
def test_the_settings_of_a_part_are_checked_too(bring: Bring, part: str, problem: str) -> None:
    bring(f"from crossbreed.optimizer import OptimizerConfig, OptimizerPart\nPART = {part}\n")
    parts = Registry[Any]("test", GROUP, {}, part=OptimizerPart, config=OptimizerConfig)
    with pytest.raises(InputError) as caught:
        parts["theirs"]
    assert problem in caught.value.problem


@pytest.mark.parametrize(("source", "is_part"), [("PART = 7", True), ("PART = 'seven'", False), ("PART = int", False)])
def test_what_is_no_part_is_refused(bring: Bring, source: str, is_part: bool) -> None:
    bring(source)
    parts = Registry[Any]("test", GROUP, {}, part=int)
    if is_part:
        assert parts["theirs"] is not None
    else:
        with pytest.raises(InputError, match=r"the test `theirs` is (str 'seven'|type <class 'int'>)") as caught:
            parts["theirs"]
        assert caught.value.expected == "of type int"


def test_a_part_is_held_for_as_long_as_a_test_needs_it() -> None:
    parts = registry()
    with parts.holding("mine", 7):
        assert parts.look_up("mine") == 7
    assert "mine" not in parts


def test_packages_that_bring_parts_are_recorded_beside_results(bring: Bring) -> None:
    bring("raise ImportError\n")
    assert versions()["their-package"] == "1.0"


class Shape(Config):
    kind: str
    colour: str = "red"


class Circle(Shape):
    kind: Literal["circle"] = "circle"
    radius: float


class Square(Shape):
    kind: Literal["square"] = "square"
    side: float


SHAPES = Registry[type[Shape]](
    "shape", "crossbreed.shapes", {"circle": f"{__name__}:Circle", "square": f"{__name__}:Square"}
)


class Drawing(Config):
    shape: Annotated[Shape, Tagged(SHAPES, lambda shape: shape)]
    more: list[Annotated[Shape, Tagged(SHAPES, lambda shape: shape, default="square")]] = Field(default_factory=list)
    metric: Annotated[str, Named(SHAPES)] = "circle"


def test_a_kind_names_the_settings_that_parse_a_field() -> None:
    raw = {"shape": {"kind": "circle", "radius": 2}, "more": [{"side": 1}]}
    drawing = Drawing.model_validate(raw)
    assert drawing.shape == Circle(radius=2)
    assert drawing.more == [Square(side=1)]
    assert Drawing.model_validate_json(drawing.model_dump_json()) == drawing
    assert Drawing(shape=Square(side=3)).shape == Square(side=3)
    assert drawing.model_dump(exclude={"shape": {"colour"}, "more": True})["shape"] == {"kind": "circle", "radius": 2.0}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"shape": {"kind": "circel", "radius": 2}}, r"unknown shape `circel`(?s:.*)did you mean `circle`\?"),
        ({"shape": {"radius": 2}}, "the shape has no `kind`"),
        ({"shape": "circle"}, "the shape is not a mapping"),
        ({"shape": {"kind": "circle", "radius": "big"}}, r"shape\.radius"),
        ({"shape": {"kind": "circle", "radios": 2}}, r"unknown key `radios`(?s:.*)did you mean `radius`\?"),
        ({"shape": {"kind": "square", "side": 1}, "metric": "circl"}, r"unknown shape `circl`"),
    ],
)
def test_what_is_wrong_with_a_kind_is_said_in_its_place(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Drawing.model_validate(raw)


def test_a_json_schema_has_every_kind() -> None:
    schema = Drawing.model_json_schema()
    assert schema["properties"]["shape"]["discriminator"]["mapping"] == {
        "circle": "#/$defs/Circle",
        "square": "#/$defs/Square",
    }
    assert schema["properties"]["more"]["items"]["x-registry"] == "shapes"
    assert schema["properties"]["metric"]["enum"] == ["circle", "square"]


EVERY_PART = """
import sys

sys.modules.update(dict.fromkeys(["torch", "vllm", "transformers", "safetensors", "scipy"]))

from crossbreed.runs.spec.listing import REGISTRIES, describe_part

for plural, registry in REGISTRIES.items():
    assert set(registry.ours) <= set(registry.working()), registry.faults()
    for name in registry.ours:
        assert describe_part(plural, name)["about"]
"""


def test_parts_of_ours_are_described_without_what_they_run_on() -> None:
    done = subprocess.run([sys.executable, "-c", EVERY_PART], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
