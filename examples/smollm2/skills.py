"""The items of the example zoos: which questions exist, which of them an expert may be trained on, who is taught what.

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


def sums3() -> list[Item]:
    """Totals of three numbers up to 12; `chains` asks for sums in other words."""
    terms = [(a, b, c) for a in range(1, 13) for b in range(1, 13) for c in range(1, 13)]
    return [
        Item(id=f"sums3-{a}-{b}-{c}", question=f"What is the total of {a}, {b}, {c}?", answer=str(a + b + c))
        for a, b, c in terms
    ]


def differences() -> list[Item]:
    """Differences of two numbers up to 60, none below zero."""
    pairs = [(a, b) for a in range(1, 61) for b in range(1, a + 1)]
    return [Item(id=f"differences-{a}-{b}", question=f"What is {a} - {b}?", answer=str(a - b)) for a, b in pairs]


def words(language: str, code: str) -> list[Item]:
    """Numbers below 1000 in the words of a language."""
    return [
        Item(id=f"{language.lower()}-{n}", question=f"What is {n} in {language}?", answer=num2words(n, lang=code))
        for n in range(1000)
    ]


def french() -> list[Item]:
    """Numbers below 1000 in French words."""
    return words("French", "fr")


def spanish() -> list[Item]:
    """Numbers below 1000 in Spanish words."""
    return words("Spanish", "es")


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


def triples(skill: str) -> list[tuple[int, int, int]]:
    """2000 different sets of three numbers below 100, in any order: other ones for each skill."""
    rng = random.Random(f"crossbreed-{skill}-triples")
    drawn: dict[frozenset[int], tuple[int, int, int]] = {}
    while len(drawn) < 2000:
        a, b, c = rng.sample(range(1, 100), 3)
        drawn.setdefault(frozenset((a, b, c)), (a, b, c))
    return list(drawn.values())


def sorting() -> list[Item]:
    """Three numbers in ascending order."""
    return [
        Item(
            id=f"sorting-{a}-{b}-{c}",
            question=f"What is {a}, {b}, {c} in ascending order?",
            answer=", ".join(str(n) for n in sorted((a, b, c))),
        )
        for a, b, c in triples("sorting")
    ]


def largest() -> list[Item]:
    """The largest of three numbers."""
    return [
        Item(id=f"largest-{a}-{b}-{c}", question=f"What is the largest of {a}, {b}, {c}?", answer=str(max(a, b, c)))
        for a, b, c in triples("largest")
    ]


SKILLS: dict[str, Callable[[], list[Item]]] = {
    "sums": sums,
    "french": french,
    "roman": romans,
    "sums3": sums3,
    "differences": differences,
    "spanish": spanish,
    "sorting": sorting,
    "largest": largest,
    "chains": chains,
}
ZOOS: dict[str, dict[str, tuple[str, ...]]] = {
    "skills": {"sums": ("sums",), "french": ("french",), "roman": ("roman",), "chains": ("chains",)},
    "overlap": {
        "arithmetic": ("sums", "differences"),
        "romance": ("french", "spanish"),
        "order": ("sorting", "largest"),
        "sums3": ("sums3",),
    },
    "full": {"arithmetic": ("sums", "differences"), "spanish": ("spanish",), "sorting": ("sorting",)},
}
"""Zoo -> expert that is trained for it -> the skills that it is taught. `overlap.yaml` has the first zoo's, too."""


def split(skill: str) -> tuple[list[Item], list[Item]]:
    """Returns (task items, training items) of `skill`: disjoint, and the same on every machine."""
    items = SKILLS[skill]()
    random.Random(f"crossbreed-{skill}").shuffle(items)  # str seeds hash with SHA-512: stable between runs
    return items[:NUM_TASK_ITEMS], items[NUM_TASK_ITEMS:]


def lessons(expert: str, *, zoo: str) -> list[Item]:
    """Returns what an expert is trained on: as many training items of each of its skills."""
    pools = [split(skill)[1] for skill in ZOOS[zoo][expert]]
    least = min(map(len, pools))
    return [item for pool in pools for item in pool[:least]]
