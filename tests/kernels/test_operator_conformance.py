"""Our operators keep the laws that those of other packages are held to."""

import pytest

from crossbreed.recipes.operators import OPERATORS
from crossbreed.testing.operators import OperatorConformance


class TestAll(OperatorConformance):
    ulps = 16

    @pytest.fixture(autouse=True)
    def _nothing_to_compile(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Compiled kernels make the same bits (test_native.py), and would be compiled by the dozen here."""
        monkeypatch.setenv("CROSSBREED_COMPILER", "")

    @pytest.fixture(params=OPERATORS)
    def operator(self, request: pytest.FixtureRequest) -> str:
        return request.param
