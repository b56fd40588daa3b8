"""`crossbreed check` of a service: what would be served to whom, and what is missing for it."""

import json
from pathlib import Path

import pytest
import yaml
from in_process import exit_code_of
from service_client import write_spec
from test_provider_spec import RUN, written

SERVE = """
  port: 9000
  detail: aggregate
  split: {search: 2, select: 1, report: 2}
  checkpoints: written
  limits: {operators: [swudi, ties], coefficients: [-2, 3], rules: 7}
  tokens:
    alice: {key_env: ALICE_KEY, rights: [scores, publish], merges: 500, requests_per_minute: 60}
    bob: {key_env: BOB_KEY, rights: [answers]}
"""


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory, toy_base: Path, toy_experts: dict[str, Path]) -> Path:
    return write_spec(tmp_path_factory.mktemp("checked"), base=toy_base, experts=toy_experts, serve=SERVE)


def test_check_says_what_will_be_served(
    spec: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALICE_KEY", "a" * 16)
    assert exit_code_of("check", spec) == 0
    said = capsys.readouterr().out
    for part in (
        "toys: a merge service at http://127.0.0.1:9000, engine transformers",
        "source  base ",
        "source  everything ",
        "operators: swudi, ties; coefficients from -2 to 3; 7 rules",
        "no coefficients: swudi.time from 10 to 10000, swudi.steps from 10 to 1000",
        "alice (ALICE_KEY): scores, publish; 500 merges, 60 requests a minute",
        "bob (BOB_KEY): answers; no budget",
        "task    sums, exact_match: 5 items, told is the mean of 2 search, 1 select, 2 report",
        "GB of weights and its cache",
        "note    BOB_KEY is not in the environment",
        "no problems found; 1 note above",
    ):
        assert part in said, said
    assert "ALICE_KEY is not" not in said
    assert "a" * 16 not in said


def test_check_as_json_and_resolved(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of("check", spec, "--json", "--set", "serve.port=0") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["port"], found["tasks"][0]["splits"]) == (0, {"search": 2, "select": 1, "report": 2})
    assert found["tokens"]["bob"]["key_is_set"] is False
    assert exit_code_of("check", spec, "--resolved") == 0
    resolved = yaml.safe_load(capsys.readouterr().out)
    assert resolved["serve"]["send_s"] == 60.0
    spec.with_name("resolved.yaml").write_text(yaml.safe_dump(resolved))
    assert exit_code_of("check", spec.with_name("resolved.yaml"), "--resolved") == 0


def test_check_of_a_run_that_serves_tells_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, RUN | {"serve": {"port": 0}, "workers": {"executor": "local"}})
    assert exit_code_of("check", path) == 0
    said = capsys.readouterr().out
    assert " baselines and " in said
    assert "a merge service at http://127.0.0.1:0" in said
    assert "2 items, told is the value of each" in said, "the run's selection and report items are its own"
    assert "token   none: whoever is on this machine has all rights" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("serve.split.search=9", "serve.split"),
        ("serve.host=0.0.0.0", "no problems found"),
        ("serve={host: 0.0.0.0}", "must have tokens"),
        ("serve.ssl_certfile=no.pem", "go together"),
        ("serve={ssl_certfile: no.pem, ssl_keyfile: no.pem}", "the certificate cannot be used"),
        ("serve.limits.operators=[tise]", "did you mean `ties`"),
        ("fitness.engine.kind=vlm", "did you mean `vllm`"),
    ],
)
def test_check_finds_what_serve_would_refuse(
    spec: Path, change: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = exit_code_of("check", spec, "--set", change)
    told = capsys.readouterr()
    assert code == (0 if said == "no problems found" else 2)
    assert said in told.err + told.out
    assert "Traceback" not in told.err


@pytest.mark.slow
def test_check_can_start_the_engine(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of("check", spec, "--answer") == 0
    assert "equal requests are answered equally; answers do not depend" in capsys.readouterr().out
