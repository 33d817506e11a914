"""Reranking of given documents: exactly these, in one order, and never compared with retrieval without saying so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hyperseek.cli import app
from hyperseek.data import Dataset, read_candidates, write_beir, write_run
from hyperseek.errors import DataError, InputError, ProtocolError
from hyperseek.evaluation import Evaluation, compare, evaluate, rank_bm25, rank_candidates, rank_index
from hyperseek.index import Index
from hyperseek.models import ModelConfig, Retriever, build, load
from hyperseek.types import Document, Query

WORDS = ("cat", "dog", "bird", "fish", "sea", "sun", "moon", "star", "tree", "leaf", "river", "stone")
LISTS = {word: [f"d{WORDS[(place + step) % 12]}" for step in (3, 0, 5)] for place, word in enumerate(WORDS)}


@pytest.fixture(scope="module")
def model(tiny_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    folder = tmp_path_factory.mktemp("model")
    values = {"trunk": tiny_encoder, "family": "dense", "pooling": "mean", "normalize": True}
    build(ModelConfig.from_mapping(values), device="cpu").save(folder)
    return load(folder, device="cpu")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    documents = [Document(f"d{word}", f"the {word} and a {word}") for word in WORDS]
    queries = [Query(word, f"a {word}", {"excluded_ids": ["dsun"]} if word == "sea" else {}) for word in WORDS]
    return Dataset.from_records(
        "words", documents, queries=queries, qrels={"test": {word: {f"d{word}": 1} for word in WORDS}}
    )


@pytest.fixture(scope="module")
def index(model: Retriever, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return Index.build(tmp_path_factory.mktemp("index") / "i", dataset, model)


@pytest.mark.parametrize("form", ["lists", "run"])
def test_exactly_the_given_documents_are_ranked(index: Index, dataset: Dataset, form: str) -> None:
    given: Any = LISTS
    if form == "run":
        given = {query: {one: -float(place) for place, one in enumerate(ids)} for query, ids in LISTS.items()}
    ranking = rank_index(index, dataset, candidates=given)
    whole = rank_index(index, dataset)
    for query, ids in LISTS.items():
        left = {one for one in ids if (query, one) != ("sea", "dsun")}
        assert set(ranking.run[query]) == left
        assert ranking.run[query] == pytest.approx({one: whole.run[query][one] for one in left}, abs=1e-6)
        assert list(ranking.run[query].values()) == sorted(ranking.run[query].values(), reverse=True)
    assert list(rank_index(index, dataset, candidates=given, k=1).run["cat"]) == list(ranking.run["cat"])[:1]


def test_equal_scores_keep_the_order_of_the_list(model: Retriever, tmp_path: Path) -> None:
    documents = [Document(name, "the same text") for name in "abcdef"]
    qrels = {"test": {"q": {"a": 1}}}
    dataset = Dataset.from_records("same", documents, queries=[Query("q", "text")], qrels=qrels)
    index = Index.build(tmp_path / "i", dataset, model)
    assert list(rank_index(index, dataset, candidates={"q": ["e", "b", "f", "b"]}).run["q"]) == ["e", "b", "f"]


def test_reranking_and_retrieval_are_not_compared_silently(index: Index, dataset: Dataset) -> None:
    qrels = dataset.qrels("test")
    reranked = evaluate(index, dataset, measures="RR@3", candidates=LISTS)
    whole = evaluate(index, dataset, measures="RR@3", name="whole")
    assert whole.protocol.candidates is None
    with pytest.raises(ProtocolError, match="differ in candidates"):
        compare([reranked, whole])
    others = {query: ids[::-1] for query, ids in LISTS.items()}
    with pytest.raises(ProtocolError, match="differ in candidates"):
        compare([reranked, evaluate(index, dataset, measures="RR@3", candidates=others, name="o")])
    baselines = [rank_candidates(dataset, LISTS, k=3), rank_bm25(dataset, candidates=LISTS, k=3)]
    own = [ranking.evaluate(qrels, measures="RR@3") for ranking in baselines]
    assert own[0].aggregate["RR@3"] == pytest.approx(0.5)  # the second of each list
    assert own[1].aggregate["RR@3"] == 1.0
    assert compare([reranked, *own])


def test_older_results_are_retrieval(index: Index, dataset: Dataset, tmp_path: Path) -> None:
    result = evaluate(index, dataset, measures="RR@3")
    values = result.model_dump(mode="json")
    del values["protocol"]["candidates"]
    (tmp_path / "old.json").write_text(json.dumps(values))
    assert Evaluation.load(tmp_path / "old.json").protocol.candidates is None


def test_what_cannot_be_reranked_is_told(index: Index, dataset: Dataset) -> None:
    with pytest.raises(InputError, match=r"1 of 2 candidates are not in the index .* such as 'nowhere'"):
        rank_index(index, dataset, candidates={"cat": ["nowhere", "dcat"]})
    with pytest.raises(InputError, match=r"none of the 12 queries; theirs are \['q1'\], asked are"):
        rank_index(index, dataset, candidates={"q1": ["dcat"]})
    with pytest.raises(InputError, match="must be a list of ids, not 'dcat'"):
        rank_index(index, dataset, candidates={"cat": "dcat"})  # type: ignore[dict-item]
    with pytest.raises(InputError, match="leave out engine="):
        rank_index(index, dataset, candidates=LISTS, engine="auto")
    few = evaluate(index, dataset, measures="RR@3", candidates={"cat": ["dcat"]})
    assert any("11 of 12 judged queries have no ranking" in note for note in few.notes)


def test_candidates_are_read_in_every_form(tmp_path: Path) -> None:
    expected = {"q1": ["b", "a"], "q2": ["c"]}
    forms = {
        "lists.jsonl": ['{"query-id": "q1", "corpus-ids": ["b", "a"]}', '{"query-id": "q2", "corpus-ids": ["c"]}'],
        "rows.jsonl": ['{"qid": "q1", "pid": "b"}', '{"qid": "q2", "pid": "c"}', '{"qid": "q1", "pid": "a"}'],
        "run.jsonl": [
            '{"query": {"id": "q1"}, "items": [{"id": "a", "score": 1}, {"id": "b", "score": 2}]}',
            '{"query": {"id": "q2"}, "items": [{"id": "c", "score": 2}]}',
        ],
        "run.trec": ["q1 Q0 a 1 1.0 x", "q1 Q0 b 2 2.0 x", "q2 Q0 c 1 0.5 x"],
    }
    for name, lines in forms.items():
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        assert read_candidates(tmp_path / name) == expected, name
    (tmp_path / "bad.jsonl").write_text('{"query-id": "q1", "text": "x"}\n')
    with pytest.raises(DataError, match="needs a query-id and a list corpus-ids, or a pid"):
        read_candidates(tmp_path / "bad.jsonl")


def test_the_command_reranks_and_shows_the_list_beside(index: Index, dataset: Dataset, tmp_path: Path) -> None:
    write_beir(dataset, tmp_path / "words")
    run = {query: {one: -float(place) for place, one in enumerate(ids)} for query, ids in LISTS.items()}
    write_run(run, tmp_path / "first.trec")
    arguments = [str(index.path), str(tmp_path / "words"), "--candidates", str(tmp_path / "first.trec"), "--bm25"]
    result = CliRunner().invoke(app, ["evaluate", *arguments, "-m", "RR@3", "--json"])
    assert result.exit_code == 0, result.output
    found = {one["name"]: one for one in json.loads(result.stdout)["evaluations"]}
    assert found["candidates"]["aggregate"]["RR@3"] == pytest.approx(0.5)
    assert found["BM25"]["aggregate"]["RR@3"] == 1.0
    assert len({one["protocol"]["candidates"] for one in found.values()}) == 1
    refused = CliRunner().invoke(app, ["evaluate", *arguments, "--hybrid"])
    assert "--candidates are scored exactly" in str(refused.exception)


@pytest.mark.parametrize(("lists", "said"), [({}, "no candidates at all"), ({"q": []}, "are empty")])
def test_candidates_without_a_document_are_told(lists: dict[str, list[str]], said: str) -> None:
    from hyperseek.evaluation.candidates import as_given

    with pytest.raises(InputError, match=said):
        as_given([Query("q", "cat")], lists, k=3)
