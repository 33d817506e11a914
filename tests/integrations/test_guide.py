"""The examples of the guide on serving that call an index, run as written but for the address and the model's name."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from tests.serve.conftest import running

from hyperseek import Document, Index, Retriever
from hyperseek.serve import create_app

GUIDE = Path(__file__).parents[2] / "docs" / "serving.md"
ADDRESS = "http://127.0.0.1:8080"


@pytest.fixture(scope="module")
def folder(encoder: Retriever, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guide")
    documents = [
        Document(f"d{number}", f"cat dog sea {number}", "A title", {"year": 2010 + number}) for number in range(9)
    ]
    Index.build(folder / "notes.index", documents, encoder)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    with running(create_app({"notes": str(folder / "notes.index")}, keys=())) as url:
        yield url


def blocks(heading: str) -> list[str]:
    section = GUIDE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


@pytest.mark.parametrize(
    ("heading", "place", "package"),
    [
        ("A Python client", 0, "httpx"),
        ("MCP", 0, "mcp"),
        ("LangChain, LlamaIndex, Haystack", 0, "langchain_core"),
        ("LangChain, LlamaIndex, Haystack", 1, "llama_index.core"),
        ("LangChain, LlamaIndex, Haystack", 2, "haystack"),
    ],
)
def test_an_example_runs(
    heading: str,
    place: int,
    package: str,
    server: str,
    folder: Path,
    encoder: Retriever,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip(package)
    monkeypatch.chdir(folder)
    text = blocks(heading)[place].replace(ADDRESS, server).replace('"minilm"', repr(encoder.source))
    exec(compile(text, f"{GUIDE.name}: {heading}", "exec", dont_inherit=True), {})
    assert "cat dog sea" in capsys.readouterr().out
    assert sys.modules[package]
