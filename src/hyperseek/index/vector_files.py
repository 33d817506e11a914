"""Documents with their vectors in files: the plain ones of other engines, and those of the original Hypencoder.

Token vectors in plain files are the form that other engines read and write.

| file | content |
|---|---|
| `vectors.npy` | `(T, d)` float16, the vectors of all documents one after the other |
| `token_ids.npy` | `(T,)` int64, the token of each vector in the model's vocabulary; -1 where it stands for several |
| `doclens.npy` | `(N,)` int32, how many vectors each document has |
| `documents.jsonl` | a line for each document: `id`, `title`, `text`, `metadata` |
| `checksums.json` | what was written, which is verified where it is there; other engines write none |

Shapes: `N` documents, `T` vectors of all together, `d` dimensions.

The original Hypencoder writes `.docs` files when it encodes a corpus. They are what docarray's file store writes:
records of a 4-byte big-endian length and a gzip-compressed protobuf `DocProto`, closed by a record of length 0. A
`DocProto` is a map from field names to nodes; Hypencoder's have the text nodes `id` and `text` and the array node
`representation`. A protobuf message is a sequence of fields: a key (number and wire type, as a variable-length integer)
and a value. Neither docarray nor protobuf is needed.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterator
from itertools import repeat, tee
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hyperseek._bounded import existing_file, json_value, raw_lines
from hyperseek._config import Config
from hyperseek._files import atomic_write, new_array, read_array, reading, writing
from hyperseek._folders import (
    Checksum,
    check_files,
    checksum_folder,
    folder_path,
    read_description,
    staged_folder,
    write_sealed,
)
from hyperseek._long_work import progress
from hyperseek.errors import DataError, InputError
from hyperseek.scoring import Space
from hyperseek.store.snapshot import Snapshot
from hyperseek.types import Document, Token

VECTORS, TOKEN_IDS, LENGTHS, DOCUMENTS = "vectors.npy", "token_ids.npy", "doclens.npy", "documents.jsonl"
_CHECKSUMS = "checksums.json"
_REMEDY = "export the token vectors again"

Vector: TypeAlias = NDArray[np.float32]

# Field numbers of docarray's messages DocProto, its map entries, NodeProto, NdArrayProto and DenseNdArrayProto.
_DATA, _KEY, _VALUE = 1, 1, 2
_TEXT, _ARRAY = 1, 6
_DENSE, _BUFFER, _SHAPE, _DTYPE = 1, 1, 2, 3
LARGEST_RECORD = 1 << 26
"""Maximum bytes of one document with its vector, compressed and uncompressed."""
_FIELDS = ("id", "text", "representation")
# Wire types of protobuf.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10


def write_token_files(
    folder: str | os.PathLike[str],
    snapshot: Snapshot,
    tokens: Callable[[Iterator[str]], Iterator[list[tuple[Token, ...]] | None]] | None,
    *,
    overwrite: bool,
) -> None:
    """Write an index' token vectors; see `Index.export_tokens`.

    Args:
        folder: To be made, whole or not at all.
        snapshot: The documents, of a space of token sets.
        tokens: Yields for each text the tokens of each of its vectors; None writes no token numbers.
        overwrite: Whether earlier files may be replaced.

    Raises:
        InputError: The index has one vector for each document, or the folder may not be replaced.
    """
    if not snapshot.space.ragged:
        raise InputError("only token vectors are exported, and this index has one vector for each document")
    target = folder_path(folder, "exported token vectors")
    owned = (VECTORS, TOKEN_IDS, LENGTHS, DOCUMENTS, _CHECKSUMS)
    with writing(target), staged_folder(target, overwrite=overwrite, owned=owned) as staging:
        lengths = new_array(staging / LENGTHS, np.int32, (len(snapshot),))
        row = 0
        for chunk in snapshot.chunks(snapshot.chunk_rows):
            lengths[row : row + len(chunk)] = chunk.lengths.numpy()
            row += len(chunk)
        total = int(lengths.sum(dtype=np.int64))
        vectors = new_array(staging / VECTORS, np.float16, (total, snapshot.space.dimension))
        numbers = new_array(staging / TOKEN_IDS, np.int64, (total,))
        numbers[:] = -1
        documents, row = snapshot.store.documents(), 0
        every: Iterator[list[tuple[Token, ...]] | None] = repeat(None)
        if tokens is not None:
            documents, again = tee(documents)  # at most one document apart
            every = tokens(document.full_text for document in again)
        with (
            atomic_write(staging / DOCUMENTS) as file,
            progress("exporting", len(snapshot), unit="documents") as bar,
        ):
            for chunk in snapshot.chunks(snapshot.chunk_rows):
                with np.errstate(over="ignore"):
                    rounded = chunk.rows.numpy().astype(np.float16)
                if not np.isfinite(rounded).all():
                    raise InputError(
                        "a vector has numbers beyond 65,504, the largest of float16; it cannot be exported"
                    )
                vectors[row : row + len(rounded)] = rounded
                for length in chunk.lengths.tolist():
                    document = next(documents)
                    members = next(every)
                    if members is not None and len(members) == length:
                        numbers[row : row + length] = [own[0].number if len(own) == 1 else -1 for own in members]
                    record = {"id": document.id, "title": document.title, "text": document.text}
                    file.write(json.dumps({**record, "metadata": dict(document.metadata)}, ensure_ascii=False) + "\n")
                    row += length
                    bar.advance(1)
        for array in (lengths, vectors, numbers):
            array.flush()  # type: ignore[attr-defined]  # they are mapped
        write_sealed(staging / _CHECKSUMS, _Written(files=checksum_folder(staging)).model_dump())


class _Written(Config):
    files: dict[str, Checksum]


def is_token_files(path: str | os.PathLike[str]) -> bool:
    """Return whether a folder has exported token vectors."""
    return all(os.path.isfile(os.path.join(path, name)) for name in (VECTORS, LENGTHS))


def read_token_files(folder: str | os.PathLike[str]) -> tuple[Space, int, Iterator[tuple[Document, NDArray[Any]]]]:
    """Read exported token vectors, mapped into memory.

    Args:
        folder: With `vectors.npy` and `doclens.npy`, and perhaps the other files; without `documents.jsonl`, ids are
            positions and texts are empty.

    Returns:
        The space, the number of documents, and an iterator over documents with their `(tokens, d)` vectors, which
        `Index.from_vectors` takes.

    Raises:
        DataError: A file is missing or damaged, or the files do not fit each other.
        StoreError: A file is not what was written, by `checksums.json`.
    """
    path = folder_path(folder, "exported token vectors")
    noted = path / _CHECKSUMS
    if noted.exists():
        changed = f"{_REMEDY}, or delete {noted} if the change was meant"
        written = read_description(_Written, noted, "a record of exported files", remedy=changed)
        check_files(path, written.files, source=noted, remedy=changed)
    vectors = read_array(path / VECTORS, "token vectors", kinds="f", dimensions=2, remedy=_REMEDY)
    lengths = read_array(path / LENGTHS, "numbers of token vectors", kinds="iu", dimensions=1, remedy=_REMEDY)
    # In Python's integers where they might wrap around.
    if len(lengths) and (int(lengths.min()) < 0 or int(lengths.max()) > len(vectors)):
        raise DataError(f"numbers of vectors must be from 0 to {len(vectors)}; {_REMEDY}", path=path / LENGTHS)
    total = int(lengths.sum(dtype=np.int64))
    if total != len(vectors) or not vectors.shape[1]:
        raise DataError(
            f"speaks of {total} vectors, and {VECTORS} has the shape {vectors.shape}; {_REMEDY}", path=path / LENGTHS
        )
    if (path / TOKEN_IDS).exists():
        numbers = read_array(path / TOKEN_IDS, "numbers of tokens", kinds="iu", dimensions=1, remedy=_REMEDY)
        if len(numbers) != len(vectors):
            raise DataError(f"has {len(numbers)} tokens for {len(vectors)} vectors; {_REMEDY}", path=path / TOKEN_IDS)
    return Space("tokens", vectors.shape[1]), len(lengths), _items(path, vectors, lengths)


def _items(path: Path, vectors: NDArray[Any], lengths: NDArray[Any]) -> Iterator[tuple[Document, NDArray[Any]]]:
    named = (path / DOCUMENTS).exists()
    documents = _documents(path / DOCUMENTS) if named else (Document(str(row), "") for row in range(len(lengths)))
    start = 0
    for length in map(int, lengths):
        document = next(documents, None)
        if document is None:
            raise DataError(f"has fewer documents than the {len(lengths)} of {LENGTHS}", path=path / DOCUMENTS)
        yield document, np.array(vectors[start : start + length])
        start += length
    if next(documents, None) is not None:
        raise DataError(f"has more documents than the {len(lengths)} of {LENGTHS}", path=path / DOCUMENTS)


def _documents(path: Path) -> Iterator[Document]:
    for number, line in raw_lines(path):
        with reading(path, f"a document in line {number}", remedy=_REMEDY):
            record = json_value(line.decode("utf-8"), dict)
            texts = [record["id"], record.get("title", ""), record.get("text", "")]
            metadata = record.get("metadata", {})
            if not all(isinstance(text, str) for text in texts) or not isinstance(metadata, dict):
                raise TypeError("id, title and text are texts, and metadata is an object")
        yield Document(texts[0], texts[2], texts[1], metadata)


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
