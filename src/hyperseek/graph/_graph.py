"""The neighbour graph of a corpus, in a folder; it can be imported from the original Hypencoder's JSONL file."""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from hyperseek._bounded import json_value, raw_lines
from hyperseek._documents import id_of
from hyperseek._files import read_array, writing
from hyperseek._fingerprint import fingerprint_texts
from hyperseek._folders import CHECKED_AT_ONCE
from hyperseek._long_work import progress
from hyperseek.errors import DataError, InputError, StoreError, brief, shown
from hyperseek.graph.building import (
    MATRIX,
    REMEDY,
    GraphInfo,
    Vectors,
    build_graph,
    finish,
    new_matrix,
)
from hyperseek.types import Metric

_CHUNK = 8192  # lists written at once


def import_graph(folder: Path, path: Path, ids: Sequence[str]) -> None:
    """Write a graph into a folder; see `NeighbourGraph.import_jsonl`."""
    rows = {identity: row for row, identity in enumerate(ids)}
    if len(rows) < len(ids):
        twice = next(identity for row, identity in enumerate(ids) if rows[identity] != row)
        raise InputError(f"the id {twice!r} is given twice; a graph needs one row for each id")
    if (folder / GraphInfo.file).exists():
        raise StoreError(f"{folder} holds a graph already; delete it or choose another folder")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    # The longest list is known only at the end, so all lists are kept in a raw file until then.
    with tempfile.TemporaryFile(dir=folder) as raw:
        items, lengths = _spool(path, rows, raw)
        degree = int(lengths.max(initial=0))
        info = GraphInfo(count=len(ids), degree=degree, method="imported", ids=fingerprint_texts(ids))
        raw.seek(0)
        _write(folder, raw, items, lengths, info)


def _spool(path: Path, rows: Mapping[str, int], raw: IO[bytes]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Copy all lists to a raw file of int32, and return the row and the length of each."""
    items, lengths = array("i"), array("i")
    seen = np.zeros(len(rows), dtype=np.bool_)
    with progress("reading the graph", len(rows), unit="documents") as bar:
        for line, record in _records(path):
            item, *neighbours = _rows(record, rows, path, line)
            if seen[item]:
                raise DataError(f"the item {shown(record['item_id'])} has a line already", path=path, line=line)
            seen[item] = True
            kept = np.array([row for row in neighbours if row != item], dtype=np.int32)
            raw.write(kept.tobytes())
            items.append(item)
            lengths.append(len(kept))
            bar.advance()
    return np.array(items, dtype=np.int32), np.array(lengths, dtype=np.int32)


def _records(path: Path) -> Iterator[tuple[int, Any]]:
    for line, raw in raw_lines(path):
        if raw.isspace():
            continue
        try:
            record = json_value(raw.decode("utf-8-sig" if line == 1 else "utf-8"))
        except ValueError as error:
            raise DataError(f"not JSON ({brief(error)})", path=path, line=line) from None
        if not isinstance(record, dict) or "item_id" not in record or not isinstance(record.get("neighbors"), list):
            raise DataError('each line must be {"item_id": ID, "neighbors": [IDS]}', path=path, line=line)
        yield line, record


def _rows(record: Mapping[str, Any], rows: Mapping[str, int], path: Path, line: int) -> list[int]:
    identities = (record["item_id"], *record["neighbors"])
    strange = next((one for one in identities if id_of(one) is None), None)
    if strange is not None:
        raise DataError(f"an id must be a text or a whole number, not {shown(strange)}", path=path, line=line)
    try:
        return [rows[str(identity)] for identity in identities]
    except KeyError as error:
        raise DataError(
            f"the id {shown(error.args[0])} is not among the {len(rows)} documents; is the graph of another corpus?",
            path=path,
            line=line,
        ) from None


def _write(folder: Path, raw: IO[bytes], items: NDArray[np.int32], lengths: NDArray[np.int32], info: GraphInfo) -> None:
    matrix = new_matrix(folder, info.count, info.degree)
    for start in range(0, info.count, _CHUNK):
        matrix[start : start + _CHUNK] = -1
    for start in range(0, len(items), _CHUNK):
        sizes = lengths[start : start + _CHUNK]
        flat = np.frombuffer(raw.read(4 * int(sizes.sum())), dtype=np.int32)
        columns = np.arange(len(flat)) - np.repeat(sizes.cumsum() - sizes, sizes)
        matrix[np.repeat(items[start : start + _CHUNK], sizes), columns] = flat
    finish(folder, matrix, info)


class NeighbourGraph:
    """The nearest documents of every document, as rows.

    Args:
        info: The description.
        neighbours: `(N, degree)` int32, see `neighbours`.
    """

    def __init__(self, info: GraphInfo, neighbours: NDArray[np.int32]) -> None:
        self.info = info
        self.neighbours = neighbours
        """`(N, degree)` int32: rows, nearest first, never the document itself; -1 after the last one. Read-only."""

    @classmethod
    def build(
        cls,
        folder: str | os.PathLike[str],
        vectors: Vectors,
        *,
        degree: int = 99,
        metric: Metric = "l2",
        method: Literal["auto", "exact", "approximate"] = "auto",
        seed: int = 0,
    ) -> Self:
        """Build the graph of a corpus; a killed run resumes when it is called again with the same arguments.

        Apart from the vectors, which may be a memory-mapped file, memory is bounded: see `estimate_graph`.

        Args:
            folder: Where to write; made if missing. A finished graph of the same vectors and arguments is opened.
            vectors: `(N, d)`, floating.
            degree: Neighbours of a document, at least 1; the original has 99.
            metric: What "nearest" means.
            method: `"exact"` compares all pairs; `"approximate"` makes 4 sqrt(N) clusters and compares a document with
                those of the 64 clusters nearest to its own; `"auto"` is exact up to 100,000 documents.
            seed: Seed of the clusters.

        Returns:
            The graph.

        Raises:
            InputError: The vectors are not a finite floating matrix, or an argument is out of range.
            StoreError: The folder holds another graph.
        """
        build_graph(Path(folder), vectors, degree=degree, metric=metric, method=method, seed=seed)
        return cls.open(folder)

    @classmethod
    def import_jsonl(cls, folder: str | os.PathLike[str], path: str | os.PathLike[str], ids: Sequence[str]) -> Self:
        """Import a graph that the original Hypencoder wrote.

        Args:
            folder: Where to write; made if missing.
            path: One `{"item_id": ID, "neighbors": [IDS]}` per line, nearest first; plain or `.gz`. A document among
                its own neighbours is dropped; a document without a line gets no neighbours.
            ids: `N` ids of the documents, in the order of their rows.

        Returns:
            The graph, with as many columns as the longest list has ids.

        Raises:
            DataError: A line is not such an object, names an unknown id, or is the second line of a document.
            InputError: `ids` contains an id twice.
            StoreError: The folder holds another graph.
        """
        import_graph(Path(folder), Path(path), ids)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Self:
        """Open a graph; the matrix is not read but mapped into memory.

        Args:
            folder: What `build` or `import_jsonl` wrote.

        Returns:
            The graph.

        Raises:
            StoreError: The graph is missing, unfinished or damaged.
        """
        path = Path(folder)
        missing = next((name for name in (GraphInfo.file, MATRIX) if not (path / name).exists()), None)
        if missing is not None:
            raise StoreError(f"{path} holds no finished graph ({missing} is missing); build it")
        info = GraphInfo.read(path)
        info.check(path, at_most=CHECKED_AT_ONCE)
        neighbours = read_array(path / MATRIX, "the matrix of a graph", error=StoreError, remedy=REMEDY)
        if neighbours.shape != (info.count, info.degree) or neighbours.dtype != np.int32:
            raise StoreError(
                f"the graph in {path} should be int32 of shape {(info.count, info.degree)}, but is "
                f"{neighbours.dtype} of shape {neighbours.shape}; delete the folder and build again"
            )
        return cls(info, np.asarray(neighbours))

    def __len__(self) -> int:
        return self.info.count

    @property
    def degree(self) -> int:
        """Most neighbours of a document."""
        return self.info.degree

    @property
    def nbytes(self) -> int:
        """Bytes of the matrix, on disk and (once read) in the page cache."""
        return self.neighbours.nbytes
