"""How alike two texts are, from 0 to 1."""

from difflib import SequenceMatcher

from crossbreed.fitness import Metric


def similarity(text: str, gold: str) -> float:
    """The part of both texts, stripped, that is in common and in the same order."""
    return SequenceMatcher(a=text.strip(), b=gold.strip(), autojunk=False).ratio()


SIMILARITY = Metric(function=similarity)
