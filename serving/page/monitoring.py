"""What Prometheus is told of the page. Each page has its own registry, so that tests can have several."""

import threading
from collections.abc import Callable, Iterable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST

OTHER = "other"
"""The route of every path that is none: a label must not have as many values as strangers can think of."""

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Counts, times and states of one page."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "ladnn_page_requests",
            "Requests by route and status; 499 is a client that went away",
            ("route", "status"),
            registry=self._registry,
        )
        self._images = Counter(
            "ladnn_page_images",
            "Files of uploads: answered, abstained, error (none that can be answered), not_begun (dropped)",
            ("state",),
            registry=self._registry,
        )
        self._series = Counter(
            "ladnn_page_series",
            "Series: answered, abstained (all slices left out), error (not read), not_begun (dropped)",
            ("state",),
            registry=self._registry,
        )
        self._request_seconds = Histogram(
            "ladnn_page_request_seconds",
            "Seconds from a request's headers until its answer is sent",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._queue_seconds = Histogram(
            "ladnn_page_queue_seconds",
            "Seconds for which an image waited for a worker",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._answer_seconds = Histogram(
            "ladnn_page_answer_seconds",
            "Seconds for which the predictor worked on an image",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._model = Gauge(
            "ladnn_page_model_info",
            "The model that answered last, 1",
            ("version", "card_sha256"),
            registry=self._registry,
        )
        self._ready = Gauge(
            "ladnn_page_ready",
            "1 if the model answered a phantom slice when /readyz or a scrape last had it asked, else 0; "
            "an answer counts for --ready_seconds",
            registry=self._registry,
        )
        self._model_lock = threading.Lock()
        self._last_model: tuple[str, str] | None = None

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Adds a gauge whose value is asked for when it is read."""
        Gauge(name, text, registry=self._registry).set_function(value)

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """Counts a request that ended."""
        self._requests.labels(route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def count_images(self, states: Iterable[str]) -> None:
        """Counts files by what became of them."""
        for state in states:
            self._images.labels(state).inc()

    def count_series(self, states: Iterable[str]) -> None:
        """Counts series by what became of them."""
        for state in states:
            self._series.labels(state).inc()

    def queued(self, seconds: float) -> None:
        """Notes how long an image waited for a worker."""
        self._queue_seconds.observe(seconds)

    def answered(self, seconds: float) -> None:
        """Notes how long the predictor worked on an image."""
        self._answer_seconds.observe(seconds)

    def set_ready(self, ready: bool) -> None:
        """Notes whether the model answers."""
        self._ready.set(ready)

    def set_model(self, version: str, card_sha256: str) -> None:
        """Notes which model answered."""
        with self._model_lock:
            if self._last_model != (version, card_sha256):
                self._model.clear()
                self._model.labels(version, card_sha256).set(1)
                self._last_model = version, card_sha256

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self._registry)
