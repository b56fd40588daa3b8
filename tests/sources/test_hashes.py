import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from copies import Copy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import load_file, save_file

from crossbreed.cache import cache_folder, sealed, unsealed
from crossbreed.errors import InputError
from crossbreed.sources import Checkpoint, SourceLocation, Structure, open_sources, opening
from crossbreed.sources import hashes as hashes_module
from crossbreed.sources.hashes import digests_of, hash_of
from crossbreed.sources.mapped_file import FileState, MappedFile

EMBEDDING = "model.embed_tokens.weight"


def hash_at(path: Path) -> str:
    return Checkpoint.open(SourceLocation(path=path)).hash


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CROSSBREED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "digests"


def tensor_file(folder: Path, *tensors: torch.Tensor) -> tuple[MappedFile, dict[str, torch.Tensor]]:
    path, named = folder / "x.safetensors", {f"t{i}": tensor for i, tensor in enumerate(tensors)}
    save_file(named, path)
    return MappedFile(path=path, state=FileState.of(path)), named


def test_the_hash_is_the_contents_and_not_the_files(toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    copied = copy(toy_base)
    assert hash_at(copied.path) == hash_at(toy_base)
    assert hash_at(copied.sharded().path) == hash_at(toy_base)


def test_one_bit_changes_the_hash(toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    changed = copy(toy_base).tensors(lambda tensors: tensors[EMBEDDING].view(torch.int16)[3, 5].bitwise_xor_(1))
    assert hash_at(changed.path) != hash_at(toy_base)


def test_names_shapes_and_dtypes_count(tmp_path: Path, cache: Path) -> None:
    same_bytes = [torch.zeros(2, 3), torch.zeros(3, 2), torch.zeros(6), torch.zeros(6, dtype=torch.int32)]
    same_bytes += [torch.zeros(()), torch.zeros(1), torch.zeros(0), torch.zeros(0, 3)]
    digests = digests_of(*tensor_file(tmp_path, *same_bytes))
    assert len(set(digests.values())) == len(same_bytes)
    assert hash_of(["a 1", "b 2"]) == hash_of(["b 2", "a 1"]) != hash_of(["a 2", "b 1"])


def test_an_unchanged_file_is_read_once(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, named = tensor_file(tmp_path, torch.ones(3))
    first = digests_of(file, named)
    monkeypatch.setattr(hashes_module, "_digest", None)  # a second reading would call it
    assert digests_of(file, named) == first
    os.utime(file.path, ns=(0, 0))
    with pytest.raises(TypeError):
        digests_of(MappedFile(path=file.path, state=FileState.of(file.path)), named)


def test_digests_in_which_a_bit_flipped_are_found_again(cache: Path, tmp_path: Path) -> None:
    file, named = tensor_file(tmp_path, torch.ones(3))
    first = digests_of(file, named)
    [entry] = cache.iterdir()
    whole = entry.read_bytes()
    for place in range(len(whole)):
        entry.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert digests_of(file, named) == first
    assert entry.read_bytes() == whole


def test_another_file_of_the_same_size_and_time_is_read_anew(cache: Path, tmp_path: Path) -> None:
    """As from an archive, a container or `cp -p`."""
    digests = []
    for value in (1.0, 2.0):
        file, named = tensor_file(tmp_path, torch.full((3,), value))
        os.utime(file.path, ns=(0, 0))
        digests.append(digests_of(MappedFile(path=file.path, state=FileState.of(file.path)), named))
    assert digests[0] != digests[1]


def test_a_file_that_changed_since_it_was_mapped_is_not_taken_for_its_successor(cache: Path, tmp_path: Path) -> None:
    file, named = tensor_file(tmp_path, torch.ones(3))
    tensor_file(tmp_path, torch.zeros(3))
    with pytest.raises(InputError, match="a file of the sources was changed"):
        digests_of(file, named)
    assert not cache.exists()


def test_sources_notice_that_a_file_has_changed(toy_base: Path, copy: Callable[[Path], Copy]) -> None:
    expert = copy(toy_base).tensors(lambda tensors: tensors[EMBEDDING].add_(1))
    sources = open_sources(str(toy_base), {"expert": str(expert.path)})
    sources.require_unchanged()
    with (expert.path / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\1")
    with pytest.raises(InputError, match="a file of the sources was changed") as caught:
        sources.require_unchanged()
    assert caught.value.where == str(expert.path / "model.safetensors")


def test_sources_may_get_other_rights_and_be_linked_but_no_other_content(
    toy_base: Path, copy: Callable[[Path], Copy], tmp_path: Path
) -> None:
    expert = copy(toy_base).tensors(lambda tensors: tensors[EMBEDDING].add_(1))
    sources = open_sources(str(toy_base), {"expert": str(expert.path)})
    weights, config = expert.path / "model.safetensors", expert.path / "config.json"
    for path in (weights, config):
        path.chmod(0o600)
        os.link(path, tmp_path / f"backup-{path.name}")
    sources.require_unchanged()
    state = weights.stat()
    with weights.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\1")
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(InputError, match="a file of the sources was changed"):
        sources.require_unchanged()


def test_a_source_that_changes_while_the_next_is_hashed_is_noticed(
    toy_base: Path, copy: Callable[[Path], Copy], monkeypatch: pytest.MonkeyPatch
) -> None:
    expert = copy(toy_base).tensors(lambda tensors: tensors[EMBEDDING].add_(1))
    config = expert.path / "config.json"
    structure = opening._structure

    def meanwhile(*args: Any) -> Structure:
        found = structure(*args)
        config.write_text(config.read_text() + " ")
        return found

    monkeypatch.setattr(opening, "_structure", meanwhile)
    with pytest.raises(InputError, match="a file of the sources was changed") as caught:
        open_sources(str(toy_base), {"expert": str(expert.path)})
    assert caught.value.where == str(config)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"other": "digest"}', '{"t0": 1}'])
def test_a_broken_cache_entry_is_computed_again(damage: str, cache: Path, tmp_path: Path) -> None:
    file, named = tensor_file(tmp_path, torch.ones(3))
    first = digests_of(file, named)
    (entry,) = cache.iterdir()
    for content in (damage.encode(), sealed(damage.encode())):
        entry.write_bytes(content)
        assert digests_of(file, named) == first
    assert json.loads(unsealed(entry) or b"") == first
    assert list(cache.iterdir()) == [entry]


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CROSSBREED_CACHE", str(tmp_path / "file"))
    assert digests_of(*tensor_file(tmp_path, torch.ones(3)))


def test_the_cache_lies_where_the_platform_keeps_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CROSSBREED_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/crossbreed")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "crossbreed"


FLOATS = {torch.bfloat16: np.uint16, torch.float16: np.uint16, torch.float32: np.uint32, torch.float64: np.uint64}


@pytest.mark.parametrize("dtype", FLOATS)
@given(data=st.data())
def test_any_bits_are_refused_exactly_when_torch_finds_them_not_finite(dtype: torch.dtype, data: st.DataObject) -> None:
    bits = data.draw(arrays.arrays(FLOATS[dtype], st.integers(1, 5)))
    tensor = torch.from_numpy(bits.view(f"i{bits.itemsize}")).view(dtype)
    try:
        hashes_module._digest("x", tensor, Path("x"))
    except InputError:
        assert not tensor.isfinite().all()
    else:
        assert tensor.isfinite().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_inf_are_found_by_name_and_not_cached(
    value: float, toy_base: Path, copy: Callable[[Path], Copy], cache: Path
) -> None:
    diverged = copy(toy_base).tensors(lambda tensors: tensors[EMBEDDING][7].fill_(value))
    for _ in range(2):
        with pytest.raises(InputError, match=f"`{EMBEDDING}` holds NaN or Inf"):
            hash_at(diverged.path)


def test_all_of_a_checkpoints_tensors_have_digests(toy_base: Path) -> None:
    checkpoint = Checkpoint.open(SourceLocation(path=toy_base))
    assert checkpoint.digests.keys() == checkpoint.tensors.keys() == load_file(toy_base / "model.safetensors").keys()
