"""One real service of tiny models for all tests; each client of it has accounts and merges of its own."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from service_client import Connect, account, write_spec
from starlette.testclient import TestClient

from crossbreed.runs.spec.provider import Provided, load_provider_spec
from crossbreed.service.accounts import Account, Accounts
from crossbreed.service.app import build_app
from crossbreed.service.core import Service
from crossbreed.service.merges import Merges
from crossbreed.service.recipes import rules_of
from crossbreed.service.serving import opened_service


@pytest.fixture(scope="session")
def provided(tmp_path_factory: pytest.TempPathFactory, toy_base: Path, toy_experts: dict[str, Path]) -> Provided:
    folder = tmp_path_factory.mktemp("service")
    serve = "{checkpoints: published, merges_kept: 3}"
    return load_provider_spec(write_spec(folder, base=toy_base, experts=toy_experts, serve=serve))


@pytest.fixture(scope="session")
def opened(provided: Provided) -> Iterator[Service]:
    with opened_service(provided, accounts=Accounts({}, None)) as service:
        yield service


@pytest.fixture
def connect(opened: Service) -> Connect:
    """Returns a client of the service, or several of one; settings are those of `serve`."""

    def connected(
        *accounts: tuple[bytes, Account], key: str = "k" * 20, splits: Any = None, **settings: Any
    ) -> TestClient:
        config = opened.config.model_copy(update=settings)
        provider = replace(opened.provider, config=config, splits=splits or {})
        service = replace(
            opened,
            provider=provider,
            accounts=Accounts(dict(accounts or [account("alice", key)]), None),
            merges=Merges(provider.sources, kept=config.merges_kept),
            rules=rules_of(config.limits, provider.structure),
        )
        return TestClient(build_app(service), headers={"Authorization": f"Bearer {key}"}, raise_server_exceptions=True)

    return connected


@pytest.fixture
def client(connect: Connect) -> TestClient:
    return connect()
