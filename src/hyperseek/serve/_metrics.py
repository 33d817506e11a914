"""What the server says about itself: metrics for Prometheus, spans for OpenTelemetry, and a log of JSON lines."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from hyperseek.errors import printable, shortened
from hyperseek.serve._limits import Passed
from hyperseek.serve._shelf import Shelf

logger = logging.getLogger("hyperseek.serve")

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
STAGES = ("queue", "tokenise", "encode", "search", "rescore")


class Metrics:
    """Counters and times of one server."""

    def __init__(self) -> None:
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
        """Add a measurement of a stage in seconds, or of `batch` in items."""
        if name == "batch":
            self.batches.observe(value)
        else:
            self.stages.labels(name).observe(value)

    def passed(self, request: Passed) -> None:
        """Count and log a request."""
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


def tracer() -> Callable[[str], Any]:
    """Return what starts a span by its name: of OpenTelemetry if its API is installed, else nothing."""
    try:
        from opentelemetry import trace
    except ImportError:
        return lambda name: nullcontext()
    return trace.get_tracer("hyperseek").start_as_current_span


@contextmanager
def timed(observe: Callable[[str, float], None], stage: str) -> Iterator[None]:
    """Measure the time of a block."""
    start = time.perf_counter()
    try:
        yield
    finally:
        observe(stage, time.perf_counter() - start)


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
