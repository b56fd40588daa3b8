"""Files that outlive a power cut, and mappings that are read strictly."""

import os
import shutil
from pathlib import Path

import pytest

from crossbreed.durable import own_folder, scratch_folder, write_atomically
from crossbreed.errors import InputError
from crossbreed.parsing import require_keys


def test_a_file_is_whole_and_its_name_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is synced, in which order: the content before it gets its name, the folder after."""
    path, synced = tmp_path / "x.json", []
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        synced.append((Path(f"/proc/self/fd/{descriptor}").resolve(), path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    write_atomically(path, b"content")
    (content, named_then), (folder, named_now) = synced
    assert (content.parent, named_then) == (tmp_path, False)
    assert (folder, named_now) == (tmp_path, True)
    assert path.read_bytes() == b"content"


def test_a_folder_has_one_writer_and_what_a_killed_one_left_is_emptied(tmp_path: Path) -> None:
    path = tmp_path / "partial"
    (path / "left").mkdir(parents=True)
    (path / "half").write_text("half")
    with own_folder(path):
        assert not [*path.iterdir()]
        with pytest.raises(BlockingIOError), own_folder(path):
            pass
        (path / "file").write_text("whole")
        path.rename(tmp_path / "out")
        with own_folder(path):  # another begins anew, and stays alone
            pass
    assert [one.name for one in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "file").read_text() == "whole"


def test_scratch_of_a_killed_process_goes_with_the_next_and_that_of_a_living_one_stays(tmp_path: Path) -> None:
    with scratch_folder(tmp_path) as left:
        shutil.copytree(left, tmp_path / f"{left.name}0")
        (tmp_path / f"{left.name}0" / "half").write_text("half")
        with scratch_folder(tmp_path) as another:
            assert {*tmp_path.iterdir()} == {left, another}
    assert not [*tmp_path.iterdir()]


def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.json"
    write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="full"):
        write_atomically(path, b"new")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]


def test_keys_may_be_given_by_an_iterator() -> None:
    require_keys({"a": 1, "b": 2}, iter("ab"), needed=iter("ab"), where="x")
    with pytest.raises(InputError) as caught:
        require_keys({"a": 1, "alpha": 2}, iter(["a", "alphas", "beta"]), where="x")
    assert (caught.value.problem, caught.value.expected) == ("unknown key `alpha`", "one of a, alphas, beta")
    assert caught.value.fix == "did you mean `alphas`?"
    with pytest.raises(InputError) as caught:
        require_keys({"a": 1}, iter("abc"), needed=iter("ab"), where="x")
    assert (caught.value.problem, caught.value.expected) == ("`b` is missing", "a, b")
