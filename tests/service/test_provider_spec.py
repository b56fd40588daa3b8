"""What a provider writes, and what `crossbreed serve` says where it is wrong."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from in_process import exit_code_of
from service_client import write_spec

from crossbreed.config import Config
from crossbreed.errors import InputError
from crossbreed.runs import parse_spec
from crossbreed.runs.record.identity import identity_of
from crossbreed.runs.spec.provider import load_provider_spec
from crossbreed.runs.spec.serve import ServeConfig
from crossbreed.service.provider import open_provider

RUN: dict[str, Any] = {
    "sources": {"base": "fake/base", "experts": {"one": "fake/one", "two": "fake/two"}},
    "space": {"operator": "task_arithmetic"},
    "optimizer": {"kind": "random", "budget": {"trials": 2}},
    "fitness": {
        "engine": {"kind": "fake_recipes"},
        "tasks": [
            {"name": "sums", "kind": "generate", "items": "sums.jsonl", "prompt": "{question}", "answer": "answer"}
        ],
        "split": {"search": 2, "select": 1, "report": 1},
    },
}


def written(folder: Path, spec: dict[str, Any]) -> Path:
    (folder / "sums.jsonl").write_text("".join(f'{{"question": "q{n}", "answer": "a{n}"}}\n' for n in range(5)))
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    return folder / "spec.yaml"


def test_a_providers_spec_needs_no_search(tmp_path: Path) -> None:
    spec = {key: RUN[key] for key in ("sources",)} | {"fitness": {"engine": RUN["fitness"]["engine"]}}
    found = load_provider_spec(written(tmp_path, spec), ["serve.port=0", "serve.limits.rules=3"])
    assert (found.serve.port, found.serve.limits.rules, found.serve.host, found.run) == (0, 3, "127.0.0.1", None)
    provider = open_provider(found)
    assert list(provider.sources) == ["base", "one", "two"]
    assert not provider.tasks


def test_a_run_that_serves_shows_its_search_items_alone(tmp_path: Path) -> None:
    path = written(tmp_path, RUN | {"serve": {"port": 0}})
    found = load_provider_spec(path)
    provider = open_provider(found)
    assert [len(items) for items in provider.items.values()] == [2], "the others are the run's own"
    with pytest.raises(InputError, match="no section `serve`") as error:
        load_provider_spec(written(tmp_path, RUN))
    assert load_provider_spec(path, [error.value.fix.rpartition("--set ")[2]]).serve.port == 8000


def test_the_section_is_no_part_of_a_runs_identity(tmp_path: Path) -> None:
    written(tmp_path, RUN)
    plain, serving = (parse_spec(RUN | more, folder=tmp_path) for more in ({}, {"serve": {"port": 1}}))
    assert identity_of(plain) == identity_of(serving)


WRONG: dict[str, tuple[list[str], str]] = {
    "unknown key": (["serve.prot=1"], "port"),
    "unknown operator": (["serve.limits.operators=[tise]"], "ties"),
    "bounds": (["serve.limits.coefficients=[1, 0]"], "smallest"),
    "half a certificate": (["serve.ssl_certfile=x.pem"], "go together"),
    "unknown right": (["serve.tokens={a: {key_env: A, rights: [all]}}"], "rights"),
    "a key in the file": (["serve.tokens={a: {key: secret, rights: [answers]}}"], "key_env"),
    "no key in the environment": (
        ["serve.tokens={a: {key_env: NO_SUCH_KEY, rights: [answers]}}"],
        "export NO_SUCH_KEY=",
    ),
    "beyond this machine": (["serve.host=0.0.0.0"], "must have tokens"),
    "no such address": (
        ["serve.host=192.0.2.1", "serve.tokens={a: {key_env: A_KEY, rights: [answers]}}"],
        "listened at",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_message(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", "a" * 20)
    overrides, word = WRONG[name]
    spec = {"sources": RUN["sources"], "fitness": {"engine": RUN["fitness"]["engine"]}}
    sets = [part for override in overrides for part in ("--set", override)]
    assert exit_code_of("serve", written(tmp_path, spec), *sets) == 2
    said = capsys.readouterr()
    assert word in said.err
    assert "Traceback" not in said.err
    assert said.out == ""


def test_a_taken_port_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    spec = {"sources": RUN["sources"], "fitness": {"engine": RUN["fitness"]["engine"]}}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert exit_code_of("serve", written(tmp_path, spec), "--port", port) == 2
    assert "--port 0" in capsys.readouterr().err


def test_defaults_refuse_strangers() -> None:
    config: Config = ServeConfig()
    assert isinstance(config, ServeConfig)
    assert (config.host, config.tokens, config.checkpoints) == ("127.0.0.1", {}, None)


def test_a_provider_without_tasks_or_tokens_is_served(
    tmp_path: Path, toy_base: Path, toy_experts: dict[str, Path]
) -> None:
    spec = write_spec(tmp_path, base=toy_base, experts=toy_experts, serve="{}", tasks="")
    assert open_provider(load_provider_spec(spec)).texts is not None
