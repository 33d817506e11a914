"""The server's app: its routes, its gate, and what is done when it starts and stops."""

from __future__ import annotations

import asyncio
import logging
import math
import mimetypes
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
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
from hyperseek.serve._limits import (
    Gate,
    ServeSettings,
    Shape,
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
from hyperseek.serve.keys import keys_of_environment
from hyperseek.serve.listening import Server, listening

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
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=math.ceil(settings.seconds) + _LEAVE,
    )
    with listening(settings.host, settings.port) as (listener, url):
        app.state.opening.open()
        Server(config, partial(ready, url), settings.seconds).run([listener])
