"""RAGBench in local folders of the Hub's layout, and tables with ragas' field names."""

from __future__ import annotations

import json

import pytest

from hyperseek.data import open_dataset, write_beir
from hyperseek.errors import DataError, InputError, UnknownNameError

DOCUMENTS = ["The sea is deep. Fish live in it.", "A star is hot."]


def ragbench_row(
    identity, question, documents, *, relevant, utilized=(), response="Fish.", unsupported=(), adheres=True
):
    """A row of exactly RAGBench's columns; sentences have keys such as 0a, of the first document."""
    sentences = [
        [[f"{place}{'abcdef'[number]}", f"{part}."] for number, part in enumerate(text.removesuffix(".").split(". "))]
        for place, text in enumerate(documents)
    ]
    said = [["abcdef"[number], f"{part}."] for number, part in enumerate(response.removesuffix(".").split(". "))]
    return {
        "id": identity,
        "question": question,
        "documents": documents,
        "response": response,
        "generation_model_name": "m",
        "annotating_model_name": "a",
        "dataset_name": "emanual_test",
        "documents_sentences": sentences,
        "response_sentences": said,
        "sentence_support_information": [
            {
                "response_sentence_key": key,
                "explanation": "",
                "fully_supported": key not in unsupported,
                "supporting_sentence_keys": [] if key in unsupported else list(utilized),
            }
            for key, _ in said
        ],
        "unsupported_response_sentence_keys": list(unsupported),
        "adherence_score": not unsupported,
        "overall_supported_explanation": "",
        "relevance_explanation": "",
        "all_relevant_sentence_keys": list(relevant),
        "all_utilized_sentence_keys": list(utilized),
        "trulens_groundedness": 0.5,
        "trulens_context_relevance": 0.5,
        "ragas_faithfulness": None,
        "ragas_context_relevance": 0.5,
        "gpt3_adherence": 1.0,
        "gpt3_context_relevance": 0.5,
        "gpt35_utilization": 0.5,
        "relevance_score": 0.5,
        "utilization_score": 0.5,
        "completeness_score": 0.5,
    }


ROWS = [
    ragbench_row("1", "what lives in the sea", [*DOCUMENTS, DOCUMENTS[0]], relevant=["0b"], utilized=["0b"]),
    ragbench_row("1", "what lives in the sea", DOCUMENTS, relevant=["1a"], response="Whales.", unsupported=["a"]),
    ragbench_row("2", "is it hot", ["A moon is cold.", DOCUMENTS[1]], relevant=[]),
]


@pytest.fixture
def folder(write_lines, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_lines("bench/emanual/train.jsonl", [ragbench_row("9", "cats", ["The cat sat."], relevant=["0a"])])
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "bench/emanual/test-00000-of-00001.parquet")
    return tmp_path / "bench"


def test_ragbench_is_a_collection(folder):
    dataset = open_dataset(f"ragbench:{folder}#emanual")
    assert (dataset.name, dataset.splits) == ("ragbench-emanual", ("test", "train"))
    texts = {document.id: document.text for document in dataset.documents()}
    assert sorted(texts.values()) == sorted([*DOCUMENTS, "A moon is cold.", "The cat sat."])
    assert [document.id for document in dataset.documents()] == list(texts)  # the same order each time
    named = {text: identity for identity, text in texts.items()}
    # Relevant for either response, or not at all.
    assert dataset.qrels("test") == {
        "1": {named[DOCUMENTS[0]]: 1, named[DOCUMENTS[1]]: 1},
        "2": {named["A moon is cold."]: 0, named[DOCUMENTS[1]]: 0},
    }
    first, second = dataset.queries("test")
    assert (first.text, first.metadata["answers"]) == ("what lives in the sea", ["Fish.", "Whales."])
    assert [record["unsupported"] for record in first.metadata["ragbench"]] == [[], ["a"]]
    # A document that a row repeats is one, with the sentences of its first appearance.
    assert first.metadata["ragbench"][0]["documents"] == [named[text] for text in DOCUMENTS]
    assert first.metadata["ragbench"][0]["sentences"][1] == [["1a", "A star is hot."]]
    assert second.metadata["ragbench"][0]["relevant"] == []


def test_one_split_alone_has_its_own_documents(folder, tmp_path):
    dataset = open_dataset(f"ragbench:{folder}#emanual+test")
    assert (dataset.splits, dataset.count()) == (("test",), 3)
    write_beir(dataset, tmp_path / "copy")
    assert open_dataset(tmp_path / "copy").fingerprint() == dataset.fingerprint()


@pytest.mark.parametrize(
    ("place", "error", "said"),
    [
        ("emanuel", UnknownNameError, "emanual"),
        ("{folder}#emanuel", UnknownNameError, "emanual"),
        ("{folder}#emanual+dev", UnknownNameError, "test"),
        ("{folder}#emanual/test", InputError, r"\[PLACE#\]SET"),
    ],
)
def test_what_is_not_there_is_said(folder, place, error, said):
    with pytest.raises(error, match=said):
        open_dataset(f"ragbench:{place.format(folder=folder)}")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"documents": []}, "list of documents"),
        ({"documents_sentences": [[["0a"]]]}, "documents_sentences"),
        ({"all_relevant_sentence_keys": "0a"}, "all_relevant_sentence_keys"),
    ],
)
def test_damaged_rows_are_named_or_left_out(write_lines, tmp_path, damage, said):
    good = ragbench_row("2", "dogs", ["The dog ran."], relevant=["0a"])
    write_lines("bench/cuad/test.jsonl", [{**ragbench_row("1", "cats", ["A cat."], relevant=[]), **damage}, good])
    with pytest.raises(DataError, match=said):
        list(open_dataset(f"ragbench:{tmp_path}/bench#cuad").documents())
    left = open_dataset(f"ragbench:{tmp_path}/bench#cuad", on_error="skip")
    assert [query.id for query in left.queries("test")] == ["2"]


def test_a_column_of_nan_is_an_empty_one(tmp_path):
    """As pandas writes a column without any text."""
    import math

    import pyarrow as pa
    import pyarrow.parquet as pq

    contexts = pa.array([["x"], None])
    table = {"user_input": ["who", "why"], "reference": pa.array([math.nan] * 2), "reference_contexts": contexts}
    pq.write_table(pa.table(table), tmp_path / "nan.parquet")
    queries = open_dataset(f"ragas:{tmp_path}/nan.parquet").queries("test")
    assert [query.metadata["answers"] for query in queries] == [[]]


def test_rows_without_labels_have_all_their_documents_as_evidence(write_lines, tmp_path):
    write_lines("bench/cuad/test.jsonl", [{"id": 7, "question": "cats", "documents": ["A cat.", "A dog."]}])
    assert list(open_dataset(f"ragbench:{tmp_path}/bench#cuad").qrels("test")["7"].values()) == [1, 1]


QUESTIONS = [
    {"user_input": "who sat", "reference": "the cat", "reference_contexts": ["The cat sat."], "response": "a cat"},
    {"user_input": "who ran", "reference_contexts": ["The dog ran.", "The cat sat."], "retrieved_contexts": []},
]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_tables_of_ragas_are_collections(write_lines, tmp_path, suffix):
    path = tmp_path / f"questions.{suffix}"
    if suffix == "jsonl":
        write_lines(path.name, QUESTIONS)
    else:
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame(QUESTIONS)  # lists become Python's own text in CSV
        frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
    dataset = open_dataset(f"ragas:{path}")
    assert (dataset.name, dataset.splits) == ("questions", ("test",))
    ids = {document.text: document.id for document in dataset.documents()}
    assert list(ids) == ["The cat sat.", "The dog ran."]
    assert dataset.qrels("test")["2"] == {ids["The dog ran."]: 1, ids["The cat sat."]: 1}
    assert [query.metadata for query in dataset.queries()] == [{"answers": ["the cat"]}, {"answers": []}]


def test_ids_of_contexts_are_kept(write_lines):
    row = {"id": "q", "user_input": "who", "reference_contexts": ["The cat."], "reference_context_ids": [3]}
    path = write_lines("questions.jsonl", [row])
    dataset = open_dataset(f"ragas:{path}")
    assert [document.id for document in dataset.documents()] == ["3"]
    assert dataset.qrels("test") == {"q": {"3": 1}}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "who"}, "user_input must be a question.*'question'"),
        ({"user_input": "who", "retrieved_contexts": json.dumps({"a": 1})}, "retrieved_contexts must be a list"),
        ({"user_input": "who", "retrieved_contexts": "__import__('os')"}, "retrieved_contexts must be a list"),
        ({"user_input": "who", "response": 3}, "response must be a text"),
        ({"user_input": "who"}, "no reference_contexts"),
    ],
)
def test_other_tables_are_refused(write_lines, row, said):
    path = write_lines("questions.jsonl", [row])
    with pytest.raises(DataError, match=said):
        list(open_dataset(f"ragas:{path}").documents())
