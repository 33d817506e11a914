from __future__ import annotations

import subprocess
import sys
from math import nan

import pytest

from hyperseek.data import (
    Dataset,
    examples_from_columns,
    examples_from_hypencoder,
    open_dataset,
    prepare,
    read_corpus,
    write_beir,
    write_qrels,
    write_run,
)
from hyperseek.data.open import parse_source
from hyperseek.errors import DataError, InputError
from hyperseek.types import Document, Query


def test_beir_folder(beir):
    dataset = open_dataset(beir)
    assert dataset.name == "fruit"
    assert dataset.splits == ("test", "train")
    assert next(dataset.documents()) == Document("d1", "grows on trees", "Apple", {"colour": "red"})
    assert dataset.qrels("test") == {"q1": {"d1": 2, "d3": 0}}
    assert [query.id for query in dataset.queries("train")] == ["q2"]
    assert open_dataset(str(beir), name="basket/a").name == "basket-a"


def test_folder_with_tsv_and_trec(write_lines, tmp_path):
    write_lines("c/corpus.tsv", ["d1\tone"])
    write_lines("c/queries.tsv.gz", ["q1\ttwo"])
    write_lines("c/qrels/dev.qrels", ["q1 0 d1 1"])
    write_lines("c/qrels/json.json", [{"q1": {"d1": 2}}])
    write_lines("c/qrels/README.md", ["not judgements"])
    dataset = open_dataset(tmp_path / "c")
    assert dataset.splits == ("dev", "json")
    assert (dataset.qrels("dev"), dataset.qrels("json")) == ({"q1": {"d1": 1}}, {"q1": {"d1": 2}})


def test_corpus_alone(write_lines):
    dataset = open_dataset(write_lines("nodes.jsonl.gz", [{"_id": "a", "text": "x"}]))
    assert (dataset.name, dataset.splits, dataset.queries(), dataset.count()) == ("nodes", (), [], 1)


def test_files_side_by_side(write_lines):
    corpus = write_lines("corpus.jsonl", [{"key": "d1", "words": "x", "head": "T"}])
    queries = write_lines("questions.tsv", ["q1\twhat"])
    qrels = write_lines("heldout.txt", ["q1 0 d1 1"])
    keys = {"id_key": "key", "text_key": "words", "title_key": "head"}
    dataset = open_dataset(corpus, queries=queries, qrels=qrels, **keys)
    assert dataset.qrels("heldout") == {"q1": {"d1": 1}}
    assert next(dataset.documents()).full_text == "T x"
    assert open_dataset(corpus, queries=queries, qrels={"a": qrels, "b": qrels}, **keys).splits == ("a", "b")


def test_nothing_is_read_on_opening(write_lines):
    dataset = open_dataset(write_lines("corpus.jsonl", ["not json"]))
    with pytest.raises(DataError, match=r"corpus.jsonl:1: not valid JSON"):
        dataset.count()


def test_missing(tmp_path):
    with pytest.raises(
        DataError,
        match=r"no such file or folder; give a folder of files, .* NAME:PLACE .*\(beir, bright, files, folder, foll",
    ):
        open_dataset(tmp_path / "nothing")


def test_folder_without_corpus(write_lines, tmp_path):
    write_lines("c/queries.jsonl", [{"_id": "q", "text": "x"}])
    with pytest.raises(DataError, match=r"has no corpus.* but \['queries.jsonl'\]"):
        open_dataset(tmp_path / "c")


def test_judgements_without_queries(beir, write_lines):
    (beir / "queries.jsonl").unlink()
    with pytest.raises(DataError, match="holds judgements but no queries"):
        open_dataset(beir)
    corpus = write_lines("corpus.jsonl", [{"_id": "d", "text": "x"}])
    with pytest.raises(InputError, match="give queries= too"):
        open_dataset(corpus, qrels=beir / "qrels/test.tsv")


def test_ambiguous_files(beir, write_lines):
    write_lines("fruit/corpus.jsonl", [{"_id": "d", "text": "x"}])
    with pytest.raises(DataError, match=r"holds both corpus\.jsonl and corpus\.jsonl\.gz; remove one"):
        open_dataset(beir)
    (beir / "corpus.jsonl").unlink()
    write_lines("fruit/qrels/test.qrels", ["q1 0 d1 1"])
    with pytest.raises(DataError, match=r"holds both test\.qrels and test\.tsv; remove one"):
        open_dataset(beir)


def test_arguments_that_do_not_go_together(beir):
    for source in (beir, "pydocs", "hub:any/name", "ir_datasets:cranfield"):
        with pytest.raises(InputError, match="has its own queries"):
            open_dataset(source, queries=beir / "queries.jsonl")


def test_one_grammar(beir, monkeypatch):
    named = open_dataset(f"basket={beir}")
    assert (named.name, named.fingerprint()) == ("basket", open_dataset(f"folder:{beir}").fingerprint())
    with pytest.raises(InputError, match="names the split 'test', but collections are opened whole; give 'pydocs'"):
        open_dataset("pydocs:test")
    with pytest.raises(InputError, match="is a table of training examples; give a collection"):
        open_dataset("columns:pairs.jsonl")
    with pytest.raises(InputError, match="pydocs has its own fields; id_key, text_key and title_key"):
        open_dataset("pydocs", text_key="body")
    with pytest.raises(DataError, match=r"pydoc:numpy: no such file or folder; .*; did you mean 'pydocs'"):
        open_dataset("pydoc:numpy")
    monkeypatch.chdir(beir.parent)
    (beir.parent / "hub").symlink_to(beir)
    assert open_dataset("hub").name == "fruit"  # only pydocs is a source without a place


def test_prepared_folder_is_recognised(tmp_path):
    (tmp_path / "prepared.json").write_text("{}")
    with pytest.raises(DataError, match="is a prepared training folder; read it with read_prepared"):
        open_dataset(tmp_path)


def test_import_is_light():
    code = (
        "import sys, hyperseek.data; print(sorted({'torch', 'datasets', 'ir_datasets', 'pandas'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_sources_are_taken_apart_whether_they_exist_or_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:b").mkdir()
    (tmp_path / "medquad").mkdir()
    for source, place, split in [
        ("nowhere/medquad:train", "nowhere/medquad", "train"),
        ("medquad:train", "medquad", "train"),
        ("medquad", "medquad", None),
        ("nowhere", "nowhere", None),
        ("a:b", "a:b", None),
        ("a:b:dev", "a:b", "dev"),
        ("nowhere.jsonl:train", "nowhere.jsonl", "train"),
        ("C:\\data\\medquad", "C:\\data\\medquad", None),
        ("C:/data/medquad:dev", "C:/data/medquad", "dev"),
        ("C:/data/medquad", "C:/data/medquad", None),
        ("name=nowhere:train", "nowhere", "train"),
        ("medquad:", "medquad:", None),
        (":train", ":train", None),
        ("hub:organisation/name:dev", "hub:organisation/name", "dev"),
        ("pydocs:numpy:train", "pydocs:numpy", "train"),
        ("x" * 5000 + ":train", "x" * 5000, "train"),
        ("with\0zero:train", "with\0zero", "train"),
    ]:
        parsed = parse_source(source)
        assert (parsed.place, parsed.split) == (place, split), source
    with pytest.raises(DataError, match="nowhere/medquad: no such file or folder"):
        prepare(tmp_path / "out", ["nowhere/medquad:train"])


def test_arguments_of_other_kinds_are_errors_of_ours(beir, write_lines, tmp_path):
    corpus = write_lines("c.jsonl", [{"_id": "a", "text": "x"}])
    judged = {"queries": beir / "queries.jsonl"}
    for call in (
        *(lambda given=given: open_dataset(given) for given in (None, 5, b"x", ["c.jsonl"])),
        *(lambda given=given: read_corpus(given) for given in (None, 5, b"x", ["c.jsonl"])),
        *(lambda given=given: parse_source(given) for given in (None, 5, b"x")),
        *(lambda given=given: open_dataset(corpus, name=given) for given in (5, "")),
        *(lambda given=given: open_dataset(corpus, text_key=given) for given in (5, "", ["text"])),
        *(lambda given=given: open_dataset(corpus, qrels=given, **judged) for given in (5, {"t": 5}, ["x"])),
        lambda: open_dataset(corpus, queries=5),
        lambda: open_dataset("x" * 10_000),
        lambda: open_dataset(beir).queries(5),
        lambda: open_dataset(beir).qrels(None),
        *(
            lambda given=given: prepare(tmp_path / "out", given)
            for given in ("pydocs", None, [None], [5], ["x" * 9999])
        ),
        *(lambda given=given: Dataset.from_records("n", given) for given in ("abc", None, [1], {"a": "b"})),
        *(lambda given=given: Dataset.from_records("n", ["a"], queries=given) for given in ("abc", None, [1])),
        *(
            lambda given=given: Dataset.from_records("n", ["a"], qrels=given)
            for given in ([1], {"t": None}, {"q": {"a": 1}})
        ),
        *(lambda given=given: list(examples_from_columns(given)) for given in (None, 5, [1], [{1: 2}], {"query": "a"})),
        *(lambda given=given: list(examples_from_hypencoder(given)) for given in (None, 5, [1], {"query": "a"})),
        *(
            lambda given=given: write_qrels(given, tmp_path / "o.tsv")
            for given in (None, [], {"q": None}, {5: {"a": 1}})
        ),
        *(lambda given=given: write_qrels({"q": {"a": given}}, tmp_path / "o.tsv") for given in ("x", None, 1.5, True)),
        *(
            lambda given=given: write_run(given, tmp_path / "o.trec")
            for given in (None, [], {"q": None}, {5: {"a": 1}})
        ),
        *(lambda given=given: write_run({"q": {"a": given}}, tmp_path / "o.trec") for given in ("x", None, 10**400)),
        lambda: write_qrels({"q": {"\ud800": 1}}, tmp_path / "o.tsv"),
        lambda: write_run({"q": {"\ud800": 1.0}}, tmp_path / "o.trec"),
        *(
            lambda given=given: write_beir(Dataset.from_records("n", [given]), tmp_path / "o")
            for given in (
                Document("a", "\ud800"),
                Document("a", "", "", {"x": object()}),
                Document("a", "", "", {"x": nan}),
            )
        ),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert len(str(caught.value)) < 1_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.jsonl", "fruit"]


def test_records_in_memory_take_all_forms():
    dataset = Dataset.from_records(
        "n",
        [("a", "x"), {"id": "b", "text": "y"}],
        queries=[Query("q", "one"), ("r", "two")],
        qrels={"t": {"q": {"a": 1}}},
    )
    assert list(dataset.documents()) == [Document("a", "x"), Document("b", "y")]
    assert dataset.queries() == [Query("q", "one"), Query("r", "two")]
    assert dataset.qrels("t") == {"q": {"a": 1}}
    with pytest.raises(DataError, match=r"a grade must be a whole number, not 1\.5"):
        Dataset.from_records("n", ["x"], queries=["y"], qrels={"t": {"0": {"0": 1.5}}}).qrels("t")
