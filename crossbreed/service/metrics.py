"""Counters for Prometheus, in a registry of their own: an engine's library may use the global one."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """What `/metrics` tells."""

    def __init__(self) -> None:
        """Begins at 0."""
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        of_request = ("path", "method", "status")
        self._requests = Counter("crossbreed_requests", "Requests answered.", of_request, registry=self._registry)
        self._seconds = Histogram(
            "crossbreed_request_seconds", "Time to answer.", ("path",), registry=self._registry, buckets=_SECONDS
        )
        self._tokens = Counter("crossbreed_tokens", "Tokens.", ("kind",), registry=self._registry)
        self._waiting = Gauge("crossbreed_waiting", "Requests that wait for the engine.", registry=self._registry)
        self._adopted = Gauge("crossbreed_adopted", "Times that the engine took a merge.", registry=self._registry)

    def count(self, path: str, method: str, status: int, seconds: float) -> None:
        """Counts a request."""
        self._requests.labels(path, method, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def count_tokens(self, *, prompt: int, completion: int) -> None:
        """Counts tokens."""
        self._tokens.labels("prompt").inc(prompt)
        self._tokens.labels("completion").inc(completion)

    def text(self, *, waiting: int, adopted: int) -> bytes:
        """Returns all of it in Prometheus' format."""
        self._waiting.set(waiting)
        self._adopted.set(adopted)
        found: bytes = generate_latest(self._registry)
        return found
