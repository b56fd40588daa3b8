from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from crossbreed.runs.publishing.shards import INDEX, plan_shards, size_bytes, write_shards
from crossbreed.sources.structure import TensorInfo

DTYPES = ("bfloat16", "float16", "float32", "int64", "uint8", "bool")
tensors = st.dictionaries(
    st.text("abc.é", min_size=1, max_size=6),
    st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3)),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(tensors, st.integers(1, 200))
def test_safetensors_reads_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, drawn: dict[str, tuple[str, list[int]]], max_bytes: int
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    generator = torch.Generator().manual_seed(0)
    made = {
        name: torch.randint(0, 2, shape, generator=generator).to(getattr(torch, dtype))
        for name, (dtype, shape) in drawn.items()
    }
    infos = {name: TensorInfo(shape=tuple(t.shape), dtype=str(t.dtype)[6:]) for name, t in made.items()}
    shards = plan_shards(infos, max_bytes=max_bytes)
    assert all(s.num_bytes <= max_bytes or len([i for i in s.tensors.values() if size_bytes(i)]) == 1 for s in shards)
    write_shards(folder, shards, iter(sorted(made.items())))
    read = {name: t for path in folder.glob("*.safetensors") for name, t in load_file(path).items()}
    assert read.keys() == made.keys()
    for name, tensor in made.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)
    assert (folder / INDEX).exists() == (len(shards) > 1)


def test_a_file_says_that_it_is_pytorchs(tmp_path: Path) -> None:
    shards = plan_shards({"a": TensorInfo(shape=(2,), dtype="float32")}, max_bytes=100)
    write_shards(tmp_path, shards, iter([("a", torch.ones(2))]))
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize(
    "stream",
    [[("b", torch.ones(2))], [("a", torch.ones(3))], [("a", torch.ones(2).half())], [("a", torch.ones(2))] * 2],
    ids=["name", "shape", "dtype", "too many"],
)
def test_a_stream_that_is_not_as_planned_is_our_mistake(tmp_path: Path, stream: list[tuple[str, torch.Tensor]]) -> None:
    shards = plan_shards({"a": TensorInfo(shape=(2,), dtype="float32")}, max_bytes=100)
    with pytest.raises(AssertionError, match="the stream has"):
        write_shards(tmp_path, shards, iter(stream))
