"""What tests of the service ask it, and how."""

from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

from starlette.testclient import TestClient

from crossbreed.service.accounts import Account

Connect: TypeAlias = Callable[..., TestClient]
RIGHTS = ("answers", "logprobs", "scores", "publish")
TASKS = """
  tasks:
    - {name: sums, kind: generate, items: sums.jsonl, prompt: "{question}", answer: answer, max_tokens: 4, chunk: 2}
    - {name: text, kind: perplexity, items: sums.jsonl, text: question}
"""


def write_spec(folder: Path, *, base: Path, experts: Mapping[str, Path], serve: str, tasks: str = TASKS) -> Path:
    """Writes a provider's spec and the items of its tasks."""
    items = "".join(f'{{"id": "i{n}", "question": "{n} + {n} is", "answer": "{2 * n}"}}\n' for n in range(5))
    (folder / "sums.jsonl").write_text(items)
    named = ", ".join(f"{name}: {path}" for name, path in experts.items())
    spec = folder / "service.yaml"
    spec.write_text(
        f"name: toys\nsources:\n  base: {base}\n  experts: {{{named}}}\nfitness:\n  engine: {{kind: transformers}}\n"
        f"{tasks}\nserve: {serve}\n"
    )
    return spec


def account(name: str, key: str, **settings: Any) -> tuple[bytes, Account]:
    return sha256(key.encode()).digest(), Account(name=name, **({"rights": RIGHTS} | settings))


def hashes_of(client: TestClient) -> dict[str, str]:
    structure = client.get("/v1/sources").json()["structure"]
    return {"base": structure["base"]["hash"], **{e["name"]: e["hash"] for e in structure["experts"]}}


def recipe_of(client: TestClient, weight: float = 0.5, **changes: Any) -> dict[str, Any]:
    """A recipe of the toys."""
    weights = {"attention": weight, "everything": 1 - weight}
    rule = {"match": ".*", "operator": "task_arithmetic", "params": {"weight": weights}}
    return {"schema": 1, "base": "base", "sources": hashes_of(client), "rules": [rule], **changes}


def merge(client: TestClient, weight: float = 0.5) -> str:
    answer = client.post("/v1/merges", json={"recipe": recipe_of(client, weight)})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def refused(answer: Any, status: int, code: str | None = None, word: str = "") -> str:
    """Checks that an answer is an error of OpenAI's shape, and returns its message."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert code is None or error["code"] == code, error
    assert word in error["message"], error
    return str(error["message"])
