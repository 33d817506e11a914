"""Which corpus serves which source, and what is encoded for a model."""

from __future__ import annotations

import json

import pytest
from mining_fakes import ReadableRetriever, documents, example

from hyperseek.data import prepare, read_examples, write_examples
from hyperseek.errors import DataError, InputError, ModelError
from hyperseek.index import Index
from hyperseek.mining import MiningOptions, RefineOptions, refine
from hyperseek.types import Document

ANY = RefineOptions(mining=MiningOptions(negatives=2, margin=None))


def build(folder, texts, name=None):
    return Index.build(folder, documents(texts), ReadableRetriever(), name=name)


def prepared_and_mined(folder, name, sources, mine, *, options=None):
    """Prepare sources in `plain`, and mine them for the folder of a name."""
    prepare(folder / "plain", sources, options=options, overwrite=True)
    return refine(folder / "plain", folder / name, mine=mine, options=ANY)


def negatives(folder):
    return {one.query.id: [item.id for item in one.negatives] for one in read_examples(folder)}


@pytest.fixture
def plain(tmp_path):
    """Examples of the collections `a` and `b`, both of which number their documents."""
    examples = [
        example("about 0", {"1": "0.9@0 a"}, source="a", relevant=["2"]),
        example("about 0 too", {"1": "0.9@0 b"}, source="b"),
    ]
    write_examples(examples, tmp_path / "plain")
    return tmp_path / "plain"


A = {"1": "0.9@0 a", "2": "0.8@0 also", "3": "0.7@0 a3"}
B = {"1": "0.9@0 b", "2": "0.8@0 b2"}


def test_every_collection_has_its_index(plain, tmp_path):
    first, second = build(tmp_path / "a", A, "a"), build(tmp_path / "b", B, "b")
    info = refine(plain, tmp_path / "out", mine=[second, first], options=ANY)
    assert negatives(tmp_path / "out") == {"a/q": ["a/3"], "b/q": ["b/2"]}
    assert [(corpus.name, corpus.sources) for corpus in info.refined[0].corpora] == [("a", ("a",)), ("b", ("b",))]


def test_an_index_of_another_collection_serves_all(plain, tmp_path):
    other = build(tmp_path / "wiki", {"1": "0.8@0 w", "2": "0.1@0 w2", "3": "0.9@0  A"}, "wiki/2026")
    refine(plain, tmp_path / "out", mine=other, options=ANY)
    # The third has the text of the positive of the first query.
    assert negatives(tmp_path / "out") == {"a/q": ["wiki-2026/1", "wiki-2026/2"], "b/q": ["wiki-2026/3", "wiki-2026/1"]}
    refine(plain, tmp_path / "both", mine=[other, build(tmp_path / "a", A, "a")], options=ANY)
    assert negatives(tmp_path / "both") == {"a/q": ["a/3"], "b/q": ["wiki-2026/3", "wiki-2026/1"]}


def test_an_index_without_a_name_is_known_by_its_documents(plain, tmp_path):
    unnamed = build(tmp_path / "some", B)
    refine(plain, tmp_path / "out", mine=[unnamed, build(tmp_path / "a", A, "a")], options=ANY)
    assert negatives(tmp_path / "out")["b/q"] == ["b/2"]


def test_names_that_are_wrong(plain, tmp_path):
    with pytest.raises(DataError, match="document '1' of 'a' has a different text in the examples"):
        refine(plain, tmp_path / "out", mine=build(tmp_path / "wrong", B, "a"), options=ANY)
    with pytest.raises(DataError, match="has none of the first positives of 'a'"):
        refine(plain, tmp_path / "out", mine=build(tmp_path / "none", {"9": "x"}, "a"), options=ANY)
    first = build(tmp_path / "a", A, "a")
    with pytest.raises(InputError, match="no index for the examples of 'b'; give one, as in b=INDEX"):
        refine(plain, tmp_path / "out", mine=first, options=ANY)
    with pytest.raises(InputError, match="two indexes are given for 'a'"):
        refine(plain, tmp_path / "out", mine=[first, first], options=ANY)
    others = [build(tmp_path / name, {"1": "x"}, name) for name in ("x", "y")]
    with pytest.raises(InputError, match="'x' and 'y' are given for a, b, which needs one"):
        refine(plain, tmp_path / "out", mine=others, options=ANY)
    with pytest.raises(InputError, match="two models are given"):
        refine(plain, tmp_path / "out", mine=[ReadableRetriever(), ReadableRetriever()], options=ANY)
    with pytest.raises(ModelError, match="there is no model folder"):
        refine(plain, tmp_path / "out", mine=tmp_path / "nothing", options=ANY)
    assert not (tmp_path / "out").exists()


def test_a_model_encodes_the_documents_of_examples_without_a_collection(plain, tmp_path):
    model = ReadableRetriever()
    refine(plain, tmp_path / "out", mine=[build(tmp_path / "a", A, "a"), model], options=ANY)
    assert model.encoded == ["0.9@0 b"]
    table = tmp_path / "table.jsonl"
    rows = [{"query": f"about {n}", "positive": f" 0.{n + 1}@0 0.{n + 1}@1 {n} \n"} for n in range(2)]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    info = prepared_and_mined(tmp_path, "tables", [f"columns:{table}"], model)
    first, second = read_examples(tmp_path / "tables")
    assert [item.text for item in first.negatives] == [item.text for item in second.positives] == [rows[1]["positive"]]
    assert info.refined[0].corpora[0].documents == 2


def test_a_model_encodes_collections_and_a_killed_encoding_is_resumed(beir, tmp_path, caplog):
    lines = [{"_id": "q1", "text": "what grows 0"}, {"_id": "q2", "text": "what is yellow 0"}]
    (beir / "queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    class Killed(ReadableRetriever):
        def compile_batches(self, queries, options=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepared_and_mined(tmp_path, "out", [f"{beir}:train"], Killed())
    assert {path.name for path in tmp_path.iterdir()} == {"fruit", "plain", ".out.mining"}
    model = ReadableRetriever()
    info = prepared_and_mined(tmp_path, "out", [f"{beir}:train"], model)
    assert model.encoded == []
    assert negatives(tmp_path / "out") == {"fruit/q2": ["fruit/d1", "fruit/d3"]}
    assert info.refined[0].corpora[0].data == Index.build(
        tmp_path / "whole",
        [Document("d1", "grows on trees", "Apple", {"colour": "red"}), Document("d2", "a yellow berry"),
         Document("d3", "no fruit at all")],
        model,
    ).data_fingerprint  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {"fruit", "plain", "out", "whole"}


def test_listed_documents_stay_out(beir, tmp_path):
    from hyperseek.data import PrepareOptions, QrelsOptions

    lines = [{"_id": "q1", "text": "what grows 0"}, {"_id": "q2", "text": "what is yellow 0"}]
    (beir / "queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = PrepareOptions(qrels=QrelsOptions(drop_documents=frozenset({"fruit/d3"})))
    info = prepared_and_mined(tmp_path, "out", [f"{beir}:train"], ReadableRetriever(), options=options)
    assert negatives(tmp_path / "out") == {"fruit/q2": ["fruit/d1"]}
    assert info.dropped.counts["listed_document"] == 1


def test_relevant_documents_that_the_options_leave_out_are_no_negatives(beir, tmp_path):
    from hyperseek.data import PrepareOptions, QrelsOptions

    (beir / "qrels/train.tsv").write_text("q2\td2\t2\nq2\td1\t1\nq2\td3\t0\n")
    (beir / "queries.jsonl").write_text('{"_id": "q1", "text": "a 0"}\n{"_id": "q2", "text": "what is yellow 0"}\n')
    options = PrepareOptions(qrels=QrelsOptions(minimum_grade=2, judged_negatives=False))
    info = prepared_and_mined(tmp_path, "out", [f"{beir}:train"], ReadableRetriever(), options=options)
    (one,) = read_examples(tmp_path / "out")
    assert one.relevant == ("fruit/d1", )  # fmt: skip
    assert [item.id for item in one.negatives] == ["fruit/d3"]
    assert info.dropped.counts["relevant_document"] == 2
