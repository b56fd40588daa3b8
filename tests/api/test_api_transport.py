"""One request after another: what is retried, what ends a run, what is the user's, and how long all of it takes."""

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from faults_transport import SimulatedClock

from crossbreed.errors import EngineError, InputError, InvalidWeights, ServiceOutage
from crossbreed.fitness.services.faults import ModelForgotten, WrongAnswer
from crossbreed.fitness.services.pace import OPENS_AFTER, Backoff, Breaker, Pacer, asked_wait_s
from crossbreed.fitness.services.settings import ServiceSettings
from crossbreed.fitness.services.transport import FIRST_PATIENCE_S, MOST_UNSTATED, MOST_WRONG, Transport

OK = httpx2.Response(200, json={"ok": 1})
RESET = httpx2.ReadError("connection reset by peer")
REFUSED = httpx2.ConnectError("connection refused")


def status(code: int, *, says: str = "", word: str = "", after: str | None = None) -> httpx2.Response:
    headers = {} if after is None else {"Retry-After": after}
    content = json.dumps({"error": {"message": says, "code": word}}).encode() if says else b"<html>no</html>"
    return httpx2.Response(code, headers=headers, content=content)


class Line:
    """A transport to a service that gives these answers, one after the other, the last one for ever."""

    def __init__(
        self,
        *answers: httpx2.Response | Exception,
        health: httpx2.Response | Exception = OK,
        late_s: float = 0.0,
        **settings: Any,
    ) -> None:
        self.answers, self.num_asked, self.clock, self.said = answers, 0, SimulatedClock(), list[str]()
        self.health, self.late_s = health, late_s
        """What it says of itself; the seconds after which a request is given up."""
        self.transport = Transport(
            ServiceSettings(url="http://service.test/v1/", **settings),
            say=self.said.append,
            http=httpx2.MockTransport(self._answer),
            clock=self.clock,
        )

    def ask(self) -> int:
        return self.transport.post("/v1/x", {"q": 1}, read)

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        is_probe = request.url.path == "/health"
        found = self.health if is_probe else self.answers[min(self.num_asked, len(self.answers) - 1)]
        self.num_asked += not is_probe
        if isinstance(found, httpx2.TimeoutException):
            self.clock.sleep(self.late_s)
        if isinstance(found, Exception):
            raise found
        return httpx2.Response(found.status_code, headers=found.headers, content=found.content)


def read(value: Any) -> int:
    if not isinstance(value, dict) or type(value.get("ok")) is not int:
        raise WrongAnswer("no `ok`")
    return int(value["ok"])


@pytest.mark.parametrize(
    "fault",
    [
        *(status(code) for code in (408, 409, 425, 429, 500, 502, 503, 504, 529)),
        *(status(code, says="busy") for code in (408, 429, 500, 503)),
        *(status(code) for code in (400, 403, 404, 422)),  # without a word of the service's own: a proxy's
        *(httpx2.Response(200, content=content) for content in (b"", b"{}", b"[]", b"null", b'{"ok": 1', b"<html>")),
        *(
            httpx2.Response(200, content=content)
            for content in (b'{"ok": NaN}', b'{"ok": true}', b"\xff", b"[" * 10**5)
        ),
        *(RESET, REFUSED, httpx2.ReadTimeout("late"), httpx2.ConnectTimeout("late"), httpx2.PoolTimeout("late")),
        *(httpx2.RemoteProtocolError("cut"), httpx2.WriteError("broken pipe"), httpx2.ProxyError("no proxy")),
        httpx2.DecodingError("no gzip"),
    ],
    ids=lambda fault: type(fault).__name__ if isinstance(fault, Exception) else f"{fault.status_code}",
)
def test_a_fault_is_asked_again(fault: Any) -> None:
    line = Line(fault, fault, OK)
    assert line.ask() == 1
    assert line.num_asked == 3
    assert 0 < line.clock.seconds < 5


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (status(401, says="unknown key"), InputError, "name the variable"),
        (status(403, says="no", word="no_right"), InputError, "ask the provider for the right"),
        (status(403, says="spent", word="budget_spent"), InputError, "the same command goes on"),
        (status(400, says="too far", word="recipe_refused"), InputError, "narrow the space"),
        (status(400, says="a bad field"), InputError, "a bad field"),
        (status(404, says="no path"), InputError, "the address of the service itself"),
        (status(302, says="over there"), InputError, "the address of the service itself"),
        (status(404, says="which?", word="model_not_found"), ModelForgotten, "which?"),
        (status(422, says="a NaN", word="invalid_weights"), InvalidWeights, "a NaN"),
    ],
)
def test_what_asking_again_would_not_mend(answer: httpx2.Response, error: type[Exception], said: str) -> None:
    line = Line(answer)
    with pytest.raises(error, match=said):
        line.ask()
    assert line.num_asked == 1


def test_a_refusal_without_a_word_is_believed_in_the_end() -> None:
    line = Line(status(404))
    with pytest.raises(InputError, match="HTTP 404"):
        line.ask()
    assert line.num_asked == MOST_UNSTATED


def test_a_request_that_is_never_answered_rightly_is_an_engine_s_fault() -> None:
    line = Line(OK, status(500))
    assert line.ask() == 1
    with pytest.raises(EngineError, match=f"asked {MOST_WRONG} times: HTTP 500"):
        line.ask()
    assert line.num_asked == 1 + MOST_WRONG


def test_a_service_that_is_away_is_an_outage() -> None:
    line = Line(OK, REFUSED, patience=300)
    assert line.ask() == 1
    with pytest.raises(
        ServiceOutage, match=r"(?s)is away.*`crossbreed run` waits longer with `--set fitness\.engine\.patience=600"
    ):
        line.ask()
    assert 250 < line.clock.seconds <= 300
    assert len(line.said) == 1, "it is said once"


SILENCE = [
    *(httpx2.ReadTimeout("late"), httpx2.WriteTimeout("late"), RESET, httpx2.RemoteProtocolError("cut")),
    *(httpx2.ConnectTimeout("late"), httpx2.PoolTimeout("late")),
]


@pytest.mark.parametrize("fault", SILENCE, ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize(
    "health", [REFUSED, httpx2.ReadTimeout("late"), status(503)], ids=["gone", "silent", "says so"]
)
def test_a_request_without_an_answer_is_an_outage_where_nobody_is_answered(fault: Exception, health: Any) -> None:
    """A machine that is off, a tunnel to a service that is gone, an engine that hangs: no candidate pays for it."""
    line = Line(OK, fault, health=health, patience=300)
    assert line.ask() == 1
    with pytest.raises(ServiceOutage, match="is away"):
        line.ask()
    assert line.num_asked > 1 + MOST_WRONG


@pytest.mark.parametrize(("health", "error"), [(OK, EngineError), (status(404), EngineError), (REFUSED, ServiceOutage)])
def test_one_answer_that_takes_all_the_patience(health: Any, error: type[Exception]) -> None:
    """Both are 600 s unless said: the request's own fault where others are answered, an outage where nobody is."""
    line = Line(OK, httpx2.ReadTimeout("late"), health=health, late_s=600)
    assert line.ask() == 1
    with pytest.raises(error):
        line.ask()
    assert line.num_asked == 2


@pytest.mark.parametrize("seconds", [5.0, 600.0])
def test_a_machine_that_is_off_is_not_waited_for_as_an_answer_is(seconds: float) -> None:
    seen = list[dict[str, float]]()

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.extensions["timeout"])
        return httpx2.Response(200, json={"ok": 1})

    settings = ServiceSettings(url="http://service.test", timeout=seconds)
    assert Transport(settings, http=httpx2.MockTransport(answer)).post("/v1/x", {}, read) == 1
    assert (seen[0]["read"], seen[0]["connect"] <= 15) == (seconds, True)


def test_a_fault_of_the_service_that_asks_for_time_is_an_outage() -> None:
    with pytest.raises(ServiceOutage, match="asks to wait 3,600 s"):
        Line(status(500, after="3600")).ask()


def test_a_service_that_never_answered_is_not_waited_for() -> None:
    line = Line(REFUSED)
    with pytest.raises(ServiceOutage, match=r"is `fitness\.engine\.url` right\?"):
        line.ask()
    assert line.clock.seconds <= FIRST_PATIENCE_S


def test_back_again_is_said() -> None:
    line = Line(*[REFUSED] * (OPENS_AFTER + 1), OK)
    assert line.ask() == 1
    assert [("again until" in text, "answers again" in text) for text in line.said] == [(True, False), (False, True)]


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        (status(404, says="which?", word="model_not_found"), ModelForgotten),
        (status(422, says="a NaN", word="invalid_weights"), InvalidWeights),
        (status(403, says="no", word="no_right"), InputError),
    ],
)
def test_a_service_that_comes_back_with_a_refusal_is_back(refusal: httpx2.Response, error: type[Exception]) -> None:
    line = Line(*[REFUSED] * (OPENS_AFTER + 1), refusal, OK)
    with pytest.raises(error):
        line.ask()
    seconds = line.clock.seconds
    assert line.ask() == 1, "a service that was restarted has forgotten its merges: they are posted again"
    assert line.clock.seconds == seconds
    assert "answers again" in line.said[-1]


@pytest.mark.parametrize(
    ("after", "seconds"),
    [
        ("7", 7),
        ("0.5", 0.5),
        ("-3", 0),
        ("Tue, 14 Nov 2023 22:14:20 GMT", 60),
        ("Tue, 14 Nov 2023 22:10:00 GMT", 0),
        ("soon", None),
        ("nan", None),
        (None, None),
    ],
)
def test_retry_after_is_read_in_all_its_forms(after: str | None, seconds: float | None) -> None:
    assert asked_wait_s(after, SimulatedClock()) == seconds


def test_what_the_service_asks_for_is_waited_and_long_waits_are_said() -> None:
    line = Line(status(429, after="7"), status(503, says="full", after="90"), OK)
    assert line.ask() == 1
    assert 97 <= line.clock.seconds < 98
    assert [text for text in line.said if "asks to wait 90 s" in text]


@pytest.mark.parametrize("after", ["3600", "inf", "1e300"])
def test_longer_than_the_patience_is_an_outage_at_once(after: str) -> None:
    line = Line(status(429, after=after))
    with pytest.raises(ServiceOutage, match=r"(?s)asks to wait.*--set fitness\.engine\.patience=\d+`"):
        line.ask()
    assert line.clock.seconds == 0
    with pytest.raises(ServiceOutage):
        line.ask()
    assert line.clock.seconds <= line.transport.settings.patience


def test_advice_on_patience_works() -> None:
    line = Line(status(429, after="3600"), OK, patience=4200)
    assert line.ask() == 1


def test_backoff_doubles_with_jitter_of_the_run_s_seed() -> None:
    waits = [Backoff(3).after(number) for number in range(1, 12)]
    assert waits == [Backoff(3).after(number) for number in range(1, 12)]
    assert waits != [Backoff(4).after(number) for number in range(1, 12)]
    draws = Backoff(3)
    assert all(0.25 * 2**n <= draws.after(n + 1) <= 0.5 * 2**n for n in range(6))
    assert draws.after(10**6) <= 30


def test_pace_is_kept_over_any_minute() -> None:
    clock = SimulatedClock()
    pacer, begun = Pacer(60, clock), list[float]()
    for amount in (1, 1, 10, 1, 200, 1, 1):
        clock.sleep(pacer.reserve(amount))
        begun.append(clock.seconds)
    assert begun == [0, 1, 2, 12, 13, 213, 214]
    assert Pacer(None, clock).reserve(10**9) == 0


@pytest.mark.parametrize(("settings", "seconds"), [({"requests_per_minute": 6}, 20), ({"tokens_per_minute": 60}, 10)])
def test_requests_and_tokens_are_paced(settings: dict[str, float], seconds: float) -> None:
    line = Line(OK, **settings)
    for _ in range(3):
        line.transport.post("/v1/x", {}, read, tokens=5)
    assert line.clock.seconds == seconds


def test_the_breaker_lets_one_ask_at_a_time() -> None:
    clock = SimulatedClock()
    breaker = Breaker(clock)
    for _ in range(OPENS_AFTER):
        assert breaker.enter(until=1e9) == 0
        breaker.faulted(10, is_asked=False)
    assert breaker.is_open
    assert breaker.enter(until=clock.now() + 5) == 10, "it would wait for longer than its caller"
    assert breaker.enter(until=1e9) == 0
    assert clock.now() == 10
    assert breaker.enter(until=clock.now() + 0.01) > 0 or clock.now() >= 10.01, "another waits for the probe"
    assert breaker.answered()
    assert not breaker.is_open


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("service.test", "is no address"),
        ("ftp://service.test", "is no address"),
        ("http://", "is no address"),
        ("http://service.test:port", "is no address"),
        ("http://service.test/v1?key=1", "is no address"),
        ("http://me:secret@service.test", "key_env"),
    ],
)
def test_addresses(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        ServiceSettings(url=url)
    assert "secret" not in str(error.value).replace("input_value", "").split("[type=")[0]


@pytest.mark.parametrize("key", ["", "  ", "sk\n-1", "schlüssel"])
def test_what_is_no_key(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_KEY", key)
    with pytest.raises(InputError, match="export SERVICE_KEY"):
        Line(OK, key_env="SERVICE_KEY")


def test_a_key_that_comes_back_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_KEY", "sk-canary")
    echoes: list[tuple[httpx2.Response | Exception, Callable[..., Any]]] = [
        (status(401, says="the key sk-canary is unknown"), str),
        (httpx2.ConnectError("Bearer sk-canary"), str),
        (status(500, says="sk-canary"), str),
    ]
    for answer, shown in echoes:
        line = Line(answer, key_env="SERVICE_KEY")
        with pytest.raises(Exception, match=r"\*\*\*") as error:
            line.ask()
        assert "sk-canary" not in shown(error.value) + "".join(line.said)
        assert error.value.__cause__ is None
        assert error.value.__suppress_context__ or error.value.__context__ is None


def test_nothing_of_openai_s_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "of-another-service")
    seen = list[httpx2.Headers]()

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.headers)
        return httpx2.Response(200, json={"ok": 1})

    transport = Transport(ServiceSettings(url="http://service.test"), http=httpx2.MockTransport(answer))
    assert transport.post("/v1/x", {}, read) == transport.get("/v1/x", read) == 1
    assert not any("of-another-service" in str(dict(headers)) for headers in seen)
    assert not any("authorization" in headers for headers in seen)


def test_nobody_waits_for_a_service_that_was_given_up() -> None:
    line = Line(status(429, after="3600"), concurrency=8)
    with pytest.raises(ServiceOutage, match="asks to wait 3,600 s"):
        line.transport.post_all("/v1/x", [{"n": n} for n in range(40)], read)
    assert line.clock.seconds == 0
    assert line.num_asked <= 8


def test_several_questions_are_answered_in_their_order() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json={"ok": json.loads(request.content)["n"]})

    transport = Transport(ServiceSettings(url="http://service.test"), http=httpx2.MockTransport(answer))
    assert transport.post_all("/v1/x", [{"n": n} for n in range(40)], read) == list(range(40))
