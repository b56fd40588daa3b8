"""Messages are whole sentences: no part of one begins or ends in the middle."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

import crossbreed
from crossbreed.errors import InputError, first_line
from crossbreed.runs.publishing.hub_upload import push
from crossbreed.runs.record.identity import check_same_run
from crossbreed.runs.record.records import RunRecord
from crossbreed.runs.spec.objectives import ObjectiveConfig, build_objectives

ROOT = Path(crossbreed.__file__).parent
PARTS = ("expected", "fix")
BEGIN, END = ("or ", "and ", "but ", "; ", ", ", ": "), (" or", " and", ";", ",", ":", " (")


def texts_of(source: str) -> Iterator[tuple[int, str]]:
    """Yields the texts that a module gives to errors as `expected` or `fix`, values in them as `x`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.keyword) and node.arg in PARTS:
            for text in literals(node.value):
                yield node.value.lineno, text


def literals(node: ast.expr) -> list[str]:
    """Returns the texts that an expression may be."""
    match node:
        case ast.Constant(value=str() as text):
            return [text]
        case ast.JoinedStr():
            return ["".join(part.value if isinstance(part, ast.Constant) else "x" for part in node.values)]
        case ast.IfExp():
            return literals(node.body) + literals(node.orelse)
        case ast.BinOp(op=ast.Add()):
            return [left + right for left in literals(node.left) or ["x"] for right in literals(node.right) or ["x"]]
        case ast.BoolOp(op=ast.Or()):
            return [text for value in node.values for text in literals(value)]
    return []


def cut(text: str) -> bool:
    return text.startswith(BEGIN) or text.rstrip().endswith(END)


def test_no_message_is_a_part_of_a_sentence() -> None:
    found = [(path.name, *text) for path in ROOT.rglob("*.py") for text in texts_of(path.read_text())]
    assert len(found) > 300
    assert [one for one in found if cut(one[-1])] == []


def test_a_part_of_a_sentence_is_seen() -> None:
    source = 'raise E(p, fix="or keep it", expected=f"{a}; " + "" if b else "right")\nraise E(fix=f"{a}, or {b}")'
    assert [text for _, text in texts_of(source) if cut(text)] == ["or keep it", "x; "]


def test_a_long_line_of_a_library_shows_that_it_goes_on() -> None:
    assert first_line(ValueError("a" * 400), at_most=100) == "a" * 96 + " ..."
    assert first_line(ValueError("")) == "ValueError"


def test_both_values_of_a_setting_are_shown(tmp_path: Path) -> None:
    before, now = (RunRecord(spec={"prompt": letter * 300}, sources={}, items={}) for letter in "ab")
    with pytest.raises(InputError) as error:
        check_same_run(before, now, where=tmp_path)
    assert error.value.got == f"prompt: {'a' * 60} ... -> {'b' * 60} ..."


def test_a_name_with_a_comma_is_one_name() -> None:
    with pytest.raises(InputError) as error:
        build_objectives([ObjectiveConfig(mean=("loss, long", "acc"))], {"loss, long": True, "acc": False})
    assert error.value.fix.endswith("{task: 'loss, long'}")


def test_a_hub_that_says_nothing_is_quoted_by_its_errors_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        def create_repo(self, repo_id: str, **options: object) -> None:
            raise ValueError

        def upload_folder(self, **options: object) -> None:
            raise AssertionError

    class Published:
        uploads: ClassVar[dict[str, int]] = {}

        def verify(self) -> None:
            pass

    monkeypatch.setattr("crossbreed.runs.publishing.hub_upload.published_folder", lambda folder: Published())
    with pytest.raises(InputError) as error:
        push(tmp_path, "me/x", hub=Silent())
    assert error.value.got == "ValueError: ValueError"
