"""What is told of judges: on how many answers there is no verdict, on which items, and how often repeats agreed."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from crossbreed.types import ItemScores

_SHOWN = 5
"""Items that a sentence names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The verdicts on a task's answers, of one model or of several."""

    abstained: tuple[str, ...]
    """Items on whose answers there is no verdict, the most frequent first."""
    num_abstentions: int
    """Answers without a verdict."""
    num_answers: int
    agreement: float | None
    """Share of answers on which repeats said the same; None: nothing is asked twice."""

    def to_json(self) -> dict[str, Any]:
        """Returns the documented JSON."""
        return {
            "abstained": list(self.abstained),
            "abstentions": self.num_abstentions,
            "n": self.num_answers,
            "agreement": self.agreement,
        }

    def said(self, task: str) -> str:
        """Returns it in words: no verdict on 2 of 60 answers in prose (items a, b); repeats agreed on 98%."""
        named = ", ".join(self.abstained[:_SHOWN]) + ", ..." * (len(self.abstained) > _SHOWN)
        items = f" ({'item' if len(self.abstained) == 1 else 'items'} {named})" if self.abstained else ""
        agreed = "" if self.agreement is None else f"; repeats agreed on {self.agreement:.0%}"
        return f"no verdict on {self.num_abstentions} of {self.num_answers} answers in {task}{items}{agreed}"


def judged_in(scores: Iterable[Mapping[str, ItemScores]]) -> dict[str, Judged]:
    """Returns task -> the verdicts on all answers, of tasks in which something is to be told.

    Args:
        scores: Task -> values, of each model.
    """
    found = dict[str, list[ItemScores]]()
    for tasks in scores:
        for task, one in tasks.items():
            found.setdefault(task, []).append(one)
    return {
        task: _together(several)
        for task, several in found.items()
        if any(one.abstained or one.agreement is not None for one in several)
    }


def _together(several: list[ItemScores]) -> Judged:
    items = Counter(one.item_ids[place] for one in several for place in one.abstained)
    agreements = [one.agreement for one in several if one.agreement is not None]
    return Judged(
        abstained=tuple(item for item, _ in items.most_common()),
        num_abstentions=items.total(),
        num_answers=sum(len(one.values) for one in several),
        agreement=fmean(agreements) if agreements else None,
    )
