"""Writes the example's tasks: python examples/smollm2/make_tasks.py [OUT].

The files are committed, and a test holds them to this script. `prose.jsonl` alone is written by hand.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from facts import facts
from skills import SKILLS, split

HERE = Path(__file__).parent


def tasks() -> Iterator[tuple[str, list[dict[str, object]]]]:
    """Yields (task name, items): the items of each skill kept away from training, and the facts."""
    for skill in SKILLS:
        yield skill, [asdict(item) for item in split(skill)[0]]
    yield "facts", list(facts())


def write(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name, items in tasks():
        lines = [json.dumps(item, ensure_ascii=False) + "\n" for item in items]
        (out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", nargs="?", type=Path, default=HERE / "tasks")
    write(parser.parse_args().out)
