"""Reading the files that the original Hypencoder encodes a corpus to.

A `.docs` file is what docarray's file store writes: records of a 4-byte big-endian length and a gzip-compressed
protobuf `DocProto`, closed by a record of length 0. A `DocProto` is a map from field names to nodes; Hypencoder's have
the text nodes `id` and `text` and the array node `representation`. Neither docarray nor protobuf is needed.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from gzip import decompress
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hyperseek._errors import DataError
from hyperseek.index._protobuf import read_fields, read_varints
from hyperseek.records import Document

Vector: TypeAlias = npt.NDArray[np.float32]

# Field numbers of docarray's messages DocProto, its map entries, NodeProto, NdArrayProto and DenseNdArrayProto.
_DATA, _KEY, _VALUE = 1, 1, 2
_TEXT, _ARRAY = 1, 6
_DENSE, _BUFFER, _SHAPE, _DTYPE = 1, 1, 2, 3
_FIELDS = ("id", "text", "representation")


def read_docs(path: str | os.PathLike[str]) -> Iterator[tuple[Document, Vector]]:
    """Stream documents and their vectors from a `.docs` file.

    Args:
        path: The file.

    Yields:
        Each document with its vector `(d,)`, float32, in the order of the file.

    Raises:
        DataError: The file is missing, cut short or damaged; the message names the record.
    """
    if not Path(path).is_file():
        raise DataError("no such file; give a .docs file that Hypencoder's encode.py wrote", path=path)
    with open(path, "rb") as file:
        number = 0
        try:
            while record := _next_record(file):
                number += 1
                yield _read_document(decompress(record))
        except (OSError, EOFError, ValueError, zlib.error) as error:
            message = f"record {number} is damaged ({error}); copy the file again, or encode the corpus anew"
            raise DataError(message, path=path) from error


def _next_record(file: IO[bytes]) -> bytes:
    head = file.read(4)
    size = int.from_bytes(head, "big")
    record = file.read(size)
    if len(head) < 4 or len(record) < size:
        raise EOFError("the file ends within a record or lacks its closing zeros")
    return record


def _read_document(message: bytes) -> tuple[Document, Vector]:
    nodes: dict[str, dict[int, Any]] = {}
    for number, entry in read_fields(message):
        if number == _DATA:
            fields = _message(entry)
            nodes[fields[_KEY].decode()] = _message(fields[_VALUE])
    missing = [name for name in _FIELDS if name not in nodes]
    if missing:
        raise ValueError(f"it lacks the fields {missing} and has {sorted(nodes)}")
    # A text node with an empty text has no text field at all: protobuf leaves defaults out.
    identity, text = (nodes[name].get(_TEXT, b"").decode() for name in ("id", "text"))
    return Document(identity, text), _read_vector(nodes["representation"])


def _read_vector(node: dict[int, Any]) -> Vector:
    dense = _message(_message(node[_ARRAY])[_DENSE]) if _ARRAY in node else {}
    if _BUFFER not in dense:
        raise ValueError("its representation is not a dense array")
    dtype = dense.get(_DTYPE, b"").decode()
    if dtype not in ("<f4", "<f2", "<f8"):
        raise ValueError(f"its representation has the number type {dtype!r}, not a little-endian float")
    shape = dense.get(_SHAPE, b"")
    sizes = read_varints(shape) if isinstance(shape, bytes) else [shape]
    values = np.frombuffer(dense[_BUFFER], dtype=dtype).astype(np.float32)
    if sizes != [len(values)]:
        raise ValueError(f"its representation has the shape {sizes} and {len(values)} numbers")
    return values


def _message(value: Any) -> dict[int, Any]:
    if not isinstance(value, bytes):
        raise ValueError("a number stands where a message should be")
    return dict(read_fields(value))
