"""The table of an index: documents and their vectors in a Lance data set, in the order in which they came.

Every `append` is one atomic commit. Rows are addressed by position from 0. Shapes: `N` documents, `d` dimensions.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import lance
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from hyperseek._errors import InputError, StoreError
from hyperseek._fingerprint import fingerprint_texts
from hyperseek.index._info import Storage
from hyperseek.records import Document

_NAME = "documents.lance"
_TEXT_COLUMNS = ["id", "title", "text", "metadata"]
_NUMPY = {"float32": np.float32, "float16": np.float16}

# The scanner reads ahead by default as if memory were free, and larger batches leave larger holes in the heap: these
# values cost some 10 MB beside the vectors and no time.
_READING = {"batch_size": 256, "batch_readahead": 1, "fragment_readahead": 1, "io_buffer_size": 4 << 20}


class Store:
    """The rows of an index.

    Args:
        folder: The index.
        dataset: The open Lance data set.
    """

    def __init__(self, folder: Path, dataset: Any) -> None:
        self._folder = folder
        self._dataset = dataset
        self._vector_type: Any = dataset.schema.field("vector").type
        self._count: int = dataset.count_rows()

    @classmethod
    def create(cls, folder: Path, *, dimension: int, storage: Storage) -> Self:
        """Make a table without rows, in place of one that may be there."""
        shutil.rmtree(folder / _NAME, ignore_errors=True)
        number = pa.float16() if storage == "float16" else pa.float32()
        fields = [*((name, pa.string()) for name in _TEXT_COLUMNS), ("vector", pa.list_(number, dimension))]
        empty = pa.Table.from_batches([], schema=pa.schema(fields))
        return cls(folder, lance.write_dataset(empty, str(folder / _NAME), mode="create"))

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the table of an index.

        Args:
            folder: The index.

        Returns:
            The table.

        Raises:
            StoreError: It is missing or damaged.
        """
        try:
            return cls(folder, lance.dataset(str(folder / _NAME)))
        except (OSError, ValueError, KeyError) as error:
            raise StoreError(
                f"the documents of the index {folder} cannot be read ({error}); build it again with --overwrite"
            ) from error

    @classmethod
    def exists(cls, folder: Path) -> bool:
        """Whether a table was begun and its first commit made."""
        versions = folder / _NAME / "_versions"
        return versions.is_dir() and any(versions.glob("*.manifest"))

    def __len__(self) -> int:
        return self._count

    @property
    def dimension(self) -> int:
        """Numbers of a vector."""
        size: int = self._vector_type.list_size
        return size

    def append(self, documents: Sequence[Document], vectors: Tensor) -> None:
        """Add rows in one atomic commit.

        Args:
            documents: `N` of them.
            vectors: `(N, d)`.

        Raises:
            InputError: A vector is not finite in the stored number type; the message names the document.
        """
        _check_finite(documents, vectors, self._vector_type.value_type)
        numbers = vectors.numpy().astype(_NUMPY["float16" if self._half else "float32"]).reshape(-1)
        columns = [
            [document.id for document in documents],
            [document.title for document in documents],
            [document.text for document in documents],
            [encode_metadata(document) for document in documents],
            pa.FixedSizeListArray.from_arrays(pa.array(numbers), self.dimension),
        ]
        table = pa.table(columns, schema=self._dataset.schema)
        self._dataset = lance.write_dataset(table, self._dataset, mode="append")
        self._count += len(documents)

    def has_id(self, document_id: str) -> bool:
        """Whether a document is stored; reads all ids."""
        quoted = document_id.replace("'", "''")
        return bool(self._dataset.count_rows(filter=f"id = '{quoted}'"))

    def ids(self) -> Any:
        """Return all ids as one Arrow array, in order."""
        return self._dataset.to_table(columns=["id"], scan_in_order=True, **_READING)["id"].combine_chunks()

    def documents(self) -> Iterator[Document]:
        """Stream all documents in order."""
        for batch in self._dataset.to_batches(columns=_TEXT_COLUMNS, scan_in_order=True, **_READING):
            yield from _documents(batch)

    def take(self, rows: Sequence[int]) -> list[Document]:
        """Return the documents of some rows, in the order given."""
        if not rows:
            return []
        return _documents(self._dataset.take(list(rows), columns=_TEXT_COLUMNS))

    def vectors(self, rows: int) -> Iterator[Tensor]:
        """Stream the vectors in order.

        Args:
            rows: Most vectors of a chunk, at least 1. A chunk is filled in place, so one chunk of all rows costs its
                own memory and a small read buffer.

        Yields:
            `(rows, d)` float32, the last one shorter; nothing for an empty table.
        """
        left = len(self)
        chunk, filled = torch.empty(min(rows, left), self.dimension), 0
        for batch in self._dataset.to_batches(columns=["vector"], scan_in_order=True, **_READING):
            values = batch.column(0).flatten().to_numpy(zero_copy_only=True).reshape(-1, self.dimension)
            while len(values):
                part = values[: len(chunk) - filled]
                chunk.numpy()[filled : filled + len(part)] = part
                values, filled = values[len(part) :], filled + len(part)
                if filled == len(chunk):
                    yield chunk
                    left -= filled
                    chunk, filled = torch.empty(min(rows, left), self.dimension), 0

    def fingerprint(self) -> str:
        """Fingerprint ids, titles, texts and metadata of all documents, in their order."""
        return fingerprint_texts(
            part
            for document in self.documents()
            for part in (document.id, document.title, document.text, encode_metadata(document))
        )

    def remove_leftovers(self) -> None:
        """Delete old versions, and files that a killed writer left; only while no other process writes."""
        self._dataset.cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)

    @property
    def _half(self) -> bool:
        return bool(self._vector_type.value_type == pa.float16())


def encode_metadata(document: Document) -> str:
    """Return a document's metadata as JSON with sorted keys; an empty string for none."""
    if not document.metadata:
        return ""
    return json.dumps(dict(document.metadata), sort_keys=True, ensure_ascii=False, default=str)


def _documents(rows: Any) -> list[Document]:
    columns = [rows.column(name).to_pylist() for name in _TEXT_COLUMNS]
    return [
        Document(identity, text, title, json.loads(metadata) if metadata else {})
        for identity, title, text, metadata in zip(*columns, strict=True)
    ]


def _check_finite(documents: Sequence[Document], vectors: Tensor, number: Any) -> None:
    half = number == pa.float16()
    finite = (vectors.half() if half else vectors).isfinite().all(dim=1)
    if finite.all():
        return
    row = int((~finite).nonzero()[0])
    if vectors[row].isfinite().all():
        raise InputError(
            f"the vector of document {documents[row].id!r} reaches {vectors[row].abs().max():g}, which float16 "
            f"cannot hold (at most 65504); use storage='float32'"
        )
    raise InputError(
        f"the vector of document {documents[row].id!r} has infinite or undefined numbers; an index holds finite ones "
        f"only. Is the model damaged, or its dtype too narrow?"
    )
