"""Time between requests: a clock that tests can replace, limits per minute, backoff, and the circuit breaker."""

import time
from email.utils import parsedate_to_datetime
from threading import Lock
from typing import Protocol

from crossbreed.randomness import spawn

OPENS_AFTER = 5
"""Faults in a row after which a service counts as away: from then on one request at a time asks whether it is back."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_LOOK_S = 0.05


class Clock(Protocol):
    """Time, as the transport sees it."""

    def now(self) -> float:
        """Seconds from an arbitrary point, never backwards."""
        ...

    def wall(self) -> float:
        """Unix time, to read dates."""
        ...

    def sleep(self, seconds: float) -> None:
        """Waits."""
        ...


class SystemClock:
    """The machine's own time."""

    def now(self) -> float:
        """See Clock."""
        return time.monotonic()

    def wall(self) -> float:
        """See Clock."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """See Clock."""
        time.sleep(seconds)


class Backoff:
    """How long to wait after a fault: twice as long after each, with jitter from the run's seed."""

    def __init__(self, seed: int) -> None:
        self._rng = spawn(seed, "api", "backoff")

    def after(self, num_faults: int) -> float:
        """Returns the seconds to wait after so many faults of one request."""
        longest = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(num_faults - 1, 10))
        return longest * float(self._rng.uniform(0.5, 1.0))


class Pacer:
    """A limit per minute: a request of some size delays the next one by the time that its size takes."""

    def __init__(self, per_minute: float | None, clock: Clock) -> None:
        self._seconds_each = 0.0 if per_minute is None else 60.0 / per_minute
        self._clock, self._free_at = clock, 0.0

    def reserve(self, amount: float) -> float:
        """Takes a place in the queue; returns the seconds until it is free."""
        now = self._clock.now()
        begins = max(now, self._free_at)
        self._free_at = begins + amount * self._seconds_each
        return begins - now


class Breaker:
    """A circuit breaker, shared by the threads that ask one service. Its states say nothing of any candidate.

    Closed: all may ask. Open, after several faults in a row or where the service says when to come back: all wait.
    Half open, when that time has come: one asks, and the others wait for what it finds.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock, self._lock = clock, Lock()
        self._in_a_row, self._open_until, self._is_probed = 0, 0.0, False

    @property
    def is_open(self) -> bool:
        """Whether the service counts as away."""
        return self._in_a_row >= OPENS_AFTER

    def enter(self, *, until: float) -> float:
        """Returns 0 when the caller may ask; `answered` or `faulted` must follow.

        Args:
            until: By the clock, when the caller's patience ends. If the circuit is open for longer, the seconds that it
                will be are returned at once, and the caller must not ask.
        """
        while True:
            with self._lock:
                now = self._clock.now()
                wait_s = self._open_until - now
                if wait_s <= 0 and not (self.is_open and self._is_probed):
                    self._is_probed = self.is_open
                    return 0.0
                if max(wait_s, 0.0) > until - now:
                    return max(wait_s, _LOOK_S)
            self._clock.sleep(wait_s if wait_s > 0 else _LOOK_S)

    def answered(self) -> bool:
        """Closes the circuit; returns whether it was open."""
        with self._lock:
            was_open = self.is_open
            self._in_a_row, self._open_until, self._is_probed = 0, 0.0, False
            return was_open

    def faulted(self, wait_s: float, *, is_asked: bool) -> bool:
        """Counts a fault; returns whether the circuit opens by it.

        Args:
            wait_s: How long the caller will wait.
            is_asked: Whether the service asked for that: then all wait.
        """
        with self._lock:
            self._in_a_row, self._is_probed = self._in_a_row + 1, False
            if is_asked or self.is_open:
                self._open_until = max(self._open_until, self._clock.now() + wait_s)
            return self._in_a_row == OPENS_AFTER


def asked_wait_s(retry_after: str | None, clock: Clock) -> float | None:
    """Returns the seconds that a Retry-After header asks for, as a number or a date; None if it asks for nothing."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - clock.wall()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if seconds == seconds else None
