"""The `.docs` files that the original Hypencoder writes when it encodes a corpus.

A `.docs` file is what docarray's file store writes: records of a 4-byte big-endian length and a gzip-compressed
protobuf `DocProto`, closed by a record of length 0. A `DocProto` is a map from field names to nodes; Hypencoder's have
the text nodes `id` and `text` and the array node `representation`. A protobuf message is a sequence of fields: a key
(number and wire type, as a variable-length integer) and a value. Neither docarray nor protobuf is needed.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hyperseek._bounded import existing_file
from hyperseek.errors import DataError
from hyperseek.types import Document

Vector: TypeAlias = npt.NDArray[np.float32]

# Field numbers of docarray's messages DocProto, its map entries, NodeProto, NdArrayProto and DenseNdArrayProto.
_DATA, _KEY, _VALUE = 1, 1, 2
_TEXT, _ARRAY = 1, 6
_DENSE, _BUFFER, _SHAPE, _DTYPE = 1, 1, 2, 3
LARGEST_RECORD = 1 << 26
"""Maximum bytes of one document with its vector, compressed and uncompressed."""
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
    found, number = existing_file(path), 0
    try:
        with found.open("rb") as file:
            while record := _next_record(file):
                number += 1
                yield _read_document(_unpacked(record))
    except PermissionError:
        raise DataError("may not be read; check its permissions", path=path) from None
    except (OSError, EOFError, ValueError, zlib.error) as error:
        message = f"record {number} is damaged ({error}); copy the file again, or encode the corpus again"
        raise DataError(message, path=path) from error


def _next_record(file: IO[bytes]) -> bytes:
    head = file.read(4)
    size = int.from_bytes(head, "big")
    if size > LARGEST_RECORD:
        raise ValueError(f"it claims to be {size:,} bytes long; the limit is {LARGEST_RECORD:,}")
    record = file.read(size)
    if len(head) < 4 or len(record) < size:
        raise EOFError("the file ends within a record or lacks its closing zeros")
    return record


def _unpacked(record: bytes) -> bytes:
    """Decompress a gzip record of at most `LARGEST_RECORD` bytes."""
    if not record.startswith(b"\x1f\x8b"):
        raise ValueError("Not a gzipped file")
    unpacking = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    message = unpacking.decompress(record, LARGEST_RECORD)
    if not unpacking.eof:
        raise ValueError(f"it is truncated, or has more than {LARGEST_RECORD:,} bytes")
    return message


def _read_document(message: bytes) -> tuple[Document, Vector]:
    nodes: dict[str, dict[int, Any]] = {}
    for number, entry in read_fields(message):
        if number == _DATA:
            fields = _message(entry)
            nodes[_text(fields.get(_KEY, b""))] = _message(fields.get(_VALUE, b""))
    missing = [name for name in _FIELDS if name not in nodes]
    if missing:
        raise ValueError(f"it lacks the fields {missing} and has {sorted(nodes)}")
    # A text node with an empty text has no text field: protobuf omits defaults.
    identity, text = (_text(nodes[name].get(_TEXT, b"")) for name in ("id", "text"))
    if not identity:
        raise ValueError("its id is empty")
    return Document(identity, text), _read_vector(nodes["representation"])


def _read_vector(node: dict[int, Any]) -> Vector:
    dense = _message(_message(node.get(_ARRAY, b"")).get(_DENSE, b""))
    if not isinstance(dense.get(_BUFFER), bytes):
        raise ValueError("its representation is not a dense array")
    dtype = _text(dense.get(_DTYPE, b""))
    if dtype not in ("<f4", "<f2", "<f8"):
        raise ValueError(f"its representation has the dtype {dtype!r}, not a little-endian float")
    shape = dense.get(_SHAPE, b"")
    sizes = read_varints(shape) if isinstance(shape, bytes) else [shape]
    values = np.frombuffer(dense[_BUFFER], dtype=dtype).astype(np.float32)
    if sizes != [len(values)]:
        raise ValueError(f"its representation has the shape {sizes} and {len(values)} numbers")
    return values


def _text(value: Any) -> str:
    if not isinstance(value, bytes):
        raise ValueError("it has a number instead of a text")
    return value.decode()


def _message(value: Any) -> dict[int, Any]:
    if not isinstance(value, bytes):
        raise ValueError("it has a number instead of a message")
    return dict(read_fields(value))


_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10


def read_fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Split a message into its fields.

    Args:
        message: One serialised message.

    Yields:
        Field number and value: an integer for variable-length integers, bytes for everything else.

    Raises:
        ValueError: The message is cut short or is not one.
    """
    position = 0
    while position < len(message):
        key, position = _read_varint(message, position)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, position = _read_varint(message, position)
            yield number, value
            continue
        if kind == _BYTES:
            size, position = _read_varint(message, position)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind} is unknown")
        if position + size > len(message):
            raise ValueError(f"field {number} needs {size} bytes and {len(message) - position} are left")
        yield number, message[position : position + size]
        position += size


def read_varints(packed: bytes) -> list[int]:
    """Read a packed list of variable-length integers."""
    values, position = [], 0
    while position < len(packed):
        value, position = _read_varint(packed, position)
        values.append(value)
    return values


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    value = 0
    for place in range(_LONGEST_VARINT):
        if position == len(message):
            raise ValueError("the message ends within a number")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, position
    raise ValueError("a number is longer than ten bytes")
