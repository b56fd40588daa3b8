"""Values are found once, while there is room; and right in any case."""

import torch

from crossbreed.kernels import SourceCache


def test_a_value_is_found_once() -> None:
    cache, found = SourceCache(), []
    for _ in range(3):
        assert cache.get(("a",), lambda: found.append(1) or len(found)) == 1
    assert cache.get(("b",), lambda: 5) == 5


def test_a_walk_in_circles_beyond_the_budget_still_finds_some() -> None:
    """Dropping the oldest would find none."""
    cache, found = SourceCache(budget_bytes=6000), []

    def find(index: int) -> torch.Tensor:
        found.append(index)
        return torch.full((250,), float(index))

    for _ in range(20):
        for index in range(10):
            assert cache.get((index,), lambda index=index: find(index))[0] == index
    assert 10 < len(found) < 180


def test_what_is_larger_than_the_budget_is_found_all_the_same() -> None:
    cache = SourceCache(budget_bytes=10)
    assert cache.get(("a",), lambda: torch.ones(100)).sum() == 100


def test_what_one_can_do_without_is_found_when_it_is_asked_for_again_and_has_room() -> None:
    cache = SourceCache(budget_bytes=10)
    asked = [cache.get_repeated(("a",), 8, lambda: torch.ones(1, dtype=torch.int64)) for _ in range(3)]
    assert asked[0] is None
    assert asked[1] is asked[2] is not None
    assert [cache.get_repeated(("b",), 8, lambda: torch.ones(1)) for _ in range(2)] == [None, None]
