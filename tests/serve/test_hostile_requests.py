"""Clients that vanish, bodies that never end, pages of other sites, and requests that make no sense."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from serve_fixtures import running

KEY = "right-key"
KEYS = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def strict(make_index: Callable[..., Path]) -> Iterator[str]:
    """A server with little patience and two keys."""
    from hyperseek.serve import ServeSettings, create_app

    settings = ServeSettings(seconds=1, most_body_bytes=50_000, writable=True, hosts=("search.example.org",))
    with running(create_app({"notes": str(make_index(count=20))}, settings=settings, keys=("other", KEY))) as url:
        yield url


@pytest.fixture
def connect(strict: str) -> Iterator[Callable[[bytes], socket.socket]]:
    """Send bytes to the server."""
    host, port = strict.removeprefix("http://").split(":")
    opened: list[socket.socket] = []

    def send(sent: bytes) -> socket.socket:
        opened.append(socket.create_connection((host, int(port)), timeout=10))
        opened[-1].sendall(sent)
        return opened[-1]

    yield send
    for one in opened:
        one.close()


def head(route: str = "/search", *lines: str) -> bytes:
    all_lines = [f"POST {route} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *lines]
    return "\r\n".join([*all_lines, f"Authorization: Bearer {KEY}", "", ""]).encode()


def received(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
        if len(parts) == 1 and b"413" not in part[:20] and b"408" not in part[:20]:
            break
    return b"".join(parts)


def test_keys_are_needed_but_for_the_page(strict: str) -> None:
    body = {"query": "cat", "k": 1}
    with httpx.Client(base_url=strict) as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}, {"X-API-Key": f"{KEY}\xff"}):
            sent = {name: value.encode("latin-1") for name, value in headers.items()}
            refused = client.post("/search", json=body, headers=sent)
            assert refused.status_code == 401
            assert refused.json()["error"]["message"].startswith("send a valid key")
            assert KEY not in refused.text
        for headers in (KEYS, {"X-API-Key": KEY}, {"api-key": "other"}, {"authorization": f"bearer {KEY}"}):
            assert client.post("/search", json=body, headers=headers).status_code == 200
        assert client.get("/health").status_code == 200
        assert client.get("/").status_code == 200
        for closed in ("/metrics", "/indexes", "/openapi.json", "/nothing", "/v1/models"):
            assert client.get(closed).status_code == 401
        assert client.get("/page/../indexes").status_code == 401
        assert client.get("/page/%2e%2e/_app.py").status_code == 404


def test_pages_of_other_sites_may_neither_write_nor_rebind_the_name(strict: str) -> None:
    body = {"documents": [{"id": "x", "text": "y"}]}
    with httpx.Client(base_url=strict, headers=KEYS) as client:
        for origin in ("https://evil.example", "null", "http://[", "http://127.0.0.1:1"):
            refused = client.post("/documents", json=body, headers={"Origin": origin})
            assert refused.status_code == 403, origin
        assert client.post("/documents", content=json.dumps(body)).status_code == 415  # as a form or a text
        assert client.post("/search", json={"query": "cat"}, headers={"Origin": strict}).status_code == 200
        for host, status in (
            ("evil.example", 403),
            ("127.0.0.1.evil.example:80", 403),
            ("", 403),
            ("localhost:99", 200),
            ("[::1]:8080", 200),
            ("Search.Example.org", 200),
        ):
            assert client.get("/indexes", headers={"Host": host}).status_code == status, host


def test_bodies_are_bounded_whether_they_say_their_size_or_not(
    strict: str, connect: Callable[[bytes], socket.socket]
) -> None:
    large = httpx.post(f"{strict}/search", json={"query": "a" * 60_000}, headers=KEYS)
    assert (large.status_code, "50,000 bytes" in large.text) == (413, True)
    said = connect(head("/v1/embeddings", "Content-Length: 99999999999999999999"))
    assert b" 413 " in (answer := received(said))
    assert b'"invalid_request_error"' in answer  # in the shape of the route
    endless = connect(head("/search", "Transfer-Encoding: chunked"))
    endless.sendall(b"4000\r\n" + b"a" * 0x4000 + b"\r\n")
    with pytest.raises((ConnectionError, TimeoutError)):  # noqa: PT012  # which of the two sends is refused is a race
        for _ in range(1000):
            endless.sendall(b"4000\r\n" + b"a" * 0x4000 + b"\r\n")
            time.sleep(0.001)
    slow = connect(head("/search", "Transfer-Encoding: chunked"))
    slow.sendall(b"1\r\n{\r\n")
    start = time.monotonic()
    assert b" 408 " in received(slow)
    assert time.monotonic() - start < 8
    assert httpx.get(f"{strict}/indexes", headers=KEYS).status_code == 200


def test_a_request_whose_client_has_gone_is_not_computed(
    strict: str, connect: Callable[[bytes], socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    body = json.dumps({"queries": ["cat dog bird"] * 200, "k": 20}).encode()
    with caplog.at_level(logging.INFO, logger="hyperseek.serve"):
        for _ in range(30):
            connect(head("/search", f"Content-Length: {len(body)}") + body).close()
        end = time.monotonic() + 20
        while "hyperseek_waiting_requests 0.0" not in httpx.get(f"{strict}/metrics", headers=KEYS).text:
            assert time.monotonic() < end
            time.sleep(0.05)
    statuses = [record.fields["status"] for record in caplog.records if hasattr(record, "fields")]  # type: ignore[attr-defined]
    assert 499 in statuses


def test_requests_that_take_too_long_and_too_many_of_them_are_told_so(make_index: Callable[..., Path]) -> None:
    from hyperseek.serve import ServeSettings, create_app

    app = create_app({"notes": str(make_index(count=20))}, settings=ServeSettings(seconds=0.5, most_waiting=2), keys=())
    with running(app) as url, httpx.Client(base_url=url, timeout=30) as client:
        served = app.state.shelf.index()
        release = threading.Event()
        original, served.index.explain = served.index.explain, lambda *a, **k: release.wait(20) and original(*a, **k)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: client.post("/search", json={"query": "cat"}), range(8)))
        counts = sorted(answer.status_code for answer in answers)
        assert set(counts) == {429, 504}
        assert counts.count(504) == 2
        for answer in answers:
            if answer.status_code == 429:
                assert 1 <= int(answer.headers["retry-after"]) <= 30
        release.set()
        assert client.post("/search", json={"query": "cat"}).status_code == 200


ROUTES = {
    "/search": {"query": "cat", "k": 3, "where": "year > 2001", "plan": [{"kind": "full_text", "n": 3}], "options": {}},
    "/explain": {"queries": ["cat", "dog"], "engine": "exact", "texts": False},
    "/documents": {"documents": [{"id": "d1", "text": "cat", "title": "t", "metadata": {"year": 2000}}]},
    "/documents/get": {"ids": ["d1"]},
    "/map": {"index": "notes"},
    "/v1/embeddings": {"input": ["cat", "dog"], "model": "notes", "encoding_format": "float"},
    "/v1/multi-vector": {"input": ["cat"], "model": "notes"},
    "/v1/rerank": {"query": "cat", "documents": ["cat", "dog"], "model": "notes", "top_n": 1},
    "/v2/rerank": {"query": "cat", "documents": ["cat"], "model": "notes"},
    "/rerank": {"query": "cat", "texts": ["cat", "dog"]},
    "/embed": {"inputs": ["cat", "dog"]},
    "/embed_all": {"inputs": "cat"},
    "/similarity": {"inputs": {"source_sentence": "cat", "sentences": ["dog"]}},
    "/tokenize": {"inputs": "cat"},
}
VALUES: list[Any] = [
    None, True, 0, -1, 1.5, 10**30, 1e308, "", " ", "\u0000", "\ud800", "x" * 3000, "../../etc/passwd", "/etc/passwd",
    "a'; DROP TABLE", "((((((((((1=1", "year > ", "title LIKE '%'", "<script>alert(1)</script>", "\u001b[31m", [], {},
    [[]], [None], ["cat", 1], {"a": {}}, {"kind": "full_text"}, {"kind": "dense", "model": "minilm"}, ["rescore"],
    {"name": "x", "description": "y"}, "card.yaml", [{"kind": "union", "sources": ["auto", {"kind": "fusion"}]}],
]  # fmt: skip
NAMES = ["query", "queries", "k", "where", "plan", "options", "card", "level", "index", "engine", "model", "input"]


def mutated(chosen: random.Random) -> tuple[str, bytes]:
    """Return a route and a body that is probably wrong."""
    route = chosen.choice(list(ROUTES))
    body: Any = json.loads(json.dumps(ROUTES[route]))
    for _ in range(chosen.randint(1, 3)):
        kind = chosen.random()
        if kind < 0.55 and body:
            body[chosen.choice(list(body))] = chosen.choice(VALUES)
        elif kind < 0.75:
            body[chosen.choice(NAMES)] = chosen.choice(VALUES)
        elif body:
            body.pop(chosen.choice(list(body)))
    text = json.dumps(body).encode()
    kind = chosen.random()
    if kind < 0.06:
        text = text[: chosen.randint(0, len(text))]
    elif kind < 0.12:
        place = chosen.randint(0, len(text) - 1)
        text = text[:place] + bytes([chosen.randint(0, 255)]) + text[place + 1 :]
    elif kind < 0.14:
        text = b"[" * 3000 + b"]" * 3000
    elif kind < 0.16:
        text = json.dumps(chosen.choice(VALUES)).encode()
    return route, text


def well_formed(route: str, answer: httpx.Response) -> bool:
    """Whether an answer is one, or an error of the shape of its route."""
    if answer.status_code == 200:
        return True
    said = answer.json()
    told = said.get("message") or said.get("error")
    told = told.get("message") if isinstance(told, dict) else told
    return (
        400 <= answer.status_code < 500 and bool(told) and "Traceback" not in answer.text and "/tmp/" not in answer.text
    )


def ask_nonsense(url: str, count: int, seed: int) -> dict[int, int]:
    """Send requests; return how many had which status."""
    chosen = random.Random(seed)
    statuses: dict[int, int] = {}
    with httpx.Client(base_url=url, timeout=60) as client, ThreadPoolExecutor(4) as pool:

        def ask(one: tuple[str, bytes]) -> httpx.Response:
            return client.post(one[0], content=one[1], headers={"Content-Type": "application/json"})

        asked = [mutated(chosen) for _ in range(count)]
        for (route, body), answer in zip(asked, pool.map(ask, asked), strict=True):
            assert well_formed(route, answer), (route, body, answer.status_code, answer.text[:500])
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
        assert client.post("/search", json={"query": "cat"}).status_code == 200
        assert "hyperseek_waiting_requests 0.0" in client.get("/metrics").text
    return statuses


def test_nonsense_gets_clear_answers(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    statuses = ask_nonsense(str(client.base_url), 400, seed=0)
    assert set(statuses) <= {200, 400, 404, 413, 415, 422, 424}
    assert sum(count for status, count in statuses.items() if status != 200) > 200
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_thousand_requests_of_nonsense(client: httpx.Client) -> None:
    assert sum(ask_nonsense(str(client.base_url), 10_000, seed=1).values()) == 10_000


@pytest.mark.parametrize(
    ("route", "status", "kind"),
    [("/search", 422, "InputError"), ("/v1/embeddings", 400, "invalid_request_error"), ("/embed", 422, "Validation")],
)
def test_what_is_wrong_with_a_body_that_is_not_json_is_said(
    client: httpx.Client, route: str, status: int, kind: str
) -> None:
    for body, said in (
        (b'{"query', "not valid JSON"),
        (b'{"query": "a\xff"}', "not UTF-8"),
        (b'{"query": "a", "query": "b"}', "query"),
        (b'{"query": "\\ud800"}', "surrogate"),
        (b"[" * 3000, "64"),
    ):
        answer = client.post(route, content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, kind in answer.text, said in answer.text) == (status, True, True), answer.text


def test_answers_are_sent_without_waiting_for_acknowledgements() -> None:
    """Otherwise the body of an answer stays for 40 ms, until the client has acknowledged its head."""
    from hyperseek.serve.listening import listening

    async def at_once() -> int:
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = writer.get_extra_info("socket")
            accepted.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with listening("127.0.0.1", 0) as (listener, _):
            async with await asyncio.start_server(answer, sock=listener):
                _, writer = await asyncio.open_connection(*listener.getsockname())
                writer.close()
                return await asyncio.wait_for(accepted, 10)

    assert asyncio.run(at_once())


async def large(scope: Any, receive: Any, send: Any) -> None:
    """Answer with more than fits into the buffers of a connection."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"30000000")]})
    await send({"type": "http.response.body", "body": b"a" * 30_000_000})


def test_connections_that_neither_ask_nor_read_are_ended() -> None:
    from hyperseek.serve.listening import Server, listening

    ask = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

    async def connections() -> None:
        server = Server(uvicorn.Config(large, lifespan="off", log_config=None), lambda: None, seconds=1.5)
        with listening("127.0.0.1", 0) as (listener, _):
            serving = asyncio.create_task(server.serve([listener]))
            while not server.started:
                await asyncio.sleep(0.01)
            address = listener.getsockname()
            opened = [await asyncio.open_connection(*address, limit=1024) for _ in range(4)]
            for (_, writer), sent in zip(opened, (b"", ask[:20], ask, ask), strict=True):
                writer.write(sent)
            reader, writer = opened.pop()
            for _ in range(4):  # one that asks and reads stays
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(30_000_000)
                await asyncio.sleep(0.7)
                writer.write(ask)
            end = time.monotonic() + 10
            while len(server.server_state.connections) > 1 and time.monotonic() < end:
                await asyncio.sleep(0.05)
            assert len(server.server_state.connections) == 1
            await reader.readuntil(b"\r\n\r\n")
            for _, other in (*opened, (reader, writer)):
                other.transport.abort()
            server.should_exit = True
            await serving

    asyncio.run(connections())


def test_what_is_not_http_does_not_disturb(strict: str, connect: Callable[[bytes], socket.socket]) -> None:
    chosen = random.Random(0)
    for sent in (
        b"\x16\x03\x01" + bytes(chosen.randrange(256) for _ in range(200)),
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nxx",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 70_000,
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        b"\r\n" * 5000,
    ):
        connection = connect(sent)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(5)
        try:
            answer = connection.recv(4096)
        except ConnectionError:
            answer = b""
        assert b" 500 " not in answer
        assert b"Traceback" not in answer
    assert httpx.get(f"{strict}/indexes", headers=KEYS).status_code == 200


def test_messages_of_other_libraries_do_not_flood_the_log() -> None:
    from hyperseek.serve._metrics import Seldom

    seldom = Seldom()

    def passed(name: str, message: str) -> bool:
        return bool(seldom.filter(logging.LogRecord(name, logging.ERROR, "", 0, message, None, None)))

    full = "socket.accept() out of system resource"
    assert [passed("asyncio", full) for _ in range(5)] == [True, False, False, False, False]
    assert passed("asyncio", "another")
    assert all(passed("hyperseek.serve", "request") for _ in range(5))


def test_spans_are_those_of_the_trace_that_a_request_names(client: httpx.Client) -> None:
    trace = pytest.importorskip("opentelemetry.trace", reason="needs opentelemetry-sdk")
    sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="needs opentelemetry-sdk")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    client.post("/search", json={"query": "cat"}, headers={"traceparent": parent}).raise_for_status()
    end = time.monotonic() + 5
    while not (spans := {span.name: span for span in exporter.get_finished_spans()}).get("POST /search"):
        assert time.monotonic() < end
        time.sleep(0.01)
    asked = spans["POST /search"]
    assert f"{asked.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert asked.attributes["http.response.status_code"] == 200
    for stage in ("queue", "tokenise", "encode", "search"):
        assert spans[f"hyperseek.{stage}"].context.trace_id == asked.context.trace_id
