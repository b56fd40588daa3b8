"""`crossbreed dashboard`: the page of a run, on loopback, while it goes on or after it. Reads, and writes nothing.

Four addresses and no files: the page, what was scored since, one trial, answers. Who asks must call this machine by a
name of loopback: a site whose own name was made to point here (DNS rebinding) is refused.
"""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from time import sleep
from typing import Any
from urllib.parse import parse_qs, urlsplit

from crossbreed.errors import CrossbreedError, InputError, first_line
from crossbreed.runs.page.data import Summary, answers_data, live_data, trial_data
from crossbreed.runs.page.html import page_html, policy
from crossbreed.runs.record.records import SplitName
from crossbreed.runs.results.answers import Questions, questions_in
from crossbreed.runs.results.live import opening, phase_line
from crossbreed.runs.results.show import SPLITS
from crossbreed.runs.results.watch import OngoingRun
from crossbreed.sources.structure import Structure

HOST, PORT = "127.0.0.1", 8765
_NAMES = (HOST, "localhost", "[::1]")
_PORT = re.compile(r":\d*$")
_SPLITS = {str(split): split for split in SPLITS}
_WAIT_S = 0.2
_IDLE_S = 30
"""Seconds after which a silent connection is closed."""


class LiveRun:
    """A run folder as the page asks for it. Reads each line of the journal once; for several threads."""

    def __init__(self, path: Path) -> None:
        """Opens a run folder.

        Raises:
            InputError: it is none, or its spec or journal is damaged.
        """
        self._ongoing = OngoingRun(path)
        self._folder, self._followed = self._ongoing.folder, self._ongoing.followed
        self._questions: Questions | None = None
        self._structure: Structure | None = None
        self._summary: tuple[list[int], Summary] | None = None
        """Numbers of the trials that were scored, and what they give."""
        self._lock = Lock()
        self._ongoing.now()

    def data(self, since: int) -> dict[str, Any]:
        """Returns the document for a page that knows the first `since` scores."""
        with self._lock:
            run = self._ongoing.now()
            begun, told = self._followed.begun, self._followed.told
            if self._summary is None or self._summary[0] != told:
                self._summary = list(told), Summary.of(run)
            return live_data(run, self._summary[1], begun=begun, told=told, since=since, structure=self._named())

    def trial(self, number: int) -> dict[str, Any] | None:
        """Returns one trial; None if there is none."""
        with self._lock:
            run = self._ongoing.now()
            return trial_data(run, number, self._named()) if number in run.history.trials else None

    def answers(self, split: SplitName, numbers: list[int]) -> dict[str, Any]:
        """Returns answers side by side."""
        with self._lock:
            run = self._ongoing.now()
            if self._questions is None:
                self._questions = questions_in(self._folder, self._followed.begun)
            return answers_data(run, split, numbers, self._questions)

    def _named(self) -> Structure | None:
        self._structure = self._structure or self._folder.structure()
        return self._structure


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, run: LiveRun) -> None:
        self.run = run
        super().__init__((HOST, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores a browser that has gone."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "crossbreed", ""
    timeout = _IDLE_S

    def do_GET(self) -> None:
        """Answers one of the four addresses."""
        if _PORT.sub("", self.headers.get("Host", "")).lower() not in _NAMES:
            self._fail(HTTPStatus.FORBIDDEN, f"this page is at {' or '.join(_NAMES)}")
            return
        try:
            found = self._found()
        except (CrossbreedError, OSError) as error:  # a journal that is damaged or removed while it is watched
            self._fail(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        except Exception as error:
            self._fail(HTTPStatus.INTERNAL_SERVER_ERROR, f"a bug, {type(error).__name__}: {first_line(error)}")
        else:
            if found is None:
                self._fail(HTTPStatus.NOT_FOUND, "there is no such thing")
            else:
                self._send(HTTPStatus.OK, *found)

    do_HEAD = do_GET

    def _found(self) -> tuple[str, str] | None:
        """Returns the type and the text of what is asked for; None if there is no such thing."""
        try:
            address = urlsplit(self.path)
            asked = parse_qs(address.query)
            numbers = [int(text) for name in ("since", "number", "trial") for text in asked.get(name, ())]
        except ValueError:
            return None
        found, run, split = None, self.server.run, _SPLITS.get(asked.get("split", [""])[0])
        match address.path, numbers:
            case "/", _:
                return "text/html", page_html(run.data(0))
            case "/data.json", [since]:
                found = run.data(since)
            case "/trial.json", [number]:
                found = run.trial(number)
            case "/answers.json", [_, *_] if split:
                found = run.answers(split, numbers)
        if found is None:
            return None
        return "application/json", json.dumps(found, allow_nan=False, separators=(",", ":"))

    def _fail(self, status: HTTPStatus, why: str) -> None:
        self._send(status, "application/json", json.dumps({"error": why}))

    def _send(self, status: HTTPStatus, kind: str, text: str) -> None:
        content = text.encode()
        self.send_response(status)
        for name, value in (
            ("Content-Type", f"{kind}; charset=utf-8"),
            ("Content-Length", str(len(content))),
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", f"{policy(is_live=True)}; frame-ancestors 'none'"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
        ):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing."""


def start(path: Path, port: int | None = None) -> ThreadingHTTPServer:
    """Returns a server of a run's page, which listens: its `serve_forever` answers.

    Args:
        path: The run folder.
        port: 0: any free one; None: 8765, or any free one where that is taken.

    Raises:
        InputError: the folder is no run, or the port is taken.
    """
    run = LiveRun(path)
    if port is None:
        with suppress(OSError):
            return _Server(PORT, run)
    try:
        return _Server(port or 0, run)
    except OSError as error:
        raise InputError(
            f"the port cannot be listened at: {error.strerror}",
            got=str(port),
            where="--port",
            fix="name another one, or 0 for any free one",
        ) from None


def serve(path: Path, *, port: int | None, on_start: Callable[[str], None], on_wait: Callable[[str], None]) -> None:
    """Serves a run's page until KeyboardInterrupt, which passes.

    Args:
        path: The run folder. While its driver opens its sources, it is waited for.
        port: See `start`.
        on_start: Called with the page's address when it can be opened.
        on_wait: Called with what is waited for.
    """
    if note := opening(path):
        on_wait(f"{path.name}: {phase_line(note)}; the page begins with the run's journal")
    while opening(path):
        sleep(_WAIT_S)
    with start(path, port) as server:
        on_start(f"http://{HOST}:{server.server_address[1]}/")
        server.serve_forever()
