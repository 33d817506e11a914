"""The examples of the guide on serving that call an index, run as written but for the address and the model's name."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from serve_fixtures import running

from hyperseek import Document, Index, Retriever
from hyperseek.errors import InputError, ServerError
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


def test_retrievers_ask_a_server(server: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hyperseek

    monkeypatch.setenv("HYPERSEEK_API_KEY", "secret-key")  # which this server does not ask for
    here = [hit.id for hit in Index.open(folder / "notes.index").search("cat dog sea 2", k=3)]
    place = f"{server}#notes"
    pytest.importorskip("langchain_core")
    from hyperseek.integrations.langchain import HyperseekRetriever, HyperseekVectorStore

    retriever = HyperseekRetriever(index=place, k=3)
    assert [found.id for found in retriever.invoke("cat dog sea 2")] == here
    assert "secret-key" not in repr(retriever)
    store = HyperseekVectorStore(hyperseek.connect(server))
    assert store.embeddings is None
    assert [found.id for found in store.as_retriever(search_kwargs={"k": 3}).invoke("cat dog sea 2")] == here
    assert [found.id for found in store.get_by_ids(["d2", "none"])] == ["d2"]
    with pytest.raises(InputError, match="not emptied at once"):
        store.delete()
    with pytest.raises(ServerError, match="--writable"):
        store.add_texts(["new"])
    pytest.importorskip("llama_index.core")
    from hyperseek.integrations.llama_index import HyperseekRetriever as LlamaIndexRetriever

    assert [found.node.node_id for found in LlamaIndexRetriever(place, k=3).retrieve("cat dog sea 2")] == here
    pytest.importorskip("haystack")
    from hyperseek.integrations.haystack import HyperseekRetriever as HaystackRetriever

    component = HaystackRetriever(hyperseek.connect(server, "notes", api_key="secret-key"), top_k=3)
    again = HaystackRetriever.from_dict(component.to_dict())
    assert again.index == place
    assert [found.id for found in again.run("cat dog sea 2")["documents"]] == here
    assert "secret-key" not in str(component.to_dict())
