"""Benchmarks by name, in folders laid out as their downloads are, and by the names of the Hub and of ir_datasets."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from hyperseek.data import BEIR_GROUPS, NANOBEIR_GROUPS, Dataset, open_dataset
from hyperseek.data.open import benchmark_sets, parse_source
from hyperseek.errors import DataError, InputError, UnknownNameError
from hyperseek.types import Document

CORPUS = [{"_id": "d1", "title": "Apple", "text": "grows on trees"}, {"_id": "d2", "title": "", "text": "a berry"}]
QUERIES = [{"_id": "q1", "text": "what grows"}]
INSTRUCTED = [
    {
        "_id": "310",
        "text": "what grows",
        "instruction_og": "Fruit is relevant.",
        "instruction_changed": "Fruit is relevant, berries are not.",
        "keywords": "grows",
        "short_query": "growing",
    },
]


@pytest.fixture
def archives(write_lines: Any, tmp_path: Path) -> Path:
    """BEIR's archives, unpacked."""
    for place in ("scifact", "cqadupstack/android"):
        write_lines(f"beir/{place}/corpus.jsonl", CORPUS)
        write_lines(f"beir/{place}/queries.jsonl", QUERIES)
        write_lines(f"beir/{place}/qrels/test.tsv", ["query-id\tcorpus-id\tscore", "q1\td1\t1"])
    return tmp_path / "beir"


def test_sets_of_beir_are_found_in_their_archives(archives: Path) -> None:
    for name in ("scifact", "cqadupstack-android"):
        dataset = open_dataset(f"beir:{archives}#{name}")
        assert (dataset.name, dataset.splits) == (name, ("test",))
        assert dataset.qrels("test") == {"q1": {"d1": 1}}
        assert next(dataset.documents()) == Document("d1", "grows on trees", "Apple")
    parsed = parse_source(f"beir:{archives}#scifact:test")
    assert (parsed.place, parsed.split) == (f"beir:{archives}#scifact", "test")
    with pytest.raises(DataError, match="has no folder nq; it has cqadupstack, scifact"):
        open_dataset(f"beir:{archives}#nq")
    with pytest.raises(DataError, match="no such folder"):
        open_dataset("beir:nowhere#nq")


def test_sets_of_beir_have_names_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Hub:
        splits = ("test",)

        def __init__(self, name: str, keys: object) -> None:
            asked.append(name)

    monkeypatch.setattr("hyperseek.data._benchmark_collections.HubSource", Hub)
    for name in ("scifact", "webis-touche2020", "cqadupstack-tex"):
        assert open_dataset(f"beir:{name}").name == name
    assert asked == ["BeIR/scifact", "BeIR/webis-touche2020", "mteb/cqadupstack-tex"]
    with pytest.raises(UnknownNameError, match="did you mean 'scifact'"):
        open_dataset("beir:scifacts")
    with pytest.raises(InputError, match=r"beir:\[FOLDER#\]SET"):
        open_dataset("beir:#")


def test_nanobeir_reads_clones_and_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    tables = {
        "corpus": [{"_id": row["_id"], "text": row["text"]} for row in CORPUS],
        "queries": QUERIES,
        "qrels": [{"query-id": "q1", "corpus-id": "d1"}],
    }
    for table, rows in tables.items():
        folder = tmp_path / "NanoSciFact" / table
        folder.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet")
    local = open_dataset(f"nanobeir:{tmp_path}#NanoSciFact")
    assert (local.name, local.splits, local.qrels("test")) == ("NanoSciFact", ("test",), {"q1": {"d1": 1}})

    def hub_rows(name: str, split: str | None) -> Any:
        place, _, table = name.partition("#")
        assert (place, split) == ("zeta-alpha-ai/NanoSciFact", None)
        yield from enumerate(tables[table], start=1)

    monkeypatch.setattr("hyperseek.data._benchmark_collections.hub_rows", hub_rows)
    remote = open_dataset("nanobeir:NanoSciFact")
    assert remote.fingerprint() == local.fingerprint()
    with pytest.raises(DataError, match="has no folder NanoNQ; it has NanoSciFact"):
        open_dataset(f"nanobeir:{tmp_path}#NanoNQ")


def test_tracks_are_read_from_their_own_files(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "collection.tsv.gz", "wt") as file:
        file.write("7\tgrows on trees\n8\ta berry\n")
    (tmp_path / "msmarco-test2019-queries.tsv").write_text("19\twhat grows\n20\tnot judged\n")
    (tmp_path / "2019qrels-pass.txt").write_text("19 Q0 7 3\n19 Q0 8 0\n19 Q0 9 1\n")
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset/topics.tsv").write_text("19\twhat grows\n")
    (tmp_path / "dataset/dl_hard-passage.qrels").write_text("19 0 8 2\n")
    dataset = open_dataset(f"trec:{tmp_path}#dl-2019")
    assert (dataset.name, dataset.splits, dataset.count()) == ("msmarco-passage", ("test",), 2)
    assert dataset.qrels("test") == {"19": {"7": 3, "8": 0, "9": 1}}
    assert [query.id for query in dataset.queries("test")] == ["19"]
    assert open_dataset(f"trec:{tmp_path}#dl-hard").qrels("test") == {"19": {"8": 2}}
    with pytest.raises(DataError, match=r"none of the files msmarco-test2020-queries\.tsv"):
        open_dataset(f"trec:{tmp_path}#dl-2020")


def test_tip_of_the_tongue_is_read_from_its_own_files(write_lines: Any, tmp_path: Path) -> None:
    movie = {"doc_id": "m1", "page_title": "Alien", "page_source": "x", "text": "a ship", "sections": {"Plot": "a"}}
    write_lines("tot/corpus.jsonl", [movie])
    asked = {"id": "1", "url": "u", "domain": "movie", "title": "space film", "text": "a film on a ship"}
    write_lines("tot/dev/queries.jsonl", [asked])
    write_lines("tot/dev/qrel.txt", ["1 0 m1 1"])
    dataset = open_dataset(f"trec:{tmp_path}/tot#tot-2023")
    assert dataset.qrels("test") == {"1": {"m1": 1}}
    (document,) = dataset.documents()
    assert (document.id, document.title, document.text) == ("m1", "Alien", "a ship")
    assert dataset.queries("test")[0].text == "a film on a ship"


def test_tracks_have_names_in_ir_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def opened(identity: str) -> Dataset:
        asked.append(identity)
        qrels = {"judged": {"q": {"d": 1}}}
        return Dataset.from_records("msmarco-passage", [Document("d", "x")], queries=[("q", "y")], qrels=qrels)

    monkeypatch.setattr("hyperseek.data._benchmark_collections.open_ir_datasets", opened)
    dataset = open_dataset("trec:dl-2020")
    assert (dataset.name, dataset.splits, dataset.qrels("test")) == ("msmarco-passage", ("test",), {"q": {"d": 1}})
    catalogue = pytest.importorskip("ir_datasets")
    from hyperseek.data._benchmark_collections import TRACKS

    assert asked == ["msmarco-passage/trec-dl-2020/judged"]
    for track in TRACKS.values():
        entry = catalogue.registry[track.identity]
        assert entry.has_docs()
        assert entry.has_queries()
        assert entry.has_qrels()


@pytest.fixture
def instructed(write_lines: Any, tmp_path: Path) -> Path:
    """A clone of the repository of one of FollowIR's sets."""
    write_lines("clone/core17/corpus.jsonl", CORPUS)
    write_lines("clone/core17/queries.jsonl", INSTRUCTED)
    grades = {"og": (1, 1), "changed": (1, 0)}
    for version, (first, second) in grades.items():
        rows = [
            {"query-id": "310", "corpus-id": "d1", "score": float(first)},
            {"query-id": "310", "corpus-id": "d2", "score": float(second)},
        ]
        write_lines(f"clone/core17/qrels_{version}/test.jsonl", rows)
        write_lines(f"clone/core17/qrels_{version}/test.tsv", ["query-id\tcorpus-id\tscore", "310\td1\t1"])
    write_lines("clone/core17/top_ranked.jsonl", [{"qid": "310", "pid": "d2"}, {"qid": "310", "pid": "d1"}])
    write_lines("clone/core17/empty_scores.json", ["{}"])
    return tmp_path / "clone"


def test_followir_asks_each_query_twice(instructed: Path) -> None:
    dataset = open_dataset(f"followir:{instructed}#core17")
    assert (dataset.name, dataset.splits) == ("followir-core17", ("changed", "og", "test"))
    assert dataset.qrels("og") == {"310-og": {"d1": 1, "d2": 1}}
    assert dataset.qrels("changed") == {"310-changed": {"d1": 1, "d2": 0}}
    assert dataset.qrels("test") == dataset.qrels("og") | dataset.qrels("changed")
    queries = dataset.queries("test")
    assert [query.text for query in queries] == [
        "what grows Fruit is relevant.",
        "what grows Fruit is relevant, berries are not.",
    ]
    assert queries[0].metadata["instruction"] == "Fruit is relevant."
    assert dataset.candidates() == {"310-og": ["d2", "d1"], "310-changed": ["d2", "d1"]}
    plain = open_dataset(f"followir:{instructed}#core17+plain")
    assert [query.text for query in plain.queries("og")] == ["what grows"]
    assert plain.queries("og")[0].metadata["instruction"] == "Fruit is relevant."


def test_followir_reads_the_hub_by_its_tables(monkeypatch: pytest.MonkeyPatch, instructed: Path) -> None:
    local = open_dataset(f"followir:{instructed}#core17")
    asked = set()

    def hub_rows(name: str, split: str | None) -> Any:
        place, _, table = name.partition("#")
        asked.add((place, table))
        file = instructed / "core17" / (f"{table}/test.jsonl" if table.startswith("qrels") else f"{table}.jsonl")
        import json

        yield from enumerate(map(json.loads, file.read_text().splitlines()), start=1)

    monkeypatch.setattr("hyperseek.data._followir.hub_rows", hub_rows)
    remote = open_dataset("followir:core17")
    assert remote.fingerprint() == local.fingerprint()
    assert remote.candidates() == local.candidates()
    tables = ("corpus", "queries", "qrels_og", "qrels_changed", "top_ranked")
    assert asked == {("jhu-clsp/core17-instructions", table) for table in tables}


def test_collections_without_candidates_say_so(beir: Path) -> None:
    assert open_dataset(beir).candidates() is None


def test_benchmarks_name_their_sets() -> None:
    assert benchmark_sets("beir") == BEIR_GROUPS
    assert [len(group) for group in BEIR_GROUPS.values()] == [13, 12]
    assert len(NANOBEIR_GROUPS["NanoBEIR"]) == 13
    assert sum(map(len, benchmark_sets("bright").values())) == 12
    assert set(benchmark_sets("followir")["FollowIR"]) == {"core17", "news21", "robust04"}
    assert benchmark_sets("pydocs") == benchmark_sets("nothing") == {}
