"""A search of one's own in one file: own engine, own task, own optimizer. Seconds on a CPU, no download.

    python examples/one_file.py [FOLDER]

The models are character models of 11,000 weights, trained here: the base on a little of everything, one expert on
French numbers, the other on Roman numerals. Which merge of the three spells both? Kill it and give the command again:
it goes on. Give it once more: the run is found finished. `crossbreed show FOLDER/run` reads it like any other.
"""

import json
import math
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from safetensors.torch import save_file

import crossbreed
from crossbreed.fitness import Answer, Item, Loglikelihood, Prompt, Request, Response, TaskConfig
from crossbreed.optimizer import SearchInputs
from crossbreed.runs import Listener, Report
from crossbreed.types import Outcome, Point, Recipe, WeightStream

Weights = dict[str, torch.Tensor]
SKILLS = ("french", "roman")
NUM_CHARACTERS, CONTEXT, EMBEDDING, WIDTH = 128, 4, 8, 48


# The model: the logits of the next character, from the last four.
def next_logits(weights: Weights, contexts_BC: torch.Tensor) -> torch.Tensor:
    hidden = weights["embed.weight"][contexts_BC].flatten(1)
    for block in ("blocks.0.weight", "blocks.1.weight"):
        hidden = torch.tanh(hidden @ weights[block].T)
    return hidden @ weights["head.weight"].T


def contexts_and_next(text: str) -> tuple[torch.Tensor, torch.Tensor]:
    codes = torch.tensor([0] * CONTEXT + [ord(character) % NUM_CHARACTERS for character in text])
    return codes.unfold(0, CONTEXT, 1)[:-1], codes[CONTEXT:]


def lines(skill: str) -> list[dict[str, str]]:
    path = Path(__file__).parent / f"smollm2/tasks/{skill}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def train(start: Weights, texts: Sequence[str], *, steps: int) -> Weights:
    weights = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    optimizer = torch.optim.Adam(weights.values(), lr=0.01)
    contexts, following = contexts_and_next("".join(f"{text}\n" for text in texts))
    for _ in range(steps):
        optimizer.zero_grad()
        torch.autograd.backward(torch.nn.functional.cross_entropy(next_logits(weights, contexts), following))
        optimizer.step()
    return {name: tensor.detach() for name, tensor in weights.items()}


def write_checkpoints(folder: Path) -> None:
    """A checkpoint is a folder with config.json and safetensors, whatever the tensors are called."""
    shapes = {
        "embed": (NUM_CHARACTERS, EMBEDDING),
        "blocks.0": (WIDTH, CONTEXT * EMBEDDING),
        "blocks.1": (WIDTH, WIDTH),
    }
    chance = torch.Generator().manual_seed(7)
    start = {f"{name}.weight": torch.randn(shape, generator=chance) / shape[1] ** 0.5 for name, shape in shapes.items()}
    start["head.weight"] = torch.zeros(NUM_CHARACTERS, WIDTH)
    texts = {skill: [line["answer"] for line in lines(skill)[::2]] for skill in SKILLS}
    base = train(start, texts["french"] + texts["roman"], steps=15)
    for name, weights in {"base": base, **{skill: train(base, texts[skill], steps=120) for skill in SKILLS}}.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "config.json").write_text('{"model_type": "characters", "tie_word_embeddings": false}')
        save_file(weights, folder / name / "model.safetensors")


# The engine: given a candidate's weights, it answers requests.
class CharacterEngine:
    def keeps(self, unchanged: Collection[str]) -> frozenset[str]:
        return frozenset()  # every candidate's weights come whole

    def adopt(self, recipe: Recipe, weights: WeightStream, *, kept: Collection[str] = ()) -> "Speller":
        return Speller(dict(weights))

    def close(self) -> None: ...


class Speller:
    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        return [self._response(request.prompt.text, self._text(request)) for request in requests]

    def _text(self, request: Request) -> str:
        if isinstance(request, Loglikelihood):
            return request.continuation
        text = request.prompt.text
        for _ in range(request.max_tokens):
            text += chr(int(next_logits(self._weights, contexts_and_next(f"{text} ")[0][-1:]).argmax()))
        return text[len(request.prompt.text) :]

    def _response(self, prompt: str, text: str) -> Response:
        contexts, following = contexts_and_next(prompt + text)
        logprobs = next_logits(self._weights, contexts).log_softmax(1).gather(1, following[:, None])[:, 0]
        ids, scored = (tuple(values[len(prompt) :].tolist()) for values in (following, logprobs))
        return Response(text=text, token_ids=ids, logprobs=scored, prompt_tokens=len(prompt))


# The task: the probability of a right character. The experts were trained on the other half of the lines.
class Spelling(TaskConfig):
    kind: Literal["spelling"] = "spelling"

    def load_items(self) -> tuple[Item, ...]:
        return tuple(Item(id=line["id"], fields={"answer": line["answer"]}) for line in lines(self.name)[1::2])

    def requests(self, item: Item) -> list[Loglikelihood]:
        return [Loglikelihood(prompt=Prompt(text="\n"), continuation=f"{item.fields['answer']}\n")]

    def score(self, item: Item, responses: Sequence[Response]) -> Answer:
        [response] = responses
        return Answer(value=math.exp(math.fsum(response.logprobs) / len(response.logprobs)), text="")


# The optimizer: one step away from the best point so far; longer after a success, shorter after a failure.
class HillClimber:
    in_order: ClassVar[bool] = True  # it is told in the order in which it asked

    def __init__(self, inputs: SearchInputs) -> None:
        self._box, self._rng, self._step = inputs.box, inputs.rng, 0.2
        self._best, self._best_value = inputs.start or inputs.box.low, -math.inf
        self._asked: Point = ()

    def ask(self, number: int) -> Point | None:
        if self._asked:
            return None  # nothing until it is told
        moved = np.array(self._best) + self._step * self._rng.standard_normal(self._box.dim)
        self._asked = tuple(np.clip(moved, self._box.low, self._box.high).tolist())
        return self._asked

    def tell(self, outcome: Outcome) -> None:
        if outcome.values is not None and outcome.values[0] > self._best_value:
            self._best, self._best_value = self._asked, outcome.values[0]
            self._step *= 1.5
        else:
            self._step *= 0.9
        self._asked = ()


def main(folder: Path, *, trials: int = 60, on_event: Listener = print) -> Report:
    if not (folder / SKILLS[-1]).exists():
        write_checkpoints(folder)
    spec = {
        "name": "spelling",
        "seed": 7,
        "sources": {"base": str(folder / "base"), "experts": {skill: str(folder / skill) for skill in SKILLS}},
        "space": {"operator": "task_arithmetic", "groups": {"layers": "each"}, "weight": [-0.5, 1.5]},
        "optimizer": {"budget": {"trials": trials}},
        "fitness": {"objectives": [{"worst": list(SKILLS)}], "split": {"search": 60, "select": 40, "report": 100}},
    }
    return crossbreed.run(
        spec,
        folder / "run",
        optimizer=HillClimber,
        engine=CharacterEngine(),
        tasks=[Spelling(name=skill) for skill in SKILLS],
        on_event=on_event,
    )


if __name__ == "__main__":
    report = main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/one_file"))
    for row in report.rows:
        print(f"{row.name:12} {row.value.mean:.3f}  [{row.value.low:.3f}, {row.value.high:.3f}]")
