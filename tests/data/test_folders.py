"""A folder of files as people have them, and files of every kind that are damaged, huge, hidden or gone."""

from __future__ import annotations

import errno
import gzip
import io
import os
import random
import re
import time
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hyperseek.data import File, open_dataset, register_reader
from hyperseek.data.files import _converter, readers
from hyperseek.data.files.readers import READERS
from hyperseek.errors import DataError, InputError
from hyperseek.types import Document

MANUAL = r""".TH CAT 1
.de XX
.SH "not this"
..
.SH NAME
cat \- concatenate \fIfiles\fP
.SH OPTIONS
.TP
.BR \-n ", " \-\-number
number all
output lines
.\" a comment
.nf
kept
  as it is
.fi
"""


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "notes"
    (place / "animals" / ".git").mkdir(parents=True)
    (place / "node_modules").mkdir()
    (place / "node_modules" / "a.md").write_text("a package")
    (place / "animals" / "dogs.md").write_text("# All dogs #\n\nA dog barks.\nLoudly.\n", encoding="utf-8")
    (place / "animals" / "cats.txt").write_bytes(b"\xef\xbb\xbfA cat is small.\r\n\r\nIt climbs.\r\n")
    (place / "animals" / ".git" / "HEAD.txt").write_text("hidden")
    (place / "empty.txt").write_text(" \n\n")
    (place / "picture.png").write_bytes(b"\x89PNG")
    with gzip.open(place / "long.rst.gz", "wt", encoding="utf-8") as file:
        file.write("====\nLong\n====\n\n" + "é" * 600)
    return place


def read(place, **options):
    dataset = open_dataset(place, **options)
    return {document.id: document for document in dataset.documents()}, dataset.report


def left_out(report, reason):
    assert report.counts[reason] == 1, report.counts
    return report.examples[reason][0]


def docx(paragraphs: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "[Content_Types].xml",
            '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Default Extension="rels" '
            'ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Override PartName="/word/'
            'document.xml" ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main'
            '+xml"/></Types>',
        )
        archive.writestr(
            "_rels/.rels",
            '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship '
            'Id="r" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" '
            'Target="word/document.xml"/></Relationships>',
        )
        archive.writestr(
            "word/document.xml",
            '<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>'
            f"{paragraphs}</w:body></w:document>",
        )
    return content.getvalue()


def pdf(text: str) -> bytes:
    stream = f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET".encode()
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
        b"<</Title(About Snails)>>",
    ]
    content, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(content))
        content += b"%d 0 obj%s endobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return (
        content
        + b"xref\n0 7\n0000000000 65535 f \n%strailer<</Size 7/Root 1 0 R/Info 6 0 R>>\nstartxref\n%d\n%%%%EOF"
        % (
            table,
            len(content),
        )
    )


def test_a_file_is_a_document_that_says_where_it_comes_from(folder):
    found, report = read(folder)
    assert list(found) == ["long.rst.gz", "animals/cats.txt", "animals/dogs.md"]
    assert found["animals/dogs.md"].title == "All dogs"
    assert found["animals/dogs.md"].text == "# All dogs #\n\nA dog barks.\nLoudly.\n"
    assert (found["animals/cats.txt"].text, found["animals/cats.txt"].title) == (
        "A cat is small.\n\nIt climbs.\n",
        "cats",
    )
    assert found["long.rst.gz"].title == "Long"
    metadata = found["animals/dogs.md"].metadata
    assert (metadata["path"], metadata["suffix"], len(metadata["hash"])) == ("animals/dogs.md", ".md", 32)
    assert metadata["modified"].startswith("20")
    assert report.counts == {"no_text": 1, "other_kind_of_file .png": 1, "hidden_or_cache": 2}
    assert "empty.txt" in left_out(report, "no_text")
    assert open_dataset(folder).splits == ()


def test_files_of_all_kinds_that_need_no_other_package(tmp_path):
    (tmp_path / "cat.1").write_text(MANUAL)
    (tmp_path / "README").write_text("read this")
    (tmp_path / "NEWS.Debian.gz").write_bytes(gzip.compress(b"news"))
    (tmp_path / "code.py").write_text("import this\n")
    (tmp_path / "book.ipynb").write_text(
        '{"cells": [{"cell_type": "markdown", "source": ["# A book\\n", "text"]}, '
        '{"cell_type": "code", "source": "1"}]}'
    )
    (tmp_path / "t.csv").write_text('id;title;body;path\n7;A;"one; two\nlines";x\n7;B\n8;C;three;y;more\n')
    (tmp_path / "x.csv").write_text("column_3,a,a,b\n1,2,3,4\n")
    (tmp_path / "y.csv").write_text("a,column_3\n1,2\n3,4,5\n")
    (tmp_path / "u.tsv").write_text('country\tcapital\nFrance\tParis "city"\n')
    (tmp_path / "v.jsonl").write_text('{"_id": "a", "text": "row"}\nno row\n{"_id": "b", "text": "\\ud800"}\n')
    pq.write_table(
        pa.table({"text": ["one", "two"], "raw": [b"1", b"2"], "n": [1.5, float("nan")]}), tmp_path / "w.parquet"
    )
    found, report = read(tmp_path)
    assert found["cat.1"].title == "cat - concatenate files"
    assert {name for name, document in found.items() if document.metadata.get("format") == "markdown"} == {
        "cat.1",
        "book.ipynb",
    }
    assert found["cat.1"].text.split("\n\n") == [
        "## NAME",
        "cat - concatenate files",
        "## OPTIONS",
        "-n, --number number all output lines",
        "kept\n  as it is",
    ]
    assert (found["README"].text, found["NEWS.Debian.gz"].text) == ("read this", "news")
    assert found["code.py"].title == "code.py"
    assert (found["book.ipynb"].title, found["book.ipynb"].text) == ("A book", "# A book\ntext\n\n```python\n1\n```")
    rows = found["t.csv#7"], found["t.csv#7~2"], found["t.csv#8"]
    assert [(row.title, row.text) for row in rows] == [("A", "one; two\nlines"), ("B", ""), ("C", "three")]
    assert rows[2].metadata["row_path"] == "y"
    assert rows[2].metadata["path"] == "t.csv"
    assert rows[2].metadata["column_5"] == "more"
    assert found["u.tsv#1"].text == 'country: France\ncapital: Paris "city"'
    assert found["x.csv#1"].text == "column_3: 1\na: 2\ncolumn_3_: 3\nb: 4"
    assert found["y.csv#2"].text == "a: 3\ncolumn_3: 4\ncolumn_3_: 5"
    assert found["v.jsonl#a"].text == "row"
    assert (found["w.parquet#1"].metadata["n"], found["w.parquet#2"].metadata["n"]) == (1.5, None)
    assert set(report.counts) == {"bad_json", "bad_encoding"}
    assert "v.jsonl:2" in left_out(report, "bad_json")


def test_a_converter_reads_html_pdf_and_docx(tmp_path):
    pytest.importorskip("markitdown")
    (tmp_path / "a.html").write_bytes(
        b"<html><head><meta charset=latin-1><title>Sea\nsnails</title><script>no</script></head><body><h2>Where</h2>"
        b"<p>Under the br\xfccke.<img src='http://example.invalid/a.png'></body></html>"
    )
    (tmp_path / "b.pdf").write_bytes(pdf("Snails are slow."))
    heading = '<w:p><w:pPr><w:pStyle w:val="Heading1"/></w:pPr><w:r><w:t>Report</w:t></w:r></w:p>'
    (tmp_path / "c.docx").write_bytes(docx(heading + "<w:p><w:r><w:t>Snails eat leaves.</w:t></w:r></w:p>"))
    (tmp_path / "deep.html").write_text("<div>" * 3_000 + "deep" + "</div>" * 3_000)
    (tmp_path / "broken.pdf").write_bytes(pdf("Snails are slow.")[:200])
    (tmp_path / "garbage.pdf").write_bytes(random.Random(0).randbytes(1_000))
    (tmp_path / "cut.docx").write_bytes(docx("")[:100])
    (tmp_path / "bomb.docx").write_bytes(docx("\0" * (_converter.LARGEST_RESULT + 1)))
    (tmp_path / "no.pdf").write_bytes(b"")
    (tmp_path / "text.docx").write_text("plain text")
    found, report = read(tmp_path)
    assert set(found) == {"a.html", "b.pdf", "c.docx", "deep.html"}
    assert found["a.html"].title == "Sea snails"
    assert found["a.html"].text.startswith("## Where\n\nUnder the brücke.")
    assert (found["b.pdf"].title, found["b.pdf"].text.strip()) == ("About Snails", "Snails are slow.")
    assert (found["c.docx"].title, found["c.docx"].text) == ("Report", "# Report\n\nSnails eat leaves.")
    assert found["deep.html"].text.strip() == "deep"
    told = [message for messages in report.examples.values() for message in messages]
    for name in ("broken.pdf", "garbage.pdf", "cut.docx", "bomb.docx", "no.pdf", "text.docx"):
        assert sum(name in message for message in told) == 1, (name, told)
    assert "bomb.docx" in left_out(report, "too_large")


def test_a_converter_that_hangs_or_dies_costs_one_file(tmp_path, monkeypatch):
    pytest.importorskip("markitdown")
    program = tmp_path / "converter.py"
    program.write_text(
        "import json, os, sys, time\n"
        "while header := sys.stdin.buffer.readline():\n"
        "    content = sys.stdin.buffer.read(json.loads(header)[1])\n"
        "    if b'hang' in content: time.sleep(60)\n"
        "    if b'die' in content: os._exit(3)\n"
        "    print(json.dumps({'title': '', 'text': content.decode()}), flush=True)\n"
    )
    monkeypatch.setattr(_converter, "__file__", str(program))
    monkeypatch.setattr(_converter, "SECONDS", 0.3)
    monkeypatch.setattr(_converter, "_START", 1.0)
    place = tmp_path / "files"
    place.mkdir()
    for name in ("1-hang", "2-fine", "3-die", "4-fine"):
        (place / f"{name}.html").write_text(name)
    start = time.monotonic()
    found, report = read(place)
    assert time.monotonic() - start < 20
    assert list(found) == ["2-fine.html", "4-fine.html"]
    assert "1-hang.html" in left_out(report, "time_limit")
    assert "exit status 3" in left_out(report, "damaged")


def test_encodings_are_recognised_and_guesses_are_told(tmp_path):
    pytest.importorskip("charset_normalizer")
    text = "Grüße aus Köln. Die Straßen sind naß, und überall blühen schöne Bäume.\n"
    (tmp_path / "a.txt").write_bytes(text.encode("utf-16"))
    (tmp_path / "b.txt").write_bytes("\ufeff".encode("utf-16-be") + text.encode("utf-16-be"))
    (tmp_path / "c.txt").write_bytes(("x" * 5_000 + text * 5).encode("latin-1"))
    (tmp_path / "d.txt").write_bytes(b"text\0with a zero")
    (tmp_path / "e.txt").write_bytes(text.encode("utf-16-le"))
    (tmp_path / "f.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "g.md").write_bytes(gzip.compress(b"text"))
    header = b"Content-Type: text/plain; charset=undefined\nSubject: x\n\n"
    (tmp_path / "h.eml").write_bytes(header + text.encode("latin-1"))
    found, report = read(tmp_path)
    assert list(found) == ["a.txt", "b.txt", "c.txt", "h.eml"]
    assert found["a.txt"].text == found["b.txt"].text == text
    assert "Grüße aus Köln" in found["c.txt"].text
    assert "Grüße aus Köln" in found["h.eml"].text
    assert len(report.notes) == 2
    assert "c.txt: not UTF-8; read as" in report.notes[0]
    assert report.counts == {"not_text": 3, "bad_encoding": 1}


def test_damaged_files_are_named_and_the_others_are_read(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1no")
    (tmp_path / "b.arrow").write_bytes(b"ARROW1\0\0" + b"\xff" * 100)
    (tmp_path / "c.ipynb").write_text('{"cells": 3}')
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress(b"text" * 1_000)[:30])
    (tmp_path / "e.jsonl.gz").write_bytes(b"no gzip")
    (tmp_path / "f.eml").write_text("no headers, only a text")
    (tmp_path / "g.mbox").write_text("no mailbox")
    (tmp_path / "h.txt").write_text("fine")
    found, report = read(tmp_path)
    assert list(found) == ["h.txt"]
    named = [Path(re.split("[: ]", message)[0]).name for message in report.examples["damaged"]]
    assert sorted(named) == ["a.parquet", "b.arrow", "c.ipynb", "d.txt.gz", "e.jsonl.gz", "f.eml", "g.mbox"]


def test_bombs_and_long_lines_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "LARGEST_FILE", 3_000_000)
    (tmp_path / "bomb.txt.gz").write_bytes(gzip.compress(b"a" * 4_000_000))
    (tmp_path / "large.txt").write_bytes(b"a" * 3_000_001)
    (tmp_path / "long.txt").write_bytes(b"word " * 500_000)
    (tmp_path / "long.csv").write_bytes(b"text\n" + b"word " * 500_000 + b"\n")
    found, report = read(tmp_path)
    assert {name: len(document.text) for name, document in found.items()} == {
        "long.csv#1": 2_500_000,
        "long.txt": 2_500_000,
    }
    assert report.counts == {"too_large": 2}


def test_time_grows_with_the_length_of_a_text(tmp_path):
    line = "Nov 30 host: something happened\n"  # of a rotated log, which has the suffix of a manual page
    (tmp_path / "system.log.1").write_text(line * 200_000)
    (tmp_path / "a.md").write_text(f"---\ntitle: {' ' * 3_900}\n\n# After a title that never ends")
    (tmp_path / "b.md").write_text("---\ndate: today\ntitle: 'An \"odd\" one' \n---\n# Another\n")
    (tmp_path / "marks.1").write_text(".SH NAME\n" + "\\m[" * 150_000)
    names = ",".join(f"c{number}" for number in range(90_000))
    (tmp_path / "wide.csv").write_text(f"{names}\n{'1,' * 90_000}\n")
    (tmp_path / "wider.csv").write_text(f"{',' * 100_000}\n1\n")
    start = time.process_time()
    found, report = read(tmp_path)
    assert time.process_time() - start < 30  # some four seconds; over a minute if one of them is quadratic
    assert found["wide.csv#1"].metadata["c89999"] == "1"
    assert found["system.log.1"].text == line * 200_000
    assert (found["a.md"].title, found["b.md"].title) == ("After a title that never ends", 'An "odd" one')
    assert report.counts == {"too_large": 1}
    assert "wider.csv: has more than 100,000 columns" in left_out(report, "too_large")


def test_an_email_is_a_document_with_all_its_texts(tmp_path):
    (tmp_path / "a.eml").write_bytes(
        b"From: =?utf-8?q?J=C3=BCrgen?= <j@example.org>\nSubject: =?latin-1?q?gr=FC=DFe?=\n"
        b"Date: Mon, 30 Nov 2026 03:00:00 +0000\nContent-Type: multipart/mixed; boundary=A\n\n"
        b"--A\nContent-Type: multipart/alternative; boundary=B\n\n"
        b"--B\nContent-Type: text/plain; charset=no-such-charset\n\nGr\xc3\xbc\xc3\x9fe\n"
        b"--B\nContent-Type: text/html\n\n<p>not this</p>\n--B--\n"
        b"--A\nContent-Type: message/rfc822\n\nSubject: inner\n\nthe inner text\n"
        b"--A\nContent-Type: application/pdf\nContent-Disposition: attachment; filename=x.pdf\n\nabc\n--A--\n"
    )
    nested = b"Subject: deep\n" + b"".join(
        b"Content-Type: multipart/mixed; boundary=%d\n\n--%d\n" % (level, level) for level in range(500)
    )
    (tmp_path / "deep.eml").write_bytes(nested + b"\n\nbottom")
    (tmp_path / "two.mbox").write_bytes(
        b"From a\nSubject: one\n\nfirst\n>From here\n\nFrom b\nSubject: two\n\nsecond\n\nFrom c\nno headers\n"
    )
    found, report = read(tmp_path)
    mail = found["a.eml"]
    assert mail.title == "grüße"
    assert mail.text.startswith(
        "From: Jürgen <j@example.org>\nDate: Mon, 30 Nov 2026 03:00:00 +0000\nSubject: grüße\n\n"
    )
    assert mail.text.endswith("Grüße\n\nthe inner text")
    assert mail.metadata["from"] == "Jürgen <j@example.org>"
    assert (found["two.mbox#1"].text, found["two.mbox#2"].title) == ("Subject: one\n\nfirst\nFrom here", "two")
    assert "deep.eml" in report.examples["damaged"][0]
    assert "two.mbox" in report.examples["damaged"][1]
    assert report.counts == {"attachment application/pdf": 1, "damaged": 2}


@pytest.mark.skipif(os.name != "posix", reason="links, pipes and names of bytes are those of POSIX")
def test_links_pipes_and_strange_names(tmp_path, monkeypatch):
    place = tmp_path / "files"
    (place / "folder").mkdir(parents=True)
    (place / "folder" / "up").symlink_to(place)
    (place / "loop.txt").symlink_to("loop.txt")
    (place / "nowhere.txt").symlink_to("missing")
    (place / "link.txt").symlink_to("two\nlines.txt")
    (place / "two\nlines.txt").write_text("text")
    os.mkfifo(place / "pipe.txt")
    (place / "locked.txt").write_text("secret")
    (place / "gone.txt").write_text("gone")
    with open(os.fsencode(place) + b"/\xff.txt", "w") as file:
        file.write("bytes")
    open_file = os.open

    def refused(path, *rest, **options):
        name = os.path.basename(os.fspath(path))
        if name == "locked.txt":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        if name == "gone.txt":  # between the listing and the reading
            raise FileNotFoundError(errno.ENOENT, "No such file", path)
        return open_file(path, *rest, **options)

    monkeypatch.setattr(os, "open", refused)
    found, report = read(place)
    assert list(found) == ["link.txt", "two\nlines.txt"]
    for reason, name in {
        "linked_folder": "up",
        "link_in_a_circle": "loop.txt",
        "broken_link": "nowhere.txt",
        "pipe_or_device": "pipe.txt",
        "no_permission": "locked.txt",
        "vanished": "gone.txt",
        "bad_name": "udcff.txt",
    }.items():
        assert name in left_out(report, reason)
    assert report.total == 7


def test_a_folder_that_cannot_be_listed_is_named(folder, monkeypatch):
    scan = os.scandir

    def refused(place):
        if os.fspath(place).endswith("animals"):
            raise PermissionError(errno.EACCES, "Permission denied", place)
        return scan(place)

    monkeypatch.setattr(os, "scandir", refused)
    found, report = read(folder)
    assert list(found) == ["long.rst.gz"]
    assert "animals: cannot be read (Permission denied)" in left_out(report, "unreadable_folder")


def test_a_program_adds_a_kind_of_file(tmp_path):
    (tmp_path / "a.xyz").write_text("one|two")
    (tmp_path / "b.xyz").write_text("")
    (tmp_path / "c.xyzzy").write_text("text")

    @register_reader(".xyz")
    def parts(file: File):
        if not file.content:
            raise RuntimeError("it is\nempty")
        return [Document(str(number), part) for number, part in enumerate(file.text.split("|"))]

    register_reader(".xyzzy", lambda file: file.text.upper())
    try:
        found, report = read(tmp_path)
        assert {name: document.text for name, document in found.items()} == {
            "a.xyz#0": "one",
            "a.xyz#1": "two",
            "c.xyzzy": "TEXT",
        }
        assert "b.xyz" in left_out(report, "damaged")
        with pytest.raises(InputError, match="taken"):
            register_reader(".md", parts)
        with pytest.raises(InputError, match=r"as '\.xyz'"):
            register_reader("XYZ", parts)
    finally:
        READERS.unregister("xyz")
        READERS.unregister("xyzzy")


def test_a_single_file_is_a_collection(tmp_path):
    (tmp_path / "a.md").write_text("# Title\n\ntext")
    (tmp_path / "t.csv").write_text("name,text\nA,one\n")
    pq.write_table(pa.table({"id": ["x"], "body": ["two"]}), tmp_path / "t.parquet")
    assert [document.id for document in open_dataset(tmp_path / "a.md").documents()] == ["a.md"]
    (row,) = open_dataset(tmp_path / "t.csv").documents()
    assert row == Document("1", "one", "", {"name": "A"})
    (row,) = open_dataset(tmp_path / "t.csv", id_key="name").documents()
    assert row.id == "A"
    assert [document.id for document in open_dataset(tmp_path / "t.parquet").documents()] == ["x"]
    (tmp_path / "bad.md").write_bytes(b"\0")
    with pytest.raises(DataError, match=r"no documents.*not_text.*bad\.md"):
        open_dataset(tmp_path / "bad.md").count()


def test_a_beir_folder_without_its_corpus_is_not_read_as_texts(folder):
    (folder / "qrels").mkdir()
    with pytest.raises(DataError, match=r"has no corpus.*folder of files"):
        open_dataset(folder)


def test_texts_may_be_called_as_parts_of_a_beir_folder_are(tmp_path):
    (tmp_path / "queries.md").write_text("How to ask.\n")
    assert [document.id for document in open_dataset(tmp_path).documents()] == ["queries.md"]
    (tmp_path / "corpus").mkdir()  # as of Parquet files beside a README
    with pytest.raises(DataError, match="has no corpus"):
        open_dataset(tmp_path)


def test_files_have_no_fields(folder):
    with pytest.raises(InputError, match="id_key"):
        open_dataset(folder, text_key="body")


def test_a_folder_of_empty_files_has_no_documents(tmp_path):
    (tmp_path / "a.txt").write_text("\n")
    with pytest.raises(DataError, match=r"no documents.*no_text"):
        open_dataset(tmp_path).count()
