"""lm-eval's tasks over data made here."""

from pathlib import Path

import pytest
from harness_tasks import write_tasks


@pytest.fixture(scope="session")
def tasks_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """YAML files of tasks, and their data. Never write to it: copy it."""
    return write_tasks(tmp_path_factory.mktemp("harness") / "tasks")
