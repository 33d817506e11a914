"""A tiny index, and a server of it: one for each module of tests."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

sys.path.append(str(Path(__file__).parent))
from serve_fixtures import running, texts


def pytest_runtest_setup() -> None:
    """Skip all tests of the server where its packages are missing."""
    for package in ("fastapi", "prometheus_client", "uvicorn"):
        pytest.importorskip(package, reason="needs the extra serve")


@pytest.fixture(scope="session")
def tiny_model(tiny_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A saved dense model of the tiny encoder."""
    from hyperseek import load

    folder = str(tmp_path_factory.mktemp("serving") / "tiny-model")
    load(tiny_encoder).save(folder)
    return folder


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
