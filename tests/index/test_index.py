from __future__ import annotations

from pathlib import Path

import pytest
import torch
from index_fakes import DIMENSION, FakeRetriever

from hyperseek import Document, HyperseekError, Query
from hyperseek._files import read_json, write_json
from hyperseek.errors import FingerprintError, StoreError
from hyperseek.index import Index, estimate, stored_documents
from hyperseek.plan import FullText
from hyperseek.scoring import LinearScorer, Points, QNetScorer, Scorer, Space

Documents = list[Document]


@pytest.fixture
def model() -> FakeRetriever:
    return FakeRetriever()


@pytest.fixture
def index(tmp_path: Path, documents: Documents, model: FakeRetriever) -> Index:
    return Index.build(tmp_path / "index", documents, model, dtype="float32", name="words")


def test_texts_and_metadata_come_back(index: Index, documents: Documents) -> None:
    assert list(index.documents()) == documents
    assert index.ids == [document.id for document in documents]
    assert len(index) == index.info.count == 40
    assert index.info.name == "words"
    assert index.info.data is not None
    assert "Index(" in repr(index)


@pytest.mark.parametrize(("storage", "tolerance"), [("float32", 0.0), ("float16", 1e-3)])
def test_points_come_back_as_float32(
    tmp_path: Path, documents: Documents, model: FakeRetriever, storage: str, tolerance: float
) -> None:
    index = Index.build(tmp_path / "other", documents, model, dtype="float32", storage=storage)  # type: ignore[arg-type]
    chunks = list(index.points(rows=7))
    assert [len(points) for _, points in chunks] == [7] * 5 + [5]
    assert [name for ids, _ in chunks for name in ids] == index.ids
    points = Points.concatenate([points for _, points in chunks])
    assert points.vectors.dtype == torch.float32
    expected = model.encode_documents([document.full_text for document in documents]).vectors
    torch.testing.assert_close(points.vectors, expected, atol=tolerance, rtol=tolerance)
    with pytest.raises(HyperseekError, match="at least 1 row"):
        next(index.points(rows=0))


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_search_is_exact_from_memory_and_from_disk(
    tmp_path: Path, index: Index, documents: Documents, model: FakeRetriever, cache_bytes: int
) -> None:
    index = Index.open(index.path, model=model, cache_bytes=cache_bytes)  # type: ignore[arg-type]
    queries = ["river stone", "music", "door door list", "function", "name"]
    expected = torch.cat([part.score(_points(index)) for part in model.compile_batches(queries)])
    for _ in range(2):
        hits = index.search(queries, k=4)
        torch.testing.assert_close(
            torch.tensor([[hit.score for hit in line] for line in hits]), expected.topk(4, dim=1).values
        )
        for line in hits:
            assert [hit.rank for hit in line] == [1, 2, 3, 4]
            assert all(hit.document == documents[int(hit.id[1:])] for hit in line)


def test_one_text_gives_one_list(index: Index) -> None:
    hits = index.search("river stone", k=3)
    assert hits == index.search(["river stone"], k=3)[0]
    assert index.search("river", k=1, texts=False)[0].document is None
    assert index.search([]) == []


def test_k_may_exceed_the_corpus(index: Index) -> None:
    hits = index.search("river", k=1000)
    assert sorted(hit.id for hit in hits) == sorted(index.ids)
    with pytest.raises(HyperseekError, match="k must be at least 1"):
        index.search("river", k=0)


def test_ties_rank_in_the_order_of_the_corpus(index: Index) -> None:
    zero = LinearScorer(index.space, torch.zeros(1, DIMENSION))
    assert [hit.id for hit in index.search(zero, k=40)[0]] == index.ids


def test_every_scorer_can_be_searched_with(index: Index) -> None:
    generator = torch.Generator().manual_seed(0)
    qnet = QNetScorer(
        Space("dot", DIMENSION),
        [torch.randn(2, DIMENSION, 4, generator=generator), torch.randn(2, 4, 1, generator=generator)],
        [torch.randn(2, 4, 1, generator=generator)],
        converter_kwargs={"vector_dimensions": [DIMENSION, 4, 1], "do_residual": False},
    )
    with torch.no_grad():
        best = qnet.score(_points(index)).argmax(dim=1)
    assert [line[0].id for line in index.search(qnet, k=2)] == [index.ids[row] for row in best]
    with pytest.raises(HyperseekError, match="9 dimensions, but the index has 8"):
        index.search(LinearScorer(Space("dot", 9), torch.zeros(1, 9)))


def test_a_run_is_the_search_by_name(index: Index, model: FakeRetriever) -> None:
    queries = {f"q{number}": text for number, text in enumerate(["river", "stone road", "music list", "door"])}
    run = index.run(queries, k=5)
    assert list(run) == list(queries)
    for (_, ranking), hits in zip(run.items(), index.search(list(queries.values()), k=5), strict=True):
        assert ranking == {hit.id: hit.score for hit in hits}
    assert run == index.run([Query(name, text) for name, text in queries.items()], k=5)
    scorer = next(iter(model.compile_batches(list(queries.values())[:3])))
    compiled = index.run(dict(list(queries.items())[:3]), k=5, scorer=scorer)
    for name, ranking in compiled.items():  # a product of other shapes rounds otherwise
        assert ranking == pytest.approx(run[name])
    assert index.run({}) == {}
    with pytest.raises(HyperseekError, match="the scorer holds 3 queries and 4"):
        index.run(queries, scorer=scorer)
    with pytest.raises(HyperseekError, match="ids must be unique"):
        index.run([Query("q", "a"), Query("q", "b")])


def test_the_own_document_is_left_out_and_k_remain(index: Index, documents: Documents) -> None:
    queries = {document.id: document.full_text for document in documents[1:9]} | {"other": "river stone"}
    plain = index.run(queries, k=6)
    without = index.run(queries, k=5, exclude_same_id=True)
    for name in queries:
        expected = [other for other in plain[name] if other != name][:5]
        assert list(without[name]) == expected
    assert len(index.search("river", k=100, exclude=["d3"])) == 39
    with pytest.raises(HyperseekError, match="1 queries and 2 exclusions"):
        index.search("river", exclude=["d3", None])


def test_documents_that_a_query_excludes_are_left_out_and_k_remain(index: Index) -> None:
    queries = {"d4": "river stone", "q": "stone", "r": "river"}
    plain = index.run(queries, k=12)
    first = [list(plain[name]) for name in queries]
    excluded: list[list[str]] = [[*first[0][:3], "elsewhere"], [], [first[2][1]] * 2]
    asked = [
        Query(name, text, {"excluded_ids": ids}) for (name, text), ids in zip(queries.items(), excluded, strict=True)
    ]
    wanted = [[name for name in own if name not in ids][:5] for own, ids in zip(first, excluded, strict=True)]
    assert [list(found) for found in index.run(asked, k=5).values()] == wanted
    for exclude in (excluded, [set(ids) for ids in excluded], [excluded[0], None, first[2][1]]):
        found = index.search(list(queries.values()), k=5, exclude=exclude)
        assert [[hit.id for hit in hits] for hits in found] == wanted
        assert [hit.rank for hit in found[0]] == [1, 2, 3, 4, 5]
    both = list(index.run(asked, k=5, exclude_same_id=True)["d4"])
    assert both == [name for name in first[0] if name not in (*excluded[0], "d4")][:5]
    assert list(index.run(asked, k=5, plan=FullText(n=40))["d4"])[:1] != first[0][:1]
    with pytest.raises(HyperseekError, match="'q' must be a list of strings"):
        index.run([Query("q", "river", {"excluded_ids": "d1"})])


def test_an_empty_index_works(tmp_path: Path, model: FakeRetriever) -> None:
    index = Index.build(tmp_path / "empty", [], model, dtype="float32")  # type: ignore[arg-type]
    assert len(index) == 0
    assert index.search("river") == []
    assert index.search(["river", "stone"], exclude=["a", None]) == [[], []]
    assert index.run({"q": "river"}, exclude_same_id=True) == {"q": {}}
    assert list(index.points()) == []
    assert estimate([], model).seconds == 0  # type: ignore[arg-type]


def test_a_wrong_model_is_an_error_with_both_names(index: Index, documents: Documents) -> None:
    other = FakeRetriever(source="other", fingerprint="0" * 32)
    with pytest.raises(FingerprintError, match=r"made by fake \(fingerprint ffff.*with other \(fingerprint 0000"):
        Index.open(index.path, model=other)  # type: ignore[arg-type]
    with pytest.raises(FingerprintError, match="begun with another model: fake"):
        Index.build(index.path, documents, other, dtype="float32")  # type: ignore[arg-type]


def test_without_a_named_model_one_must_be_given(tmp_path: Path, documents: Documents) -> None:
    index = Index.build(tmp_path / "i", documents, FakeRetriever(source=None), dtype="float32")  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="does not name its model"):
        _ = Index.open(index.path).model


def test_foreign_and_damaged_folders_are_refused(tmp_path: Path, index: Index, documents: Documents) -> None:
    with pytest.raises(StoreError, match="holds no index; make one with"):
        Index.open(tmp_path / "nothing")
    values = read_json(index.path / "index.json")
    for change, message in (
        ({"format": 99}, "has format 99 and this version of hyperseek reads format 2"),
        ({"count": 39}, "should have 39 documents .* but has 40"),
        ({"colour": "red"}, "unknown key"),
        ({"state": "building"}, "is unfinished, with 40 documents so far; run the command that started it again"),
    ):
        write_json(index.path / "index.json", {**values, **change})
        with pytest.raises(StoreError, match=message):
            Index.open(index.path)
    (index.path / "index.json").write_text("{")
    with pytest.raises(StoreError, match="is damaged"):
        Index.open(index.path)
    write_json(index.path / "index.json", values)
    manifest = next((index.path / "documents.lance" / "_versions").glob("*.manifest"))
    manifest.write_bytes(b"")
    with pytest.raises(StoreError, match="cannot be read"):
        Index.open(index.path)


def test_an_index_may_be_moved(tmp_path: Path, index: Index, model: FakeRetriever) -> None:
    before = index.search("river stone", k=3)
    moved = index.path.rename(tmp_path / "moved")
    assert Index.open(moved, model=model).search("river stone", k=3) == before  # type: ignore[arg-type]


def test_an_estimate_counts_and_measures(documents: Documents, model: FakeRetriever, tmp_path: Path) -> None:
    guess = estimate(iter(documents), model, storage="float16", done=10, sample=6)  # type: ignore[arg-type]
    assert (guess.documents, guess.remaining, guess.sample) == (40, 30, 6)
    assert guess.vector_bytes == 40 * DIMENSION * 2
    assert guess.text_bytes > sum(len(document.text) for document in documents)
    assert guess.seconds == pytest.approx(30 / guess.documents_per_second)
    assert len(model.encoded) == 7  # one to warm up
    assert "40 documents, 10 of them done: about 0 s" in str(guess)
    nothing = estimate(documents, model, done=40)  # type: ignore[arg-type]
    assert len(model.encoded) == 7
    assert str(nothing).startswith("40 documents, 40 of them done: nothing to encode, 1.3 kB of vectors")
    with pytest.raises(HyperseekError, match="at least 1 document"):
        estimate(documents, model, sample=0)  # type: ignore[arg-type]


def test_stored_documents_of_any_folder(tmp_path: Path, index: Index) -> None:
    assert stored_documents(index.path) == 40
    assert stored_documents(tmp_path / "nothing") == 0


def _points(index: Index) -> Points:
    return Points.concatenate([points for _, points in index.points()])


def test_a_scorer_of_no_queries_finds_nothing(index: Index) -> None:
    empty: Scorer = LinearScorer(index.space, torch.zeros(0, DIMENSION))
    assert index.search(empty) == []
