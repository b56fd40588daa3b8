"""The committed schema is what the service says; whatever is sent, its answers are those that it declares."""

import json
from collections import Counter
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from service_client import Connect

from crossbreed.service.app import openapi_schema

PAGE = Path(__file__).parents[2] / "docs/openapi.json"
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
KEY = "k" * 20
EXAMPLES = 40
"""Of each path and kind; more by hand find no more."""


def rendered() -> str:
    return json.dumps(openapi_schema(), indent=1) + "\n"


def test_the_schema_is_what_the_service_says() -> None:
    assert PAGE.read_text() == rendered(), "if the change is meant: python tests/service/test_openapi.py"


@pytest.mark.slow
def test_no_request_breaks_the_service(connect: Connect) -> None:
    """Requests that the schema allows, and some that it does not, to every path."""
    headers = {"Authorization": f"Bearer {KEY}"}
    app = connect(key=KEY, checkpoints=None).app
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=headers)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == 13
    statuses: dict[str, Counter[int]] = {}
    for operation in operations:
        seen = statuses.setdefault(operation.label, Counter())
        for mode in GenerationMode:
            if mode is GenerationMode.POSITIVE or operation.body:
                send(operation, mode, headers, seen)
    assert all(seen[400] for label, seen in statuses.items() if label.startswith("POST")), statuses


def send(operation: APIOperation, mode: GenerationMode, headers: dict[str, str], seen: Counter[int]) -> None:
    """Sends requests to one path, and counts the statuses of their answers."""

    @settings(max_examples=EXAMPLES, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(generation_mode=mode))
    def ask(case: Case) -> None:
        seen[case.call_and_validate(headers=headers, checks=CHECKS).status_code] += 1

    ask()


if __name__ == "__main__":
    PAGE.write_text(rendered())
