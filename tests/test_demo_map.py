"""The demo's map says what its colours mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.figure
import pytest
import torch

from hyperseek.demo import draw_map
from hyperseek.index import Index
from hyperseek.scoring import LinearScorer, Space
from hyperseek.types import Document


class Model:
    def compile(self, queries: list[str]) -> LinearScorer:
        return LinearScorer(Space("cosine", 4), torch.ones(len(queries), 4))


def test_the_map_has_a_legend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    items = [(Document(str(row), "text"), vector) for row, vector in enumerate(vectors)]
    index = Index.from_vectors(tmp_path / "index", items, Space("cosine", 4))
    drawn: list[Any] = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure,
        "savefig",
        lambda self, *given, **options: (drawn.append(self), save(self, *given, **options)),
    )
    draw_map(tmp_path / "map.png", index, {"one": Model(), "two": Model()}, "?")  # type: ignore[dict-item]
    assert (tmp_path / "map.png").stat().st_size > 1000
    [legend] = drawn[0].legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == [
        "a document that the model scores low",
        "scored higher",
        "among the highest",
        "the best 5, with rank and name",
    ]
