"""A first line that names columns, one that is a record, and one of which nobody can tell."""

from __future__ import annotations

import itertools

import pytest

from hyperseek.data import open_dataset, read_corpus, read_qrels, read_queries, read_run
from hyperseek.errors import DataError
from hyperseek.types import Document, Query

DATA = [
    # ids and texts, as people have them; none of these has a header
    ["d1\tsome text"],
    ["d1\tText", "d2\tBody"],
    ["1\tone", "2\ttwo"],
    ["a\tone text", "b\tanother"],
    ["apple\tA round fruit.", "pear\tA fruit that is not round."],
    ["apple\tfruit", "pear\tother fruit"],
    ["alpha\tdocument retrieval", "beta\tword vectors"],
    ["body\tthe physical structure of a person", "number\ta word that counts"],
    ["main\tThe first section of a text, which says what follows.", "s1\tx", "s2\ty"],
    ["MED-10\tStatin Use and Breast Cancer", "MED-14\tOther"],
    ["d1\t" + "x" * 100],
    [" d1\tid text"],
    ['"1"\t"quoted"', '"2"\t"text"'],
    ["0007\tNA", "8\tnull"],
    ["7f3a\tword", "8f3a\tword"],
    ["n01\tn02", "n03\tn04"],
]
HEADERS = {
    # a header, and the columns in which id and text stand
    "id\ttext": (0, 1),
    "ID\tText": (0, 1),
    "_id\ttext": (0, 1),
    "Doc-ID\tContents": (0, 1),
    "doc id\tpassage": (0, 1),
    "DOCNO\tBODY": (0, 1),
    " id \t text ": (0, 1),
    "\ufeffid\ttext": (0, 1),
    "text\tid": (1, 0),
    "url\tdocid\ttext": (1, 2),
    "\tpid\tpassage": (1, 2),
    "id\ttitle\ttext": (0, 2),
}
UNSURE = [
    ["docno\tcontents_text", "1\tx"],
    ["docno\tcontents_text"],
    ["name\tdescription", "apple\ta fruit"],
    ["ID\tArtikel", "a\tb"],
    ["Nr\tFull text", "a\tb"],
    ["Kennung\tInhalt", "1\tx", "2\ty"],
    ["标识\t文本", "1\tx", "2\ty"],
    ["topicNumber\tnarrative", "a\tb"],
    ["key\tvalue", "a\tb"],
    ["document\tsummary", "a\tb"],
    ["foo\ttext_en", "a\tb"],
]


def endings(lines):
    """The same lines as systems write them: with a byte order mark, Windows' line ends, blank lines."""
    raw = [line.encode() for line in lines]
    yield raw
    yield [line + b"\r" for line in raw]
    first = [] if lines[0].startswith("\ufeff") else [b""]
    yield [*first, *itertools.chain.from_iterable((line, b"", b"  ") for line in raw)]


def test_lines_without_a_header_are_read_as_they_are(write_lines):
    for number, lines in enumerate(DATA):
        cells = [line.split("\t") for line in lines]
        for ending in endings(lines):
            path = write_lines(f"{number}.tsv", ending)
            assert list(read_corpus(path)) == [Document(*pair) for pair in cells], lines
            assert list(read_queries(path)) == [Query(*pair) for pair in cells], lines
    marked = write_lines("marked.tsv", [b"\xef\xbb\xbfd1\tone", b"d2\ttwo"])
    assert [document.id for document in read_corpus(marked)] == ["d1", "d2"]


def test_usual_names_are_a_header_whatever_their_spelling(write_lines):
    for number, (header, (identity, text)) in enumerate(HEADERS.items()):
        row = [f"cell {place}" for place in range(header.count("\t") + 1)]
        for ending in endings([header, "\t".join(row)]):
            document = next(read_corpus(write_lines(f"{number}.tsv", ending)))
            assert (document.id, document.text) == (row[identity], row[text]), header
            assert "" not in document.metadata
    assert list(read_queries(write_lines("q.tsv", ["QID\tQuery", "007\twhat"]))) == [Query("007", "what")]


def test_a_line_that_could_be_either_is_an_error_that_shows_it(write_lines):
    for number, lines in enumerate(UNSURE):
        for ending in endings(lines):
            path = write_lines(f"{number}.tsv", ending)
            for read in (read_corpus, read_queries):
                with pytest.raises(DataError, match=r"cannot tell whether.*id_key=") as caught:
                    list(read(path, on_error="skip"))
                assert all(repr(cell) in str(caught.value) for cell in lines[0].split("\t"))


def test_every_first_line_can_be_declared(write_lines):
    for number, lines in enumerate(UNSURE):
        path = write_lines(f"{number}.tsv", lines)
        names = lines[0].split("\t")
        rows = [line.split("\t") for line in lines]
        assert [d.id for d in read_corpus(path, id_key="1", text_key="2")] == [row[0] for row in rows]
        assert [d.text for d in read_corpus(path, id_key="2", text_key="1")] == [row[0] for row in rows]
        if len(lines) > 1:
            expected = [Document(*row) for row in rows[1:]]
            assert list(read_corpus(path, id_key=names[0], text_key=names[1])) == expected
            assert list(read_corpus(path, id_key=names[0])) == expected  # there is only one other
            assert list(read_corpus(path, text_key=names[1])) == expected
            assert list(open_dataset(path, id_key=names[0]).documents()) == expected
        declared = write_lines(f"{number}-declared.tsv", ["id\ttext", *lines])
        assert list(read_corpus(declared)) == [Document(*row) for row in rows]


def test_columns_by_number(write_lines):
    path = write_lines("docs.tsv", ["D1\thttp://a\tTitle\tBody", "D2\thttp://b\tOther\tText"])
    keys = {"id_key": "1", "title_key": "3", "text_key": "4"}
    assert next(read_corpus(path, **keys)) == Document("D1", "Body", "Title", {"2": "http://a"})
    with pytest.raises(DataError, match="has 4 columns, but no column 5"):
        list(read_corpus(path, id_key="1", text_key="5"))
    with pytest.raises(DataError, match=r"docs\.tsv:1: has 4 columns, and its first line.*'http://a'"):
        list(read_corpus(path))


@pytest.mark.parametrize(
    ("lines", "keys", "message"),
    [
        (["ID\tText", "a\tb"], {"id_key": "docno"}, r"has no column 'docno'; its first line has \['ID', 'Text'\]"),
        (["id\tid\ttext", "a\tb\tc"], {}, "two columns are named 'id'"),
        (['"id"\t"text"', '"a"\t"b"'], {}, "quotation marks"),
        (["id,text", "a,b"], {}, "has one column"),
        (["id text", "a b"], {}, "has one column"),
        (["docid\ttitle\tstory", "a\tb\tc"], {}, "no text; text_key can name one of"),
        (["id\ttext", "a\tb\tc"], {}, r":2: has 3 columns, needs 2: \['id', 'text'\]"),
        (["d1\tx", "\ty"], {}, ":2: 'id' must be a non-empty string"),
        (["d1\tx", "d1\ty"], {}, ":2: id 'd1' appears a second time"),
        (["id\ttext"], {}, "has no document"),
        ([], {}, "has no document"),
        (["", "  ", "\t"], {}, "has no document"),
    ],
)
def test_what_cannot_be_read(write_lines, lines, keys, message):
    with pytest.raises(DataError, match=message):
        list(read_corpus(write_lines("corpus.tsv", lines), **keys))


def test_a_stray_tab_in_the_first_line_is_a_bad_line(write_lines):
    path = write_lines("corpus.tsv", ["d1\tone\tmore", "d2\ttwo", "d3\tthree"])
    assert [document.id for document in read_corpus(path, on_error="skip")] == ["d2", "d3"]


def test_json_keys_are_found_whatever_their_spelling(write_lines):
    path = write_lines("corpus.jsonl", [{"ID": "007", "Text": "x", "Title": "T"}])
    assert list(read_corpus(path)) == [Document("007", "x", "T")]
    path = write_lines("other.jsonl", [{"number": "007", "story": "x"}])
    assert list(read_corpus(path, id_key="number")) == [Document("007", "x")]


QRELS_HEADERS = {
    "query-id\tcorpus-id\tscore": "q1\td1\t2",
    "Query-ID\tCorpus-ID\tScore": "q1\td1\t2",
    "qid docno rel": "q1 d1 2",
    "corpus-id\tquery-id\tscore": "d1\tq1\t2",
    "query_id\tscore\tdoc_id": "q1\t2\td1",
    "query 0 document relevance": "q1 0 d1 2",
    "topic iteration docno label": "q1 Q0 d1 2",
    "a\tb\tscore": "q1\td1\t2",
    "\ufeffquery-id\tcorpus-id\tscore": "q1\td1\t2",
}


def test_judgements_with_a_header(write_lines):
    for header, line in QRELS_HEADERS.items():
        for ending in endings([header, line]):
            assert read_qrels(write_lines("test.tsv", ending)) == {"q1": {"d1": 2}}, header
    for header in ("Anfrage\tDokument\tGrad", "q d r", "what 0 is this"):
        with pytest.raises(DataError, match=r"test\.tsv:1: a grade must be a whole number"):
            read_qrels(write_lines("test.tsv", [header, "q1\td1\t1"]))
    with pytest.raises(DataError, match=r"run\.trec:1: the score must be a number, not 'score'"):
        read_run(write_lines("run.trec", ["qid Q0 docno rank score tag", "q Q0 d 1 0.5 t"]))
