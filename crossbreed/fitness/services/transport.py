"""Requests to a service: OpenAI's client without its retries, and one retry loop that sees every attempt.

Every answer is read by the caller's `read`, and what that refuses is a fault of the transport: asked again, never a
score. A service that is away for longer than `patience` ends the run with a ServiceOutage, which no trial pays for.
"""

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import BoundedSemaphore, Lock
from typing import Any, Literal, NoReturn, TypeAlias, TypeVar

import httpx2
import openai
from pydantic import ValidationError

from crossbreed.errors import EngineError, InputError, InvalidWeights, ServiceOutage, first_line, printable
from crossbreed.fitness import wire
from crossbreed.fitness.services.faults import Fault, ModelForgotten, ServiceError, WrongAnswer
from crossbreed.fitness.services.pace import Backoff, Breaker, Clock, Pacer, SystemClock, asked_wait_s
from crossbreed.fitness.services.settings import ServiceSettings

T = TypeVar("T")
Method: TypeAlias = Literal["GET", "POST"]
Say: TypeAlias = Callable[[str], None]
"""Takes a text for the run's log."""

MOST_WRONG = 8
"""Attempts at one request that the service answers, but never rightly: the fault is the request's then."""
MOST_UNSTATED = 3
"""Refusals without a word of the service's own after which one is believed."""
FIRST_PATIENCE_S = 20.0
"""How long a service that has never answered is waited for: its address may be wrong."""
SAID_S = 20.0
"""A wait that is as long as this is said."""
_CONNECT_S = 15.0
"""Seconds in which a connection must be made: a machine that is off says nothing."""
_HEALTH_S = 10.0
"""Seconds in which a service that is there says so."""
_SENT = (httpx2.ReadTimeout, httpx2.WriteTimeout, httpx2.ReadError, httpx2.RemoteProtocolError)
"""What a request may meet that has reached the service, or whatever stands before it."""
_AWAY = (429, 502, 503, 504, 529)
_PASSING = (408, 409, 425)
_MOST_CHARACTERS = 300


class Transport:
    """A connection to one service. May be used from several threads."""

    def __init__(
        self,
        settings: ServiceSettings,
        *,
        seed: int = 0,
        say: Say | None = None,
        http: httpx2.BaseTransport | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Reads the key; asks nothing yet.

        Args:
            settings: The address, the key's variable, and limits.
            seed: Of the run, for the jitter.
            say: Told of long waits.
            http: Replaces the network, in tests.
            clock: Replaces the machine's time, in tests.

        Raises:
            InputError: the key is not in the environment.
        """
        self.settings, self.say = settings, say or _say_nothing
        self._key, self._clock = settings.key(), clock or SystemClock()
        self._backoff, self._breaker, self._lock = Backoff(seed), Breaker(self._clock), Lock()
        self._requests = Pacer(settings.requests_per_minute, self._clock)
        self._tokens = Pacer(settings.tokens_per_minute, self._clock)
        self._last_away: Fault | None = None
        self._has_answered, self._is_closed = False, False
        self._slots = BoundedSemaphore(settings.concurrency)
        timeout = httpx2.Timeout(settings.timeout, connect=min(settings.timeout, _CONNECT_S))
        limits = httpx2.Limits(max_connections=None)  # there are as many as `concurrency` says
        self._http = httpx2.Client(transport=http, timeout=timeout, limits=limits, follow_redirects=False)
        self._client = openai.OpenAI(
            base_url=settings.url,
            api_key=self._key or "none",
            max_retries=0,
            http_client=self._http,
            timeout=timeout,  # else one of 5 s counts as none that was set
        )

    def use(self, *, seed: int, say: Say) -> None:
        """Takes the run's seed, for the jitter, and its log."""
        self._backoff, self.say = Backoff(seed), say

    def get(self, path: str, read: Callable[[Any], T]) -> T:
        """Asks for a path; see `post`."""
        return self._ask("GET", path, None, read, 0)

    def post(self, path: str, body: Mapping[str, Any], read: Callable[[Any], T], *, tokens: int = 0) -> T:
        """Sends a question until there is an answer.

        Args:
            path: From the root: `/v1/completions`, `/tokenize`.
            body: JSON.
            read: Returns the value of an answer's JSON; raises WrongAnswer or a ValidationError if it is none.
            tokens: How many the request counts in `tokens_per_minute`.

        Raises:
            ServiceOutage: the service was away for longer than `patience`.
            EngineError: it answers, but this request never rightly.
            ModelForgotten: it does not know the model's id.
            InvalidWeights: the merge has NaN or infinite weights or answers.
            InputError: it refuses the key, the right, or the request.
        """
        return self._ask("POST", path, body, read, tokens)

    def post_all(self, path: str, bodies: Sequence[Mapping[str, Any]], read: Callable[[Any], T]) -> list[T]:
        """Sends several questions, some at a time; returns the answers in their order. See `post`."""
        if len(bodies) < 2 or self.settings.concurrency < 2:
            return [self.post(path, body, read) for body in bodies]
        with ThreadPoolExecutor(min(len(bodies), self.settings.concurrency)) as threads:
            return list(threads.map(partial(self.post, path, read=read), bodies))

    def close(self) -> None:
        """Closes connections; who still asks in another thread gives up."""
        self._is_closed = True
        self._client.close()

    def decoded(self, response: httpx2.Response) -> Any:  # JSON
        """Returns what an answer holds; raises ValueError if that is nothing. Servers of other kinds override it."""
        return json.loads(response.content, parse_constant=_no_constant)

    def refusal(self, error: ServiceError) -> Exception | None:
        """Returns what a refused request means; None if it is to be asked again. Servers of other kinds override it."""
        if error.status == 422 and error.code == wire.INVALID_WEIGHTS:
            return InvalidWeights(f"the service says: {error.message or 'NaN or infinite weights'}")
        if error.status == 404 and error.code == wire.MODEL_NOT_FOUND:
            return ModelForgotten(f"the service does not know the model: {error.message}")
        if is_passing(error.status):
            return None
        fixes = {
            wire.NO_RIGHT: "ask the provider for the right",
            wire.BUDGET_SPENT: "ask the provider for more; the same command goes on with the run",
            wire.RECIPE_REFUSED: "narrow the space to what the service allows: `GET /v1/sources` says its limits",
        }
        return self.refused(
            error,
            who="the service",
            expected="a request that it answers",
            keyless=(401,),
            key="a key that it knows",
            address="give the address of the service itself, as its provider names it",
            fix=fixes.get(error.code, ""),
        )

    def refused(
        self,
        error: ServiceError,
        *,
        who: str,
        expected: str,
        keyless: Collection[int],
        key: str,
        address: str,
        fix: str = "",
    ) -> InputError:
        """Returns what to tell the user of a refusal that will last.

        Args:
            error: The refusal.
            who: Who refuses.
            expected: What it would answer.
            keyless: The statuses that ask for another key.
            key: The key to get then.
            address: The fix of a wrong address.
            fix: The fix of anything else.
        """
        where = self.settings.place
        if error.status in keyless:
            name = self.settings.key_env
            fix = f"export {name}=... with {key}" if name else "name the variable: `key_env: MY_KEY`"
            where = f"{where}.key_env"
        elif error.status < 400 or error.status in (404, 405):
            where, fix = f"{where}.url", address
        return InputError(
            f"{who} refuses: {error.message or 'without a reason'}",
            expected=expected,
            got=f"HTTP {error.status} {error.code}".rstrip() + f" from {self.settings.url}",
            where=where,
            fix=fix,
        )

    def _ask(self, method: Method, path: str, body: Any, read: Callable[[Any], T], tokens: int) -> T:  # JSON
        faults = list[Fault]()
        self._wait_for_pace(tokens)
        began_s = self._clock.now()
        until = began_s + self.settings.patience
        while True:
            if self._is_closed:
                raise EngineError(f"the connection to {self.settings.url} is closed")
            if (away_s := self._breaker.enter(until=until)) > 0:
                self._give_up(away_s, self._last_away)
            try:
                with self._slots:
                    found = self._attempt(method, path, body, read)
            except BaseException:  # a refusal in the service's own words is an answer; others wait for what it found
                self._answered()
                raise
            if not isinstance(found, Fault):
                self._answered()
                return found
            faults.append(found)
            self._wait_after(faults, began_s)
            self._wait_for_pace(tokens)

    def _answered(self) -> None:
        self._has_answered = True
        if self._breaker.answered():
            self.say(f"the service at {self.settings.url} answers again")

    def _attempt(self, method: Method, path: str, body: Any, read: Callable[[Any], T]) -> T | Fault:  # JSON
        """Makes one attempt. Nothing that it raises has a cause: a library's error may quote headers."""
        try:
            response = self._send(method, path, body)
        except openai.APIStatusError as error:
            return self._refused(error.response)
        except openai.APIConnectionError as error:  # an APITimeoutError is one
            return self._unanswered(error.__cause__ or error)
        except (openai.OpenAIError, httpx2.HTTPError, httpx2.StreamError) as error:
            return Fault(reason=self._clean(f"{type(error).__name__}: {first_line(error)}"), is_away=False)
        if response.status_code >= 300:
            return self._refused(response)
        try:
            return read(self.decoded(response))
        except (ValueError, RecursionError) as error:  # ValidationError, WrongAnswer, JSONDecodeError among them
            return Fault(reason=self._clean(f"a wrong answer to {path}: {_said(error)}"), is_away=False)

    def _send(self, method: Method, path: str, body: Any) -> httpx2.Response:  # JSON
        options: Any = {"headers": {"OpenAI-Organization": openai.omit, "OpenAI-Project": openai.omit}}
        if self._key is None:
            options["headers"]["Authorization"] = openai.omit
        if method == "GET":
            return self._client.get(path, cast_to=httpx2.Response, options=options)
        return self._client.post(path, cast_to=httpx2.Response, body=body, options=options)

    def _unanswered(self, cause: BaseException) -> Fault:
        """Returns the fault of a request without an answer: its own if others are answered, else the service is away.

        A machine that is switched off, and a tunnel or proxy to a service that is gone, look like a request that takes
        for ever or ends the connection.
        """
        reason = f"{type(cause).__name__}: {first_line(cause)}"
        if isinstance(cause, httpx2.ReadTimeout | httpx2.WriteTimeout):
            reason = f"no answer within {self.settings.timeout:g} s"
        return Fault(reason=self._clean(reason), is_away=not (isinstance(cause, _SENT) and self._is_there()))

    def _is_there(self) -> bool:
        """Returns whether the service answers anything at all, and does not say that it cannot."""
        try:
            with self._http.stream("GET", f"{self.settings.url}/health", timeout=_HEALTH_S) as answer:
                return answer.status_code not in _AWAY
        except httpx2.HTTPError:
            return False

    def _refused(self, response: httpx2.Response) -> Fault:
        """Returns the fault of a status that is no success; raises what `refusal` makes of it."""
        error = self._error(response)
        meaning = self.refusal(error)
        if meaning and error.is_stated:
            raise meaning from None
        wait_s = asked_wait_s(response.headers.get("retry-after"), self._clock)
        return Fault(
            lasting=meaning,
            reason=f"HTTP {error.status} {error.message}".rstrip(),
            is_away=error.status in _AWAY or (wait_s is not None and meaning is None),
            asked_wait_s=wait_s,
        )

    def _error(self, response: httpx2.Response) -> ServiceError:
        try:
            body = json.loads(response.content)
        except (ValueError, RecursionError):
            body = None
        said = body.get("error", body) if isinstance(body, Mapping) else {}
        said = said if isinstance(said, Mapping) else {"message": said}
        message, code = said.get("message", response.reason_phrase), said.get("code")
        return ServiceError(
            status=response.status_code,
            code=self._clean(code) if isinstance(code, str) else "",
            message=self._clean(message) if isinstance(message, str) else "",
            is_stated="message" in said,
        )

    def without_key(self, text: str) -> str:
        """Returns a stranger's text without the key, which it may quote."""
        return text.replace(self._key, "***") if self._key else text

    def _clean(self, text: str) -> str:
        return printable(" ".join(self.without_key(text).split()))[:_MOST_CHARACTERS]

    def _wait_for_pace(self, tokens: int) -> None:
        with self._lock:
            wait_s = max(self._requests.reserve(1), self._tokens.reserve(tokens))
        if wait_s > 0:
            self._clock.sleep(wait_s)

    def _wait_after(self, faults: Sequence[Fault], began_s: float) -> None:
        """Waits before the next attempt, or gives up."""
        last, patience = faults[-1], self.settings.patience
        is_asked = last.asked_wait_s is not None
        self._has_answered |= is_asked
        if not self._has_answered:
            patience = min(patience, FIRST_PATIENCE_S)
        left_s = began_s + patience - self._clock.now()
        with self._lock:
            wait_s = max(self._backoff.after(len(faults)), last.asked_wait_s or 0.0)
        self._last_away = last if last.is_away else self._last_away
        opens = self._breaker.faulted(wait_s, is_asked=is_asked)
        if last.lasting and sum(fault.lasting is not None for fault in faults) >= MOST_UNSTATED:
            raise last.lasting from None
        num_wrong = sum(not fault.is_away for fault in faults)
        if num_wrong >= MOST_WRONG or (wait_s > left_s and num_wrong == len(faults)):
            times = f"{len(faults)} times" if len(faults) > 1 else "once"
            where = f"the service at {self.settings.url}"
            raise EngineError(f"{where} did not answer rightly, asked {times}: {last.reason}")
        if wait_s > left_s:
            self._give_up(wait_s, last)
        if opens:
            self.say(
                f"the service at {self.settings.url} does not answer, and is asked again until it does: {last.reason}"
            )
        if is_asked and wait_s >= SAID_S:
            self.say(f"the service at {self.settings.url} asks to wait {wait_s:,.0f} s: {last.reason}")
        self._clock.sleep(wait_s)

    def _give_up(self, wait_s: float, last: Fault | None) -> NoReturn:
        if not self._has_answered and last is not None:
            raise ServiceOutage(
                f"the service at {self.settings.url} does not answer: {last.reason}\n"
                f"Does it run, and is `{self.settings.place}.url` right? The same command goes on once it answers"
            )
        patience, is_asked = self.settings.patience, last is not None and last.asked_wait_s is not None
        what = f"asks to wait {wait_s:,.0f} s" if is_asked else "is away"
        longer = max(math.ceil(wait_s + patience), 2 * math.ceil(patience)) if math.isfinite(wait_s) else 86_400
        raise ServiceOutage(
            f"the service at {self.settings.url} {what}, and `{self.settings.place}.patience` is {patience:,.0f} s: "
            f"{last.reason if last else 'several requests in a row were not answered'}\n"
            "Nothing is lost, and no trial FAILED by it: the same command goes on from here; "
            f"{self.settings.waiting_longer(longer)}"
        )


def is_passing(status: int) -> bool:
    """Returns whether a status is one that may be another when the same is asked again."""
    return status in _AWAY or status in _PASSING or status >= 500


def _say_nothing(text: str) -> None:
    pass


def _no_constant(name: str) -> NoReturn:
    raise WrongAnswer(f"{name} is no JSON")


def _said(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return f"{type(error).__name__}: {first_line(error)}"
