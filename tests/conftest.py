"""Tiny real models that every package may test with, and a cache folder of the tests' own."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")  # the same examples every time: a commit that passes, passes


class Dealer(LoadScopeScheduling):
    """Deals the tests to processes (`-n 2`): a file's to one, for they share what is made for them.

    All files with engines are one's, which starts with them: no two engines want both cores at once, and what takes
    longest is not begun last.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "engines" if starts_engines(self.config.rootpath / file) else file


@cache
def starts_engines(file: Path) -> bool:
    return "pytest.mark.engine" in file.read_text()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Dealer:
    config.option.loadscopereorder = False
    return Dealer(config, log)


def is_one_of_several(config: pytest.Config) -> bool:
    """Whether this process runs a part of the tests."""
    return hasattr(config, "workerinput")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if is_one_of_several(config):
        items.sort(key=lambda item: not starts_engines(item.path))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One for all processes: a kernel is compiled once."""
    root = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROSSBREED_CACHE", str((root.parent if is_one_of_several(pytestconfig) else root) / "cache"))
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
