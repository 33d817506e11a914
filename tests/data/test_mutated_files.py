"""Whatever stands in a file, its reader gives records or raises an error of ours, soon and in little memory."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperseek._bounded import LONGEST_LINE, MOST_EMPTY_LINES
from hyperseek.data import (
    examples_from_columns,
    examples_from_hypencoder,
    open_dataset,
    read_corpus,
    read_id_list,
    read_qrels,
    read_queries,
    read_run,
)
from hyperseek.data.hierarchy import read_hierarchy
from hyperseek.errors import DataError, HyperseekError
from hyperseek.graph import NeighbourGraph
from hyperseek.index.vector_files import read_docs
from hyperseek.pretraining._recipe import TextSourceConfig
from hyperseek.pretraining._texts import open_texts

LONGEST = 5  # seconds


def _lines(*records: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


def _docs_record(identity: str) -> bytes:
    # A document of two numbers, as the original Hypencoder writes it.
    def part(number: int, value: bytes) -> bytes:
        return bytes([number << 3 | 2, len(value)]) + value

    array = part(1, bytes(8)) + part(2, b"\x02") + part(3, b"<f4")
    nodes = {"id": part(1, identity.encode()), "text": part(1, b"x"), "representation": part(6, part(1, array))}
    message = b"".join(part(1, part(1, name.encode()) + part(2, node)) for name, node in nodes.items())
    packed = gzip.compress(message, mtime=0)
    return len(packed).to_bytes(4, "big") + packed


TEXTS = _lines(
    {"_id": "d1", "title": "T", "text": "café one", "year": 1999, "parts": [1, {"a": 2.5}]},
    {"_id": "d2", "title": "", "text": "two words", "year": -3, "parts": None},
    {"_id": 3, "text": "three"},
)
TABLE = b"id\ttitle\ttext\nd1\tT\tcaf\xc3\xa9 one\nd2\t\ttwo words\nd3\tU\tthree\n"
BARE = b"d1\tcaf\xc3\xa9 one\nd2\ttwo words\nd3\tthree\n"
COLUMNS = _lines(
    {"query": "one", "positive": "a", "negative": ["b", "c"], "score": [1.5, 0, -2], "task": "t"},
    {"query": "two", "positive": ["d"], "negative": [], "score": [3]},
)
HYPENCODER = _lines(
    {
        "query": {"id": "q1", "content": "one"},
        "items": [{"id": "d1", "content": "a", "score": 1.5, "type": "p"}, {"id": 2, "content": "b", "score": -1}],
    },
    {"query": {"id": 2, "content": "two"}, "items": [{"id": "d3", "content": "c"}]},
)


def _import_graph(path: Path, on_error: str) -> None:
    place = path.with_name(f"graph-{time.monotonic_ns()}")
    NeighbourGraph.import_jsonl(place, path, ["d1", "d2", "d3"])


def _open_folder(path: Path, on_error: str) -> None:
    qrels = path.with_name("test.tsv")
    qrels.write_text("d1\td1\t1\n")
    dataset = open_dataset(path, queries=path, qrels=qrels, on_error=on_error)  # type: ignore[arg-type]
    dataset.fingerprint()
    dataset.queries("test")


def _read_texts(**options: Any) -> Callable[[Path, str], Any]:
    def read(path: Path, on_error: str) -> Any:
        return open_texts("x", TextSourceConfig(source=str(path), on_error=on_error, **options)).read()

    return read


READERS: dict[str, tuple[bytes, Callable[[Path, Any], Any]]] = {
    "corpus.jsonl": (TEXTS, lambda path, mode: read_corpus(path, on_error=mode)),
    "corpus.tsv": (TABLE, lambda path, mode: read_corpus(path, on_error=mode)),
    "bare.tsv": (BARE, lambda path, mode: read_corpus(path, on_error=mode)),
    "numbered.tsv": (BARE, lambda path, mode: read_corpus(path, id_key="1", text_key="2", on_error=mode)),
    "queries.jsonl": (TEXTS, lambda path, mode: read_queries(path, on_error=mode)),
    "queries.tsv": (BARE, lambda path, mode: read_queries(path, on_error=mode)),
    "collection.jsonl": (TEXTS, _open_folder),
    "test.tsv": (
        b"query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td1\t-1\n",
        lambda path, mode: read_qrels(path, on_error=mode),
    ),
    "test.qrels": (b"q1 0 d1 2\nq1 0 d2 0\nq2\t0\td1\t1\n", lambda path, mode: read_qrels(path, on_error=mode)),
    "test.json": (
        b'{"q1": {"d1": 2, "d2": 0},\n "q2": {"d1": 1.0}}',
        lambda path, mode: read_qrels(path, on_error=mode),
    ),
    "run.trec": (b"q1 Q0 d1 1 2.5 t\nq1 Q0 d2 2 -1e-3 t\n", lambda path, mode: read_run(path, on_error=mode)),
    "run.jsonl": (
        _lines({"query": {"id": "q1"}, "items": [{"id": "d1", "score": 2.5}, {"id": 7, "score": -1}]}),
        lambda path, mode: read_run(path, on_error=mode),
    ),
    "ids.txt": (b"d1\n d2 \n\nd/3\n", lambda path, mode: read_id_list(path)),
    "columns.jsonl": (COLUMNS, lambda path, mode: examples_from_columns(path, on_error=mode)),
    "hypencoder.jsonl": (HYPENCODER, lambda path, mode: examples_from_hypencoder(path, on_error=mode)),
    "tree.tsv": (b"child\tparent\nb\ta\nc\ta\n", lambda path, mode: read_hierarchy(path).depths),
    "graph.jsonl": (
        _lines({"item_id": "d1", "neighbors": ["d2"]}, {"item_id": "d2", "neighbors": ["d1", "d3"]}),
        _import_graph,
    ),
    "items.docs": (_docs_record("d1") + _docs_record("d2") + bytes(4), lambda path, mode: read_docs(path)),
    "lines.txt": (b"one line\nanother\n\nthird\n", _read_texts(divide="line")),
    "paragraphs.txt": (b"one line\nanother\n\nthird\n", _read_texts(divide="paragraph")),
    "whole.txt": (b"one line\nanother\n\nthird\n", _read_texts(divide="file")),
    "texts.jsonl": (TEXTS, _read_texts()),
}

HOSTILE = [
    b"",
    b"\x00",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\xff\xfeq\x00\t\x00",
    b"\r",
    b"\n",
    b"\t",
    b" ",
    b'"',
    b"\\",
    b"\\ud800",
    b"\\udc00\\ud800",
    b"\\u0000",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"-0",
    b"1_0",
    b"0x10",
    b"\xd9\xa3",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b"9" * 5000,
    b"0." + b"9" * 5000,
    b"[" * 5000,
    b'{"a":' * 5000,
    b"[" * 70 + b"]" * 70,
    b'{"a":' * 70 + b"1" + b"}" * 70,
    b"\t" * 5000,
    b"1" * 50,
    b'"_id": 1, "_id": 2,',
    b"\x1f\x8b\x08",
    b"PAR1\x15\x00",
    b"\x1b[2J",
    "‮".encode(),
    b"x" * 100_000,
]


def mutations(content: bytes, count: int, seed: str) -> Iterator[bytes]:
    """Yield what becomes of a file: bytes flipped, cut out, doubled, hostile ones put in or in place of a value."""
    draw = random.Random(seed)
    yield from (content + one for one in HOSTILE[:10])
    for _ in range(count - 10):
        changed = bytearray(content)
        for _ in range(draw.choice((1, 1, 1, 2, 5))):
            at = draw.randrange(len(changed) + 1)
            end = min(len(changed), at + draw.choice((1, 1, 2, 5, 20)))
            match draw.randrange(6):
                case 0:
                    changed[at:end] = bytes(draw.randrange(256) for _ in range(end - at))
                case 1:
                    del changed[at:end]
                case 2:
                    changed[at:at] = changed[at:end]
                case 3:
                    del changed[at:]
                case 4:
                    changed[at:at] = draw.choice(HOSTILE)
                case 5:
                    changed[at:end] = draw.choice(HOSTILE)
        yield bytes(changed)


def attack(folder: Path, name: str, count: int) -> None:
    """Read `count` mutations of a file, plain and packed, bad records raised and skipped."""
    content, read = READERS[name]
    packed = gzip.compress(content, mtime=0)
    plain = ((name, changed) for changed in mutations(content, count, name))
    zipped = ((f"{name}.gz", changed) for changed in mutations(packed, count // 4, name))
    repacked = ((f"{name}.gz", gzip.compress(changed, 1)) for changed in mutations(content, count // 4, f"{name}.gz"))
    for number, (file, changed) in enumerate(itertools.chain(plain, zipped, repacked)):
        if name == "items.docs" and file != name:
            break
        path = folder / file
        path.write_bytes(changed)
        start, message = time.monotonic(), ""
        try:
            list(read(path, ("raise", "skip")[number % 2]) or ())
        except HyperseekError as error:
            message = str(error)
        except Exception as error:
            (folder / "failed").write_bytes(changed)
            raise AssertionError(
                f"{type(error).__name__} of {file}: {folder}/failed holds it: {changed[:300]!r}"
            ) from error
        assert time.monotonic() - start < LONGEST, changed[:300]
        assert len(message) < 4_000


@pytest.mark.parametrize("name", READERS)
def test_mutated_files(tmp_path: Path, name: str) -> None:
    content, read = READERS[name]
    (tmp_path / name).write_bytes(content)
    list(read(tmp_path / name, "raise") or ())  # as it is, it can be read
    attack(tmp_path, name, 100)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_many_mutated_files(tmp_path: Path, name: str) -> None:
    attack(tmp_path, name, 2_000)


def test_what_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "broken.jsonl").symlink_to(tmp_path / "nothing")
    (tmp_path / "circle.jsonl").symlink_to(tmp_path / "circle.jsonl")
    (tmp_path / "file.jsonl").write_bytes(TEXTS)
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "file.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    for name, message in [
        ("folder.jsonl", "is a folder"),
        ("broken.jsonl", "is a symbolic link to nothing"),
        ("circle.jsonl", "is not a path of a file"),
        ("pipe.jsonl", "is a pipe or a device"),
        ("nothing.jsonl", "no such file"),
        ("file.jsonl/more.jsonl", "no such file"),
        ("x" * 5000 + ".jsonl", "is not a path of a file"),
        ("zero\0.jsonl", "is not a path of a file"),
    ]:
        for read in (read_corpus, read_queries, read_qrels, read_run, read_id_list, read_docs):
            with pytest.raises(DataError, match=message) as caught:
                list(read(tmp_path / name))  # type: ignore[operator]
            assert len(str(caught.value)) < 1_000
    assert len(list(read_corpus(tmp_path / "link.jsonl"))) == 3

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    for read in (read_corpus, read_queries, read_qrels, read_run, read_id_list, read_docs):
        with pytest.raises(DataError, match="may not be read"):
            list(read(tmp_path / "file.jsonl"))  # type: ignore[operator]


def test_other_kinds_of_files_are_named(tmp_path: Path) -> None:
    import bz2
    import lzma

    for name, content, message in [
        ("a.jsonl", gzip.compress(TEXTS), r"packed with gzip; give a\.jsonl\.gz"),
        ("b.jsonl", bz2.compress(TEXTS), "packed with bzip2"),
        ("c.jsonl", lzma.compress(TEXTS), "packed with xz"),
        ("d.jsonl", b"\x28\xb5\x2f\xfd" + TEXTS, "packed with zstandard"),
        ("e.jsonl", b"PK\x03\x04" + TEXTS, "packed with zip"),
        ("f.jsonl", b"PAR1\x15\x04" + TEXTS, "a file of Parquet"),
        ("g.tsv", BARE.decode().encode("utf-16"), "UTF-16"),
        ("h.tsv", BARE.decode().encode("utf-16-le"), "UTF-16"),
        ("i.tsv", BARE.decode().encode("utf-16-be"), "UTF-16"),
        ("j.jsonl.gz", gzip.compress(TEXTS.decode().encode("utf-16")), "UTF-16"),
        ("k.jsonl.gz", TEXTS, "damaged gzip"),
        ("l.jsonl.gz", gzip.compress(TEXTS)[:-4], "damaged gzip"),
        ("m.jsonl.gz", gzip.compress(TEXTS) + b"rubbish", "damaged gzip"),
        ("n.jsonl.bz2", bz2.compress(TEXTS), "is not a text file"),
        ("o.tsv", TEXTS.decode("utf-8").encode("latin-1"), "not valid UTF-8"),
    ]:
        (tmp_path / name).write_bytes(content)
        for mode in ("raise",) if name == "o.tsv" else ("raise", "skip"):
            with pytest.raises(DataError, match=message):
                list(read_corpus(tmp_path / name, on_error=mode))  # type: ignore[arg-type]
    (tmp_path / "joined.jsonl.GZ").write_bytes(gzip.compress(TEXTS) + gzip.compress(b'{"_id": "d4", "text": "x"}\n'))
    assert [document.id for document in read_corpus(tmp_path / "joined.jsonl.GZ")] == ["d1", "d2", "3", "d4"]


def test_json_is_read_without_guesses(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    for line, message in [
        ('{"_id": "a", "_id": "b", "text": "x"}', "the key '_id' appears twice"),
        ('{"_id": "a", "text": "x", "n": {"b": 1, "b": 2}}', "the key 'b' appears twice"),
        ('{"_id": "a", "text": "x", "n": NaN}', "NaN is not a number in JSON"),
        ('{"_id": "a", "text": "x", "n": 1e999}', "is not a finite number"),
        ('{"_id": "a", "text": "x", "n": %s}' % ("9" * 5000), "5,000 digits"),
        ('{"_id": %s, "text": "x"}' % ("9" * 5000), "5,000 digits"),
        ('{"_id": "a", "text": "x", "n": %s}' % ("[" * 5000 + "]" * 5000), "nested deeper"),
        ('{"_id": "a", "text": "x", "n": %s}' % ("[" * 100 + "]" * 100), "nested deeper"),
        (r'{"_id": "a", "text": "\ud800"}', "half of a surrogate pair"),
        (r'{"_id": "a", "text": "x", "\udc00": 1}', "half of a surrogate pair"),
        (r'{"_id": "\ud83d", "text": "x"}', "half of a surrogate pair"),
    ]:
        path.write_text(f'{{"_id": "first", "text": "x"}}\n{line}\n')
        with pytest.raises(DataError, match=f"corpus.jsonl:2: .*{message}"):
            list(read_corpus(path))
        assert [document.id for document in read_corpus(path, on_error="skip")] == ["first"]
    path.write_text('{"_id": "a", "text": "\\ud83d\\ude00 [[[{{{", "n": [1e3, -0.0, 12345678901234567890]}\n' * 1)
    (document,) = read_corpus(path)
    assert (document.text, document.metadata) == ("😀 [[[{{{", {"n": [1000.0, 0.0, 12345678901234567890]})


def test_many_names_are_compared_in_linear_time(tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(50_000)]
    pairs = ", ".join(f'"{name}": 1' for name in names)
    (tmp_path / "corpus.jsonl").write_text(f'{{"_id": "a", "text": "x", {pairs}, "n49999": 2}}')
    (tmp_path / "corpus.tsv").write_text("\t".join(["id", "text", *names, "n49999"]))
    for name, message in [("corpus.jsonl", "'n49999' appears twice"), ("corpus.tsv", "are named 'n49999'")]:
        start = time.process_time()
        with pytest.raises(DataError, match=message):
            list(read_corpus(tmp_path / name))
        assert time.process_time() - start < LONGEST  # a minute and more where each is compared with each


def test_grades_and_scores_are_numbers_that_a_measure_can_bear(tmp_path: Path) -> None:
    for grade in ("NaN", "inf", "1_0", "٣", "0x1", "1e400", "9" * 5000, str(1 << 40), "true", ""):
        (tmp_path / "test.tsv").write_text(f"q\td\t1\nq\te\t{grade}\n")
        with pytest.raises(DataError, match=r"test\.tsv:2: a grade must be"):
            read_qrels(tmp_path / "test.tsv")
    for grade in ("NaN", '"1"', "true", "null", "[]", "0.5", str(1 << 40)):
        (tmp_path / "test.json").write_text(f'{{"q": {{"d": {grade}}}}}')
        with pytest.raises(DataError):
            read_qrels(tmp_path / "test.json")
    for score in ("NaN", "-inf", "1e400", "1_0", "٣", "9" * 5000, "true"):
        (tmp_path / "run.trec").write_text(f"q Q0 d 1 {score} t\n")
        with pytest.raises(DataError, match="the score must be a number"):
            read_run(tmp_path / "run.trec")
    for score in ("NaN", "1e400", "9" * 400, "true", "null"):
        (tmp_path / "run.jsonl").write_text(f'{{"query": {{"id": "q"}}, "items": [{{"id": "d", "score": {score}}}]}}')
        with pytest.raises(DataError):
            read_run(tmp_path / "run.jsonl")


BOMBS = """
import gzip, resource, sys, time
from pathlib import Path
from hyperseek.errors import DataError
from hyperseek.data import read_corpus, read_qrels, read_queries, read_run

folder, kind = Path(sys.argv[1]), sys.argv[2]
readers = {"a.jsonl.gz": read_corpus, "a.tsv.gz": read_queries, "a.qrels.gz": read_qrels, "a.json.gz": read_qrels,
           "a.trec.gz": read_run}
chunk = {"line": b"x" * (1 << 20), "blank": b"\\n" * (1 << 20), "blanks": b" \\n" * (1 << 19),
         "brackets": b"[" * (1 << 20), "lists": b"[]," * (1 << 18), "digits": b"9" * (1 << 20)}[kind]
for name in readers:
    with gzip.open(folder / name, "wb", 1) as file:
        file.write(b'{"_id": "a", "text": [' if kind == "lists" else b"")
        for _ in range(int(sys.argv[3])):
            file.write(chunk)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name, read in readers.items():
    start = time.monotonic()
    try:
        for _ in read(folder / name):
            pass
    except DataError as error:
        assert len(str(error)) < 2000
    else:
        raise AssertionError(name)
    print(name, round(time.monotonic() - start, 2))
    assert time.monotonic() - start < 5, name
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
assert grown < 1024, grown
"""


def bomb(folder: Path, kind: str, megabytes: int) -> None:
    command = [sys.executable, "-c", BOMBS, str(folder), kind, str(megabytes)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_line_that_never_ends(tmp_path: Path) -> None:
    bomb(tmp_path, "line", 1 + (LONGEST_LINE >> 20))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["line", "blank", "blanks", "brackets", "lists", "digits"])
def test_bombs(tmp_path: Path, kind: str) -> None:
    assert MOST_EMPTY_LINES < 300 << 20
    bomb(tmp_path, kind, 300)
    # Just below the bound of a line, where all of it is parsed.
    bomb(tmp_path, kind, 15)
