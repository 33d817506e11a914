"""Token vectors in plain files, the form that other engines read and write.

| file | content |
|---|---|
| `vectors.npy` | `(T, d)` float16, the vectors of all documents one after the other |
| `token_ids.npy` | `(T,)` int64, the token of each vector in the model's vocabulary; -1 where it stands for several |
| `doclens.npy` | `(N,)` int32, how many vectors each document has |
| `documents.jsonl` | a line for each document: `id`, `title`, `text`, `metadata` |

Shapes: `N` documents, `T` vectors of all together, `d` dimensions.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperseek._bounded import json_value, raw_lines
from hyperseek._files import atomic_write, new_array, read_array, reading, writing
from hyperseek._folders import folder_path, staged_folder
from hyperseek._long_work import progress
from hyperseek.errors import DataError, InputError
from hyperseek.scoring import Space
from hyperseek.store.snapshot import Snapshot
from hyperseek.types import Document, Token

VECTORS, TOKEN_IDS, LENGTHS, DOCUMENTS = "vectors.npy", "token_ids.npy", "doclens.npy", "documents.jsonl"
_REMEDY = "export the token vectors again"


def write_token_files(
    folder: str | os.PathLike[str],
    snapshot: Snapshot,
    tokens: Callable[[str], list[tuple[Token, ...]] | None] | None,
    *,
    overwrite: bool,
) -> None:
    """Write an index' token vectors; see `Index.export_tokens`.

    Args:
        folder: To be made, whole or not at all.
        snapshot: The documents, of a space of token sets.
        tokens: Returns the tokens of each vector of a text; None writes no token numbers.
        overwrite: Whether earlier files may be replaced.

    Raises:
        InputError: The index has one vector for each document, or the folder may not be replaced.
    """
    if not snapshot.space.ragged:
        raise InputError("only token vectors are exported, and this index has one vector for each document")
    target = folder_path(folder, "exported token vectors")
    owned = (VECTORS, TOKEN_IDS, LENGTHS, DOCUMENTS)
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
                    members = None if tokens is None else tokens(document.full_text)
                    if members is not None and len(members) == length:
                        numbers[row : row + length] = [own[0].number if len(own) == 1 else -1 for own in members]
                    record = {"id": document.id, "title": document.title, "text": document.text}
                    file.write(json.dumps({**record, "metadata": dict(document.metadata)}, ensure_ascii=False) + "\n")
                    row += length
                bar.advance(len(chunk))
        for array in (lengths, vectors, numbers):
            array.flush()  # type: ignore[attr-defined]  # they are mapped


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
    """
    path = folder_path(folder, "exported token vectors")
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
