"""The server's app: its routes, its gate, and what is done when it starts and stops."""

from __future__ import annotations

import asyncio
import logging
import math
import mimetypes
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from hyperseek._long_work import is_quiet, set_quiet
from hyperseek._version import __version__
from hyperseek.errors import InputError
from hyperseek.serve._limits import (
    Gate,
    ServeSettings,
    Shape,
    is_loopback,
    keys_of_environment,
    our_shape,
    problem_of,
    response_of,
    routes,
)
from hyperseek.serve._map import router as map_router
from hyperseek.serve._metrics import JsonLines, Metrics, Seldom
from hyperseek.serve._openai import router as openai_router
from hyperseek.serve._rerank import plain as plain_rerank_router
from hyperseek.serve._rerank import router as rerank_router
from hyperseek.serve._search import router as search_router
from hyperseek.serve._shelf import Shelf, named
from hyperseek.serve._tei import router as tei_router

# Routers of the other wire formats are added here.
ROUTERS: tuple[APIRouter, ...] = (
    search_router,
    map_router,
    openai_router,
    rerank_router,
    plain_rerank_router,
    tei_router,
)

_PAGE = Path(__file__).parent / "page"
# Nothing from other hosts, no script but the page's own, and no text as HTML or script.
_PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "cache-control": "no-cache",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "x-content-type-options": "nosniff",
}

_LEAVE = 5  # seconds for the last answers to be sent

# The page holds no data, and asks for a key itself.
_OPEN_PATHS = ("/health", "/page/")

own = APIRouter(route_class=routes())


def create_app(
    indexes: Mapping[str, str],
    *,
    models: Mapping[str, str] | None = None,
    settings: ServeSettings | None = None,
    keys: tuple[str, ...] | None = None,
    device: str | None = None,
    backend: str | None = None,
) -> FastAPI:
    """Make the app of a server, for uvicorn or another server of ASGI apps.

    Args:
        indexes: Folders of indexes by name; the first one is for requests that name none.
        models: Folders or names of models that have no index here, by name.
        settings: Limits and addresses; None for the defaults.
        keys: API keys; None for those that the environment variable `HYPERSEEK_API_KEYS` names.
        device: Where models are loaded; None takes a GPU if there is one.
        backend: What runs models, as for `hyperseek.load`; None for torch.

    Returns:
        The app. Indexes and models are loaded when it starts, and requests before that are answered with status 503.
    """
    settings = settings or ServeSettings()
    metrics = Metrics()
    shelf = Shelf(
        indexes,
        models or {},
        settings,
        metrics.observe,
        reloaded=lambda name: metrics.reloads.labels(name).inc(),
        device=device,
        backend=backend,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(shelf.open)
        app.state.shelf = shelf
        try:
            yield
        finally:
            app.state.shelf = None
            await shelf.close()

    app = FastAPI(title="hyperseek", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.shelf, app.state.opening, app.state.metrics = None, shelf, metrics
    for router in (own, *ROUTERS):
        app.include_router(router)
    mimetypes.add_type("text/javascript", ".js")  # which is another one on some systems, and then not run
    app.mount("/page", _PageFiles(directory=_PAGE))

    async def refused(request: Request, error: Exception) -> Response:
        return response_of(problem_of(error), shape_of(request.url.path))

    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(RequestValidationError, refused)
    # Of the routers themselves: what an app lists of those that it includes is FastAPI's own business.
    shaped: list[Any] = [route for router in (own, *ROUTERS) for route in router.routes]

    @lru_cache(maxsize=256)
    def shape_of(path: str) -> Shape:
        return next((route.error_shape for route in shaped if route.path_regex.match(path)), our_shape)

    app.add_middleware(
        Gate,
        settings=settings,
        keys=keys_of_environment() if keys is None else keys,
        shape_of=shape_of,
        open_paths=_OPEN_PATHS,
        passed=metrics.passed,
        span=metrics.span,
    )
    return app


@own.api_route("/health", methods=["GET", "HEAD"])
async def health(request: Request) -> Response:
    """Say whether the server answers: 200, or 503 while it loads or stops."""
    return Response(status_code=503 if request.app.state.shelf is None else 200)


@own.get("/metrics")
async def metrics(request: Request) -> PlainTextResponse:
    """Return metrics in the text format of Prometheus."""
    text = await asyncio.to_thread(request.app.state.metrics.text, request.app.state.shelf)
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


@own.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def page() -> Response:
    """Return the page."""
    text = await asyncio.to_thread((_PAGE / "index.html").read_bytes)
    return Response(text, media_type="text/html", headers=_PAGE_HEADERS)


class _PageFiles(StaticFiles):
    """Files of the page, which a browser asks for again after an update of this package."""

    def file_response(self, *given: Any, **rest: Any) -> Response:
        """Return the file, or that it is as before."""
        response = super().file_response(*given, **rest)
        response.headers.update(_PAGE_HEADERS)
        return response


class _Server(uvicorn.Server):
    """Answers the requests that run when it is told to stop, and then ends as a program that has done its work."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], seconds: float) -> None:
        super().__init__(config)
        self._ready = ready
        self._seconds = seconds
        self._idle: dict[Any, tuple[Any, float]] = {}

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say so."""
        await super().startup(sockets)
        self._ready()

    async def on_tick(self, counter: int) -> bool:
        """Do what is to be done ten times a second."""
        if counter % 10 == 0:
            self._end_idle()
        return await super().on_tick(counter)

    def _end_idle(self) -> None:
        """End connections that send no whole head of a request, or do not read their answer; uvicorn keeps them."""
        before, now, self._idle = self._idle, time.monotonic(), {}
        for connection in tuple(self.server_state.connections):
            transport, request = connection.transport, getattr(connection, "cycle", None)
            if request is not None and not request.response_complete and not transport.is_closing():
                continue  # it is answered, within a time that the gate bounds
            last, since = before.get(connection, (request, now))
            if last is not request:
                since = now
            if now - since > self._seconds:
                transport.abort()  # closing would wait until the client has read the rest
            else:
                self._idle[connection] = (request, since)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at Ctrl-C and SIGTERM, without raising them again."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run(
    indexes: Sequence[str],
    models: Sequence[str] = (),
    settings: ServeSettings | None = None,
    *,
    device: str | None = None,
    backend: str | None = None,
    ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve indexes and models until Ctrl-C or SIGTERM; requests that run then are answered.

    Args:
        indexes: Folders, or `NAME=FOLDER`.
        models: Names or folders of models, or `NAME=MODEL`.
        settings: Limits and addresses; None for the defaults.
        device: Where models are loaded; None takes a GPU if there is one.
        backend: What runs models, as for `hyperseek.load`; None for torch.
        ready: Called with the server's URL when it answers.

    Raises:
        InputError: The address cannot be listened at, or two indexes have one name.
        HyperseekError: An index or a model cannot be opened.
    """
    settings = settings or ServeSettings()
    keys = keys_of_environment()
    app = create_app(named(indexes), models=named(models), settings=settings, keys=keys, device=device, backend=backend)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    handler.addFilter(Seldom())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("hyperseek.serve").setLevel(logging.WARNING if is_quiet() else logging.INFO)
    set_quiet(True)  # progress of searches
    if not keys and not is_loopback(settings.host):
        logging.getLogger("hyperseek.serve").warning("anybody who reaches this address may ask: no API keys are set")
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=math.ceil(settings.seconds) + _LEAVE,
    )
    with _listening(settings) as listening:
        host, port = listening.getsockname()[:2]
        app.state.opening.open()
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        _Server(config, partial(ready, url), settings.seconds).run([listening])


@contextmanager
def _listening(settings: ServeSettings) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio sends at once, instead of waiting for the client's acknowledgement (40 ms), only where TCP is named.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((settings.host, settings.port))
        except OSError as error:
            raise InputError(
                f"cannot listen at {settings.host}:{settings.port} ({error.strerror}); give another --port or --host"
            ) from None
        yield listening
