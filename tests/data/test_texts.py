from __future__ import annotations

import gzip
import logging
import tracemalloc
from pathlib import Path

import pytest

from hyperseek.data import ErrorReport, read_corpus, read_id_list, read_queries
from hyperseek.errors import DataError, InputError
from hyperseek.types import Document, Query


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.jsonl.gz"])
def test_jsonl_with_usual_keys(write_lines, name):
    path = write_lines(name, [{"_id": "a", "title": "T", "text": "x", "url": "u"}, "", {"_id": 7, "text": ""}])
    assert list(read_corpus(path)) == [Document("a", "x", "T", {"url": "u"}), Document("7", "")]


def test_jsonl_with_any_keys(write_lines, caplog):
    path = write_lines("corpus.jsonl", [{"number": 1, "heading": "T", "story": "x", "text": "other"}])
    documents = list(read_corpus(path, id_key="number", text_key="story", title_key="heading"))
    assert documents == [Document("1", "x", "T", {"text": "other"})]


def test_found_keys_are_logged(write_lines, caplog):
    path = write_lines("corpus.jsonl", [{"docid": "a", "contents": "x"}])
    with caplog.at_level(logging.INFO):
        assert list(read_corpus(path)) == [Document("a", "x")]
    assert "ids from 'docid', texts from 'contents'" in caplog.text


def test_null_title_is_empty(write_lines):
    path = write_lines("corpus.jsonl", [{"_id": "a", "title": None, "text": "x"}])
    assert next(read_corpus(path)).title == ""


def test_tsv_without_header(write_lines):
    path = write_lines("corpus.tsv", ["a\tone text", "b\tanother"])
    assert list(read_corpus(path)) == [Document("a", "one text"), Document("b", "another")]


def test_tsv_with_header(write_lines):
    path = write_lines("corpus.tsv.gz", ["id\ttitle\ttext\tyear", "a\tT\tx\t1999"])
    assert list(read_corpus(path)) == [Document("a", "x", "T", {"year": "1999"})]


def test_windows_line_ends_and_byte_order_mark(write_lines):
    path = write_lines("queries.tsv", [b"\xef\xbb\xbfq1\twhat\r", b"q2\twho\r"])
    assert list(read_queries(path)) == [Query("q1", "what"), Query("q2", "who")]


def test_line_separators_inside_texts_are_kept(write_lines):
    path = write_lines("queries.tsv", ["q1\tone\u2028two\x0bthree\x85four"])
    assert list(read_queries(path)) == [Query("q1", "one\u2028two\x0bthree\x85four")]


def test_query_metadata_keeps_a_title(write_lines):
    path = write_lines("queries.jsonl", [{"_id": "q", "text": "t", "title": "kept"}])
    assert list(read_queries(path)) == [Query("q", "t", {"title": "kept"})]


GOOD = {"_id": "good", "text": "x"}
BAD_LINES = [
    ("not json", "bad_json", "not valid JSON"),
    ("[1, 2]", "bad_json", "needs a JSON object, has [1, 2]"),
    (b'{"_id": "\xff", "text": "x"}', "bad_encoding", "not valid UTF-8"),
    (r'{"_id": "b", "text": "\ud800"}', "bad_encoding", "half of a surrogate pair"),
    ({"text": "x"}, "missing_field", "no value for '_id'"),
    ({"_id": "b"}, "missing_field", "no value for 'text'"),
    ({"_id": "b", "text": None}, "missing_field", "no value for 'text'"),
    ({"_id": "", "text": "x"}, "bad_field", "'_id' must be a non-empty string"),
    ({"_id": True, "text": "x"}, "bad_field", "'_id' must be a non-empty string or a whole number, not True"),
    ({"_id": "b", "text": ["x"]}, "bad_field", "'text' of record 'b' must be a string, not ['x']"),
    ({"_id": "b", "text": "x", "title": 5}, "bad_field", "'title' of record 'b' must be a string, not 5"),
    (GOOD, "duplicate_id", "id 'good' appears a second time"),
]


@pytest.mark.parametrize(("line", "reason", "message"), BAD_LINES)
def test_bad_line_names_file_and_line(write_lines, line, reason, message):
    path = write_lines("corpus.jsonl", [GOOD, "", line, {"_id": "last", "text": "y"}])
    with pytest.raises(DataError) as caught:
        list(read_corpus(path))
    assert (caught.value.path, caught.value.line) == (path, 3)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert message in str(caught.value)
    assert "on_error='skip'" in str(caught.value)


@pytest.mark.parametrize(("line", "reason", "message"), BAD_LINES)
def test_bad_line_is_counted(write_lines, caplog, line, reason, message):
    path = write_lines("corpus.jsonl", [GOOD, line, {"_id": "last", "text": "y"}])
    report = ErrorReport()
    assert [document.id for document in read_corpus(path, on_error="skip", report=report)] == ["good", "last"]
    assert report.counts == {reason: 1}
    assert report.examples[reason][0].startswith(f"{path}:2: ")
    assert message in report.examples[reason][0]
    assert not caplog.text
    list(read_corpus(path, on_error="skip"))
    assert f"left out 1 records:\n  1 {reason}" in caplog.text


def test_first_record_without_keys_lists_them(write_lines):
    path = write_lines("corpus.jsonl", [{"key": "a", "text": "x"}])
    with pytest.raises(DataError, match=r"corpus.jsonl:1: no id; id_key can name one of \['key', 'text'\]"):
        list(read_corpus(path))


def test_bad_first_record_can_be_skipped(write_lines):
    path = write_lines("corpus.jsonl", [{"text": "x"}, {"_id": "a", "text": "y"}])
    assert list(read_corpus(path, on_error="skip")) == [Document("a", "y")]


def test_wrong_key_is_named(write_lines):
    path = write_lines("corpus.jsonl", [GOOD])
    with pytest.raises(DataError, match="no text 'body'; text_key can name one of"):
        list(read_corpus(path, text_key="body"))


def test_empty_query_is_bad(write_lines):
    path = write_lines("queries.jsonl", [{"_id": "q", "text": "  "}])
    with pytest.raises(DataError, match=r"queries.jsonl:1: query 'q' has an empty text"):
        list(read_queries(path))


def test_tsv_with_wrong_columns(write_lines):
    path = write_lines("corpus.tsv", ["a\tx", "b"])
    with pytest.raises(DataError, match=r"corpus.tsv:2: has 1 columns, needs 2"):
        list(read_corpus(path))


def test_missing_file_is_told_at_once(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_corpus(tmp_path / "corpus.jsonl")
    with pytest.raises(DataError, match="is a folder"):
        read_corpus(tmp_path)


def test_other_suffix(write_lines):
    path = write_lines("corpus.xls", ["a,b"])
    with pytest.raises(DataError, match=r"\.jsonl or \.tsv"):
        list(read_corpus(path))


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_truncated_gzip_is_never_skipped(tmp_path: Path, on_error):
    path = tmp_path / "corpus.jsonl.gz"
    packed = gzip.compress(b"".join(b'{"_id": "%d", "text": "x"}\n' % number for number in range(2000)))
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match="damaged gzip"):
        list(read_corpus(path, on_error=on_error))


def test_no_gzip_at_all(write_lines, tmp_path):
    path = write_lines("corpus.jsonl", [GOOD]).rename(tmp_path / "other.jsonl.gz")
    with pytest.raises(DataError, match="damaged gzip"):
        list(read_corpus(path))


def test_on_error_is_checked(write_lines):
    with pytest.raises(InputError, match="'raise' or 'skip', not 'ignore'"):
        read_corpus(write_lines("corpus.jsonl", [GOOD]), on_error="ignore")


def test_reading_streams(write_lines):
    path = write_lines("corpus.jsonl", [{"_id": str(number), "text": "word " * 400} for number in range(4000)])
    assert path.stat().st_size > 8_000_000
    tracemalloc.start()
    assert sum(1 for _ in read_corpus(path)) == 4000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000


def test_id_list(write_lines):
    assert read_id_list(write_lines("ids.txt", ["a", "", "b/c ", " d\r"])) == ["a", "b/c ", " d"]
    with pytest.raises(DataError, match="has no ids"):
        read_id_list(write_lines("none.txt", ["", ""]))
