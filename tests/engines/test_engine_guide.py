"""The snippets of docs/engines.md, one after the other in an empty folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from qdrant_client import QdrantClient

from hyperseek.engines import QdrantConfig, _qdrant

GUIDE = Path(__file__).parents[2] / "docs" / "engines.md"


def test_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = []

    class Client(QdrantClient):
        def query_batch_points(self, name: str, *, requests: list, **settings: object) -> list:
            asked.append(name)
            plain = [request.model_copy(update={"params": None}) for request in requests]
            return super().query_batch_points(name, requests=plain, **settings)

    client = Client(location=":memory:")

    def connect(config: QdrantConfig) -> QdrantClient:
        assert config.server
        assert _qdrant.named_server() == ("http://localhost:6333", None)
        return client

    monkeypatch.setattr(_qdrant, "connect", connect)
    monkeypatch.setattr(_qdrant, "_named", None)  # is restored afterwards
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for snippet in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL):
        exec(snippet, names)
    assert "StructureEstimate(memory_bytes=" in capsys.readouterr().out
    assert names["positions"][:, 0].tolist() == [0, 1, 2]
    assert [name.partition("-")[0] for name in asked] == ["papers"]
    assert client.get_collections().collections == []
