"""Runs for the page: real searches, reports and answers of models that are a formula, in seconds, without torch.

Three experts of one skill each disturb one another; a skill depends on early, middle or late layers. So there is
something to find, and what is found looks like what people see.
"""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from num2words import num2words

import crossbreed
from crossbreed.fitness import Generate, Request, Response
from crossbreed.randomness import spawn
from crossbreed.recipes import rule_finder
from crossbreed.runs.record.journal import Journal, read
from crossbreed.runs.record.records import AskRecord, EndRecord, RunRecord, TellRecord
from crossbreed.sources.structure import Structure, TensorInfo
from crossbreed.types import Recipe

SKILLS = ("sums", "french", "roman")
LAYERS = 12
MATRICES = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
ROMAN = ((100, "C"), (90, "XC"), (50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"))
HOSTILE = "</script><img src=x onerror=alert(1)>"
"""What a stranger's answer or error message may hold."""
HOSTILE_NAME = "<img src=x onerror=alert(1)>"


def roman(number: int) -> str:
    text = ""
    for value, letters in ROMAN:
        text += letters * (number // value)
        number %= value
    return text


def question(skill: str, i: int) -> tuple[str, str, str]:
    """What is asked, the right answer, and what is said where it is not known."""
    a, b = i * 7 % 89 + 3, i * 11 % 61 + 2
    if skill == "sums":
        return f"What is {a} + {b}?", str(a + b), str(a + b + (10 if i % 2 else -1))
    written = str(num2words(a, lang="fr"))
    if skill == "french":
        return f"Write {a} in French.", written, str(num2words(a + 10, lang="fr")) if i % 3 else str(a)
    return f"Write {a} in Roman numerals.", roman(a), roman(a + 1) if i % 2 else str(a)


class Formula:
    """An engine that takes recipes: how often a skill is right follows from the weights, layer by layer."""

    def __init__(self, known: Mapping[str, tuple[str, str, str]], wrong: str | None = None) -> None:
        """Knows prompt -> (skill, right answer, wrong one); `wrong` is said instead of any wrong one."""
        self.known, self.wrong = known, wrong

    def describe_sources(self, base: str, experts: Mapping[str, str]) -> Structure:
        names = [f"model.layers.{i}.{matrix}.weight" for i in range(LAYERS) for matrix in MATRICES]
        tensors = {name: TensorInfo(shape=(64, 64), dtype="bfloat16") for name in sorted(names)}
        tensors["model.norm.weight"] = TensorInfo(shape=(64,), dtype="bfloat16")
        hashes = {name: sha256(name.encode()).hexdigest()[:32] for name in ("base", *experts)}
        touched = dict.fromkeys(experts, frozenset(names))
        return Structure(tensors=dict(sorted(tensors.items())), touched=touched, hashes=hashes, tied=True)

    def adopt(self, recipe: Recipe) -> "Merged":
        return Merged(self, recipe)

    def close(self) -> None:
        """There is nothing to free."""


@dataclass(frozen=True)
class Merged:
    engine: Formula
    recipe: Recipe

    @property
    def fingerprint(self) -> str:
        return sha256(self.recipe.id.encode()).hexdigest()[:32]

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        quality = {skill: self.quality(skill) for skill in SKILLS}
        return [self.respond(request, quality) for request in requests]

    def quality(self, skill: str) -> float:
        rule_of, gain, total = rule_finder(self.recipe), 0.0, 0.0
        for layer in range(LAYERS):
            share = math.exp(-(((layer / (LAYERS - 1) - SKILLS.index(skill) / 2) / 0.45) ** 2))
            for matrix in MATRICES:
                rule = rule_of(f"model.layers.{layer}.{matrix}.weight")
                said = rule.params["weight"] if rule else {}
                weight = {e: float(said.get(e, 0.0) if isinstance(said, Mapping) else said) for e in SKILLS}
                others = sum(w * w for e, w in weight.items() if e != skill)
                gain += share * (weight[skill] * (1.6 - 0.5 * weight[skill]) - 0.4 * others)
                total += share
        return 1 / (1 + math.exp(-4 * (gain / total - 0.5)))

    def respond(self, request: Request, quality: Mapping[str, float]) -> Response:
        skill, right, wrong = self.engine.known.get(request.prompt.text, (SKILLS[0], "", ""))
        luck = int(sha256(request.prompt.text.encode()).hexdigest()[:8], 16) / 16**8
        slip = int(sha256((self.recipe.id + request.prompt.text).encode()).hexdigest()[:8], 16) / 16**8
        knows = (0.8 * luck + 0.2 * slip) < quality[skill]
        said = right if knows else wrong if self.engine.wrong is None else self.engine.wrong
        tokens = tuple(said.encode())
        return Response(
            text=said if isinstance(request, Generate) else "",
            token_ids=tokens or (0,),
            logprobs=(-0.1,) * max(1, len(tokens)),
            prompt_tokens=len(request.prompt.text),
        )


def made_run(
    out: Path, *, trials: int, objectives: Sequence[Mapping[str, Any]] = (), wrong: str | None = None, **changes: Any
) -> Path:
    """Searches and reports; the run folder is `out / "run"`, the items lie beside it."""
    known, tasks = dict[str, tuple[str, str, str]](), []
    out.mkdir(parents=True, exist_ok=True)
    for skill in SKILLS:
        lines = []
        for i in range(89):
            asked, right, other = question(skill, i)
            known[f"Question: {asked}\nAnswer:"] = skill, right, other
            lines.append(json.dumps({"id": f"{skill}-{i}", "question": asked, "answer": right}))
        (out / f"{skill}.jsonl").write_text("\n".join(lines) + "\n")
        prompt = "Question: {question}\nAnswer:"
        task = {"name": skill, "kind": "generate", "items": f"{skill}.jsonl", "prompt": prompt, "answer": "answer"}
        tasks.append({**task, "metric": "exact_match", "max_tokens": 64})
    spec = {
        "name": "three-skills",
        "seed": 7,
        "sources": {"base": "base", "experts": {skill: skill for skill in SKILLS}},
        "space": {
            "kind": "coefficients",
            "operator": "task_arithmetic",
            "groups": {"layers": 3, "modules": ["attention", "mlp"]},
            "weight": [-0.5, 1.5],
        },
        "optimizer": {"kind": "nsga2" if objectives else "cma_es", "budget": {"trials": trials}},
        "fitness": {"engine": {"kind": "fake"}, "tasks": tasks, "objectives": list(objectives), "split": SPLIT},
        "workers": {"executor": "local"},
    } | changes
    parsed = crossbreed.parse_spec(spec, folder=out)
    crossbreed.run(parsed, out / "run", engine=Formula(known, wrong))
    return out / "run"


SPLIT = {"search": 24, "select": 20, "report": 45}


def stopped(run: Path, out: Path, *, trials: int) -> Path:
    """A copy of a run as it was when so many trials had been scored; its report is not there yet."""
    shutil.copytree(run, out)
    for name in ("report.json", "report.html", "archive.json", "journal.jsonl"):
        (out / name).unlink()
    log = (out / "log.txt").read_text()
    (out / "log.txt").write_text(log[: log.index("\n", log.index(f"[{trials} of"))] + "\n")
    journal, told = Journal(out / "journal.jsonl", group_s=1.0), 0
    for record in read(run / "journal.jsonl"):
        told += isinstance(record, TellRecord)
        if told > trials:
            break
        journal.append(record)
    journal.close()
    return out


def rest(run: Path, *, after: int) -> list[Any]:
    """The records of a run that `stopped` left out."""
    told, left = 0, []
    for record in read(run / "journal.jsonl"):
        told += isinstance(record, TellRecord)
        if told > after:
            left.append(record)
    return left


def grown(run: Path, out: Path, *, trials: int) -> Path:
    """A run folder with that many trials, all but those of another run made up: as long as a real one, in seconds."""
    shutil.copytree(run, out)
    (out / "journal.jsonl").unlink()
    records = [record for record in read(run / "journal.jsonl") if not isinstance(record, EndRecord)]
    searched = [
        r
        for r in records
        if isinstance(r, RunRecord | AskRecord) or (isinstance(r, TellRecord) and r.split == "search")
    ]
    asks = [record for record in searched if isinstance(record, AskRecord) and record.point is not None]
    tells = {record.number: record for record in searched if isinstance(record, TellRecord)}
    weights = tells[0].tasks
    draw = spawn(3, "grown")
    journal = Journal(out / "journal.jsonl", group_s=10.0)
    for record in searched:
        journal.append(record)
    for number in range(len(tells), trials):
        like = asks[int(draw.integers(len(asks)))]
        quality = 0.25 + 0.5 * (1 - math.exp(-number / (trials / 4))) + 0.05 * float(draw.standard_normal())
        values = {
            task: tuple((draw.random(len(old)) < quality).astype(float).tolist()) for task, old in weights.items()
        }
        objectives = (sum(sum(v) / len(v) for v in values.values()) / len(values),)
        journal.append(replace(like, number=number))
        journal.append(replace(tells[like.number], number=number, tasks=values, objectives=objectives))
    for record in records:
        if isinstance(record, TellRecord) and record.split != "search":
            journal.append(record)
    journal.append(EndRecord())
    journal.close()
    return out
