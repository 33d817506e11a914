from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hyperseek import Index, load
from hyperseek.data import Dataset, open_dataset

TEXTS = {
    "d0": "the cat and the dog",
    "d1": "fish in the sea",
    "d2": "the moon and a star",
    "d3": "a leaf of the tree",
}


class ChatServer(ThreadingHTTPServer):
    """An OpenAI-compatible endpoint that says `say`, or what a status in `first` says."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.say: Any = "fish in the sea"
        self.statuses: list[int] = []
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((dict(self.headers), body))
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        say = self.server.say(body) if callable(self.server.say) else self.server.say
        answer = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": say}}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14},
        }
        content = json.dumps(answer if status == 200 else {"error": "too long"}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if 300 <= status < 400:
            self.send_header("Location", f"http://localhost:{self.server.server_port}/other")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer() as started:
        thread = threading.Thread(target=started.serve_forever, daemon=True)
        thread.start()
        yield started
        started.shutdown()
        thread.join()


@pytest.fixture
def questions(write_lines, tmp_path: Path) -> Dataset:
    """A BEIR folder whose queries carry reference answers."""
    write_lines("sea/corpus.jsonl", [{"_id": identity, "text": text} for identity, text in TEXTS.items()])
    write_lines(
        "sea/queries.jsonl",
        [
            {"_id": "q0", "text": "the cat", "answers": ["the cat and the dog"]},
            {"_id": "q1", "text": "fish in the sea", "answer": "fish"},
            {"_id": "q2", "text": "a star"},
        ],
    )
    lines = ["query-id\tcorpus-id\tscore", "q0\td0\t1", "q1\td1\t1", "q1\td3\t2", "q2\td2\t1"]
    write_lines("sea/qrels/test.tsv", lines)
    return open_dataset(tmp_path / "sea")


@pytest.fixture
def index(questions: Dataset, tiny_encoder: str, tmp_path: Path) -> Index:
    return Index.build(tmp_path / "sea.index", questions.documents(), load(tiny_encoder))
