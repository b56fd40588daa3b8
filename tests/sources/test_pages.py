"""What is let go is still there, and nothing but mapped files is ever let go."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from crossbreed.sources.files import open_shards
from crossbreed.sources.pages import MappedPages


def resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(("RssFile", "RssShmem")))


def test_resident_memory_shrinks_and_values_stay(tmp_path: Path) -> None:
    save_file({"a": torch.arange(4_000_000)}, tmp_path / "model.safetensors")
    ((_, tensors),) = open_shards(tmp_path, stem="model").items()
    tensor = tensors["a"]
    total, held = tensor.sum(), resident_bytes()
    MappedPages([tmp_path / "model.safetensors"]).let_go(tensor)
    assert resident_bytes() < held - 30_000_000
    assert tensor.sum() == total


def test_memory_that_is_no_file_is_left_alone() -> None:
    tensor = torch.arange(4_000_000)
    MappedPages([]).let_go(tensor)
    assert tensor[-1] == 3_999_999
