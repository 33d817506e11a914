from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch

from hyperseek.data import Dataset, write_run
from hyperseek.errors import DataError, InputError, ProtocolError, UnknownNameError
from hyperseek.evaluation import (
    choose_k,
    compare,
    evaluate,
    excluded_ids,
    rank_bm25,
    rank_file,
    rank_index,
    trained_on,
    write_original_files,
    write_results,
)
from hyperseek.evaluation._export import folder_names
from hyperseek.index import Index
from hyperseek.plan import hybrid
from hyperseek.scoring import LinearScorer, Points, Space, VectorPoints
from hyperseek.types import Document, Query


@pytest.fixture
def dataset() -> Dataset:
    documents = [Document(f"d{place}", text) for place, text in enumerate(("red cat", "red dog", "blue bird"))]
    queries = [Query("q1", "red cat"), Query("q2", "blue"), Query("d1", "dog"), Query("x", "unjudged")]
    qrels = {"q1": {"d0": 2, "d1": 1}, "q2": {"d2": 1}, "d1": {"d0": 1, "d1": 1}}
    return Dataset.from_records("toys", documents, queries=queries, qrels={"test": qrels, "few": {"q2": {"d2": 1}}})


WORDS = ("red", "cat", "dog", "blue", "bird")


class Words:
    """A retriever whose dimensions are words."""

    space = Space("dot", len(WORDS))
    device = torch.device("cpu")

    def __init__(self, source: str = "models/small", *, sign: int = 1, fingerprint: str = "f") -> None:
        self.source = source
        self.sign = sign
        self.fingerprint = fingerprint

    def encode_documents(self, texts: list[str], **_: object) -> Points:
        return VectorPoints(torch.tensor([[float(word in text.split()) for word in WORDS] for text in texts]))

    def compile_batches(self, queries: list[str], options: object = None) -> Iterator[LinearScorer]:
        yield LinearScorer(self.space, self.sign * self.encode_documents(queries).vectors)

    def protocol(self) -> dict[str, object]:
        return {"model": self.source, "max_length": {"query": 8}, "versions": {"torch": "9"}}


def make_index(folder: Path, documents: Iterable[Document], source: str = "models/small") -> Index:
    return Index.build(folder / "index", documents, Words(source))


@pytest.fixture
def index(dataset, tmp_path) -> Index:
    return make_index(tmp_path, dataset.documents())


def test_an_index_is_asked_the_splits_queries(index, dataset):
    evaluation = evaluate(index, dataset, measures="RR nDCG@10")
    assert evaluation.queries == ("q1", "q2", "d1")
    assert evaluation.protocol.k == 1000
    assert evaluation.name == "small"
    assert evaluation.aggregate["RR"] == 1
    assert evaluation.notes == ()
    assert evaluation.slices is None
    few = evaluate(index, dataset, split="few", measures="R@2")
    assert few.queries == ("q2",)
    assert few.protocol.k == 2


def test_another_model_searches_the_same_index(index, dataset):
    upside_down = Index.open(index.path, model=Words("heads/minus", sign=-1))
    evaluation = evaluate(upside_down, dataset, measures="RR")
    assert evaluation.name == "minus"
    assert evaluation.protocol.system["model"]["model"] == "heads/minus"
    assert evaluation.protocol.system["index"]["source"] == "models/small"
    assert evaluation.aggregate["RR"] < 1
    comparison = compare([evaluate(index, dataset, measures="RR"), evaluation])
    assert comparison.recorded == {"system.model.model": {"small": "models/small", "minus": "heads/minus"}}


def test_the_protocol_says_everything(index, dataset):
    protocol = evaluate(index, dataset, measures="RR@3", exclude_same_id=True, name="mine").protocol
    assert (protocol.dataset, protocol.data, protocol.split) == ("toys", dataset.fingerprint(), "test")
    assert (protocol.k, protocol.exclude_same_id) == (3, True)
    assert protocol.system["model"] == {"model": "models/small", "max_length": {"query": 8}}
    facts = protocol.system["index"]
    assert (facts["fingerprint"], facts["storage"], facts["count"]) == ("f", "float32", 3)
    assert {"hyperseek", "torch", "ir-measures"} <= set(protocol.versions)


def test_exclusion_changes_the_ranking_and_forbids_the_comparison(index, dataset):
    with_own, without = (
        rank_index(index, dataset, k=5, exclude_same_id=flag, name=str(flag)) for flag in (False, True)
    )
    assert "d1" in with_own.run["d1"]
    assert "d1" not in without.run["d1"]
    evaluations = [ranking.evaluate(dataset.qrels("test"), measures="RR@5") for ranking in (with_own, without)]
    with pytest.raises(ProtocolError, match="exclude_same_id: False False, True True"):
        compare(evaluations)
    assert "d1" in rank_bm25(dataset).run["d1"]
    assert rank_bm25(dataset, exclude_same_id=True).run["d1"] == {}


def test_an_incomplete_index_is_noted_and_a_foreign_one_refused(dataset, tmp_path):
    documents = list(dataset.documents())
    notes = evaluate(make_index(tmp_path / "short", documents[:2]), dataset).notes
    assert "1 of 3 relevant documents are not in the index and cannot be found" in notes
    assert "the index has 2 documents, the data set 3" in notes
    with pytest.raises(InputError, match="none of the 3 documents that are relevant in toys"):
        evaluate(make_index(tmp_path / "foreign", [Document("z", "red")]), dataset)


def test_depth_follows_the_measures():
    assert choose_k("nDCG@10 R@50", None) == 50
    assert choose_k("nDCG@10", 20) == 20
    with pytest.raises(InputError, match=r"R@50 reads 50 .* k=20"):
        choose_k("R@50", 20)


def test_a_shallow_ranking_is_not_measured_deeper(dataset):
    with pytest.raises(InputError, match=r"R@10 .* k=5"):
        rank_bm25(dataset, k=5).evaluate(dataset.qrels("test"), measures="R@10")


def test_a_ranking_is_measured_by_its_own_judgements(dataset):
    with pytest.raises(InputError, match="other judgements"):
        rank_bm25(dataset).evaluate(dataset.qrels("few"))


def test_bm25_beside_an_index(index, dataset):
    rankings = [rank_bm25(dataset, k=100), rank_index(index, dataset, k=100)]
    comparison = compare([ranking.evaluate(dataset.qrels("test")) for ranking in rankings])
    assert comparison.systems == ("BM25", "small")
    assert comparison.recorded["system.kind"] == {"BM25": "bm25", "small": "index"}


def test_runs_from_files(index, dataset, tmp_path):
    ranking = rank_index(index, dataset)
    write_run(ranking.run, tmp_path / "mine.v2.trec")
    qrels = dataset.qrels("test")
    found = rank_file(tmp_path / "mine.v2.trec", qrels)
    assert found.name == "mine.v2"
    assert found.run == ranking.run
    assert (found.protocol.data, found.protocol.k) == (None, None)
    assert found.protocol.qrels == ranking.protocol.qrels
    assert found.evaluate(qrels).per_query == ranking.evaluate(qrels).per_query
    notes = found.evaluate(qrels, measures="R@1000").notes
    assert notes == ("R@1000 reads 1000 documents per query, but this run has at most 3",)


def test_documents_that_a_query_excludes_are_left_out(index, dataset):
    queries = [Query("q1", "red cat", {"excluded_ids": ["d0"]}), Query("q2", "blue"), Query("d1", "dog")]
    excluding = Dataset.from_records(
        "toys", list(dataset.documents()), queries=queries, qrels={"test": dataset.qrels("test")}
    )
    plain, found = rank_index(index, dataset, k=1), rank_index(index, excluding, k=1, name="excluding")
    assert (list(plain.run["q1"]), list(found.run["q1"])) == (["d0"], ["d1"])
    assert found.run["q2"] == plain.run["q2"]
    assert found.protocol.k == plain.protocol.k == 1
    fused = rank_index(index, excluding, k=3, plan=hybrid(3))
    assert list(fused.run["q1"]) == ["d1", "d2"]
    with pytest.raises(ProtocolError, match="data"):
        compare([ranking.evaluate(dataset.qrels("test"), measures="RR@1") for ranking in (plain, found)])
    for wrong in ("d0", [1]):
        with pytest.raises(DataError, match="'q1' must be a list of strings"):
            excluded_ids([Query("q1", "red cat", {"excluded_ids": wrong})])


def test_queries_without_a_ranking_are_counted_in_a_note(dataset, tmp_path):
    write_run({"q1": {"d0": 1.0}}, tmp_path / "a.trec")
    qrels = dataset.qrels("test")
    evaluation = rank_file(tmp_path / "a.trec", qrels).evaluate(qrels, measures="RR")
    assert evaluation.aggregate["RR"] == pytest.approx(1 / 3)
    assert "2 of 3 judged queries have no ranking and count as 0" in evaluation.notes


def write_record(folder: Path, trained: dict[str, list[str]], *, fingerprint: str | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    entries = {}
    for name, ids in trained.items():
        (folder / f"{name}.txt").write_text("".join(f"{identity}\n" for identity in ids))
        entries[name] = {"fingerprint": fingerprint, "relevant_documents_file": f"{name}.txt"}
    (folder / "run.json").write_text(json.dumps({"training_data": entries}))


def test_slices_appear_where_the_models_record_names_the_collection(dataset, tmp_path):
    write_record(tmp_path / "qnet", {"toys": ["d0", "d9"], "games": ["d2"]})
    index = make_index(tmp_path, dataset.documents(), str(tmp_path / "qnet"))
    evaluation = evaluate(index, dataset, measures="RR")
    assert evaluation.slices is not None
    assert evaluation.slices.some == ("q1", "d1")
    assert evaluation.slices.none == ("q2",)
    assert evaluation.notes == ("no query has all of its relevant documents relevant in training",)
    titles = [section.title for section in compare([evaluation]).sections]
    assert titles == [
        "all queries",
        "some of the relevant documents were relevant in training (qnet)",
        "none of the relevant documents were relevant in training (qnet)",
    ]


def test_the_record_may_lie_above_the_model_and_name_a_fingerprint(dataset, tmp_path):
    write_record(tmp_path, {"another name": ["d0", "d1"]}, fingerprint=dataset.fingerprint())
    (tmp_path / "model").mkdir()
    assert trained_on(tmp_path / "model", dataset) == ({"d0", "d1"}, ())


def test_another_version_of_the_collection_is_noted(dataset, tmp_path):
    write_record(tmp_path, {"toys": ["d0"]}, fingerprint="other")
    trained, (note,) = trained_on(tmp_path, dataset)
    assert trained == {"d0"}
    assert "a different version of toys" in note


def test_training_on_other_data_is_noted(dataset, tmp_path):
    write_record(tmp_path, {"games": ["d0"]})
    assert trained_on(tmp_path, dataset) == (None, ("trained on games, not on toys",))
    (tmp_path / "run.json").write_text("{}")
    assert trained_on(tmp_path, dataset) == (None, ())
    assert trained_on("no such folder", dataset) == (None, ())
    assert trained_on(None, dataset) == (None, ())


def test_a_lost_list_is_noted_and_a_damaged_record_refused(dataset, tmp_path):
    write_record(tmp_path, {"toys": ["d0"]})
    (tmp_path / "toys.txt").unlink()
    trained, (note,) = trained_on(tmp_path, dataset)
    assert trained is None
    assert "toys.txt is missing" in note
    for content in ('{"training_data": {"toys": {"fingerprint": "f"}}}', '{"training_data": ["toys"]}', "[]"):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(DataError, match=r"relevant_documents_file|training_data|must hold a mapping"):
            trained_on(tmp_path, dataset)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(DataError, match="JSON"):
        trained_on(tmp_path, dataset)


def test_everything_is_written(index, dataset, tmp_path):
    rankings = [rank_index(index, dataset, k=2, name="a/b"), rank_bm25(dataset, k=2)]
    qrels = dataset.qrels("test")
    evaluations = [ranking.evaluate(qrels, measures="RR@2") for ranking in rankings]
    write_results(tmp_path / "out", rankings, evaluations, compare(evaluations))
    assert sorted(str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*.*")) == [
        "BM25/evaluation.json",
        "BM25/per_query.jsonl",
        "BM25/run.trec",
        "a-b/evaluation.json",
        "a-b/per_query.jsonl",
        "a-b/run.trec",
        "comparison.json",
        "comparison.md",
    ]
    again = rank_file(tmp_path / "out/a-b/run.trec", qrels)
    assert again.evaluate(qrels, measures="RR@2").aggregate == evaluations[0].aggregate


def test_original_files_for_one_system_and_for_several(index, dataset, tmp_path):
    rankings = [rank_index(index, dataset, k=2), rank_bm25(dataset, k=2)]
    evaluations = [ranking.evaluate(dataset.qrels("test"), measures="RR@2") for ranking in rankings]
    write_original_files(tmp_path / "one", rankings[:1], evaluations[:1], dataset, split="test")
    line = json.loads((tmp_path / "one/retrieved_items.jsonl").read_text().splitlines()[1])
    assert line["query"] == {"content": "blue", "id": "q2"}
    assert line["items"][0] == {"content": "blue bird", "id": "d2", "score": 1.0, "type": "hypencoder_retriever"}
    write_original_files(tmp_path / "two", rankings, evaluations, dataset, split="test")
    assert '"type": "bm25"' in (tmp_path / "two/BM25/retrieved_items.jsonl").read_text()
    assert (tmp_path / "two/small/metrics/aggregated_metrics.txt").read_text() == "RR@2,\n100.00,\n"


def test_folder_names_are_safe_and_differ(index, dataset):
    names = ["a/b", "A b", "..", "a.b", "a-b"]
    rankings = [rank_bm25(dataset, k=1, name=name) for name in names]
    assert folder_names([ranking.name for ranking in rankings]) == ["a-b", "A-b-2", "system", "a.b", "a-b-3"]


def test_unknown_split(index, dataset):
    with pytest.raises(UnknownNameError, match="split of toys 'tset'; did you mean 'test'"):
        evaluate(index, dataset, split="tset")
