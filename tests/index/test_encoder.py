"""An encoder of another kind than ours builds an index: the guide's example."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers.base.modules import Transformer

import hyperseek
from hyperseek import Document, HyperseekError, Index

GUIDE = Path(__file__).parent.parent.parent / "docs" / "models.md"


def test_an_index_is_built_by_an_encoder_of_another_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    section = GUIDE.read_text().split("## An encoder of your own")[1]
    [snippet] = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    names: dict[str, Any] = {"hyperseek": hyperseek}
    exec(snippet, names)
    index, encoder = names["index"], names["Lengths"]()
    assert names["hits"][0][0].text == "one text"
    assert index.add([("third", "a third text, longer than the others")]) == 1
    again = Index.open("lengths.index", model=encoder)
    assert again.info.fingerprint == "lengths-1"
    with pytest.raises(HyperseekError, match="a Lengths compiles no queries; search with a scorer or vectors"):
        again.search("one text")
    other = type("Other", (names["Lengths"],), {"fingerprint": "lengths-2"})()
    with pytest.raises(HyperseekError, match="fingerprint lengths-2"):
        Index.open("lengths.index", model=other)


def test_documents_that_the_model_cuts_are_counted_and_reported(
    tiny_encoder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = hyperseek.load(tiny_encoder, device="cpu")
    first = model.route("document")[0]
    assert isinstance(first, Transformer)
    first.document_length = 6
    texts = ["cat dog sea moon", "cat dog sea moon star", "word " * 500, "cat"]  # 6, 7, 502 and 3 tokens
    index = Index.build(tmp_path / "index", texts, model)
    assert model.truncated == 2
    assert "2 documents were longer than the 6 tokens" in caplog.text
    caplog.clear()
    index.add([Document("more", "cat dog sea moon star")])
    assert "1 document was longer" in caplog.text
    caplog.clear()
    index.add([Document("short", "cat")])
    index.add([Document("given", "word " * 500)], vectors=[[0.0] * model.space.coordinates])
    assert not caplog.text
