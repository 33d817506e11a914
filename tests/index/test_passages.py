from __future__ import annotations

import math
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hyperseek
from hyperseek import Document, Index, Query, Retriever, load
from hyperseek.adapting import adapt
from hyperseek.analysis import inspect_space
from hyperseek.data import Dataset, open_dataset, register_reader
from hyperseek.data.files.readers import READERS
from hyperseek.errors import InputError, StoreError, UnknownNameError
from hyperseek.index import LongDocuments, estimate
from hyperseek.index._passages import soft_maximum
from hyperseek.index._splitting import Splitter, TokenCounter
from hyperseek.models import ModelConfig, build
from hyperseek.plan import Exhaustive, FullText, hybrid
from hyperseek.store.info import IndexInfo

pytest.importorskip("semantic_text_splitter", reason="needs semantic-text-splitter")

WORDS = ("river", "stone", "city", "road", "house", "door", "window", "music", "function", "string", "list")


def a_text(draw: random.Random, words: int) -> str:
    return "".join(draw.choice(WORDS) + draw.choice([" ", " ", " ", ". ", "\n\n"]) for _ in range(words))


def some_documents(count: int = 30, seed: int = 0) -> list[Document]:
    """Documents of none to many passages, one of them far longer than the others."""
    draw = random.Random(seed)
    lengths = [0, 3, 900, *(draw.randrange(1, 160) for _ in range(count - 3))]
    return [
        Document(f"d{number}", a_text(draw, length), draw.choice(["", "river", "stone road"]), {"year": 2000 + number})
        for number, length in enumerate(lengths)
    ]


@pytest.fixture(scope="module")
def model(tiny_encoder: str) -> Retriever:
    return load(tiny_encoder)


@pytest.fixture(scope="module")
def built(model: Retriever, tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("passages") / "index"
    return Index.build(folder, some_documents(), model, passages={"tokens": 32}, dtype="float32")


QUERIES = ["river stone", "music", "door of a house", "list function"]


def passage_scores(index: Index, query: Any) -> dict[str, list[float]]:
    """Scores of all passages of each document, in the order of the index."""
    scorer = index.model.compile([query]) if isinstance(query, str) else query
    found: dict[str, list[float]] = {}
    for ids, points in index.points(passages=True):
        for row, score in zip(ids, scorer.score(points)[0].tolist(), strict=True):
            found.setdefault(row.rpartition("#")[0], []).append(score)
    return found


def check_ranking(hits: list[hyperseek.Hit], truth: dict[str, float], k: int) -> None:
    """The scores are the best ones, and each is that of its document."""
    wanted = sorted(truth.values(), reverse=True)[:k]
    assert len(hits) == len(wanted)
    assert len({hit.id for hit in hits}) == len(hits)
    assert [hit.score for hit in hits] == pytest.approx(wanted, abs=2e-5)
    assert [truth[hit.id] for hit in hits] == pytest.approx(wanted, abs=2e-5)


def test_an_index_of_passages_speaks_of_documents(built: Index) -> None:
    documents = some_documents()
    assert len(built) == 30
    assert built.passages is not None
    assert built.passages > 60
    assert built.info.passages == {"tokens": 32, "overlap": 0}
    assert built.ids == [document.id for document in documents]
    assert list(built) == documents
    assert built["d2"] == documents[2]
    assert built.get(["d7", "d2", "nothing", "d7"]) == {"d7": documents[7], "d2": documents[2]}
    assert "d2" in built
    assert "d2#0" not in built
    assert built.get("d2#0") is None
    assert built.fields == {"year": "number"}
    assert not built.unusable_fields
    assert f"30 documents in {built.passages} passages" in repr(built)
    assert f"30 documents in {built.passages} passages" in next(built.explain(["river"]).lines())


@pytest.mark.parametrize("k", [1, 5, 29, 30, 100])
def test_search_equals_brute_force(built: Index, k: int) -> None:
    for query, hits in zip(QUERIES, built.search(QUERIES, k=k), strict=True):
        scores = passage_scores(built, query)
        check_ranking(hits, {name: max(own) for name, own in scores.items()}, k)
        for hit in hits:
            whole = built[hit.id]
            assert hit.document is not None
            assert (hit.title, hit.metadata) == (whole.title, whole.metadata)
            assert hit.text == hit.passages[0].text
            assert hit.passages[0].score == hit.score
            for passage in hit.passages:
                assert whole.text[passage.start : passage.end] == passage.text
            found = [passage.score for passage in hit.passages]
            assert found == sorted(found, reverse=True)
            assert found == pytest.approx(sorted(scores[hit.id], reverse=True)[: len(found)], abs=2e-5)
    assert [[hit.id for hit in own] for own in built.search(QUERIES, k=k)] == [
        list(own)
        for own in built.run(dict(enumerate(QUERIES)), k=k).values()  # type: ignore[arg-type]
    ]


def test_the_soft_maximum_is_exact(built: Index) -> None:
    for query, hits in zip(QUERIES, built.search(QUERIES, k=5, combine="soft"), strict=True):
        scores = passage_scores(built, query)
        every = np.array([score for own in scores.values() for score in own])
        rows = np.unique(np.linspace(0, len(every) - 1, 256).astype(int))
        temperature = every[rows].std() / 10
        soft = {
            name: temperature * np.log(np.exp(np.array(own, np.float64) / temperature).sum())
            for name, own in scores.items()
        }
        check_ranking(hits, soft, 5)
        assert all(hit.score >= hit.passages[0].score - 1e-6 for hit in hits)
    assert soft_maximum([1.0, 0.5], 0.0) == 1.0
    assert soft_maximum([1.0, 1.0], 2.0) == pytest.approx(1 + 2 * math.log(2))
    assert soft_maximum([-math.inf], 2.0) == -math.inf
    with pytest.raises(UnknownNameError, match="known: best, soft"):
        built.search("river", combine="mean")  # type: ignore[call-overload]


def test_filters_and_exclusions_name_documents(built: Index) -> None:
    [query] = QUERIES[:1]
    truth = {name: max(own) for name, own in passage_scores(built, query).items()}
    best = [hit.id for hit in built.search(query, k=4)]
    left = {name: score for name, score in truth.items() if name not in best[:3]}
    [hits] = built.search([query], k=10, exclude=[best[:3]])
    check_ranking(hits, left, 10)
    excluded = [["d2", "nothing"], None, [], best[:2]]
    for text, hits, own in zip(QUERIES, built.search(QUERIES, k=10, exclude=excluded), excluded, strict=True):
        scores = {name: max(found) for name, found in passage_scores(built, text).items()}
        check_ranking(hits, {name: score for name, score in scores.items() if name not in (own or ())}, 10)
    chosen = {name: score for name, score in truth.items() if int(name[1:]) > 20}
    check_ranking(built.search(query, k=30, where="year > 2020"), chosen, 30)
    check_ranking(built.search(query, k=3, where="year > 2020"), chosen, 3)
    assert [hit.id for hit in built.search(query, where="id = 'd2'")] == ["d2"]
    titled = [document.id for document in built if document.title == "river"]
    assert sorted(hit.id for hit in built.search(query, k=30, where="title = 'river'")) == sorted(titled)
    # Each passage meets a condition on texts by itself.
    for hit in built.search(query, k=30, where="text LIKE '%music%'"):
        assert all("music" in passage.text for passage in hit.passages)


def test_what_needs_a_point_of_each_document_says_so(built: Index, model: Retriever) -> None:
    with pytest.raises(InputError, match="has points of passages, and this needs one of each document"):
        next(built.points())
    with pytest.raises(InputError, match="points of passages"):
        adapt(built, {f"{query} {number}": {"d2": 1.0} for query in QUERIES for number in range(30)})
    with pytest.raises(InputError, match="points of passages"):
        inspect_space(built)


def test_what_would_be_cut_is_said_before(model: Retriever) -> None:
    documents = some_documents()
    lengths = TokenCounter(model).lengths([document.full_text for document in documents])
    long = sorted(length for length in lengths if length > 64)
    cost = estimate(documents, model, passages={"tokens": 32})
    assert cost.long == LongDocuments(
        limit=64,
        documents=30,
        sample=30,
        long=len(long),
        median=long[len(long) // 2],
        longest=long[-1],
        share=sum(length - 64 for length in long) / sum(lengths),
    )
    said = f"{len(long) / 30:.0%} of the documents are longer than the 64 tokens that the model reads"
    assert str(cost.long).startswith(said)
    rows = sum(len(Splitter(model, tokens=32).split(document)) for document in documents)
    assert (cost.documents, cost.passages, cost.rows, cost.remaining) == (30, rows, rows, rows)
    assert str(cost).startswith(f"30 documents in {rows} passages: about")
    whole = estimate(documents[:2], model)
    assert (whole.passages, whole.rows) == (None, 2)
    assert str(whole.long) == "no document is longer than the 64 tokens that the model reads"


def test_evaluation_ranks_documents(built: Index) -> None:
    queries = [Query(f"q{number}", text) for number, text in enumerate(QUERIES)]
    judged = {query.id: {hit.id: 1} for query, (_, hit, *_) in zip(queries, built.search(QUERIES), strict=True)}
    dataset = Dataset.from_records("made", some_documents(), queries=queries, qrels={"test": judged})
    result = hyperseek.evaluate(built, dataset, measures="RR@10")
    assert result.aggregate == {"RR@10": 0.5}
    assert not [note for note in result.notes if "the index has" in note]
    assert hyperseek.evaluate(built, dataset, measures="RR@10", combine="soft").protocol != result.protocol


def test_tuning_measures_passages(model: Retriever, tmp_path: Path) -> None:
    index = Index.build(tmp_path / "index", some_documents(), model, passages={"tokens": 16}, dtype="float32")
    index.build_engine("flat")
    tuning = index.engines.tune(QUERIES, k=10, recall=0.9)
    assert tuning
    truth = [{hit.id for hit in hits} for hits in index.search(QUERIES, k=10, engine="exact")]
    found = [{hit.id for hit in hits} for hits in index.search(QUERIES, k=10)]
    assert sum(len(one & other) for one, other in zip(truth, found, strict=True)) >= 0.8 * sum(map(len, truth))


def test_scores_of_chosen_documents(built: Index) -> None:
    ids = [["d2", "d7"], [], ["d0"], ["d2"]]
    found = built.score(QUERIES, ids)
    for query, names, own in zip(QUERIES, ids, found, strict=True):
        truth = passage_scores(built, query)
        assert own == pytest.approx([max(truth[name]) for name in names], abs=2e-5)
    with pytest.raises(InputError, match="no document 'd2#0'"):
        built.score(["river"], [["d2#0"]])


def test_plans_find_documents(built: Index) -> None:
    for plan in (hybrid(n=200), FullText(n=200), Exhaustive()):
        for hits in built.search(QUERIES, k=10, plan=plan):
            assert len({hit.id for hit in hits}) == len(hits)
            assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    rows = {name: len(own) for name, own in passage_scores(built, "river").items()}
    assert rows["d2"] > 30
    # The ten best passages by words may be of fewer documents; a plan that says how many it finds keeps to it.
    assert all(len(hits) <= 10 for hits in built.search(QUERIES, k=10, plan=FullText(n=10)))


def test_an_engine_is_asked_for_more(model: Retriever, tmp_path: Path) -> None:
    # One document has nearly all of the best passages.
    documents = [Document("long", "river stone. " * 2000), *some_documents()]
    index = Index.build(tmp_path / "index", documents, model, passages={"tokens": 16}, dtype="float32")
    index.build_engine("flat")
    truth = {name: max(own) for name, own in passage_scores(index, "river stone").items()}
    for engine in ("exact", "flat"):
        check_ranking(index.search("river stone", k=20, engine=engine), truth, 20)


def test_an_index_without_documents(model: Retriever, tmp_path: Path) -> None:
    index = Index.build(tmp_path / "index", [], model, passages={"tokens": 32}, dtype="float32")
    for combine in ("best", "soft"):
        assert index.search(QUERIES, combine=combine, exclude=[["d1"]] * len(QUERIES)) == [[]] * len(QUERIES)
    assert (len(index), index.passages, index.ids) == (0, 0, [])


def test_late_interaction_and_matches(tiny_encoder: str, tmp_path: Path) -> None:
    prompts = {"query": "search ", "document": "index "}
    config = ModelConfig(trunk=tiny_encoder, family="late", late={"dimension": 8}, prompts=prompts, document_length=40)
    model = build(config, device="cpu")
    markdown = Document("m", f"# Stone {WORDS[0]}\n\n" + a_text(random.Random(1), 90), "City", {"format": "markdown"})
    index = Index.build(
        tmp_path / "index", [markdown, *some_documents(12)], model, passages={"tokens": 32}, dtype="float32"
    )
    compared = 0
    for query in QUERIES:
        truth = {name: max(own) for name, own in passage_scores(index, query).items()}
        hits = index.search(query, k=6)
        check_ranking(hits, truth, 6)
        for hit in hits:
            assert sum(match.share for match in hit.matches) == pytest.approx(hit.score, abs=1e-4)
            for match in hit.matches:
                for token in match.document:
                    if token.start is not None and hit.document is not None and token.text in WORDS:
                        assert hit.document.full_text[token.start : token.end].lower() == token.text
                        compared += 1
    assert compared > 20


def test_converted_files_have_headings(model: Retriever, tmp_path: Path) -> None:
    pytest.importorskip("markitdown", reason="needs markitdown")
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "house.1").write_text(".TH HOUSE 1\n.SH NAME\nhouse\n.SH STONE\n" + "road river\n" * 60)
    (folder / "notes.1").write_text("# no heading\n" + "road river " * 60)
    (folder / "city.html").write_text(f"<h1>City</h1><p>{'door ' * 60}</p><h2>Music</h2><p>{'window ' * 90}</p>")
    register_reader(".own", lambda file: [Document("", file.text, metadata={"format": "markdown"})])
    try:
        (folder / "door.own").write_text("# Door\n" + "road river " * 60)
        index = Index.build(tmp_path / "index", open_dataset(folder), model, passages={"tokens": 32}, dtype="float32")
    finally:
        READERS.unregister("own")
    hits = index.search("road window", k=4)
    found = {hit.id: {passage.headings for passage in hit.passages} for hit in hits}
    assert ("City", "Music") in found["city.html"]
    assert ("STONE",) in found["house.1"]
    assert (found["door.own"], found["notes.1"]) == ({("Door",)}, {()})


def test_changes_are_of_whole_documents(model: Retriever, tmp_path: Path) -> None:
    documents = some_documents()
    index = Index.build(tmp_path / "index", documents, model, passages={"tokens": 32}, dtype="float32")
    draw = random.Random(5)
    with pytest.raises(InputError, match="'d2' is stored already"):
        index.add([Document("d2", "river")])
    shorter, longer, new = Document("d2", "river"), Document("d1", a_text(draw, 300)), Document("n", a_text(draw, 90))
    assert index.add([shorter, longer, new], replace=True) == 3
    assert index.delete(["d5", "d2#0", "nothing"]) == 1
    expected = [one for one in documents if one.id not in ("d1", "d2", "d5")] + [shorter, longer, new]
    assert list(index) == expected
    rebuilt = Index.build(tmp_path / "other", expected, model, passages={"tokens": 32}, dtype="float32")
    assert index.passages == rebuilt.passages
    for one, other in zip(index.search(QUERIES, k=40), rebuilt.search(QUERIES, k=40), strict=True):
        assert [hit.id for hit in one] == [hit.id for hit in other]
        assert [hit.score for hit in one] == pytest.approx([hit.score for hit in other], abs=1e-5)
    index.compact()
    assert list(index) == expected
    assert list(Index.open(tmp_path / "index", model=model)) == expected
    with pytest.raises(InputError, match="appears twice"):
        index.add([Document("m", "river"), Document("m", "stone")])
    with pytest.raises(InputError, match="uses itself"):
        index.add([Document("m", "river", metadata={"hyperseek:passage": {}})])
    with pytest.raises(InputError, match="vectors are of whole documents"):
        index.add([Document("m", "river")], vectors=[torch.zeros(32)])


class Killed(Exception):
    pass


def test_a_killed_change_leaves_whole_documents(
    model: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = some_documents()
    index = Index.build(tmp_path / "index", documents, model, passages={"tokens": 32}, dtype="float32")
    draw = random.Random(7)
    changed = [Document(f"d{number}", a_text(draw, draw.randrange(200))) for number in range(0, 30, 2)]
    monkeypatch.setattr("hyperseek.index._index.piece_for", lambda model: 8)
    monkeypatch.setattr("hyperseek.index._writing._COMMIT_SECONDS", 0.0)
    encode, calls = type(model).encode_documents, iter(range(9))

    def failing(self: Retriever, texts: Any, **options: Any) -> Any:
        if next(calls) >= 5:
            raise Killed
        return encode(self, texts, **options)

    with monkeypatch.context() as patched:
        patched.setattr(type(model), "encode_documents", failing)
        with pytest.raises(Killed):
            index.add(changed, replace=True)
    reopened = Index.open(tmp_path / "index", model=model)
    old, new = {one.id: one for one in documents}, {one.id: one for one in changed}
    found = {one.id: one for one in reopened}
    assert found.keys() == old.keys()
    assert all(one in (old[name], new.get(name)) for name, one in found.items())
    assert 0 < sum(found[name] == one for name, one in new.items()) < len(new)
    reopened.add(changed, replace=True)
    assert {one.id: one for one in reopened} == old | new


def test_a_build_resumes_in_the_middle_of_a_document(
    model: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents, options = some_documents(), {"passages": {"tokens": 32}, "dtype": "float32"}
    encode, calls = type(model).encode_documents, iter(range(9))

    def failing(self: Retriever, texts: Any, **options: Any) -> Any:
        if next(calls) >= 3:
            raise Killed
        return encode(self, texts, **options)

    monkeypatch.setattr("hyperseek.index._build.piece_for", lambda model: 8)
    monkeypatch.setattr("hyperseek.index._writing._COMMIT_SECONDS", 0.0)
    with monkeypatch.context() as patched:
        patched.setattr(type(model), "encode_documents", failing)
        with pytest.raises(Killed):
            Index.build(tmp_path / "index", documents, model, **options)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match=re.escape("begun with passages {'tokens': 32, 'overlap': 0}")):
        Index.build(tmp_path / "index", documents, model, dtype="float32")
    index = Index.build(tmp_path / "index", documents, model, **options)  # type: ignore[arg-type]
    assert list(index) == documents
    with pytest.raises(InputError, match="id 'd1' appears twice"):
        Index.build(tmp_path / "other", [*documents, documents[1]], model, **options)  # type: ignore[arg-type]


def test_overlaps_and_odd_ids(model: Retriever, tmp_path: Path) -> None:
    draw = random.Random(3)
    names = ["a", "a#0", "a#1", "#", "a\n#2", "'"]
    documents = [Document(name, a_text(draw, 200), "river") for name in names]
    index = Index.build(tmp_path / "index", documents, model, passages={"tokens": 32, "overlap": 6}, dtype="float32")
    assert list(index) == documents
    assert index.get(names) == dict(zip(names, documents, strict=True))
    assert {hit.id for hit in index.search("river", k=10)} == set(names)
    assert index.delete(["a"]) == 1
    assert list(index) == documents[1:]


def test_a_description_with_other_settings_of_passages_is_refused(built: Index) -> None:
    values = built.info.model_dump()
    assert IndexInfo(**values) == built.info
    with pytest.raises(ValueError, match="it has tokens and overlap"):
        IndexInfo(**{**values, "passages": {"x": 1}})
