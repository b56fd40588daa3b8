"""Writes the example's tasks and prompts: python examples/smollm2/make_tasks.py [OUT].

`SKILL-prompts.jsonl` has more questions of a skill, without answers, for a regression. Its expert was trained on them,
as on most prompts that people have of what their experts can do; none of them is a task's item.
The files are committed, and a test holds them to this script. `prose.jsonl` alone is written by hand.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from asked import EXPERTS, items, lessons
from facts import facts
from skills import SKILLS, split

HERE = Path(__file__).parent
NUM_PROMPTS = 500


def tasks() -> Iterator[tuple[str, list[dict[str, object]]]]:
    """Yields (file name, items): of each skill items kept away from training and prompts, the facts, and requests."""
    for skill in SKILLS:
        kept, trained = split(skill)
        yield skill, [{"id": item.id, "question": item.question, "answer": item.answer} for item in kept]
        yield f"{skill}-prompts", [{"id": item.id, "question": item.question} for item in trained[:NUM_PROMPTS]]
    yield "facts", list(facts())
    for sort in ("helpful", "harmless"):
        yield sort, list(items(sort))
    for expert, says in EXPERTS.items():
        yield f"{expert}-lessons", list(lessons(says))


def write(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in tasks():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", nargs="?", type=Path, default=HERE / "tasks")
    write(parser.parse_args().out)
