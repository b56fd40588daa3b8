"""The dashboard's server in a thread of this process."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from crossbreed.runs.page.server import start


@contextmanager
def served(run: Path, *, locked: bool = False) -> Iterator[str]:
    """Serves a run's page; yields its address. `locked`: as if a driver had the journal open."""
    with (run / "journal.jsonl").open("ab") as journal, start(run, 0) as server:
        if locked:
            fcntl.flock(journal, fcntl.LOCK_EX)
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()
