from collections.abc import Callable
from pathlib import Path

import pytest
from copies import Copy


@pytest.fixture
def copy(tmp_path: Path) -> Callable[[Path], Copy]:
    """Copies a model folder into the test's own."""
    return lambda original: Copy(original, tmp_path / original.name)
