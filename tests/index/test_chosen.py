"""Documents by id, and exact scores of documents that the caller chooses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from index_fakes import DIMENSION, FakeRetriever

from hyperseek import Document, Index
from hyperseek.errors import InputError
from hyperseek.scoring import LinearScorer, Points, QNetScorer, Space

QUERIES = ["river stone", "music", "door door list", "function"]


@pytest.fixture
def index(tmp_path: Path, documents: list[Document]) -> Index:
    return Index.build(tmp_path / "index", documents, FakeRetriever(), dtype="float32")  # type: ignore[arg-type]


def test_documents_by_id(index: Index, documents: list[Document]) -> None:
    found = index.get(["d7", "nothing", "d3", "d7", "d39"])
    assert list(found) == ["d7", "d3", "d39"]
    assert list(found.values()) == [documents[7], documents[3], documents[39]]
    assert index.get([]) == index.get(["nothing"]) == {}


def test_chosen_scores_are_those_of_the_search(index: Index) -> None:
    everything = index.run(dict(enumerate(QUERIES)), k=40)  # type: ignore[arg-type]
    chosen = [["d5", "d1", "d39"], [], ["d2"], ["d8", "d8"]]
    scores = index.score(QUERIES, chosen)
    assert [len(own) for own in scores] == [3, 0, 1, 2]
    for query, (ids, own) in enumerate(zip(chosen, scores, strict=True)):
        assert own == pytest.approx([everything[query][identity] for identity in ids])  # type: ignore[index]
    assert index.score([], []) == []


def test_a_scorer_that_is_not_linear(index: Index) -> None:
    generator = torch.Generator().manual_seed(0)
    qnet = QNetScorer(
        Space("dot", DIMENSION),
        [torch.randn(2, DIMENSION, 4, generator=generator), torch.randn(2, 4, 1, generator=generator)],
        [torch.randn(2, 4, 1, generator=generator)],
        converter_kwargs={"vector_dimensions": [DIMENSION, 4, 1], "do_residual": False},
    )
    points = Points.concatenate([part for _, part in index.points()])
    with torch.no_grad():
        expected = qnet.score(points)
    assert index.score(qnet, [["d1"], ["d2", "d30"]]) == [
        pytest.approx([float(expected[0, 1])]),
        pytest.approx([float(expected[1, 2]), float(expected[1, 30])]),
    ]


def test_what_cannot_be_scored(index: Index) -> None:
    with pytest.raises(InputError, match="holds no document 'd99'"):
        index.score(["river"], [["d1", "d99"]])
    with pytest.raises(InputError, match="1 queries and 2 lists of ids"):
        index.score(["river"], [["d1"], ["d2"]])
    with pytest.raises(InputError, match="give a list with one string"):
        index.score("river", [["d1"]])
    with pytest.raises(InputError, match="9 dimensions, but the index has 8"):
        index.score(LinearScorer(Space("dot", 9), torch.zeros(1, 9)), [["d1"]])
