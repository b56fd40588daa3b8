"""lm-eval's tasks and its own model on a toy, beside our engine with the same weights."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness_tasks import write_tasks

pytest.importorskip("lm_eval")


@pytest.fixture(scope="session", autouse=True)
def _own_data_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """lm-eval's data sets are kept in a folder of the tests' own."""
    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        yield


@pytest.fixture(scope="session")
def tasks_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """YAML files of tasks, and their data. Never write to it: copy it."""
    return write_tasks(tmp_path_factory.mktemp("harness") / "tasks")
