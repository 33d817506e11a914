"""BRIGHT in local folders, as clones of its repository and other exports lay them out, and by the Hub's library."""

from __future__ import annotations

import pytest

from hyperseek.data import open_dataset, write_beir
from hyperseek.errors import DataError, InputError, UnknownNameError
from hyperseek.evaluation import excluded_ids, rank_bm25, rank_file

DOCUMENTS = [{"id": f"d{place}", "content": f"red fox number{place}"} for place in range(6)]
EXAMPLES = [
    {
        "query": "red fox",
        "reasoning": "colours",
        "id": "0",
        "excluded_ids": ["d0", "d1", "d0"],
        "gold_ids": ["d2"],
        "gold_ids_long": ["page"],
    },
    {"query": "number3", "id": "1", "excluded_ids": ["N/A"], "gold_ids": ["d3", "d4"], "gold_ids_long": ["N/A"]},
]


@pytest.fixture
def folder(write_lines, tmp_path):
    for subset in ("biology", "pony"):
        write_lines(f"bright/documents/{subset}.jsonl", DOCUMENTS)
        write_lines(f"bright/long_documents/{subset}.jsonl", [{"id": "page", "content": "a red page"}])
        write_lines(f"bright/examples/{subset}.jsonl", EXAMPLES)
        thought = [{**row, "query": f"think: {row['query']}"} for row in EXAMPLES]
        write_lines(f"bright/gpt4_reason/{subset}.jsonl", thought)
    return tmp_path / "bright"


def test_a_set_has_its_own_documents_queries_and_gold(folder):
    dataset = open_dataset(f"bright:{folder}#biology")
    assert (dataset.name, dataset.splits, dataset.count()) == ("bright-biology", ("test",), 6)
    assert dataset.qrels("test") == {"0": {"d2": 1}, "1": {"d3": 1, "d4": 1}}
    queries = dataset.queries("test")
    assert [query.text for query in queries] == ["red fox", "number3"]
    assert queries[0].metadata == {"reasoning": "colours", "excluded_ids": ["d0", "d1"]}
    assert queries[1].metadata == {}


def test_long_documents_and_variants_of_the_queries(folder):
    long = open_dataset(f"bright:{folder}#biology+gpt4_reason+long")
    assert (long.name, [document.id for document in long.documents()]) == ("bright-biology-long", ["page"])
    assert long.qrels("test") == {"0": {"page": 1}}
    assert [query.text for query in long.queries("test")] == ["think: red fox"]
    short = open_dataset(f"bright:{folder}#biology+gpt4_reason")
    plain = open_dataset(f"bright:{folder}#biology")
    assert short.name == plain.name
    assert short.fingerprint() != plain.fingerprint()


@pytest.mark.parametrize("layout", ["parts", "saved"])
def test_parquet_parts_and_saved_folders_hold_the_same(folder, tmp_path, layout):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for configuration, rows in (("documents", DOCUMENTS), ("examples", EXAMPLES)):
        rows = [{key: value for key, value in row.items() if key != "reasoning"} for row in rows]
        target = tmp_path / "other" / configuration
        target.mkdir(parents=True)
        if layout == "saved":
            target = target / "biology"
            target.mkdir()
        half = len(rows) // 2
        for part, some in enumerate((rows[:half], rows[half:])):
            pq.write_table(pa.Table.from_pylist(some), target / f"biology-{part:05}-of-00002.parquet")
        pq.write_table(pa.Table.from_pylist([{"id": "x"}]), tmp_path / "other" / configuration / "pony.parquet")
    parts, plain = (open_dataset(f"bright:{place}#biology") for place in (tmp_path / "other", folder))
    assert list(parts.documents()) == list(plain.documents())
    assert parts.qrels("test") == plain.qrels("test")
    assert excluded_ids(parts.queries()) == excluded_ids(plain.queries()) == {"0": {"d0", "d1"}}


def test_the_hub_is_read_by_configuration_and_set(monkeypatch):
    asked = []

    def hub_rows(name, split):
        asked.append((name, split))
        yield from enumerate(DOCUMENTS if name.endswith("#documents") else EXAMPLES, start=1)

    monkeypatch.setattr("hyperseek.data._known_collections.hub_rows", hub_rows)
    assert open_dataset("bright:pony").count() == 6
    assert open_dataset("bright:mine/copy#own+grit_reason").qrels("test")["0"] == {"d2": 1}
    assert {name for name, _ in asked} == {
        *("xlangai/BRIGHT#documents", "xlangai/BRIGHT#examples"),
        *("mine/copy#documents", "mine/copy#grit_reason"),
    }
    assert {split for name, split in asked if name.startswith("x")} == {"pony"}


def test_excluded_documents_leave_the_ranking_before_it_is_cut(folder, tmp_path):
    dataset = open_dataset(f"bright:{folder}#pony")
    qrels = dataset.qrels("test")
    everything = rank_bm25(dataset, k=6)
    assert list(everything.run["0"]) == ["d2", "d3", "d4", "d5"]  # equal scores keep the corpus' order
    assert list(rank_bm25(dataset, k=1).run["0"]) == ["d2"]
    assert rank_bm25(dataset, k=1).evaluate(qrels, measures="nDCG@1").aggregate["nDCG@1"] == 1

    (tmp_path / "a.trec").write_text("".join(f"0 Q0 d{place} 1 {9 - place} a\n" for place in range(4)))
    assert list(rank_file(tmp_path / "a.trec", qrels).run["0"]) == ["d0", "d1", "d2", "d3"]
    found = rank_file(tmp_path / "a.trec", qrels, excluded=excluded_ids(dataset.queries()))
    assert list(found.run["0"]) == ["d2", "d3"]

    write_beir(dataset, tmp_path / "beir")
    copy = open_dataset(tmp_path / "beir")
    assert copy.fingerprint() == dataset.fingerprint()
    assert rank_bm25(copy, k=6).run == everything.run


def test_what_is_wrong_is_said(folder, write_lines):
    with pytest.raises(UnknownNameError, match="did you mean 'biology'"):
        open_dataset("bright:biologie")
    for wrong in ("", "a+long+b+c", "biology+../x", "/etc#../x"):
        with pytest.raises(InputError, match="not of the form"):
            open_dataset(f"bright:{wrong}")
    with pytest.raises(UnknownNameError, match="known: biology, pony"):
        open_dataset(f"bright:{folder}#aops").count()
    with pytest.raises(DataError, match="no folder 'claude_reason'"):
        open_dataset(f"bright:{folder}#pony+claude_reason").queries("test")
    write_lines("bright/examples/pony.jsonl", [{"id": "0", "query": "x", "excluded_ids": "d0", "gold_ids": ["d1"]}])
    with pytest.raises(DataError, match="excluded_ids must be a list of ids"):
        open_dataset(f"bright:{folder}#pony").queries()
    write_lines("bright/examples/pony.jsonl", [{"id": "0", "query": "x", "gold_ids": "d0"}])
    with pytest.raises(DataError, match="gold_ids"):
        open_dataset(f"bright:{folder}#pony").qrels("test")
