"""What is left of a long message: whole lines, whole hashes, whole commands."""

import re

from crossbreed.errors import InputError

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
