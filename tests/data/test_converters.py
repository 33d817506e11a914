from __future__ import annotations

import json

import pytest

from hyperseek.data import (
    ColumnsOptions,
    Dataset,
    ErrorReport,
    ExampleItem,
    HypencoderOptions,
    QrelsOptions,
    examples_from_columns,
    examples_from_hypencoder,
    examples_from_qrels,
)
from hyperseek.errors import ConfigError, DataError
from hyperseek.types import Document, Query

DOCUMENTS = [Document(f"d{number}", f"text {number}", f"title {number}") for number in range(6)] + [
    Document("void", "")
]
JUDGED = {"q1": {"d0": 1, "d1": 3, "d2": 0, "d3": 2, "d4": -1}, "q2": {"d5": 1}}


def collection(judged=JUDGED):
    queries = [Query("q1", "one", {"topic": "t"}), Query("q2", "two"), Query("q3", "never judged")]
    return Dataset.from_records("toy", DOCUMENTS, queries=queries, qrels={"train": judged})


def ids(items):
    return [item.id for item in items]


class TestQrels:
    def test_defaults(self):
        first, second = examples_from_qrels(collection(), "train")
        assert first.query == Query("toy/q1", "one", {"topic": "t"})
        assert first.positives[0] == ExampleItem("toy/d1", "title 1 text 1", None, 3)
        assert ids(first.positives) == ["toy/d1", "toy/d3", "toy/d0"]
        assert [(item.id, item.grade) for item in first.negatives] == [("toy/d2", 0), ("toy/d4", -1)]
        assert (first.source, first.task, first.instruction) == ("toy", None, None)
        assert ids(second.positives) == ["toy/d5"]

    def test_minimum_grade(self):
        report = ErrorReport()
        options = QrelsOptions(minimum_grade=2)
        (only,) = examples_from_qrels(collection(), "train", options=options, report=report)
        assert (ids(only.positives), ids(only.negatives)) == (["toy/d1", "toy/d3"], ["toy/d2", "toy/d4"])
        assert report.counts == {"grade_below_minimum": 2, "no_positive": 1}

    def test_maximum_positives_keeps_the_best(self):
        report = ErrorReport()
        options = QrelsOptions(maximum_positives=1, judged_negatives=False)
        first, _ = examples_from_qrels(collection(), "train", options=options, report=report)
        assert (ids(first.positives), first.negatives) == (["toy/d1"], ())
        assert report.counts == {"over_maximum_positives": 2}

    @pytest.mark.parametrize("listed", ["d1", "toy/d1"])
    def test_listed_documents_are_dropped(self, listed):
        report = ErrorReport()
        options = QrelsOptions(drop_documents=[listed, "other/d0"])
        first, _ = examples_from_qrels(collection(), "train", options=options, report=report)
        assert ids(first.positives) == ["toy/d3", "toy/d0"]
        assert report.counts == {"listed_document": 1}

    def test_empty_documents_are_dropped(self, caplog):
        examples = list(examples_from_qrels(collection({"q1": {"void": 1}, "q2": {"void": 1, "d1": 1}}), "train"))
        assert [(example.query.id, ids(example.positives)) for example in examples] == [("toy/q2", ["toy/d1"])]
        assert "2 empty_text (first: query toy/q1: toy/void)" in caplog.text

    def test_options_are_checked(self):
        with pytest.raises(ConfigError, match="minimum_grade: Input should be greater than or equal to 1"):
            QrelsOptions.from_mapping({"minimum_grade": 0})
        with pytest.raises(ConfigError, match="did you mean 'maximum_positives'"):
            QrelsOptions.from_mapping({"maximum_positive": 1})


def line(**changes):
    items = [
        {"id": "a", "content": "A", "score": 2.5, "type": "given"},
        {"id": "b", "content": "B", "score": -1, "type": "mined"},
        {"id": "c", "content": "C", "score": 3, "type": "given"},
    ]
    return {"query": {"id": 1, "content": "what"}, "items": items} | changes


class TestHypencoder:
    def test_first_item_is_the_positive(self):
        (example,) = examples_from_hypencoder([line(task="t", instruction="i")], name="m")
        assert example.query == Query("m/1", "what")
        assert example.positives == (ExampleItem("m/a", "A", 2.5),)
        assert example.negatives == (ExampleItem("m/b", "B", -1.0), ExampleItem("m/c", "C", 3.0))
        assert (example.source, example.task, example.instruction) == ("m", "t", "i")

    def test_by_type(self):
        options = HypencoderOptions(positive_filter="type", positive_type="given")
        (example,) = examples_from_hypencoder([line()], name="m", options=options)
        assert (ids(example.positives), ids(example.negatives)) == (["m/a", "m/c"], ["m/b"])

    def test_by_score(self):
        options = HypencoderOptions(positive_filter="score_above", score_threshold=2.5)
        (example,) = examples_from_hypencoder([line()], name="m", options=options)
        assert (ids(example.positives), ids(example.negatives)) == (["m/c"], ["m/a", "m/b"])

    def test_other_score_key_and_none(self):
        row = line(items=[{"id": "a", "content": "A", "label": 1}, {"id": "b", "content": "B", "label": 0}])
        (example,) = examples_from_hypencoder([row], name="m", options=HypencoderOptions(score_key="label"))
        assert [item.score for item in (*example.positives, *example.negatives)] == [1.0, 0.0]
        (example,) = examples_from_hypencoder([line()], name="m", options=HypencoderOptions(score_key=None))
        assert example.positives[0].score is None

    def test_missing_ids_come_from_the_content(self):
        row = {"query": {"content": "what"}, "items": [{"content": "A"}, {"content": "A2"}]}
        first, second = examples_from_hypencoder([row, row], name="m")
        assert first == second
        assert len({first.query.id, *ids(first.positives), *ids(first.negatives)}) == 3

    def test_golden_results_are_training_rows_too(self, golden):
        path = golden / "hypencoder/retrieval/retrieved_items.sample.jsonl"
        (example,) = examples_from_hypencoder(path)
        assert example.query == Query("retrieved_items.sample/q0", "neural and the weights is")
        assert example.positives[0].text == "small search concussion are"
        assert len(example.negatives) == len(json.loads(path.read_text().splitlines()[0])["items"]) - 1

    @pytest.mark.parametrize(
        ("row", "options", "reason", "message"),
        [
            ({"items": []}, {}, "missing_field", "needs an object 'query' and a list 'items', has the keys ['items']"),
            (line(items={}), {}, "missing_field", "needs an object 'query' and a list 'items'"),
            (line(items=["x"]), {}, "missing_field", "an item must be an object, not 'x'"),
            (line(query={"id": "q"}), {}, "missing_field", "the query has no 'content' but the keys ['id']"),
            (line(items=[{"id": "d"}]), {}, "missing_field", "an item has no 'content' but the keys ['id']"),
            (line(items=[{"id": "d", "content": 5}]), {}, "bad_field", "'content' of an item must be a string, not 5"),
            (
                line(query={"id": "q", "tokenized_content": [101, 102]}),
                {},
                "only_tokenized_content",
                "the query has token ids only ('tokenized_content'); give the file from before tokenisation",
            ),
            (
                line(items=[{"id": "d", "tokenized_content": [101]}]),
                {},
                "only_tokenized_content",
                "an item has token ids only",
            ),
            (line(items=[{"content": "x", "score": "high"}]), {}, "bad_score", "'score' must be a number, not 'high'"),
            (
                line(items=[{"content": "x"}]),
                {"positive_filter": "type", "positive_type": "given"},
                "missing_field",
                "positive_filter 'type' needs a 'type' in every item, has ['content']",
            ),
            (
                line(items=[{"content": "x"}]),
                {"positive_filter": "score_above"},
                "missing_field",
                "positive_filter 'score_above' needs 'score' in every item, has ['content']",
            ),
        ],
    )
    def test_bad_line(self, write_lines, row, options, reason, message):
        options = HypencoderOptions(**options)
        good = line()
        path = write_lines("train.jsonl", [good, row])
        with pytest.raises(DataError) as caught:
            list(examples_from_hypencoder(path, options=options))
        assert (caught.value.path, caught.value.line) == (path, 2)
        assert message in str(caught.value)
        report = ErrorReport()
        assert len(list(examples_from_hypencoder(path, options=options, on_error="skip", report=report))) == 1
        assert report.counts == {reason: 1}
        assert report.examples[reason][0].startswith(f"{path}:2: ")

    def test_drops_are_counted(self):
        items = [
            {"id": "a", "content": "A"},
            {"id": "a", "content": "A"},
            {"id": "e", "content": "A"},
            {"id": "v", "content": ""},
        ]
        report = ErrorReport()
        rows = [line(items=items), line(items=[]), line(query={"content": " "})]
        (example,) = examples_from_hypencoder(rows, report=report)
        assert (ids(example.positives), example.negatives) == (["rows/a"], ())
        assert report.counts == {"negative_is_positive": 2, "empty_text": 1, "no_positive": 1, "empty_query": 1}

    def test_options_are_checked(self):
        with pytest.raises(ConfigError, match="positive_filter 'type' needs positive_type"):
            HypencoderOptions.from_mapping({"positive_filter": "type"})
        with pytest.raises(ConfigError, match="positive_filter 'score_above' needs score_key"):
            HypencoderOptions.from_mapping({"positive_filter": "score_above", "score_key": None})


class TestColumns:
    def test_usual_names_are_found(self):
        (example,) = examples_from_columns([{"anchor": "q", "positive": "p", "negative_1": "m", "negative_2": "n"}])
        assert example.query.text == "q"
        assert [item.text for item in example.positives] == ["p"]
        assert [item.text for item in example.negatives] == ["m", "n"]
        assert all(item.score is None for item in (*example.positives, *example.negatives))

    def test_named_columns_and_lists(self):
        row = {"q": "q", "good": ["p1", "p2"], "bad": ["n1"], "worse": "n2", "s": [4, 3, 2, 1], "task": "t"}
        options = ColumnsOptions(query="q", positive="good", negatives=("bad", "worse"), score="s")
        (example,) = examples_from_columns([row], options=options)
        assert [(item.text, item.score) for item in example.positives] == [("p1", 4.0), ("p2", 3.0)]
        assert [(item.text, item.score) for item in example.negatives] == [("n1", 2.0), ("n2", 1.0)]
        assert example.task == "t"

    def test_margin_and_single_scores(self):
        triple, pair = (
            {"query": "q", "positive": "p", "negative": "n", "score": 1.5},
            {"query": "q", "positive": "p", "score": 5},
        )
        (example,) = examples_from_columns([triple])
        assert (example.positives[0].score, example.negatives[0].score) == (1.5, 0.0)
        (example,) = examples_from_columns([pair])
        assert example.positives[0].score == 5.0

    def test_scores_by_side(self):
        row = {"query": "q", "pos": ["p"], "neg": ["m", "n"], "pos_scores": [9], "neg_scores": [2, 1]}
        (example,) = examples_from_columns([row])
        assert [item.score for item in (*example.positives, *example.negatives)] == [9.0, 2.0, 1.0]

    def test_equal_texts_get_equal_ids(self):
        rows = [{"query": "q", "positive": "p", "negative": "n"}, {"query": "q", "positive": "n", "negative": "p"}]
        first, second = examples_from_columns(rows, name="pairs")
        assert first.query.id == second.query.id
        assert first.positives[0].id == second.negatives[0].id
        assert first.positives[0].id.startswith("pairs/")

    @pytest.mark.parametrize(
        ("row", "options", "reason", "message"),
        [
            ({"query": "q"}, {"positive": "p"}, "missing_field", "no value for 'p'"),
            ({"query": 5, "p": "x"}, {"positive": "p"}, "missing_field", "column 'query' must hold a text, not 5"),
            ({"query": "q", "p": [1]}, {"positive": "p"}, "bad_field", "must hold a text or a list of texts, not [1]"),
            (
                {"query": "q", "p": "x", "s": [1, 2]},
                {"positive": "p", "score": "s"},
                "bad_score",
                "must hold 1 numbers",
            ),
            (
                {"query": "q", "p": ["x", "y"], "s": 1},
                {"positive": "p", "score": "s"},
                "bad_score",
                "one score in 's' does not fit 2 positives and 0 negatives",
            ),
        ],
    )
    def test_bad_row(self, write_lines, row, options, reason, message):
        path = write_lines("rows.jsonl", [{"query": "q", "p": "x", "s": 1}, row])
        with pytest.raises(DataError) as caught:
            list(examples_from_columns(path, options=ColumnsOptions(**options)))
        assert (caught.value.path, caught.value.line) == (path, 2)
        assert message in str(caught.value)
        report = ErrorReport()
        options = ColumnsOptions(**options)
        assert len(list(examples_from_columns(path, options=options, on_error="skip", report=report))) == 1
        assert report.counts == {reason: 1}

    def test_missing_columns_are_named(self):
        with pytest.raises(DataError, match=r"rows:1: has no column for positive; name one of \['label', 'query'\]"):
            list(examples_from_columns([{"query": "q", "label": "x"}]))
        with pytest.raises(DataError, match=r"rows:1: has no column for 'sore'; name one of"):
            list(examples_from_columns([{"query": "q", "positive": "x"}], options=ColumnsOptions(score="sore")))

    def test_other_files(self, write_lines):
        with pytest.raises(DataError, match=r"rows are read from \.jsonl files"):
            list(examples_from_columns(write_lines("rows.csv", ["query,positive"])))
