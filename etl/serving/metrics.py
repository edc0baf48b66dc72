"""The metrics of the service for Prometheus, by route; no label has a value of a request."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from etl.serving.access import Served

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counts and times of requests, and the state of the service."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        labels = ["route", "method", "status"]
        self._seconds = Histogram(
            "etl_serve_request_seconds", "Time of a request.", labels, buckets=_SECONDS, registry=self._registry
        )
        self._bytes = Counter("etl_serve_response_bytes", "Bytes of bodies.", ["route"], registry=self._registry)
        self._kept = Counter(
            "etl_serve_kept_answers", "Answers without the database.", ["status"], registry=self._registry
        )
        self._gauges: dict[str, Gauge] = {}
        self._sent: dict[str, Counter] = {}
        self._kept_by_status: dict[int, Counter] = {}
        self._known: dict[tuple[str, str, int], Histogram] = {}

    def note(self, method: str, served: Served) -> None:
        """Count a request."""
        key = (
            served.route or "other",
            method if method in {"GET", "HEAD", "POST", "OPTIONS"} else "other",
            served.status,
        )
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._seconds.labels(key[0], key[1], str(key[2]))
        found.observe(served.seconds)
        sent = self._sent.get(key[0])
        if sent is None:
            sent = self._sent[key[0]] = self._bytes.labels(key[0])
        sent.inc(served.bytes)
        if served.is_kept:
            kept = self._kept_by_status.get(served.status)
            if kept is None:
                kept = self._kept_by_status[served.status] = self._kept.labels(str(served.status))
            kept.inc()

    def text(self, state: Mapping[str, float]) -> bytes:
        """Return all metrics in the text format; `state` are the values of now, by name."""
        for name, value in state.items():
            if name not in self._gauges:
                words = name.replace("_", " ")
                self._gauges[name] = Gauge(f"etl_serve_{name}", f"{words.capitalize()}.", registry=self._registry)
            self._gauges[name].set(value)
        return generate_latest(self._registry)
