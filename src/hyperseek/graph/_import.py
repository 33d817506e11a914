"""The neighbour graph of the original Hypencoder: one `{"item_id": ID, "neighbors": [IDS]}` a line, nearest first."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from hyperseek._errors import DataError, InputError, StoreError, brief, shown
from hyperseek._field_names import id_of
from hyperseek._files import writing
from hyperseek._fingerprint import fingerprint_texts
from hyperseek._json_values import json_value
from hyperseek._progress import progress
from hyperseek._text_files import raw_lines
from hyperseek.graph._building import DESCRIPTION, finish, new_matrix
from hyperseek.graph._info import GraphInfo

_CHUNK = 8192  # lists written at once


def import_graph(folder: Path, path: Path, ids: Sequence[str]) -> None:
    """Write a graph into a folder; see `NeighbourGraph.import_jsonl`."""
    rows = {identity: row for row, identity in enumerate(ids)}
    if len(rows) < len(ids):
        twice = next(identity for row, identity in enumerate(ids) if rows[identity] != row)
        raise InputError(f"the id {twice!r} is given twice; a graph needs one row for each id")
    if (folder / DESCRIPTION).exists():
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
    """Copy all lists to a raw file of int32, and return whose they are and how long."""
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
            raise DataError(f"no JSON ({brief(error)})", path=path, line=line) from None
        if not isinstance(record, dict) or "item_id" not in record or not isinstance(record.get("neighbors"), list):
            raise DataError('each line must be {"item_id": ID, "neighbors": [IDS]}', path=path, line=line)
        yield line, record


def _rows(record: Mapping[str, Any], rows: Mapping[str, int], path: Path, line: int) -> list[int]:
    identities = (record["item_id"], *record["neighbors"])
    strange = next((one for one in identities if id_of(one) is None), None)
    if strange is not None:
        raise DataError(f"an id must be a text or a whole number, and not {shown(strange)}", path=path, line=line)
    try:
        return [rows[str(identity)] for identity in identities]
    except KeyError as error:
        raise DataError(
            f"the id {shown(error.args[0])} is none of the {len(rows)} documents; is the graph of another corpus?",
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
