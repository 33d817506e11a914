"""What the server says about itself: metrics for Prometheus, spans for OpenTelemetry, and a log of JSON lines."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

try:
    from opentelemetry import trace
except ImportError:  # spans are for those who have it
    trace = None  # type: ignore[assignment]

from hyperseek.errors import printable, shortened
from hyperseek.serve._limits import Passed
from hyperseek.serve._shelf import Shelf

_SERVER = None if trace is None else trace.SpanKind.SERVER
logger = logging.getLogger("hyperseek.serve")

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
STAGES = ("queue", "tokenise", "encode", "search", "rescore")


class Metrics:
    """Counters and times of one server."""

    def __init__(self) -> None:
        self._tracer: Any = None if trace is None else trace.get_tracer("hyperseek")
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter(
            "hyperseek_requests", "Requests answered.", ["route", "method", "status"], registry=registry
        )
        self.seconds = Histogram(
            "hyperseek_request_seconds", "Time to an answer.", ["route"], buckets=_SECONDS, registry=registry
        )
        self.stages = Histogram(
            "hyperseek_stage_seconds", "Time of a stage of a batch.", ["stage"], buckets=_SECONDS, registry=registry
        )
        self.batches = Histogram("hyperseek_batch_items", "Items computed together.", buckets=_SIZES, registry=registry)
        self.waiting = Gauge("hyperseek_waiting_requests", "Requests that wait for answers.", registry=registry)
        self.documents = Gauge("hyperseek_documents", "Documents of an index.", ["index"], registry=registry)
        self.reloads = Counter("hyperseek_reloads", "Newer versions of an index shown.", ["index"], registry=registry)
        for stage in STAGES:
            self.stages.labels(stage)

    def observe(self, name: str, value: float) -> None:
        """Add a measurement of a stage in seconds, which has just ended, or of `batch` in items."""
        if name == "batch":
            self.batches.observe(value)
            return
        self.stages.labels(name).observe(value)
        if self._tracer is not None:
            now = time.time_ns()
            self._tracer.start_span(f"hyperseek.{name}", start_time=now - int(1e9 * value)).end(now)

    @contextmanager
    def span(self, method: str, headers: Mapping[str, str]) -> Iterator[Any]:
        """Begin the span of a request, as a part of the trace that its headers name; None without OpenTelemetry."""
        if self._tracer is None:
            yield None
            return
        from opentelemetry.propagate import extract

        with self._tracer.start_as_current_span(method, context=extract(headers), kind=_SERVER) as span:
            yield span

    def passed(self, request: Passed, span: Any) -> None:
        """Count and log a request, and complete its span."""
        if span is not None:
            span.update_name(f"{request.method} {request.route or 'none'}")
            span.set_attributes(
                {
                    "http.request.method": request.method,
                    "http.route": request.route or "none",
                    "http.response.status_code": request.status,
                }
            )
        route = request.route or "none"
        self.requests.labels(route, request.method, str(request.status)).inc()
        self.seconds.labels(route).observe(request.seconds)
        fields = {
            "request": request.id,
            "method": request.method,
            "route": route,
            "status": request.status,
            "milliseconds": round(1000 * request.seconds, 2),
        }
        logger.info("request", extra={"fields": fields})

    def text(self, shelf: Shelf | None) -> bytes:
        """Return all metrics in the text format of Prometheus, with those of a shelf as they are now."""
        if shelf is not None:
            for name, served in shelf.indexes.items():
                self.documents.labels(name).set(len(served.index))
            self.waiting.set(shelf.waiting)
        return generate_latest(self.registry)


class JsonLines(logging.Formatter):
    """One JSON object on each line; no texts of requests, no keys, and nothing that a terminal obeys."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}",
            "level": record.levelname.lower(),
            "message": shortened(printable(record.getMessage()), 500),
        }
        if record.exc_info is not None and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
        return printable(json.dumps({**line, **getattr(record, "fields", {})}, ensure_ascii=True))


class Seldom(logging.Filter):
    """Lets each message of another library pass once a second.

    Where no file can be opened, since too many connections are, asyncio has thousands of messages a second.
    """

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is logged."""
        if record.name.startswith("hyperseek"):
            return True
        key, now = (record.name, str(record.msg)), time.monotonic()
        if now - self._passed.get(key, -1.0) < 1:
            return False
        if len(self._passed) >= 100:  # messages with numbers in them
            self._passed.clear()
        self._passed[key] = now
        return True
