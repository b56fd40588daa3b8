"""What is left of a long message: whole lines, whole hashes, whole commands."""

import re

import pytest

from crossbreed.errors import InputError, Mistakes, each
from crossbreed.parsing import any_of
from crossbreed.recipes.operators import OPERATORS

HASHES = [f"{number:032x}" for number in range(1, 9)]


def test_hashes_to_paste_are_whole() -> None:
    listed = "{" + ", ".join(f'"expert{number}": {hash_}' for number, hash_ in enumerate(HASHES)) + "}"
    assert len(listed) > 300
    assert InputError("wrong", expected=listed).expected == listed


def test_what_is_cut_is_cut_beside_hashes() -> None:
    for length in range(200, 300):
        cut = InputError("wrong", got=f"{'x ' * (length // 2)}{HASHES[0]} {'y ' * 200}{HASHES[1]} z").got
        assert len(cut) <= 300
        assert set(re.findall(r"[0-9a-f]{2,}", cut)) <= {*HASHES}


def test_lines_are_left_out_whole() -> None:
    lines = [f"setting {number}: {'x' * 150}" for number in range(5)]
    assert InputError("wrong", got="\n".join(lines)).got.split("\n") == [lines[0], "... (4 more lines)"]


def test_a_screen_has_few_lines() -> None:
    assert InputError("wrong", got="\n".join("abcdefghij")).got.split("\n") == [*"abcdefgh", "... (2 more lines)"]


def test_a_command_is_whole() -> None:
    command = f"run:\npython -c '{'x' * 2000}'"
    assert InputError("wrong", fix=command).fix == command


def test_a_list_of_names_ends_between_names() -> None:
    names = [*OPERATORS, *(f"{name}_of_another_package" for name in OPERATORS)]
    error = InputError("unknown operator `x`", expected=f"one of {any_of(names)}")
    listed, more = error.expected.removeprefix("one of ").rsplit(" and ", 1)
    kept = listed.split(", ")
    assert (kept, more) == (names[: len(kept)], f"{len(names) - len(kept)} more")
    assert len(kept) > 15


def test_words_are_left_out_whole() -> None:
    words = [f"word{number}" for number in range(100)]
    for error in (InputError("wrong", got=" ".join(words)), Mistakes([InputError("wrong", got=" ".join(words))] * 2)):
        assert set(re.findall(r"word\w*", str(error))) <= {*words}
        assert " ... " in str(error)


def test_all_values_are_looked_at() -> None:
    def positive(value: int) -> int:
        if value < 0:
            raise InputError(f"{value} is negative")
        return value

    assert each(positive, [1, 2]) == [1, 2]
    with pytest.raises(Mistakes) as caught:
        each(positive, [-1, 2, -3])
    assert [error.problem for error in caught.value.errors] == ["-1 is negative", "-3 is negative"]
