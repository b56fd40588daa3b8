"""Equal keys go together, and nobody waits for ever."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossbreed.service.fair_queue import ANY, FairQueue, Full

PATIENCE_S = 2.0


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 3)), max_size=60), st.floats(0.1, 1.0))
def test_all_are_served_in_order_of_their_key_and_none_waits_too_long(
    arrivals: list[tuple[str, float]], work_s: float
) -> None:
    clock = Clock()
    queue = FairQueue[tuple[str, int, float]](bound=1000, patience_s=PATIENCE_S, clock=clock)
    pending, due_s = list(enumerate(arrivals)), 0.0
    order: dict[str, list[int]] = {}
    held: str | None = None
    while pending or len(queue):
        while pending and (due_s + pending[0][1][1] <= clock.now_s or not len(queue)):
            number, (key, gap_s) = pending.pop(0)
            due_s += gap_s
            clock.now_s = max(clock.now_s, due_s)
            queue.put(key, (key, number, clock.now_s), owner=key)
        taken = queue.take(held)
        assert taken is not None
        held, number, since_s = taken
        order.setdefault(held, []).append(number)
        others = {key for key, _ in arrivals} - {held}
        backlog = len([number for numbers in order.values() for number in numbers])
        assert clock.now_s - since_s <= PATIENCE_S + work_s * (1 + len(others) + backlog)
        clock.now_s += work_s
    assert all(numbers == sorted(numbers) for numbers in order.values())
    assert sum(map(len, order.values())) == len(arrivals)


def test_the_held_key_goes_first_until_another_has_waited() -> None:
    clock = Clock()
    queue = FairQueue[str](bound=9, patience_s=PATIENCE_S, clock=clock)
    queue.put("b", "b1", owner="bob")
    for item in ("a1", "a2", "a3"):
        queue.put("a", item, owner="alice")
    assert queue.take("a") == "a1"
    clock.now_s = PATIENCE_S
    assert queue.take("a") == "a2"
    clock.now_s = PATIENCE_S + 0.1
    assert queue.take("a") == "b1", "it has waited long enough"
    assert (queue.take("b"), queue.take("a"), len(queue)) == ("a3", None, 0)


def test_one_owner_fills_only_its_own_share() -> None:
    queue = FairQueue[int](bound=2, patience_s=PATIENCE_S)
    queue.put("a", 1, owner="alice")
    queue.put("b", 2, owner="alice")
    with pytest.raises(Full):
        queue.put("a", 3, owner="alice")
    queue.put("a", 4, owner="bob")
    assert len(queue) == 3
    assert [queue.take(None), queue.take("a")] == [1, 4]
    queue.put("c", 5, owner="alice")


def test_what_needs_no_key_is_served_by_age_and_keeps_the_key() -> None:
    clock = Clock()
    queue = FairQueue[str](bound=9, patience_s=PATIENCE_S, clock=clock)
    for key, item in (("b", "b1"), ("a", "a1"), (ANY, "x1"), ("a", "a2"), (ANY, "x2")):
        queue.put(key, item, owner=item)
        clock.now_s += 0.1
    assert [queue.take("a") for _ in range(4)] == ["a1", "x1", "a2", "x2"]
    queue.put(ANY, "x3", owner="x")
    clock.now_s = PATIENCE_S + 1
    assert [queue.take("a"), queue.take("b")] == ["b1", "x3"], "the one that waited longest goes first"
    queue.put(ANY, "x4", owner="x")
    assert queue.take(None) == "x4"
