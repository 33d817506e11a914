"""What notebooks show: HTML in which nothing of a text is HTML, and data frames of the same numbers."""

import copy
import json
import pickle
from pathlib import Path

import pytest
from rich.console import Console

from hyperseek import Document, Hit, Index, load
from hyperseek.evaluation import Evaluation, Protocol, compare, set_means
from hyperseek.types import Hits, Passage

HOSTILE = "<script>alert(1)</script>&amp;\x1b[31m\u202e"


def _is_harmless(html: str) -> None:
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;amp;" in html
    assert "\x1b" not in html
    assert "\u202e" not in html


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: str) -> Index:
    documents = [
        Document(f"a{HOSTILE}", f"The moon. {HOSTILE}", HOSTILE, {"year": 2020, "id": "own"}),
        Document("b", "cats and dogs"),
    ]
    folder = tmp_path_factory.mktemp("notebook") / "index"
    return Index.build(folder, documents, load(tiny_encoder, device="cpu"))


def test_hits_are_lists(index: Index) -> None:
    one, [many] = index.search("moon"), index.search(["moon"])
    for hits in (one, many, index.explain(["moon"], texts=True).hits[0]):
        assert type(hits) is Hits
        assert isinstance(hits, list)
        assert hits == list(hits) == one
        assert [hits[0], *hits[1:]] == hits
        for other in (copy.copy(hits), copy.deepcopy(hits), pickle.loads(pickle.dumps(hits))):  # noqa: S301  # ours
            assert type(other) is Hits
            assert other == hits
    assert json.loads(json.dumps(Hits())) == []


def test_hits_in_a_notebook(index: Index) -> None:
    hits = index.search("moon")
    html = hits._repr_html_()
    _is_harmless(html)
    assert "<mark>moon</mark>" in html
    assert html.count("<tr>") == 3
    [first] = [hit for hit in hits if hit.id != "b"]
    assert "<mark>moon</mark>" in first._repr_html_()
    assert index.search("moon", texts=False)._repr_html_().count("<tr>") == 3
    assert Hits()._repr_html_().count("<tr>") == 1


def test_headings_of_passages_are_shown() -> None:
    passage = Passage("text", 0, 4, 1.0, (HOSTILE, "Part"))
    html = Hit("d", 1.0, 1, Document("d", "text", "Title"), (passage,))._repr_html_()
    _is_harmless(html)
    assert "Part" in html


def test_hits_as_a_data_frame(index: Index) -> None:
    pytest.importorskip("pandas")
    hits = index.search("moon")
    frame = hits.to_pandas()
    assert list(frame["id"]) == [hit.id for hit in hits]
    assert list(frame["score"]) == [hit.score for hit in hits]
    row = frame[frame["id"] != "b"].iloc[0]
    assert (row["year"], row["metadata.id"], row["snippet"]) == (2020, "own", row["text"])
    assert list(index.search("moon", texts=False).to_pandas().columns) == ["rank", "id", "score"]
    assert list(Hits().to_pandas().columns) == ["rank", "id", "score"]
    assert len(hits[0].to_pandas()) == 1


def test_an_explanation(index: Index) -> None:
    pytest.importorskip("pandas")
    told = index.explain(["moon", "cat"], recall=True)
    first, *stages = told.lines()
    html = told._repr_html_()
    assert first in html
    assert html.count("<tr>") == 1 + len(stages)
    frame = told.to_pandas()
    assert len(frame) == len(stages)
    assert (frame["queries"] == 2).all()
    assert (frame["recall"] == 1).all()


def _evaluation(name: str, *values: float) -> Evaluation:
    per_query = {"nDCG@10": {f"q{place}": value for place, value in enumerate(values)}}
    protocol = Protocol(data="d", split="test", qrels="q", k=10)
    mean = sum(values) / len(values)
    return Evaluation(name=name, per_query=per_query, aggregate={"nDCG@10": mean}, protocol=protocol, notes=(HOSTILE,))


def test_results_and_comparisons() -> None:
    pytest.importorskip("pandas")
    one, other = _evaluation("one", 0.5, 0.25), _evaluation(HOSTILE, 1.0, 0.75)
    for shown in (one, other, compare([one, other]), set_means({"s": [one, other]})):
        _is_harmless(shown._repr_html_())
    assert list(one.to_pandas()["nDCG@10"]) == [0.5, 0.25]
    frame = compare([one, other]).to_pandas()
    assert list(frame["mean"]) == [0.375, 0.875]
    assert frame["difference"].iloc[1] == 0.5
    assert 0 < frame["p_permutation"].iloc[1] <= 1
    assert set_means({"s": [one, other]}).to_pandas()["one"].iloc[0] == 0.375


def test_a_terminal_shows_the_same(index: Index, tmp_path: Path) -> None:
    with (tmp_path / "shown").open("w") as file:
        Console(file=file, width=200).print(index.explain(["moon"]))
    assert "2 documents" in (tmp_path / "shown").read_text()
