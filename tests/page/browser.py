"""A headless browser for tests, driven by the W3C WebDriver protocol: JSON over HTTP, as chromedriver speaks it."""

import base64
import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
MISSING = "no browser here: apt-get install chromium chromium-driver"
KEYS = {"tab": "\ue004", "enter": "\ue007", "left": "\ue012", "right": "\ue014", "home": "\ue011", "end": "\ue010"}


class Browser:
    """One window."""

    def __init__(self, url: str, session: str) -> None:
        self._session = f"{url}/session/{session}"

    def open(self, url: str) -> None:
        """Opens a page and waits until it is loaded."""
        post(f"{self._session}/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """Runs code in the page; returns what it returns."""
        return post(f"{self._session}/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, script: str, *, seconds: float = 20.0) -> Any:
        """Waits until code in the page returns something true; returns that."""
        end_s = time.monotonic() + seconds
        while not (found := self.run(script)):
            assert time.monotonic() < end_s, f"waited for: {script}"
            time.sleep(0.05)
        return found

    def text(self, selector: str) -> str:
        """Returns the text of the first element."""
        return str(self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def press(self, *keys: str) -> None:
        """Presses keys one after the other, whatever has the focus."""
        steps = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")]
        post(f"{self._session}/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": steps}]})

    def emulate(self, scheme: str) -> None:
        """Says which colours the user prefers: light or dark."""
        self._devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def resize(self, width: int, height: int) -> None:
        """Sets the size of the window's content."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._devtools("Emulation.setDeviceMetricsOverride", **size)

    def screenshot(self) -> bytes:
        """Returns the window as PNG."""
        return base64.b64decode(self._devtools("Page.captureScreenshot", format="png")["data"])

    def complaints(self) -> list[str]:
        """Returns what the console has shown since the last call: errors, warnings, what the policy has blocked."""
        return [entry["message"] for entry in post(f"{self._session}/se/log", {"type": "browser"})]

    def _devtools(self, command: str, **arguments: Any) -> Any:
        return post(f"{self._session}/goog/cdp/execute", {"cmd": command, "params": arguments})


def post(url: str, value: dict[str, Any], *, method: str = "POST") -> Any:
    """Sends a command; returns its value, or raises AssertionError with the driver's message."""
    request = urllib.request.Request(
        url, json.dumps(value).encode(), {"Content-Type": "application/json"}, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read())["value"]
    except urllib.error.HTTPError as error:
        raise AssertionError(json.loads(error.read())["value"]["message"]) from None


@contextmanager
def opened() -> Iterator[Browser]:
    """Starts a browser with an empty profile, and ends it."""
    assert CHROMIUM, MISSING
    assert DRIVER, MISSING
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = {"binary": CHROMIUM, "args": [*flags, "--disable-dev-shm-usage", f"--user-data-dir={profile}"]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        driver = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _wait_for(url)
            session = post(f"{url}/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
            try:
                yield Browser(url, session)
            finally:
                post(f"{url}/session/{session}", {}, method="DELETE")
        finally:
            driver.terminate()
            driver.wait()


def _wait_for(url: str) -> None:
    for _ in range(200):
        try:
            with urllib.request.urlopen(f"{url}/status", timeout=5) as answer:
                if json.loads(answer.read())["value"]["ready"]:
                    return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("chromedriver does not start")
