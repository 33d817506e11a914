"""What the server refuses, and how it says so: settings, shapes of errors, and the gate that every request passes."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hyperseek import errors
from hyperseek._bounded import json_value
from hyperseek._config import Config
from hyperseek.errors import (
    HyperseekError,
    InputError,
    MissingDocumentError,
    MissingExtraError,
    UnknownNameError,
    brief,
    shortened,
)
from hyperseek.serve._batcher import Busy
from hyperseek.serve.keys import Keys
from hyperseek.serve.listening import is_loopback
from hyperseek.store.lance import InUseError

logger = logging.getLogger("hyperseek.serve")


class ServeSettings(Config):
    """How a server listens, and what it allows.

    API keys are no setting: they are read from the environment variable `HYPERSEEK_API_KEYS`, separated by commas.

    Attributes:
        host: Address to listen at; others than this machine's own need keys.
        port: Port to listen at.
        hosts: Further names by which the server may be addressed, as `search.example.org`.
        writable: Whether documents may be added and deleted.
        watch: Whether indexes that mirror a folder of files follow it.
        most_body_bytes: Bytes of the body of a request.
        most_k: Documents of a query.
        most_queries: Queries of a request.
        most_texts: Texts of a request that are embedded, or ranked.
        most_waiting: Requests that may wait for an index, or for a model, at a time.
        seconds: Time for the head of a request to arrive, and as much for its body, its answer, and reading that.
        batch_tokens: Tokens that are computed together, padding included; None for what suits the device.
        longest_wait: Seconds that a request waits for others to be computed with.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    hosts: tuple[str, ...] = ()
    writable: bool = False
    watch: bool = False
    most_body_bytes: int = Field(default=8 << 20, ge=1)
    most_k: int = Field(default=1000, ge=1)
    most_queries: int = Field(default=256, ge=1)
    most_texts: int = Field(default=2048, ge=1)
    most_waiting: int = Field(default=256, ge=1)
    seconds: float = Field(default=60.0, gt=0)
    batch_tokens: int | None = Field(default=None, ge=1)
    longest_wait: float = Field(default=0.002, ge=0)


@dataclass(frozen=True)
class Problem:
    """Why a request is not answered.

    Attributes:
        status: HTTP status.
        kind: Name of the class of the error in `hyperseek.errors`, or of what it is.
        message: What was given, what is allowed, what to do.
        headers: Of the answer.
        field: The part of the body that is at fault, if one is.
    """

    status: int
    kind: str
    message: str
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    field: str | None = None


class Refused(Exception):
    """A request that is not answered, for a reason that no class of `hyperseek.errors` stands for.

    Args:
        status: HTTP status.
        message: For the client.
        kind: As in `Problem`.
        field: As in `Problem`.
        headers: As in `Problem`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "InputError",
        *,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.problem = Problem(status, kind, message, headers or {}, field)


Shape: TypeAlias = Callable[[Problem], tuple[int, Mapping[str, Any]]]
"""Returns the status and the body of the answer of a problem."""


def our_shape(problem: Problem) -> tuple[int, Mapping[str, Any]]:
    """Return the status and the body of an error of our own API."""
    return problem.status, {"error": {"type": problem.kind, "message": problem.message}}


def response_of(problem: Problem, shape: Shape = our_shape) -> Response:
    """Return the answer of a problem, in the shape of its route."""
    status, body = shape(problem)
    return JSONResponse(body, status, dict(problem.headers))


# Paths of files in messages about the server's own folders, which are not a client's business.
_PATH = re.compile(r"(?<![\w/])(/[^\s'\",;:()]+){2,}")


_SAID = {
    404: "this server has no such address; its guide and /openapi.json list those that it has",
    405: "this address is asked by another method; the header Allow says which",
}


def problem_of(error: BaseException) -> Problem:
    """Return what to answer for an error.

    Args:
        error: Any.

    Returns:
        The problem; what is not meant for clients is in none of its parts.
    """
    if isinstance(error, HTTPException) and isinstance(error.__cause__, Refused):
        error = error.__cause__  # FastAPI has words of its own for whatever fails while a body is read
    if isinstance(error, Refused):
        return error.problem
    if isinstance(error, Busy):
        return Problem(429, "Busy", str(error), {"Retry-After": str(error.seconds)})
    if isinstance(error, RequestValidationError):
        return Problem(422, "InputError", _faults(error), field=_place(error.errors()[0]))
    if isinstance(error, HTTPException):
        said = _SAID.get(error.status_code, str(error.detail))
        return Problem(error.status_code, "InputError", said, error.headers or {})
    if isinstance(error, TimeoutError):
        return Problem(504, "Timeout", "the time for a request is over; ask for less, or again later")
    # A class of ours that is not public is told as the public one that it extends.
    kind = next((cls.__name__ for cls in type(error).__mro__ if cls.__name__ in errors.__all__), type(error).__name__)
    if isinstance(error, UnknownNameError | MissingDocumentError):
        return Problem(404, kind, str(error))
    if isinstance(error, InputError):
        return Problem(400, kind, str(error))
    if isinstance(error, HyperseekError):
        status = 501 if isinstance(error, MissingExtraError) else 503
        later = {"Retry-After": "1"} if isinstance(error, InUseError) else {}
        return Problem(status, kind, _PATH.sub("…", str(error)), later)
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = "" if place is None else f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}"
    logger.error("a request failed", extra={"fields": {"error": kind, "where": where}})
    return Problem(500, "InternalError", "the server failed; its log says where")


_MOST_FAULTS = 5
_MOST_BODIES = 32  # of the largest size that may be in memory at a time


def _faults(error: RequestValidationError) -> str:
    said = []
    for fault in error.errors()[:_MOST_FAULTS]:
        place = _place(fault)
        if fault["type"] == "json_invalid":
            said.append(f"the body is not valid JSON: {fault.get('ctx', {}).get('error', '')}")
        elif fault["type"] == "missing" and not place:
            said.append("there is no body; send an object of JSON")
        else:
            said.append(f"{shortened(place, 100) or 'the body'}: {_said(fault)}")
    more = len(error.errors()) - _MOST_FAULTS
    return "; ".join(said) + (f"; and {more} more" if more > 0 else "")


def _said(fault: Mapping[str, Any]) -> str:
    return shortened(fault["msg"].removeprefix("Value error, "))


def _place(fault: Mapping[str, Any]) -> str:
    return ".".join(str(part) for part in fault["loc"] if part != "body")


class _Request(Request):
    """Reads JSON within bounds."""

    async def json(self) -> Any:
        body = await self.body()
        try:
            return json_value(body.decode())
        except ValueError as error:
            message = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else brief(error)
            raise Refused(422, f"the body is not valid JSON: {message}") from None


def routes(shape: Shape = our_shape) -> type[APIRoute]:
    """Return the class of routes whose errors have a shape: `APIRouter(route_class=routes(shape))`.

    A handler that answers in several shapes sets `request.state.shape` before anything can fail.
    """

    class Shaped(APIRoute):
        error_shape = staticmethod(shape)

        def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
            original = super().get_route_handler()

            async def answer(request: Request) -> Response:
                request = _Request(request.scope, request.receive)
                try:
                    if request.method in ("POST", "PUT", "PATCH", "DELETE"):
                        _check_type(request)
                    return await original(request)
                except Exception as error:
                    problem = problem_of(error)
                    if (shelf := request.app.state.shelf) is not None:
                        problem = dataclasses.replace(problem, message=shelf.without_paths(problem.message))
                    return response_of(problem, getattr(request.state, "shape", shape))

            return answer

    return Shaped


def _check_type(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and request.headers.get("content-length", "") != "0":
        raise Refused(415, "the body must be JSON; send it with the header Content-Type: application/json")


@dataclass
class Passed:
    """A request that went through the gate, for logs and metrics.

    Attributes:
        id: Given by the client, or made.
        method: As in `POST`.
        route: Path of the route, with names in place of parameters; None where there is no such route.
        status: Of the answer; 499 where the client had gone.
        seconds: From its arrival to the end of its answer.
    """

    id: str
    method: str
    route: str | None
    status: int
    seconds: float


class Gate:
    """ASGI middleware that bounds each request: who may ask, from where, how much, and how long.

    Bodies are read before anything is done with them, so that what they cost is bounded; when a client goes, its
    request is cancelled.

    Args:
        app: What answers.
        settings: The limits.
        keys: API keys; none where requests need no key.
        shape_of: Returns the shape of errors by path.
        open_paths: Beginnings of paths that may be read without a key, such as that of a page without data; `/` is too.
        passed: Called after each request, with its span.
        span: Begins the span of a request, by its method and headers.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: ServeSettings,
        keys: tuple[str, ...],
        shape_of: Callable[[str], Shape],
        open_paths: tuple[str, ...],
        passed: Callable[[Passed, Any], None],
        span: Callable[[str, Mapping[str, str]], AbstractContextManager[Any]],
    ) -> None:
        self._app = app
        self._settings = settings
        self._keys = Keys(keys)
        self._shape_of = shape_of
        self._open_paths = open_paths
        self._passed = passed
        self._span = span
        self._held = 0
        self._hosts = _host_names(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        start = time.monotonic()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        passed = Passed(_request_id(headers.get("x-request-id")), scope["method"], None, 499, 0.0)
        started, held = False, _Held()

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started, passed.status = True, message["status"]
                # Nobody reads the rest of a body that is refused.
                ending = [] if held.whole else [(b"connection", b"close")]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", passed.id.encode()), *ending]
            await send(message)

        with self._span(scope["method"], headers) as span:
            try:
                self._check(scope, headers)
                await self._taken(scope, headers, receive, answer, held)
            except Exception as error:
                problem = problem_of(error)  # which notes what is unexpected
                if not started:
                    await response_of(problem, self._shape_of(scope["path"]))(scope, receive, answer)
            finally:
                passed.route = getattr(scope.get("route"), "path", None)
                passed.seconds = time.monotonic() - start
                self._passed(passed, span)

    def _check(self, scope: Scope, headers: Mapping[str, str]) -> None:
        host = _host_name(headers.get("host", ""))
        if self._hosts is not None and host not in self._hosts:
            # A page of another site whose name was made to lead here.
            raise Refused(403, f"this server is not {shortened(host, 100)!r}; name it with --name if it is", "Refused")
        origin, reads = headers.get("origin"), scope["method"] in ("GET", "HEAD")
        if origin is not None and not reads and origin.partition("://")[2].lower() != headers.get("host", "").lower():
            raise Refused(403, "pages of other sites may not ask this server", "Refused")
        path = scope["path"]
        is_open = reads and (path == "/" or path.startswith(self._open_paths))
        if not is_open and not self._keys.admit(headers):
            bearer = {"WWW-Authenticate": "Bearer"}
            said = "send a valid key: Authorization: Bearer KEY; for hyperseek's own client, set HYPERSEEK_API_KEY"
            raise Refused(401, said, "Refused", headers=bearer)

    async def _taken(self, scope: Scope, headers: Mapping[str, str], receive: Receive, send: Send, held: _Held) -> None:
        """Read the body and answer, unless the client goes first."""
        try:
            try:
                async with asyncio.timeout(self._settings.seconds):
                    body = await self._body(headers, receive, held)
            except TimeoutError:
                raise Refused(408, f"the body did not arrive within {self._settings.seconds:g} s", "Timeout") from None
            if body is not None:
                async with asyncio.timeout(self._settings.seconds):
                    await self._answered(scope, body, receive, send)
        finally:
            self._held -= held.bytes

    async def _body(self, headers: Mapping[str, str], receive: Receive, held: _Held) -> bytes | None:
        """Read the whole body; None if the client has gone."""
        most = self._settings.most_body_bytes
        too_large = Refused(413, f"the body has more than {most:,} bytes; send less at a time")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18 or int(length) > most:
            raise too_large
        parts: list[bytes] = []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            part = message.get("body", b"")
            held.bytes += len(part)
            self._held += len(part)
            if held.bytes > most:
                raise too_large
            if self._held > _MOST_BODIES * most:
                raise Busy(1)
            parts.append(part)
            if not message.get("more_body", False):
                held.whole = True
                return b"".join(parts)

    async def _answered(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Let the app answer, unless the client goes first."""
        gone = asyncio.ensure_future(_gone(receive))
        unread: list[bytes] = [body]

        async def again() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            await asyncio.shield(gone)
            return {"type": "http.disconnect"}

        answered = asyncio.ensure_future(_run(self._app, scope, again, send))
        try:
            await asyncio.wait({gone, answered}, return_when=asyncio.FIRST_COMPLETED)
            if answered.done():
                answered.result()
        finally:
            for task in (answered, gone):
                task.cancel()
            await asyncio.gather(answered, gone, return_exceptions=True)


@dataclass
class _Held:
    """What of a body is in memory.

    Attributes:
        bytes: How many bytes.
        whole: Whether that is all of it.
    """

    bytes: int = 0
    whole: bool = False


async def _run(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    await app(scope, receive, send)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _request_id(given: str | None) -> str:
    return given if given is not None and re.fullmatch(r"[\w.:-]{1,100}", given, re.ASCII) else uuid.uuid4().hex


def _host_name(host: str) -> str:
    """Return the name of a `Host` header, without its port."""
    name = host.rpartition(":")[0] if re.fullmatch(r".*:\d*", host) and not host.endswith("]") else host
    return name.strip("[]").lower()


def _host_names(settings: ServeSettings) -> set[str] | None:
    """Return the names by which the server is addressed; None for any, where it listens to other machines."""
    if not is_loopback(settings.host) and not settings.hosts:
        return None
    return {"localhost", "127.0.0.1", "::1", settings.host.lower(), *(name.lower() for name in settings.hosts)}
