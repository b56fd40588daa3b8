"""What a model gets in tasks with options without reading the question: by chance, and by the best place."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from crossbreed.fitness import AnyItems, Item, Task, TaskConfig, own_kind


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseRate:
    """The shares of a task's items that are answered rightly without reading them."""

    chance: float
    """By an option drawn at random."""
    constant: float
    """By always taking the option at the best place."""
    place: str
    """The letter of that place."""

    def to_json(self) -> dict[str, Any]:
        """Returns the documented JSON."""
        return {"chance": self.chance, "constant": self.constant, "place": self.place}


def base_rates(tasks: Sequence[Task], items: Mapping[str, AnyItems]) -> dict[str, BaseRate]:
    """Returns task -> its base rates on a split, for tasks with options.

    Args:
        tasks: The tasks.
        items: Task -> items of the split.
    """
    found = dict[str, BaseRate]()
    for task in tasks:
        offered = items[task.name].items
        if chance := chance_of(task, offered):
            place, constant = max(positions_of(task, offered).items(), key=lambda one: one[1])
            found[task.name] = BaseRate(chance=chance, constant=constant, place=place)
    return found


def positions_of(task: Task, items: Sequence[Item]) -> dict[str, float]:
    """Returns letter -> share of the items whose right option stands there; empty where no options are offered."""
    kind = own_kind(task)
    places = [kind.gold_position(item) if isinstance(kind, TaskConfig) else None for item in items]
    found = Counter(place for place in places if place is not None)
    return {_letter(place): found[place] / len(items) for place in sorted(found)}


def chance_of(task: Task, items: Sequence[Item]) -> float | None:
    """Returns the share of the items that a random option answers rightly; None where none are offered."""
    kind = own_kind(task)
    numbers = [kind.num_options(item) if isinstance(kind, TaskConfig) else None for item in items]
    shares = [1 / number for number in numbers if number]
    return sum(shares) / len(shares) if shares else None


def _letter(place: int) -> str:
    return ascii_uppercase[place] if place < len(ascii_uppercase) else str(place + 1)
