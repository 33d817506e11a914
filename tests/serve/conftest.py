"""A tiny index, and a server of it: one for each module of tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from conftest import WORDS

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("prometheus_client", reason="needs the extra serve")
uvicorn = pytest.importorskip("uvicorn", reason="needs the extra serve")


@contextmanager
def running(app: Any) -> Iterator[str]:
    """Serve an app by uvicorn in a thread, at a free port; the URL."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def tiny_model(tiny_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A saved dense model of the tiny encoder."""
    from hyperseek import load

    folder = str(tmp_path_factory.mktemp("serving") / "tiny-model")
    load(tiny_encoder).save(folder)
    return folder


def texts(count: int, *, seed: int = 0) -> list[str]:
    """Return texts of known words, all different."""
    import random

    chosen = random.Random(seed)
    return [" ".join(chosen.choices(WORDS, k=chosen.randint(4, 30))) for _ in range(count)]


@pytest.fixture(scope="session")
def make_index(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Build an index of some documents in a folder of its own."""
    from hyperseek import Document, Index, load

    model = load(tiny_model)

    def make(name: str = "notes", count: int = 60, **options: Any) -> Path:
        folder = tmp_path_factory.mktemp("served") / f"{name}.index"
        documents = [
            Document(f"d{number}", text, f"title {number}", {"year": 2000 + number % 10})
            for number, text in enumerate(texts(count))
        ]
        Index.build(folder, documents, model, **options)
        return folder

    return make


@pytest.fixture(scope="module")
def server(make_index: Callable[..., Path]) -> Iterator[str]:
    """The URL of a server of one index, `notes`, that is writable."""
    from hyperseek.serve import ServeSettings, create_app

    with running(create_app({"notes": str(make_index())}, settings=ServeSettings(writable=True), keys=())) as url:
        yield url


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server) as client:
        yield client
