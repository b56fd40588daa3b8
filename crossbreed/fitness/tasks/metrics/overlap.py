"""Metrics of how much a text has in common with the gold: from 0 to 1."""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

from crossbreed.fitness.tasks.metrics.metric import Metric
from crossbreed.fitness.tasks.metrics.words import normal, pieces, words

_ARTICLES = re.compile(r"\b(a|an|the)\b")


def f1(text: str, gold: str) -> float:
    """How many words text and gold share: the F1 of SQuAD, without case, punctuation and English articles.

    >>> f1("The city of Paris.", "paris"), f1("Rome", "Paris")
    (0.5, 0.0)
    """
    said, wanted = Counter(_answer_words(text)), Counter(_answer_words(gold))
    return _harmonic((said & wanted).total(), said.total(), wanted.total())


def rouge_l(text: str, gold: str) -> float:
    """The longest sequence of words, with gaps, that text and gold share: the F-measure of ROUGE-L, without stemming.

    >>> rouge_l("police killed the gunman", "police kill the gunman")
    0.75
    """
    said, wanted = words(text.lower()), words(gold.lower())
    return _harmonic(_longest_common(said, wanted), len(said), len(wanted))


def chrf(text: str, gold: str) -> float:
    """Which runs of 1 to 6 characters text and gold share: chrF2 of sacrebleu, from 0 to 1."""
    from sacrebleu import CHRF

    return _unit(CHRF().sentence_score(normal(text), [normal(gold)]).score)


def bleu(text: str, gold: str) -> float:
    """Which runs of 1 to 4 words text and gold share: BLEU of a sentence by sacrebleu, smoothed, from 0 to 1."""
    from sacrebleu import BLEU

    return _unit(BLEU(effective_order=True).sentence_score(normal(text), [normal(gold)]).score)


def _answer_words(text: str) -> list[str]:
    lower = normal(text).lower()
    bare = "".join(
        mark for mark in lower if mark not in string.punctuation and not unicodedata.category(mark).startswith("P")
    )
    return pieces(_ARTICLES.sub(" ", bare))


def _longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    """Returns the length of the longest common subsequence, a word of `b` at a time (Allison and Dix, 1986)."""
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    row = 0  # one bit for each place of `a` at which the sequence gets longer
    for word in b:
        reached = row | places.get(word, 0)
        row = reached & (reached ^ (reached - (row << 1 | 1)))
    return row.bit_count()


def _harmonic(common: int, said: int, wanted: int) -> float:
    """Returns the F-measure of equal weights: 2PR / (P + R) with P = common / said and R = common / wanted."""
    return 2 * common / (said + wanted) if common else 0.0


def _unit(percent: float) -> float:
    return min(1.0, max(0.0, percent / 100))


F1 = Metric(function=f1)
ROUGE_L = Metric(function=rouge_l)
CHRF_2 = Metric(function=chrf, needs=("sacrebleu",))
BLEU_4 = Metric(function=bleu, needs=("sacrebleu",))
