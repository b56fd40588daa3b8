"""Tiny real models that every package may test with, and a cache folder of the tests' own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")  # the same examples every time: a commit that passes, passes


def is_one_of_several(config: pytest.Config) -> bool:
    """Whether this process runs a part of the tests (`-n 2`)."""
    return hasattr(config, "workerinput")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begins with files that start engines: they take minutes, and what takes longest must not be begun last."""
    if is_one_of_several(config):
        engines = {item.path for item in items if item.get_closest_marker("engine")}
        items.sort(key=lambda item: item.path not in engines)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One for all processes: a kernel is compiled once."""
    root = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        folder = (root.parent if is_one_of_several(pytestconfig) else root) / "cache"
        patch.setenv("CROSSBREED_CACHE", str(folder))
        patch.setenv("HF_DATASETS_CACHE", str(folder / "datasets"))  # read when lm-eval's tasks import `datasets`
        yield


@pytest.fixture(scope="session")
def toy_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied Llama in bfloat16. Never write to it: copy it."""
    from crossbreed.testing.toys import make_checkpoint

    return make_checkpoint(tmp_path_factory.mktemp("toys") / "base")


@pytest.fixture(scope="session")
def toy_experts(toy_base: Path) -> dict[str, Path]:
    """Two full experts: `attention` changes attention matrices alone, `everything` every matrix."""
    from crossbreed.testing.toys import make_expert

    return {
        "attention": make_expert(toy_base.with_name("attention"), base=toy_base, seed=1, pattern="self_attn"),
        "everything": make_expert(toy_base.with_name("everything"), base=toy_base, seed=2),
    }


@pytest.fixture(scope="session")
def toy_adapters(toy_base: Path) -> dict[str, Path]:
    """Two LoRA adapters, one of them rank-stabilised."""
    from crossbreed.testing.toys import make_adapter

    return {
        "plain": make_adapter(toy_base.with_name("plain"), base=toy_base, seed=3),
        "stabilised": make_adapter(toy_base.with_name("stabilised"), base=toy_base, seed=4, rank=8, rslora=True),
    }
