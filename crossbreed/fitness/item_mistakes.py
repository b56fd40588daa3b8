"""What is wrong with the items of a file: the first few are named, and what all have alike is told once."""

import re
from collections.abc import Sequence

from crossbreed.errors import Collector, InputError, Mistakes, MoreMistakes

MOST_MISTAKES = 5
"""Named of one file; more are counted."""
_ID = re.compile("item `.*?`")
_OF_PAIRS = "two items"
"""How a mistake begins that the first of two does not have: it is never of all."""
_NEARLY_ALL = 0.9
"""The share of items from which on a mistake is of the file, and not of each."""


class ItemMistakes(Collector):
    """Gathers the InputErrors of a file's items.

    The task or the file may be wrong, and not each item: what all or nearly all have alike is told once, with their
    number.
    """

    def __init__(self, *, of: str, among: int = 0) -> None:
        """Has no error yet.

        Args:
            of: The file or task, which is said to hold those that are not named.
            among: How many items there are, if that is known yet.
        """
        super().__init__()
        self._of, self.among = of, among
        self._is_told = set[str]()

    def note(self, error: InputError) -> None:
        """Notes an error; several that were gathered already stay as they are."""
        if isinstance(error, Mistakes):
            self._is_told.update(map(str, error.errors))
        super().note(error)

    @property
    def errors(self) -> tuple[InputError, ...]:
        """The first few kinds of mistakes, and how many more there are."""
        kinds: dict[object, list[InputError]] = {}
        for error in super().errors:
            kinds.setdefault(str(error) if str(error) in self._is_told else _kind(error), []).append(error)
        told = [one for alike in kinds.values() for one in self._told(alike)]
        more = sum(error.count for error in told[MOST_MISTAKES:])
        return (*told[:MOST_MISTAKES], *([MoreMistakes(more, where=self._of)] if more else []))

    @property
    def count(self) -> int:
        """The number of mistakes so far."""
        return sum(error.count for error in super().errors)

    def _told(self, alike: Sequence[InputError]) -> Sequence[InputError]:
        """Returns mistakes of one kind as they are told: one by one, or as one."""
        first, number = alike[0], len(alike)
        are_all = number == self.among
        is_most = number >= _NEARLY_ALL * self.among or first.problem.startswith(_OF_PAIRS)
        if number == 1 or not (are_all or (number > MOST_MISTAKES and is_most)):
            return alike
        who = f"all {number} items alike" if are_all else f"{number} of {self.among} items alike"
        got = who + f"; the first: {first.got}" * bool(first.got)
        return [InputError(first.problem, expected=first.expected, got=got, where=first.where, fix=first.fix)]


def _kind(error: InputError) -> object:
    """Returns what is equal of mistakes that are alike: all but the item, its values and its place."""
    return type(error), _ID.sub("item", error.problem), error.fix
