"""What a search's time is: from the first job to the last answer, over all resumes."""

import pytest

from crossbreed.runs.search.stopwatch import Stopwatch


class Clock:
    """A clock that is set by hand, in the place of time.monotonic."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("crossbreed.runs.search.stopwatch.time", clock)
    return clock


def test_it_stands_still_until_the_first_job(clock: Clock) -> None:
    stopwatch = Stopwatch(before_s=30.0)
    clock.now += 500
    assert stopwatch.elapsed_s == 30.0


def test_the_start_of_the_workers_is_no_searching(clock: Clock) -> None:
    """The first submit returns when a worker is ready."""
    stopwatch = Stopwatch(before_s=0.0)
    clock.now += 60
    stopwatch.submitted(0)
    clock.now += 4
    stopwatch.answered()
    assert (stopwatch.elapsed_s, stopwatch.seconds_of(0)) == (4.0, 4.0)


def test_thinking_between_two_candidates_is_the_second_ones_time(clock: Clock) -> None:
    stopwatch = Stopwatch(before_s=0.0)
    stopwatch.submitted(0)
    clock.now += 4
    stopwatch.answered()
    clock.now += 2  # the optimizer asks
    stopwatch.submitted(1)
    clock.now += 5
    stopwatch.answered()
    assert (stopwatch.seconds_of(1), stopwatch.elapsed_s) == (7.0, 11.0)


def test_candidates_that_are_out_together_take_their_own_time(clock: Clock) -> None:
    stopwatch = Stopwatch(before_s=10.0)
    stopwatch.submitted(0)
    stopwatch.submitted(1)
    clock.now += 3
    stopwatch.answered()
    assert stopwatch.seconds_of(1) == 3.0
    stopwatch.submitted(2)
    clock.now += 2
    stopwatch.answered()
    assert stopwatch.seconds_of(0) == 5.0
    clock.now += 1
    stopwatch.answered()
    assert stopwatch.seconds_of(2) == 3.0
    assert stopwatch.elapsed_s == 16.0
