"""Indexes small enough to build here, and no telemetry of frameworks."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent.parent / "serve"))  # for `serve_fixtures`
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"  # read when it is imported

import hyperseek
from hyperseek import Document, Index, Retriever

DOCUMENTS = [
    Document("apple", "tree leaf city road", title="Apple", metadata={"year": 2015, "tags": ["red", "sweet"]}),
    Document("fish", "sea river stone moon", title="Fish", metadata={"year": 2018, "kind": "animal"}),
    Document("long/one", " ".join(["cat dog bird sun"] * 30 + ["door window table music"] * 30), title="Long"),
    Document("plain", "python module class string", metadata={"year": 2021, "kind": "it's"}),
]


@pytest.fixture(scope="session")
def encoder(tiny_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    """The tiny encoder, which also knows the words of LangChain's tests."""
    folder = tmp_path_factory.mktemp("integrations") / "encoder"
    shutil.copytree(tiny_encoder, folder)
    words = (folder / "tokenizer.json").read_text()
    for ours, theirs in (("error", "foo"), ("value", "bar"), ("object", "baz")):
        words = words.replace(f'"{ours}"', f'"{theirs}"')
    (folder / "tokenizer.json").write_text(words)
    hyperseek.load(str(folder), device="cpu").save(folder.with_name("model"))
    return hyperseek.load(str(folder.with_name("model")), device="cpu")


@pytest.fixture(scope="session")
def index(encoder: Retriever, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """An index of passages, that tests do not change."""
    folder = tmp_path_factory.mktemp("integrations") / "notes.index"
    return Index.build(folder, DOCUMENTS, encoder, passages={"tokens": 24, "overlap": 4})


@pytest.fixture
def empty(encoder: Retriever, tmp_path: Path) -> Index:
    return Index.build(tmp_path / "empty.index", [], encoder)


@pytest.fixture(autouse=True)
def only_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test reach another machine."""
    connect = socket.socket.connect

    def connected(own: socket.socket, address: Any) -> None:
        assert own.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1", "localhost"), address
        connect(own, address)

    monkeypatch.setattr(socket.socket, "connect", connected)
