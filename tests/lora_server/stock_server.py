"""An app that answers as vLLM 0.32's own OpenAI server does with adapters at run time, on a model that PEFT adapts.

What it imitates was seen of the real one (`test_stock_vllm.py` starts two of those): texts instead of JSON about
adapters, 400 for NaN, a KV cache that stays spoilt after it, the base where no model is named.
"""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from peft import PeftModel
from transformers import AutoModelForCausalLM

from crossbreed.testing.toys import byte_tokenizer

BASE = "the-base"
_LOADING = threading.Lock()
"""PEFT builds modules under settings that all threads see."""


def _error(status: int, message: str, kind: str = "BadRequestError") -> JSONResponse:
    body = {"error": {"message": message, "type": kind, "param": None, "code": status}}
    return JSONResponse(body, status_code=status)


@dataclass
class StockServer:
    """One server, and what it was asked."""

    folder: Path
    """Of the base."""
    max_rank: int = 16
    stays_spoilt: bool = False
    """Whether NaN stays in the KV cache, as on CPU."""
    loads_adapters: bool = True
    is_cpu: bool = False
    """Whether the engine dies where it scores a prompt beside another request."""
    max_model_len: int = 512
    url: str = ""
    seen: list[tuple[str, Any]] = field(default_factory=list)
    """(path, body) of each request."""
    answers_as: str | None = None
    """The model that completions say they are of; None: the one that was asked."""
    is_spoilt: bool = False
    spoilt_after: int | None = None
    """How many adapters have been unloaded when it becomes so."""

    def __post_init__(self) -> None:
        self._tokenizer = byte_tokenizer()
        self._base = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32).eval()
        self.adapters: dict[str, tuple[str, torch.nn.Module]] = {}
        self.most_adapters = 0

    def app(self) -> FastAPI:
        """Its routes."""
        app = FastAPI()

        @app.get("/v1/models")
        def models() -> Any:
            cards = [{"id": BASE, "root": str(self.folder), "parent": None, "max_model_len": self.max_model_len}]
            cards += [{"id": name, "root": path, "parent": BASE} for name, (path, _) in self.adapters.items()]
            return {"object": "list", "data": cards}

        @app.post("/v1/completions")
        async def complete(request: Request) -> Response:
            body = await request.json()
            self.seen.append(("completions", body))
            return self._complete(body)

        if not self.loads_adapters:
            return app

        @app.post("/v1/load_lora_adapter")
        async def load(request: Request) -> Response:
            body = await request.json()
            self.seen.append(("load", body))
            return self.load_adapter(body["lora_name"], body["lora_path"])

        @app.post("/v1/unload_lora_adapter")
        async def unload(request: Request) -> Response:
            body = await request.json()
            self.seen.append(("unload", body))
            self.is_spoilt |= len(self.asked("unload")) == self.spoilt_after
            if self.adapters.pop(body["lora_name"], None) is None:
                return _error(404, f"The lora adapter '{body['lora_name']}' cannot be found.", "NotFoundError")
            return Response(f"Success: LoRA adapter '{body['lora_name']}' removed successfully.")

        return app

    def load_adapter(self, name: str, path: str) -> Response:
        """Answers a request to load one."""
        if name in self.adapters:
            return _error(400, f"The lora adapter '{name}' has already been loaded.", "InvalidUserInput")
        if not (Path(path) / "adapter_config.json").exists():
            return _error(404, f"Loading lora {name} failed: No adapter found for {path}", "NotFoundError")
        with _LOADING:
            model = PeftModel.from_pretrained(deepcopy(self._base), path)
        rank = model.peft_config["default"].r
        if rank > self.max_rank:
            message = f"LoRA rank {rank} is greater than max_lora_rank {self.max_rank}."
            return _error(500, message, "InternalServerError")
        self.adapters[name] = (path, model.merge_and_unload().eval())
        self.most_adapters = max(self.most_adapters, len(self.adapters))
        return Response(f"Success: LoRA adapter '{name}' added successfully.")

    @torch.no_grad()
    def _complete(self, body: dict[str, Any]) -> Response:
        name = body.get("model", BASE)
        if name != BASE and name not in self.adapters:
            return _error(404, f"The model `{name}` does not exist.", "NotFoundError")
        if self.is_cpu and body.get("prompt_logprobs") is not None and len(body["prompt"]) > 1:
            message = "EngineCore encountered an issue. See stack trace (above) for the root cause."
            return _error(500, message, "InternalServerError")
        model = self._base if name == BASE else self.adapters[name][1]
        choices = [self._choice(model, index, ids, body) for index, ids in enumerate(body["prompt"])]
        numbers = [n for choice in choices for n in choice.pop("all")]
        is_nan = not all(map(math.isfinite, numbers))
        self.is_spoilt |= is_nan and self.stays_spoilt
        if is_nan or self.is_spoilt:
            return _error(400, "Out of range float values are not JSON compliant")
        return JSONResponse({"object": "text_completion", "model": self.answers_as or name, "choices": choices})

    def _choice(self, model: torch.nn.Module, index: int, ids: list[int], body: dict[str, Any]) -> dict[str, Any]:
        prompt_TV = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        scored = prompt_TV[:-1].gather(1, torch.tensor(ids[1:], dtype=torch.long)[:, None])[:, 0].tolist()
        made, logprobs, ended = list[int](), list[float](), "length"
        for _ in range(body["max_tokens"]):
            last_V = model(torch.tensor([[*ids, *made]])).logits[0, -1].log_softmax(-1)
            made.append(int(last_V.argmax()))
            logprobs.append(float(last_V.max()))
            if made[-1] in body.get("stop_token_ids", ()):
                ended = "stop"
                break
        places = [None, *({str(i): {"logprob": p, "rank": 1}} for i, p in zip(ids[1:], scored, strict=True))]
        return {
            "index": index,
            "text": self._tokenizer.decode(made, skip_special_tokens=True),
            "token_ids": made,
            "prompt_token_ids": ids,
            "finish_reason": ended,
            "logprobs": {"token_logprobs": logprobs, "top_logprobs": None},
            "prompt_logprobs": places if body.get("prompt_logprobs") is not None else None,
            "all": [*scored, *logprobs],
        }

    def asked(self, path: str) -> list[Any]:
        """The bodies of requests to a path, in order."""
        return [body for name, body in self.seen if name == path]


@contextmanager
def listening(*servers: StockServer) -> Iterator[list[str]]:
    """Serves them on free ports of loopback; yields their addresses."""
    started = []
    for server in servers:
        settings = uvicorn.Config(server.app(), host="127.0.0.1", port=0, log_level="error")
        runner = uvicorn.Server(settings)
        thread = threading.Thread(target=runner.run, daemon=True)
        thread.start()
        started.append((runner, thread))
    for server, (runner, _) in zip(servers, started, strict=True):
        while not runner.started:
            time.sleep(0.005)
        server.url = f"http://127.0.0.1:{runner.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield [server.url for server in servers]
    finally:
        for runner, thread in started:
            runner.should_exit = True
            thread.join()
