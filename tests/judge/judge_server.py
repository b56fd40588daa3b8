"""A judge behind a real endpoint on loopback: right answers are right, and it has the faults that a test gives it."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

PROMPT = "Question: {q}\nRight answer: {a}\nAnswer: {response}\nIs the answer right? Say yes or no."
Fault: TypeAlias = Callable[[dict[str, Any], int], "Response | str | float | None"]
"""Body and its number -> another answer, a text that is said, seconds of silence before it, or nothing."""


@dataclass
class JudgeServer:
    """Counts what it is asked."""

    key: str | None = None
    fault: Fault | None = None
    model: str = "judge-1"
    """What it calls the model that answers."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    @property
    def num_different(self) -> int:
        """Questions that were asked, each counted once."""
        return len({(str(body["messages"]), body["seed"]) for body in self.asked})

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            said = f"no such key: {request.headers.get('authorization')}"
            return JSONResponse({"error": {"message": said, "code": "invalid_api_key"}}, 401)
        self.asked.append(body)
        found = self.fault(body, len(self.asked)) if self.fault else None
        if isinstance(found, Response):
            return found
        if isinstance(found, float):
            await asyncio.sleep(found)
            found = None
        return completion(verdict_on(body) if found is None else found, model=self.model)


def verdict_on(body: dict[str, Any]) -> str:
    """What a judge that knows says."""
    lines = dict(line.split(": ", 1) for line in body["messages"][-1]["content"].splitlines() if ": " in line)
    return "Yes." if lines.get("Right answer") == lines.get("Answer") else "No, it is another one."


def completion(text: str | None, *, model: str = "judge-1", ended: str = "stop") -> JSONResponse:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": ended}
    return JSONResponse({"id": "x", "object": "chat.completion", "created": 1, "model": model, "choices": [choice]})


def refused(status: int, message: str, **headers: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "code": "x"}}, status, headers=headers)


@contextmanager
def judging(**settings: Any) -> Iterator[JudgeServer]:
    """Serves a judge for as long as the block runs."""
    judge = JudgeServer(**settings)
    app = Starlette(routes=[Route("/v1/chat/completions", judge.answer, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    judge.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield judge
    finally:
        server.should_exit = True
        thread.join()
