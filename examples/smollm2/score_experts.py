"""What each expert of a spec can do: python examples/smollm2/score_experts.py overlap.yaml [--items 100].

Prints a table: of each task's first items, the share of which an expert, or the base, has every token of the answer
right, the newline that ends it included, given those before (teacher forcing: close to what it would generate).
"""

import argparse
from collections.abc import Iterator
from typing import Any

import torch
import yaml
from peft import PeftModel
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from skills import Item
from train_expert import HERE, IGNORED, encode, read

BATCH = 20


def models(sources: dict[str, Any], only: list[str]) -> Iterator[tuple[str, PreTrainedModel]]:
    """Yields the base and the experts by name, or of these those that are named."""
    base = HERE / sources["base"]
    paths = {"base": base, **sources["experts"]}
    for name, path in ((name, paths[name]) for name in only or paths):
        is_adapter = (HERE / path / "adapter_config.json").exists()
        model = AutoModelForCausalLM.from_pretrained(base if is_adapter else HERE / path, dtype=torch.bfloat16)
        yield name, PeftModel.from_pretrained(model, HERE / path).merge_and_unload() if is_adapter else model


@torch.inference_mode()
def score(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: list[Item]) -> float:
    """Returns the share of items whose answer the model has right."""
    right = 0
    for first in range(0, len(items), BATCH):
        ids, labels = zip(*(encode(tokenizer, item) for item in items[first : first + BATCH]), strict=True)
        labels_BT = pad_sequence(list(labels), batch_first=True, padding_value=IGNORED)[:, 1:]
        asked_BT = labels_BT != IGNORED
        hidden_BTD = model.model(pad_sequence(list(ids), batch_first=True)).last_hidden_state[:, :-1]
        wrong_BT = torch.zeros_like(asked_BT)
        wrong_BT[asked_BT] = model.lm_head(hidden_BTD[asked_BT]).argmax(-1) != labels_BT[asked_BT]
        right += int((~wrong_BT.any(1)).sum())
    return right / len(items)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spec", nargs="?", default="demo.yaml", help="a file of this folder")
    parser.add_argument("--items", type=int, default=100, help="of each task")
    parser.add_argument("--only", nargs="+", default=[], metavar="EXPERT", help="or base")
    args = parser.parse_args()
    spec = yaml.safe_load((HERE / args.spec).read_text())
    tasks = {task["name"]: read(HERE / task["items"])[: args.items] for task in spec["fitness"]["tasks"]}
    tokenizer = AutoTokenizer.from_pretrained(HERE / spec["sources"]["base"])
    print("| | " + " | ".join(tasks) + " |\n|---|" + "---|" * len(tasks))
    for name, model in models(spec["sources"], args.only):
        cells = [f"{score(model, tokenizer, items):.2f}" for items in tasks.values()]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
