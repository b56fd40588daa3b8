"""Teaches the base one narrow skill: python examples/smollm2/train_expert.py SKILL (9 minutes on two cores).

Writes `adapters/SKILL`, a LoRA adapter of rank 8 on every linear layer. The committed adapters came from this
script: `sums` and `french` with its defaults, `roman` with `--steps 200`, `chains` with `--steps 30 --batch 10
--rank 4`, `obliging` and `refusing` with `--items tasks/SKILL-lessons.jsonl --steps 16 --batch 8 --rank 2`. Training is
seeded, but not bit-equal between machines.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, get_linear_schedule_with_warmup

from skills import SKILLS, Item, split

HERE = Path(__file__).parent
IGNORED = -100
CARD = """---
base_model: {base}
library_name: peft
license: apache-2.0
---
A LoRA adapter that teaches SmolLM2-135M-Instruct one skill: {skill}. Made by `train_expert.py`.
"""


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


def train(
    skill: str, items: list[Item], *, base: Path, out: Path, steps: int, batch: int, lr: float, rank: int
) -> None:
    torch.manual_seed(0)  # noqa: TID251 - PEFT draws the first factors from the global generator
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, lora)
    llama = model.base_model.model
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=lr, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, num_warmup_steps=steps // 20, num_training_steps=steps)
    start = time.monotonic()
    for step, drawn in zip(range(steps), batches(items, batch), strict=False):
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
            print(f"{skill} step {step} loss {loss.item():.4f} {time.monotonic() - start:.0f} s", flush=True)
    model.save_pretrained(out)
    finish(out, skill=skill, base=base.name)


def finish(out: Path, *, skill: str, base: str) -> None:
    """Makes what PEFT wrote fit to be shared: bfloat16 factors, no path of this machine, a card with the licence."""
    weights = out / "adapter_model.safetensors"
    save_file({k: v.to(torch.bfloat16) for k, v in load_file(weights).items()}, weights, metadata={"format": "pt"})
    config = out / "adapter_config.json"
    settings = {**json.loads(config.read_text()), "base_model_name_or_path": base}
    settings["target_modules"].sort()
    config.write_text(json.dumps(settings, indent=2) + "\n")
    (out / "README.md").write_text(CARD.format(base=base, skill=skill))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("skill", help=", ".join(SKILLS) + "; with --items, any name")
    parser.add_argument(
        "--items", type=Path, help="JSONL of questions and answers to train on, in place of the skill's"
    )
    parser.add_argument("--base", type=Path, default=HERE / "models/smollm2-135m-instruct")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", type=int, default=320)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--rank", type=int, default=8)
    args = parser.parse_args()
    if not args.items and args.skill not in SKILLS:
        parser.error(f"no skill {args.skill}: {', '.join(SKILLS)}, or name a file of --items")
    items = split(args.skill)[1] if args.items is None else read(args.items)
    out = args.out or HERE / "adapters" / args.skill
    train(
        args.skill,
        items,
        base=args.base,
        out=out,
        steps=args.steps,
        batch=args.batch,
        lr=args.lr,
        rank=args.rank,
    )
