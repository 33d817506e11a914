"""Teachers behind endpoints, against a server that the test starts."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from hyperseek.errors import InputError, ModelError
from hyperseek.mining import load_teacher
from hyperseek.mining._endpoints import CohereTeacher, OpenAITeacher

Answer = Callable[[dict[str, Any]], Any]


class Endpoint(ThreadingHTTPServer):
    """Answers by a function of the request; the answers queued in `first` come before."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.answer: Answer = lambda body: {}
        self.first: list[tuple[int, dict[str, str], Any]] = []
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, dict(self.headers), body))
        given = self.server.first.pop(0) if self.server.first else (200, {}, self.server.answer(body))
        status, headers, value = given
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with suppress(BrokenPipeError):  # who asked did not wait
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def number(text: str) -> float:
    return float(re.findall(r"!(-?[\d.]+)", text)[0])


def reranked(body: dict[str, Any]) -> Any:
    scored = [{"index": place, "relevance_score": number(text)} for place, text in enumerate(body["documents"])]
    return {"results": sorted(scored, key=lambda one: -one["relevance_score"])}


def sorted_by_number(body: dict[str, Any]) -> Any:
    passages = re.findall(r"^\[(\d+)\] (.*)$", body["messages"][1]["content"], re.MULTILINE)
    order = sorted(passages, key=lambda one: -number(one[1]))
    return {"choices": [{"message": {"content": " > ".join(f"[{one}]" for one, _ in order)}}]}


def test_a_reranker(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint.answer = reranked
    monkeypatch.setenv("HYPERSEEK_TEACHER_URL", endpoint.url)
    monkeypatch.setenv("HYPERSEEK_TEACHER_KEY", "secret")
    teacher = load_teacher("cohere:rerank-small")
    lists = [["a !1", "b !5", "c !-2"], ["d !0.5"], []]
    assert teacher.score_lists(["x", "y", "z"], lists) == [[1.0, 5.0, -2.0], [0.5], []]  # type: ignore[union-attr]
    path, headers, body = min(endpoint.requests, key=lambda one: one[2]["query"])
    assert path == "/v1/rerank"
    assert headers["Authorization"] == "Bearer secret"
    assert body == {"model": "rerank-small", "query": "x", "documents": lists[0], "top_n": 3}
    assert teacher.name == "cohere:rerank-small"
    assert len({teacher.fingerprint, load_teacher("cohere:rerank-large").fingerprint}) == 2


def test_pairs_of_one_query_are_one_list(endpoint: Endpoint) -> None:
    endpoint.answer = reranked
    teacher = CohereTeacher("m", url=f"{endpoint.url}/rerank/", window=2)
    pairs = [("x", "a !1"), ("y", "a !1"), ("x", "b !2"), ("x", "a !1"), ("x", "c !3")]
    assert teacher.score_pairs(pairs) == [1.0, 1.0, 2.0, 1.0, 3.0]
    sizes = [len(body["documents"]) for _, _, body in endpoint.requests if body["query"] == "x"]
    assert sorted(sizes) == [1, 2]  # no more than the window at a time
    assert "Authorization" not in endpoint.requests[0][1]


def test_a_language_model_sorts_by_windows(endpoint: Endpoint) -> None:
    endpoint.answer = sorted_by_number
    teacher = OpenAITeacher("chat", url=endpoint.url, window=4)
    documents = [f"text !{n}" for n in (3, 9, 1, 7, 5, 0, 8, 2)]
    [scores] = teacher.score_lists(["x"], [documents])
    ranked = [number(documents[place]) for place in sorted(range(8), key=lambda place: -scores[place])]
    # Three windows of four, from the end: the best two of each move on.
    listed = [body["messages"][1]["content"] for *_, body in endpoint.requests]
    assert [len(re.findall(r"^\[", text, re.MULTILINE)) for text in listed] == [4, 4, 4]
    assert ranked[:2] == [9, 8]
    assert sorted(scores) == [n / 8 for n in range(1, 9)]
    assert endpoint.requests[0][2]["temperature"] == 0
    assert endpoint.requests[0][0] == "/v1/chat/completions"


def test_omitted_and_invented_passages(endpoint: Endpoint) -> None:
    endpoint.answer = lambda body: {"choices": [{"message": {"content": "Sure: [3] > [9] > [3] > [1]"}}]}
    teacher = OpenAITeacher("chat", url=endpoint.url)
    assert teacher.score_lists(["x"], [["a", "b", "c", "d"]]) == [[0.75, 0.5, 1.0, 0.25]]


def test_a_busy_server_is_asked_again(endpoint: Endpoint, caplog: pytest.LogCaptureFixture) -> None:
    endpoint.answer = reranked
    endpoint.first = [(429, {"Retry-After": "0"}, b"slow down"), (503, {}, b"")]
    teacher = CohereTeacher("m", url=endpoint.url, wait=0.01)
    with caplog.at_level(logging.INFO, "hyperseek"):
        assert teacher.score_lists(["x"], [["a !1"]]) == [[1.0]]
    assert "answers 429 Too Many Requests: slow down; asking again in 0 s" in caplog.text
    assert len(endpoint.requests) == 3
    endpoint.first = [(500, {}, b"broken")] * 2
    with pytest.raises(ModelError, match=r"cohere:m at http.*/v1/rerank answers 500 .*: broken, 2 times; check"):
        CohereTeacher("m", url=endpoint.url, wait=0.01, retries=1).score_lists(["x"], [["a !1"]])


@pytest.mark.parametrize(
    ("status", "headers", "answer", "message"),
    [
        (401, {}, b"bad key secret", r"answers 401 Unauthorized: bad key \(key\); check the key in HYPERSEEK"),
        (404, {}, b"", "answers 404 Not Found; check the address and the model's name"),
        (307, {"Location": "http://127.0.0.1:1/x"}, b"", "answers 307 .*redirects are not followed"),
        (302, {"Location": "http://127.0.0.1:1/x"}, b"", "answers 302 .*redirects are not followed"),
        (200, {}, b"<html>", "something that is not JSON"),
        (200, {}, b"\xff", "something that is not JSON"),
        (200, {}, {"results": [{"index": 0, "relevance_score": 1}]}, "a number for each of 2 documents"),
        (200, {}, {"results": [{"index": n, "relevance_score": "1"} for n in (0, 1)]}, "a number for each of 2"),
        (200, {}, {"results": [None, 3]}, "a number for each of 2"),
        (200, {}, [1], "a number for each of 2"),
    ],
)  # fmt: skip
def test_answers_that_are_none(
    endpoint: Endpoint, status: int, headers: dict[str, str], answer: Any, message: str
) -> None:
    endpoint.first = [(status, headers, answer)]
    teacher = CohereTeacher("m", url=endpoint.url, key="secret")
    with pytest.raises(ModelError, match=message) as raised:
        teacher.score_lists(["x"], [["a", "b"]])
    assert "secret" not in str(raised.value)
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"choices": []}, "must answer {'choices'"),
        ({"choices": [{"message": {"content": None}}]}, "must answer {'choices'"),
        ({"choices": [{"message": {"content": "I cannot do that"}}]}, r"must name passages as in \[2\]"),
    ],
)
def test_language_models_that_do_not_sort(endpoint: Endpoint, answer: Any, message: str) -> None:
    endpoint.answer = lambda body: answer
    with pytest.raises(ModelError, match=message):
        OpenAITeacher("m", url=endpoint.url).score_lists(["x"], [["a", "b"]])


def test_a_server_that_hangs_or_is_not_there(endpoint: Endpoint) -> None:
    def slow(body: dict[str, Any]) -> Any:
        time.sleep(0.5)
        return {}

    endpoint.answer = slow
    with pytest.raises(ModelError, match=r"cannot be reached \(timed out\), 1 time; check the address"):
        CohereTeacher("m", url=endpoint.url, timeout=0.1, retries=0).score_lists(["x"], [["a"]])
    with pytest.raises(ModelError, match=r"cannot be reached .*refused.*, 2 times"):
        CohereTeacher("m", url="http://127.0.0.1:9", retries=1, wait=0.01).score_lists(["x"], [["a"]])


@pytest.mark.parametrize(
    ("name", "url", "key", "message"),
    [
        ("cohere:m", None, None, "needs an address; give --url, or set HYPERSEEK_TEACHER_URL"),
        ("cohere:", "https://a.example", None, "names no model"),
        ("openai:m", "ftp://a.example", None, "is not an address"),
        ("openai:m", "file:///etc/passwd", None, "is not an address"),
        ("openai:m", "https://user:pass@a.example", None, "is not an address"),
        ("openai:m", "https://a.example:port", None, "is not an address"),
        ("openai:m", "http://a.example/v1", "secret", "the key would travel unencrypted to a.example"),
        ("openai:m", "https://a.example/v1", "se\ncret", "characters that no header can carry"),
    ],
)
def test_endpoints_that_cannot_be_asked(
    monkeypatch: pytest.MonkeyPatch, name: str, url: str | None, key: str | None, message: str
) -> None:
    monkeypatch.delenv("HYPERSEEK_TEACHER_URL", raising=False)
    monkeypatch.delenv("HYPERSEEK_TEACHER_KEY", raising=False)
    with pytest.raises(InputError, match=message):
        load_teacher(name, url=url, key=key)
