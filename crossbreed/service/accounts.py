"""Clients: their keys, rights, budgets and rates. Counted in memory, from the service's start."""

import hmac
import os
from asyncio import CancelledError
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from time import monotonic

from crossbreed.errors import Collector, InputError
from crossbreed.fitness import wire
from crossbreed.fitness.wire import Right
from crossbreed.runs.spec.serve import ALL_RIGHTS, TokenConfig
from crossbreed.service.refusals import Refusal

LEAST_KEY = 16
"""Characters of a key."""
_NAMES: Mapping[Right, str] = {
    "answers": "texts",
    "logprobs": "log-probabilities",
    "scores": "evaluations",
    "publish": "checkpoints",
}


class Bucket:
    """Units a minute; a minute's worth may come at once.

    >>> now = [0.0]
    >>> bucket = Bucket(60, clock=lambda: now[0])
    >>> bucket.wait_s(60), bucket.wait_s(2)
    (0.0, 2.0)
    """

    def __init__(self, per_minute: float, *, clock: Callable[[], float] = monotonic) -> None:
        """Begins full."""
        self._most = self._level = per_minute
        self._clock, self._at_s = clock, clock()

    def wait_s(self, units: float) -> float:
        """Takes some units and returns 0; or takes none, and returns the seconds until it would."""
        now = self._clock()
        self._level = min(self._most, self._level + (now - self._at_s) * self._most / 60)
        self._at_s = now
        missing = min(units, self._most) - self._level  # what is larger than the bucket waits for a full one
        if missing > 0:
            return missing * 60 / self._most
        self._level -= units
        return 0.0

    def owe(self, units: float) -> None:
        """Takes units that are used already, so that who comes next waits for them too; gives back those below 0."""
        self._level -= units


@dataclass(slots=True, kw_only=True)
class Account:
    """A client."""

    name: str
    rights: tuple[Right, ...]
    merges: int | None = None
    """What is left of its budget; None: any number."""
    requests: int | None = None
    tokens: int | None = None
    request_rate: Bucket | None = None
    token_rate: Bucket | None = None

    def require(self, right: Right) -> None:
        """Raises Refusal unless it has a right."""
        if right not in self.rights:
            raise Refusal(403, f"your token has no right to {_NAMES[right]}", code=wire.NO_RIGHT)

    def count_request(self) -> None:
        """Counts a request; raises Refusal if it is one too many."""
        self._take("requests", 1, self.request_rate)

    @contextmanager
    def merging(self) -> Iterator[None]:
        """Counts the merge that the block makes; one that the engine did not come to costs nothing.

        Raises:
            Refusal: it is one too many.
        """
        self._take("merges", 1, None)
        try:
            yield
        except (Refusal, CancelledError) as error:
            is_made = isinstance(error, Refusal) and error.code == wire.INVALID_WEIGHTS
            if self.merges is not None and not is_made:
                self.merges += 1
            raise

    @contextmanager
    def spending(self, tokens: int) -> "Iterator[Spent]":
        """Sets aside the tokens that a request can take; at the end, what it took is spent, be it less or more.

        Raises:
            Refusal: they are more than is left.
        """
        self._take("tokens", tokens, self.token_rate)
        spent = Spent()
        try:
            yield spent
        finally:
            spent.is_over = True
            if self.tokens is not None:
                self.tokens += tokens - spent.tokens
            if self.token_rate is not None:
                self.token_rate.owe(spent.tokens - tokens)

    def _take(self, what: str, units: int, rate: Bucket | None) -> None:
        left: int | None = getattr(self, what)
        if left is not None and left < units:
            raise Refusal(403, f"your token's budget of {what} is spent: {max(0, left)} left", code=wire.BUDGET_SPENT)
        if rate is not None and (wait_s := rate.wait_s(units)) > 0:
            raise Refusal(429, f"too many {what} a minute", code=wire.RATE_LIMITED, retry_after_s=wait_s)
        if left is not None:
            setattr(self, what, left - units)


@dataclass(slots=True)
class Spent:
    """What a request took."""

    tokens: int = 0
    is_over: bool = False
    """Whether they are counted, so that none may be used any more."""


@dataclass(frozen=True, slots=True)
class Accounts:
    """All clients, by their keys."""

    by_digest: Mapping[bytes, Account] = field(repr=False)
    anyone: Account | None
    """Who asks without a key, where none is needed."""

    def of(self, authorization: str | None) -> Account:
        """Returns the client of an Authorization header; all keys are compared, each in constant time.

        Raises:
            Refusal: there is no such client.
        """
        if self.anyone is not None:
            return self.anyone
        scheme, _, key = (authorization or "").partition(" ")
        given = sha256(key.strip().encode(errors="replace")).digest()
        found = [account for digest, account in self.by_digest.items() if hmac.compare_digest(digest, given)]
        if scheme.lower() != "bearer" or not found:
            raise Refusal(401, "a known token is needed: Authorization: Bearer KEY", code="invalid_api_key")
        return found[0]

    @property
    def names(self) -> tuple[Account, ...]:
        """All of them."""
        return (self.anyone,) if self.anyone else tuple(self.by_digest.values())


def key_in(environment: Mapping[str, str], name: str) -> str | None:
    """Returns the key that a variable holds; None if that is none, or too short to be secret."""
    key = environment.get(name, "").strip()
    return key if len(key) >= LEAST_KEY and key.isascii() and key.isprintable() else None


def accounts_of(tokens: Mapping[str, TokenConfig], environment: Mapping[str, str] | None = None) -> Accounts:
    """Returns the clients of a spec, with keys from the environment.

    Raises:
        InputError: a key is not there, too short to be secret, none that can be sent, or two clients have the same.
    """
    if not tokens:
        return Accounts({}, Account(name="anyone", rights=ALL_RIGHTS))
    known = os.environ if environment is None else environment
    found, mistakes = dict[bytes, Account](), Collector()
    for name, config in tokens.items():
        where = f"serve.tokens.{name}.key_env"
        if (key := key_in(known, config.key_env)) is None:
            length = len(known.get(config.key_env, "").strip())
            mistakes.note(
                InputError(
                    "a client's key is not in the environment, too short to be secret, or none that can be sent",
                    expected=f"at least {LEAST_KEY} characters of ASCII in the environment variable {config.key_env}",
                    got=f"{length} characters" if length else "nothing",
                    where=where,
                    fix=f"export {config.key_env}=$(python -c 'import secrets; print(secrets.token_urlsafe(32))')",
                )
            )
            continue
        digest = sha256(key.encode()).digest()
        if digest in found:
            mistakes.note(InputError("two clients have the same key", expected="a key for each", got=name, where=where))
        found[digest] = _account(name, config)
    mistakes.require_none()
    return Accounts(found, None)


def _account(name: str, config: TokenConfig) -> Account:
    return Account(
        name=name,
        rights=config.rights,
        merges=config.merges,
        requests=config.requests,
        tokens=config.tokens,
        request_rate=Bucket(config.requests_per_minute) if config.requests_per_minute else None,
        token_rate=Bucket(config.tokens_per_minute) if config.tokens_per_minute else None,
    )
