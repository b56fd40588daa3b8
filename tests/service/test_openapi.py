"""The committed schema is what the service says, and no body that it allows or forbids breaks the service."""

import json
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import settings
from schemathesis.checks import not_a_server_error
from schemathesis.openapi.checks import (  # type: ignore[attr-defined]
    UndefinedStatusCode,  # noqa: F401
)

from crossbreed.service.app import openapi_schema

PAGE = Path(__file__).parents[2] / "docs/openapi.json"
