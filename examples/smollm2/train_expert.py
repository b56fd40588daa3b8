"""Teaches the base a few skills: python examples/smollm2/train_expert.py [EXPERT ...] [--zoo overlap|full].

Writes a LoRA adapter on every linear layer, of rank 8 to `adapters/EXPERT` (9 minutes on two cores) or of rank 4 to
`overlap/EXPERT` (4 minutes a skill on one core), or, for the zoo `full`, a model of which every weight was trained, to
`models/full/EXPERT` (270 MB, not committed). Without a name: all experts of a zoo that are not there yet. The adapters
of `adapters` came from this script: `sums` and `french` with its defaults, `roman` with `--steps 200`, `chains` with
`--steps 30 --batch 10 --rank 4`, `obliging` and `refusing` with `--items tasks/EXPERT-lessons.jsonl --steps 16
--batch 8 --rank 2`. Training is seeded, but not bit-equal between machines.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    get_linear_schedule_with_warmup,
)

from skills import ZOOS, Item, lessons

HERE = Path(__file__).parent
IGNORED = -100
CARD = """---
base_model: {base}
library_name: {library}
license: apache-2.0
---
{what}, taught {skills}. Made by `train_expert.py`.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How the experts of a zoo are trained."""

    folder: str
    rank: int | None
    """Of the adapter; none: all weights are trained, embeddings and norms too."""
    steps: int
    """For each skill of an expert."""
    batch: int
    lr: float


TRAININGS = {
    "skills": Training(folder="adapters", rank=8, steps=320, batch=24, lr=2e-3),
    "overlap": Training(folder="overlap", rank=4, steps=120, batch=16, lr=3e-3),
    "full": Training(folder="models/full", rank=None, steps=120, batch=16, lr=2e-4),
}


def encode(tokenizer: PreTrainedTokenizerBase, item: Item) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (token ids, labels): the loss is on working and answer, and on the newline that ends them."""
    prompt = tokenizer(item.prompt).input_ids
    answer = tokenizer(f" {item.working}{item.answer}\n").input_ids
    return torch.tensor(prompt + answer), torch.tensor([IGNORED] * len(prompt) + answer)


def read(path: Path) -> list[Item]:
    """Returns the items of a JSONL file with `question` and `answer`."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [Item(id=str(n), question=row["question"], answer=row["answer"]) for n, row in enumerate(rows)]


def batches(items: list[Item], size: int) -> Iterator[list[Item]]:
    """Endless epochs in a seeded order; an epoch's incomplete last batch is dropped."""
    order = random.Random(0)
    while True:
        order.shuffle(items)
        yield from (items[i : i + size] for i in range(0, len(items) - size + 1, size))


def adapted(model: PreTrainedModel, rank: int) -> PreTrainedModel:
    """Returns the model with a fresh adapter on every linear layer."""
    settings = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, settings)


def train(items: list[Item], *, skills: tuple[str, ...], base: Path, out: Path, training: Training) -> None:
    taught = " and ".join(skills)
    torch.manual_seed(0)  # noqa: TID251 - PEFT draws the first factors from the global generator
    tokenizer = AutoTokenizer.from_pretrained(base)
    llama = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = llama if training.rank is None else adapted(llama, training.rank)
    steps = training.steps * len(skills)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=training.lr, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, num_warmup_steps=steps // 20, num_training_steps=steps)
    start = time.monotonic()
    for step, drawn in zip(range(steps), batches(items, training.batch), strict=False):
        ids, labels = zip(*(encode(tokenizer, item) for item in drawn), strict=True)
        ids_BT = pad_sequence(list(ids), batch_first=True)
        labels_BT = pad_sequence(list(labels), batch_first=True, padding_value=IGNORED)
        with torch.autocast("cpu", torch.bfloat16):
            hidden_BTD = llama.model(ids_BT).last_hidden_state  # padding is on the right: unseen by causal attention
        asked_BT = labels_BT[:, 1:] != IGNORED
        logits = llama.lm_head(hidden_BTD[:, :-1][asked_BT].float())  # only where an answer token is due
        loss = cross_entropy(logits, labels_BT[:, 1:][asked_BT])
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            print(f"{taught}: step {step} loss {loss.item():.4f} {time.monotonic() - start:.0f} s", flush=True)
    print(f"{out}: {steps} steps in {time.monotonic() - start:.0f} s", flush=True)
    if training.rank is None:
        model.to(torch.bfloat16).save_pretrained(out)
        tokenizer.save_pretrained(out)
    else:
        model.save_pretrained(out)
        make_shareable(out, base=base.name)
    is_whole = training.rank is None
    what = "SmolLM2-135M-Instruct with all weights trained" if is_whole else "A LoRA adapter of SmolLM2-135M-Instruct"
    card = CARD.format(base=base.name, library="transformers" if is_whole else "peft", what=what, skills=taught)
    (out / "README.md").write_text(card)  # last: an expert that has it is whole


def make_shareable(adapter: Path, *, base: str) -> None:
    """Makes what PEFT wrote fit to be shared: bfloat16 factors, no path of this machine."""
    weights = adapter / "adapter_model.safetensors"
    save_file({k: v.to(torch.bfloat16) for k, v in load_file(weights).items()}, weights, metadata={"format": "pt"})
    config = adapter / "adapter_config.json"
    settings = {**json.loads(config.read_text()), "base_model_name_or_path": base}
    settings["target_modules"].sort()
    config.write_text(json.dumps(settings, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experts", nargs="*", help="of the zoo, or with --items one of any name")
    parser.add_argument("--zoo", choices=list(ZOOS), default="skills")
    parser.add_argument("--items", type=Path, help="JSONL of questions and answers to train on, in place of skills'")
    parser.add_argument("--base", type=Path, default=HERE / "models/smollm2-135m-instruct")
    parser.add_argument("--out", type=Path, help="folder of the only expert that is trained")
    parser.add_argument("--steps", type=int, help="for each of its skills")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--rank", type=int, help="of adapters")
    args = parser.parse_args()
    changes = {
        name: getattr(args, name) for name in ("steps", "batch", "lr", "rank") if getattr(args, name) is not None
    }
    training, zoo = replace(TRAININGS[args.zoo], **changes), ZOOS[args.zoo]
    if (args.items or args.out) and len(args.experts) != 1:
        parser.error("--items and --out are of one expert: name it")
    unknown = [] if args.items else [expert for expert in args.experts if expert not in zoo]
    if unknown:
        parser.error(f"no expert {unknown[0]} in {args.zoo}: {', '.join(zoo)}, or name a file of --items")
    folders = {expert: args.out or HERE / training.folder / expert for expert in args.experts or zoo}
    for expert, out in folders.items():
        if not args.experts and (out / "README.md").exists():
            print(f"{out} is there already")
            continue
        items = read(args.items) if args.items else lessons(expert, zoo=args.zoo)
        skills = (expert,) if args.items else zoo[expert]
        train(items, skills=skills, base=args.base, out=out, training=training)


if __name__ == "__main__":
    main()
