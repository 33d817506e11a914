from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hyperseek.errors import DataError
from hyperseek.index import Index
from hyperseek.index.vector_files import read_docs
from hyperseek.scoring import Space


def field(number: int, value: bytes | int) -> bytes:
    """One protobuf field; sizes below 128 only."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    return bytes([number << 3 | 2, len(value)]) + value


def text_node(text: str) -> bytes:
    return (field(1, text.encode()) if text else b"") + field(14, b"text")


def array_node(vector: list[float], dtype: str = "<f4", shape: bytes | int | None = None) -> bytes:
    buffer = np.array(vector, dtype=np.dtype(dtype)).tobytes()
    packed = bytes([len(vector)]) if shape is None else shape
    return field(6, field(1, field(1, buffer) + field(2, packed) + field(3, dtype.encode())))


def framed(message: bytes) -> bytes:
    """A record around any bytes: its length, then the bytes packed without the time of day."""
    packed = gzip.compress(message, mtime=0)
    return len(packed).to_bytes(4, "big") + packed


def record(**nodes: bytes) -> bytes:
    message = b"".join(field(1, field(1, name.encode()) + field(2, node)) for name, node in nodes.items())
    return framed(message)


def write(folder: Path, *records: bytes, end: bytes = b"\0\0\0\0") -> Path:
    path = folder / "items.docs"
    path.write_bytes(b"".join(records) + end)
    return path


def plain(identity: str = "a", text: str = "some text", vector: list[float] | None = None) -> bytes:
    return record(id=text_node(identity), text=text_node(text), representation=array_node(vector or [1.0, -2.5]))


def test_the_originals_file_is_read_exactly(golden: Path, tmp_path: Path) -> None:
    folder = golden / "hypencoder" / "retrieval"
    expected = np.load(folder / "embeddings.npz")["embeddings"]
    documents = json.loads((folder / "golden.json").read_text())["docs"]
    pairs = list(read_docs(folder / "items.docs"))
    assert len(pairs) == 300
    assert [{"id": document.id, "text": document.text} for document, _ in pairs] == documents
    assert np.array_equal(np.stack([vector for _, vector in pairs]), expected)
    index = Index.from_vectors(tmp_path / "index", read_docs(folder / "items.docs"), Space("dot", 32))
    assert torch.equal(next(index.points(rows=300))[1].vectors, torch.from_numpy(expected))
    assert [document.text for document in index.documents()] == [document["text"] for document in documents]


def test_small_files(tmp_path: Path) -> None:
    assert list(read_docs(write(tmp_path))) == []
    path = write(
        tmp_path,
        plain("a", ""),
        record(id=text_node("b"), text=text_node("é"), representation=array_node([0.5], "<f8"), extra=text_node("x")),
        record(id=text_node("c"), text=text_node("t"), representation=array_node([0.5], "<f2", shape=1)),
    )
    pairs = list(read_docs(path))
    assert [(document.id, document.text) for document, _ in pairs] == [("a", ""), ("b", "é"), ("c", "t")]
    assert [vector.tolist() for _, vector in pairs] == [[1.0, -2.5], [0.5], [0.5]]
    assert all(vector.dtype == np.float32 for _, vector in pairs)


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path, plain("a"), plain("b"))
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"items\.docs: record \d is damaged"):
            list(read_docs(path))


def test_no_flipped_byte_escapes_as_another_error(tmp_path: Path) -> None:
    path = write(tmp_path, plain("a"))
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            list(read_docs(path))
        except DataError:
            continue


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (record(id=text_node("a"), text=text_node("b")), r"lacks the fields \['representation'\]"),
        (record(id=text_node("a"), text=text_node("b"), representation=text_node("x")), "not a dense array"),
        (
            record(id=text_node("a"), text=text_node("b"), representation=array_node([1], "<i4")),
            "dtype '<i4'",
        ),
        (
            record(id=text_node("a"), text=text_node("b"), representation=array_node([1, 2], shape=b"\x02\x01")),
            r"shape \[2, 1\] and 2 numbers",
        ),
        (record(id=field(1, b"\xff"), text=text_node("b"), representation=array_node([1])), "can't decode"),
        (framed(b"\xff" * 12), "longer than ten bytes"),
        (framed(b"\x0b"), "wire type 3"),
        (framed(b"\x08\x01"), "it has a number instead"),
        (framed(b"\x08"), "ends within a number"),
        (framed(b"\x09\x01"), "needs 8 bytes and 1"),
        (b"\0\0\0\x04rubb", "Not a gzipped file"),
    ],
)
def test_damage_is_named_with_its_record(tmp_path: Path, bad: bytes, message: str) -> None:
    with pytest.raises(DataError, match=f"record 2 is damaged.*{message}"):
        list(read_docs(write(tmp_path, plain(), bad)))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        list(read_docs(tmp_path / "none.docs"))
