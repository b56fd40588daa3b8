from pathlib import Path

import pytest
from browser import CHROMIUM, DRIVER, MISSING
from made_runs import HOSTILE, HOSTILE_NAME, made_run


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished run with a name and wrong answers as a stranger might send them. Not to be changed."""
    return made_run(tmp_path_factory.mktemp("hostile"), trials=12, wrong=HOSTILE, name=HOSTILE_NAME)


@pytest.fixture(scope="session")
def has_browser() -> None:
    if not (CHROMIUM and DRIVER):
        pytest.skip(MISSING)
