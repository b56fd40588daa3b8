"""`crossbreed dashboard`: what its server answers, and what it refuses."""

import http.client
import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from made_runs import HOSTILE, rest, stopped
from serving import served
from typer.testing import CliRunner

from crossbreed.cli import app
from crossbreed.durable import write_atomically
from crossbreed.errors import InputError
from crossbreed.runs import dump_spec, load_spec
from crossbreed.runs.page import server
from crossbreed.runs.page.server import LiveRun
from crossbreed.runs.record.journal import Journal
from crossbreed.runs.record.phase import Phase, PhaseNote
from crossbreed.runs.results.show import open_run, show_json
from crossbreed.runs.results.watch import Watched


def ask(url: str, path: str, *, host: str | None = None, method: str = "GET") -> tuple[http.client.HTTPResponse, bytes]:
    where = url.removeprefix("http://").rstrip("/")
    connection = http.client.HTTPConnection(where, timeout=20)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", where if host is None else host)
    connection.endheaders()
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer, content


def got(url: str, path: str) -> Any:
    answer, content = ask(url, path)
    assert answer.status == 200, content
    return json.loads(content)


def test_the_page_and_its_data(hostile: Path) -> None:
    with served(hostile) as url:
        answer, content = ask(url, "/")
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert HOSTILE.encode() not in content
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'sha256-")
        assert policy.endswith("connect-src 'self'; frame-ancestors 'none'")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        data = got(url, "/data.json?since=0")
        assert data["state"] == "finished"
        assert data["log"][-1].endswith("report.html")
        assert got(url, f"/data.json?since={data['told']}")["trials"]["number"] == []
        assert got(url, "/trial.json?number=3")["number"] == 3
        rows = got(url, "/answers.json?split=report&trial=0&trial=1")["rows"]
        assert len(rows) == 3 * 45
        answer, content = ask(url, "/", method="HEAD")
        assert (answer.status, content) == (200, b"")


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/index.html",
            "/spec.yaml",
            "/journal.jsonl",
            "/../../etc/passwd",
            "//etc/passwd",
            "/%2e%2e/%2e%2e/etc/passwd",
        ),
        *("/data.json", "/data.json?since=x", "/data.json?since=", f"/data.json?since={'9' * 5000}"),
        *("/trial.json", "/trial.json?number=99", "/trial.json?number=-1", "/trial.json?number=1e1"),
        *("/answers.json?split=search", "/answers.json?split=../x&trial=0", "/answers.json?split=report&trial=../0"),
    ],
)
def test_nothing_else_is_there(path: str, hostile: Path) -> None:
    with served(hostile) as url:
        answer, content = ask(url, path)
    assert answer.status == 404
    assert json.loads(content) == {"error": "there is no such thing"}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_it_only_reads(method: str, hostile: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in hostile.rglob("*")}
    with served(hostile) as url:
        assert ask(url, "/", method=method)[0].status == 501
        ask(url, "/")
        ask(url, "/answers.json?split=report&trial=0&trial=1")
    assert {path: path.stat().st_mtime_ns for path in hostile.rglob("*")} == before


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8765",
        "127.0.0.1.evil.example:80",
        "localhost@evil.example",
        "",
        "evil:127.0.0.1",
        "0.0.0.0:8765",
    ],
)
def test_other_names_of_this_machine_are_refused(host: str, hostile: Path) -> None:
    """A site that points its own name here must not read the run (DNS rebinding)."""
    with served(hostile) as url:
        for path in ("/", "/data.json?since=0"):
            answer, content = ask(url, path, host=host)
            assert answer.status == 403
            assert list(json.loads(content)) == ["error"]


@pytest.mark.parametrize("host", ["localhost:9000", "127.0.0.1", "[::1]:80", "LOCALHOST:80"])
def test_a_tunnel_is_let_through(host: str, hostile: Path) -> None:
    with served(hostile) as url:
        assert ask(url, "/data.json?since=0", host=host)[0].status == 200


def test_it_listens_on_loopback_alone(hostile: Path) -> None:
    with server.start(hostile, 0) as found:
        assert found.server_address[0] == "127.0.0.1"


def test_a_run_that_goes_on_is_followed(hostile: Path, tmp_path: Path) -> None:
    out = stopped(hostile, tmp_path / "run", trials=10)
    with served(out) as url:
        assert got(url, "/data.json?since=0")["state"] == "interrupted"
        journal = Journal(out / "journal.jsonl")
        for record in rest(hostile, after=10)[:1]:
            journal.append(record)
        found = got(url, "/data.json?since=10")
        assert (found["state"], found["trials"]["number"], found["told"]) == ("running", [10], 11)
        journal.close()
        assert got(url, "/data.json?since=11")["state"] == "interrupted"


def test_a_journal_that_is_damaged_while_it_is_watched_is_named(hostile: Path, tmp_path: Path) -> None:
    out = stopped(hostile, tmp_path / "run", trials=4)
    with served(out) as url:
        with (out / "journal.jsonl").open("ab") as file:
            file.write(b"{}\n")
        answer, content = ask(url, "/data.json?since=4")
        assert answer.status == 500
        assert "the journal is damaged" in json.loads(content)["error"]
        (out / "journal.jsonl").unlink()
        assert ask(url, "/data.json?since=4")[0].status == 500


def test_a_port_that_is_taken_is_said_and_no_port_finds_another(hostile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match="cannot be listened at") as refused:
            server.start(hostile, port)
        assert "0 for any free one" in str(refused.value)
        server.start(hostile, 0).server_close()
        monkeypatch.setattr(server, "PORT", port)
        with server.start(hostile) as found:
            assert found.server_address[1] not in (0, port)


def test_the_command_says_where_and_ends_at_ctrl_c(
    hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(server.ThreadingHTTPServer, "serve_forever", interrupted)
    done = CliRunner().invoke(app, ["dashboard", str(hostile), "--port", "0"])
    assert done.exit_code == 0
    assert done.output.count("\n") == 1, "who has only looked is not told how to resume"
    assert done.output.startswith("http://127.0.0.1:")
    assert isinstance(CliRunner().invoke(app, ["dashboard", str(tmp_path)]).exception, InputError)


def test_a_run_that_opens_its_sources_is_waited_for_and_read_by_nothing_else(hostile: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "run", list[str]()
    out.mkdir()
    (out / "journal.jsonl").touch()
    PhaseNote(phase=Phase.HASHING).write(out)
    for read in (open_run, LiveRun):
        with pytest.raises(InputError, match="only begun") as refused:
            read(out)
        assert f"crossbreed show --watch {out}" in str(refused.value)
    assert Watched(out).look()[1], "the advice works"

    def begin(text: str) -> None:
        said.append(text)
        shutil.copytree(hostile, out, dirs_exist_ok=True)

    def end(url: str) -> None:
        said.append(url)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        server.serve(out, port=0, on_start=end, on_wait=begin)
    assert said[0].startswith("run: hashing, for 0:0")
    assert said[1].startswith("http://127.0.0.1:")


def test_the_budget_of_a_run_that_goes_on_is_the_new_one_on_the_page_as_in_show(hostile: Path, tmp_path: Path) -> None:
    out = stopped(hostile, tmp_path / "run", trials=3)  # of 8 baselines
    spec, page, shown = out / "spec.yaml", LiveRun(out), Watched(out)
    before, told = page.data(0)["wanted"], show_json(out)["trials_wanted"]
    assert before == told, "baselines that are still to be asked, and what FAILED, are counted"
    shown.look()
    budget = load_spec(spec).optimizer.budget.trials
    assert budget is not None
    write_atomically(spec, dump_spec(load_spec(spec, [f"optimizer.budget.trials={budget + 7}"])).encode())
    assert page.data(0)["wanted"] == before + 7
    PhaseNote(phase=Phase.SEARCH).write(out)
    assert f"of {before + 7}" in shown.look()[0]


def test_flags_that_would_do_nothing_are_refused(hostile: Path) -> None:
    for flags in (
        ["--answers"],
        ["--wrong"],
        ["--trial", "1", "--wrong"],
        ["--watch", "--answers"],
        ["--watch", "--wrong"],
    ):
        assert isinstance(CliRunner().invoke(app, ["show", str(hostile), *flags]).exception, InputError)
    done = CliRunner().invoke(app, ["show", str(hostile), "--trial", "1", "--answers", "--wrong"])
    assert "  wrong  french-" in done.output
