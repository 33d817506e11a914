"""The Hub's library reads local folders exactly as it reads the Hub's repositories."""

from __future__ import annotations

import sys

import pytest

from hyperseek.data import examples_from_columns, open_dataset, prepare
from hyperseek.errors import DataError, MissingExtraError
from hyperseek.types import Document

CARD = """---
configs:
- config_name: corpus
  data_files: [{split: corpus, path: corpus.jsonl}]
- config_name: queries
  data_files: [{split: queries, path: queries.jsonl}]
"""
QRELS_CARD = """- config_name: %s
  data_files: [{split: dev, path: dev.jsonl}, {split: test, path: test.jsonl}]
"""


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    datasets = pytest.importorskip("datasets")
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def _texts(write_lines, folder, card):
    write_lines(f"{folder}/README.md", [card + "---"])
    write_lines(
        f"{folder}/corpus.jsonl", [{"_id": "d1", "title": "T", "text": "x"}, {"_id": "d2", "title": "", "text": "y"}]
    )
    write_lines(f"{folder}/queries.jsonl", [{"_id": "q1", "text": "what"}])


def _judgements(write_lines, folder):
    write_lines(f"{folder}/test.jsonl", [{"query-id": "q1", "corpus-id": "d1", "score": 1}])
    write_lines(f"{folder}/dev.jsonl", [{"query-id": "q1", "corpus-id": "d2", "score": 2.0}])


@pytest.mark.parametrize("configuration", ["default", "qrels"])
def test_judgements_inside(write_lines, tmp_path, configuration):
    _texts(write_lines, "toy", CARD + QRELS_CARD % configuration)
    _judgements(write_lines, "toy")
    dataset = open_dataset(f"hub:{tmp_path}/toy")
    assert (dataset.name, dataset.splits, dataset.count()) == ("toy", ("dev", "test"), 2)
    assert next(dataset.documents()) == Document("d1", "x", "T")
    assert dataset.qrels("dev") == {"q1": {"d2": 2}}


def test_documents_to_rerank(write_lines, tmp_path):
    card = "- config_name: top_ranked\n  data_files: [{split: test, path: top.jsonl}]\n"
    _texts(write_lines, "toy", CARD + QRELS_CARD % "qrels" + card)
    _judgements(write_lines, "toy")
    write_lines("toy/top.jsonl", [{"query-id": "q1", "corpus-ids": ["d2", "d1", "d2"]}])
    assert open_dataset(f"hub:{tmp_path}/toy").candidates() == {"q1": ["d2", "d1"]}


def test_judgements_beside(write_lines, tmp_path):
    _texts(write_lines, "toy", CARD)
    write_lines("toy-qrels/README.md", ["---", "configs:", (QRELS_CARD % "default") + "---"])
    _judgements(write_lines, "toy-qrels")
    dataset = open_dataset(f"hub:{tmp_path}/toy")
    assert [query.text for query in dataset.queries("test")] == ["what"]


def test_unknown_documents_are_found(write_lines, tmp_path):
    _texts(write_lines, "toy", CARD + QRELS_CARD % "qrels")
    _judgements(write_lines, "toy")
    write_lines("toy/test.jsonl", [{"query-id": "q1", "corpus-id": "d9", "score": 1}])
    with pytest.raises(DataError, match="toy test:1: document 'd9' is judged but is not in the corpus"):
        open_dataset(f"hub:{tmp_path}/toy").qrels("test")


@pytest.mark.parametrize(
    ("judgement", "message"),
    [
        ({"query-id": "q1", "corpus-id": "d1", "score": 0.5}, "toy test:1: not a judgement"),
        (
            {"q": "q1", "corpus-id": "d1", "score": 1},
            r"needs one of the columns \['query-id', .* has \['q', 'corpus-id', 'score'\]",
        ),
    ],
)
def test_bad_judgements(write_lines, tmp_path, judgement, message):
    _texts(write_lines, "toy", CARD + QRELS_CARD % "qrels")
    for split in ("dev", "test"):
        write_lines(f"toy/{split}.jsonl", [judgement])
    with pytest.raises(DataError, match=message):
        open_dataset(f"hub:{tmp_path}/toy").qrels("test")


def test_other_form_says_how_to_read_it(write_lines, tmp_path):
    write_lines("pairs/train.jsonl", [{"anchor": "a", "positive": "b"}])
    with pytest.raises(DataError, match=r"needs the configurations 'corpus' and 'queries'.*'columns:hub:"):
        open_dataset(f"hub:{tmp_path}/pairs")


def test_missing():
    with pytest.raises(DataError, match="cannot be read from the Hub"):
        open_dataset("hub:no/such")


def test_rows_of_a_table(write_lines, tmp_path):
    write_lines(
        "pairs/train.jsonl",
        [{"anchor": "a", "positive": "b", "negative": "c"}, {"anchor": "d", "positive": "e", "negative": "f"}],
    )
    table = f"hub:{tmp_path}/pairs"
    examples = list(examples_from_columns(table, name="pairs"))
    assert [example.query.text for example in examples] == ["a", "d"]
    info = prepare(tmp_path / "out", [f"pairs=columns:{table}:train"])
    assert (info.examples, info.documents, info.sources[0].split, info.sources[0].fingerprint) == (2, 4, "train", None)
    with pytest.raises(DataError, match=r"has no split 'test'; it has \['train'\]"):
        list(examples_from_columns(table, split="test"))


def test_cells_of_csv_files_stay_the_texts_that_they_are(tmp_path):
    folder = tmp_path / "table"
    folder.mkdir()
    rows = [("007", "NA", "one"), ("08", "null", "1e5"), ("NA", "", "12345678901234567890123"), ("nan", "None", "1_0")]
    lines = [",".join(("docno", "Title", "contents", "year")), *(",".join((*row, "1999")) for row in rows)]
    (folder / "corpus.csv").write_text("\n".join(lines) + "\n")
    (folder / "queries.csv").write_text("_id,text\n0,NA\n00,01\n")
    (folder / "test.csv").write_text("query-id,corpus-id,score\n00,007,1\n0,NA,2\n")
    card = CARD.replace("jsonl", "csv") + "- config_name: qrels\n  data_files: [{split: test, path: test.csv}]\n---\n"
    (folder / "README.md").write_text(card)
    dataset = open_dataset(f"hub:{folder}")
    assert [(d.id, d.title, d.text, d.metadata) for d in dataset.documents()] == [
        (*row, {"year": "1999"}) for row in rows
    ]
    assert [(query.id, query.text) for query in dataset.queries("test")] == [("0", "NA"), ("00", "01")]
    assert dataset.qrels("test") == {"00": {"007": 1}, "0": {"NA": 2}}


def test_scores_of_csv_files_are_numbers(tmp_path):
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs/train.csv").write_text("query,positive,negative,score\n007,NA,null,-2.5\n")
    (example,) = examples_from_columns(f"hub:{tmp_path}/pairs", name="pairs")
    assert (example.query.text, example.positives[0].text, example.negatives[0].text) == ("007", "NA", "null")
    assert [item.score for item in (*example.positives, *example.negatives)] == [-2.5, 0.0]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # `datasets` leaves files open
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.parquet", b"PAR1garbagePAR1"),
        ("train.arrow", b"ARROW1\0\0\0\0"),
        ("train.jsonl", b'{"anchor": ['),
        ("train.csv", b'a,b\n"c'),
        ("train.csv", b"\xff\xfe\x00"),
        ("train.csv", b""),
    ],
)
def test_damaged_tables(tmp_path, name, content):
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / name).write_bytes(content)
    with pytest.raises(DataError):
        list(examples_from_columns(f"hub:{folder}", name="damaged"))


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hyperseek\[hub\]'"):
        open_dataset("hub:any/name")
