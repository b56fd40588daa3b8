"""The items of the example zoo: which questions exist, and which of them an expert may be trained on.

Every skill draws its questions once, in a fixed order; the head goes to the tasks (search, selection and
report items are split from it by crossbreed), the rest to the expert's training data. The two never share a question.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import roman
from num2words import num2words

NUM_TASK_ITEMS = 400
"""Questions of each skill kept away from training: search 48, selection 40, report 250, and some spare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question with its only right answer."""

    id: str
    question: str
    answer: str
    working: str = ""
    """What an expert writes before the answer."""

    @property
    def prompt(self) -> str:
        """What the model reads; the specs spell it the same way."""
        return f"Question: {self.question}\nAnswer:"


def sums() -> list[Item]:
    """Sums of two numbers up to 60."""
    pairs = [(a, b) for a in range(1, 61) for b in range(1, 61)]
    return [Item(id=f"sums-{a}-{b}", question=f"What is {a} + {b}?", answer=str(a + b)) for a, b in pairs]


def french() -> list[Item]:
    """Numbers below 1000 in French words."""
    return [
        Item(id=f"french-{n}", question=f"What is {n} in French?", answer=num2words(n, lang="fr")) for n in range(1000)
    ]


def romans() -> list[Item]:
    """Numbers below 1000 in Roman numerals."""
    return [
        Item(id=f"roman-{n}", question=f"What is {n} in Roman numerals?", answer=roman.toRoman(n))
        for n in range(1, 1000)
    ]


def chains() -> list[Item]:
    """Sums of three numbers up to 30, worked out one addition after the other."""
    triples = [(a, b, c) for a in range(1, 31) for b in range(1, 31) for c in range(1, 31)]
    return [
        Item(
            id=f"chains-{a}-{b}-{c}",
            question=f"What is {a} + {b} + {c}?",
            answer=str(a + b + c),
            working=f"{a} + {b} = {a + b}, {a + b} + {c} = ",
        )
        for a, b, c in triples
    ]


SKILLS: dict[str, Callable[[], list[Item]]] = {"sums": sums, "french": french, "roman": romans, "chains": chains}


def split(skill: str) -> tuple[list[Item], list[Item]]:
    """Returns (task items, training items) of `skill`: disjoint, and the same on every machine."""
    items = SKILLS[skill]()
    random.Random(f"crossbreed-{skill}").shuffle(items)  # str seeds hash with SHA-512: stable between runs
    return items[:NUM_TASK_ITEMS], items[NUM_TASK_ITEMS:]
