"""The table of an index: documents and their points in a Lance data set, in the order in which they were added.

Every change is one atomic commit, and an open table sees one version. A row is a position in that version, from 0; a
key is a number that a stored document keeps and no other document ever gets, so what was computed for a key stays true.
Shapes: `N` documents, `w` numbers of a stored point.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeAlias

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from hyperseek._documents import EMOJI
from hyperseek._fingerprint import fingerprint_texts
from hyperseek._folders import Hold
from hyperseek.errors import InputError, StoreError, shown
from hyperseek.scoring import Points, Space, VectorPoints
from hyperseek.store._conditions import Node
from hyperseek.store._fields import TEXT_FIELDS, field_array, fields_of, grow_fields, left_out_fields, mixed_fields
from hyperseek.store._filter import read_filter
from hyperseek.store.info import Storage
from hyperseek.store.lance import check_places, guarded, reading_table, use_tables, writing_table
from hyperseek.store.rows import (
    BASE_COLUMNS,
    TEXT_COLUMNS,
    as_documents,
    base_schema,
    check_id,
    check_rows,
    check_text,
    checksum_columns,
    document_id_of,
    encode_metadata,
    points_array,
    read_documents,
    read_points,
    text_arrays,
    with_checksum,
)
from hyperseek.types import Document

_Integers: TypeAlias = npt.NDArray[np.int64]
_Scores: TypeAlias = npt.NDArray[np.float32]

_NEXT_KEY = "hyperseek.next_key"

# By default the scanner reads ahead as if memory were free, and large batches leave large holes in the heap: these
# values cost about 10 MB beside the vectors, and no time.
_READING: dict[str, Any] = {"batch_size": 256, "batch_readahead": 1, "fragment_readahead": 1, "io_buffer_size": 4 << 20}
_ROWS_AT_ONCE = 4096  # rows of a batch of short values
_MOST_LISTED = 10_000  # keys that are written into a condition of Lance
_SYMBOL = re.compile(EMOJI)
_LONGEST_MESSAGE = 4_000  # characters


@guarded("append", "replace", "delete", "copy", "index_texts", "remove_leftovers")
class Store:
    """The rows of an index, in one version.

    Args:
        path: The Lance data set.
        dataset: The same, open.
        hold: Keeps its files from being deleted.

    Attributes:
        passages: Whether rows are passages, which are replaced, deleted and filtered by their documents' ids.
    """

    def __init__(self, path: Path, dataset: Any, hold: Hold | None = None) -> None:
        self.path = path
        self._dataset = dataset
        self._hold = hold
        self.passages = False

    @classmethod
    def create(cls, path: Path, *, space: Space, storage: Storage) -> Self:
        """Make an empty table, replacing any that is there."""
        use_tables()
        shutil.rmtree(path, ignore_errors=True)
        empty = pa.Table.from_batches([], schema=base_schema(space, storage))
        with writing_table(path):
            return cls(path, lance.write_dataset(empty, str(path), mode="create"))

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the newest version of a table; nobody else deletes it while this object lives.

        Args:
            path: The Lance data set.

        Returns:
            The table.

        Raises:
            StoreError: It is missing, damaged or unreadable, or not a table of this library.
        """
        use_tables()
        with reading_table(path):
            hold = Hold(path)
            store = cls(path, lance.dataset(str(path)), hold)
            check_places(store._dataset, path)
        missing = set(BASE_COLUMNS) - set(store._dataset.schema.names)
        if missing:
            raise StoreError(f"the table {path} has no column {', '.join(sorted(missing))}; build the index again")
        return store

    @classmethod
    def exists(cls, path: Path) -> bool:
        """Whether a table is there, with at least one commit."""
        versions = path / "_versions"
        return versions.is_dir() and any(versions.glob("*.manifest"))

    def __len__(self) -> int:
        return self._count

    @cached_property
    def _count(self) -> int:
        rows: int = self._dataset.count_rows()
        return rows

    @property
    def version(self) -> int:
        """Number of the version at hand; later ones are higher."""
        version: int = self._dataset.version
        return version

    @cached_property
    def ragged(self) -> bool:
        """Whether points are sets of token vectors."""
        return bool(pa.types.is_list(self._dataset.schema.field("vector").type))

    @cached_property
    def width(self) -> int:
        """Numbers of a vector."""
        size: int = self._vector_type.list_size
        return size

    @cached_property
    def storage(self) -> Storage:
        """Number type of the vectors."""
        return "float16" if self._vector_type.value_type == pa.float16() else "float32"

    @property
    def _vector_type(self) -> Any:
        kind = self._dataset.schema.field("vector").type
        return kind.value_type if self.ragged else kind

    # Writing.

    def append(self, documents: Sequence[Document], points: Points) -> None:
        """Add rows at the end in one atomic commit.

        Args:
            documents: `N` documents, with ids that are not stored yet.
            points: Their points.

        Raises:
            InputError: A vector is not finite in the stored number type; the message names the document.
        """
        following = self.next_key + len(documents)
        table = self._new_rows(documents, points)
        self._set(lance.write_dataset(table, self._dataset, mode="append"))
        self.__dict__["next_key"] = following  # known without reading all keys

    def replace(self, documents: Sequence[Document], points: Points) -> None:
        """Delete the rows with the same ids and add these at the end, in one atomic commit; see `passages`.

        Args:
            documents: `N` documents.
            points: Their points.

        Raises:
            InputError: A vector is not finite in the stored number type; the message names the document.
        """
        table = self._new_rows(documents, points)
        ids = [document_id_of(document.id) if self.passages else document.id for document in documents]
        keys, fragments, _ = self._stored(ids, whole=self.passages)
        # Lance's own `merge_insert` joins by hash, which would lose the order of the new rows.
        removed, updated = self._without(keys, fragments)
        added = lance.fragment.write_fragments(table, self._dataset, mode="append")
        operation = lance.LanceOperation.Update(removed, updated, added)
        self._set(lance.LanceDataset.commit(self._dataset, operation, read_version=self.version))

    def delete(self, ids: Sequence[str]) -> int:
        """Delete documents in one atomic commit, and return how many there were."""
        keys, fragments, found = self._stored(ids, whole=self.passages)
        if not len(keys):
            return 0
        if (last := self.next_key - 1) in keys:
            # The highest key is about to disappear; record that it was used.
            self._dataset.update_config({_NEXT_KEY: str(last + 1)})
        removed, updated = self._without(keys, fragments)
        operation = lance.LanceOperation.Delete(updated, removed, _is_one_of(keys))
        self._set(lance.LanceDataset.commit(self._dataset, operation, read_version=self.version))
        return len(set(found))

    def copy(self, path: Path) -> Store:
        """Write all rows to a new table without deleted rows or old versions."""
        shutil.rmtree(path, ignore_errors=True)
        rows = self._dataset.scanner(scan_in_order=True, **_READING).to_reader()
        copied = lance.write_dataset(rows, str(path), schema=self._dataset.schema, mode="create")
        copied.update_config({**self._dataset.config(), _NEXT_KEY: str(self.next_key)})
        return Store(path, lance.dataset(str(path)))

    @cached_property
    def next_key(self) -> int:
        """Lowest key that no row was ever given."""
        noted = int(self._dataset.config().get(_NEXT_KEY, 0))
        return max(noted, int(self.keys.max()) + 1 if len(self) else 0)

    def index_texts(self) -> None:
        """Make the full-text index of titles and texts, or bring it up to date."""
        present = {description.name for description in self._dataset.describe_indices()}
        for column in ("title", "text"):
            if f"{column}_idx" not in present:
                self._dataset.create_scalar_index(column, "INVERTED", with_position=False)
        if present:
            self._dataset.optimize.optimize_indices()
        self._set(lance.dataset(str(self.path)))

    def remove_leftovers(self) -> None:
        """Delete old versions and files that a killed writer left; safe only while no other process uses the table."""
        self._dataset.cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)

    # Reading.

    @cached_property
    def keys(self) -> _Integers:
        """Keys of all rows."""
        table = self._dataset.to_table(columns=["key"], scan_in_order=True, **_READING)
        keys: _Integers = table["key"].to_numpy()
        return keys

    def stored_ids(self, ids: Sequence[str]) -> list[str]:
        """Return which of some ids are stored."""
        return self._stored(ids)[2]

    def ids(self) -> Any:
        """Return all ids as one Arrow array, in order."""
        return self._dataset.to_table(columns=["id"], scan_in_order=True, **_READING)["id"].combine_chunks()

    def documents(self) -> Iterator[Document]:
        """Stream all documents in order."""
        for batch in self._batches(TEXT_COLUMNS):
            yield from read_documents(batch)

    def take(self, rows: Sequence[int]) -> list[Document]:
        """Return the documents of some rows, in the order given."""
        return read_documents(self._take(rows, TEXT_COLUMNS)) if rows else []

    def take_points(self, rows: Sequence[int]) -> Points:
        """Return the points of some rows, in the order given, float32."""
        return read_points(self._take(rows, ["vector"]).column("vector").combine_chunks(), self.width)

    def points(self, rows: int) -> Iterator[Points]:
        """Stream the points in order.

        Args:
            rows: Most documents of a chunk, at least 1. A chunk of single vectors is filled in place, so one chunk of
                all rows costs its own memory and a small read buffer.

        Yields:
            Points of `rows` documents, float32, fewer in the last chunk; nothing for an empty table.
        """
        if self.ragged:
            yield from self._token_points(rows)
            return
        left = len(self)
        chunk, filled = torch.empty(min(rows, left), self.width), 0
        for batch in self._batches(["vector"]):
            values = batch.column(0).flatten().to_numpy(zero_copy_only=True).reshape(-1, self.width)
            while len(values):
                part = values[: len(chunk) - filled]
                chunk.numpy()[filled : filled + len(part)] = part
                values, filled = values[len(part) :], filled + len(part)
                if filled == len(chunk):
                    yield VectorPoints(chunk)
                    left -= filled
                    chunk, filled = torch.empty(min(rows, left), self.width), 0

    def _token_points(self, rows: int) -> Iterator[Points]:
        parts: list[Points] = []
        for batch in self._batches(["vector"]):
            points = read_points(batch.column(0), self.width)
            while len(points):
                room = rows - sum(map(len, parts))
                parts.append(points[:room])
                points = points[room:]
                if sum(map(len, parts)) == rows:
                    yield type(parts[0]).concatenate(parts)
                    parts = []
        if parts:
            yield type(parts[0]).concatenate(parts)

    def fingerprint(self) -> str:
        """Fingerprint ids, titles, texts and metadata of all documents, in their order."""
        return fingerprint_texts(
            part
            for document in self.documents()
            for part in (document.id, document.title, document.text, encode_metadata(document))
        )

    # Filters and words.

    def fields(self) -> dict[str, str]:
        """Return the metadata fields that filters can name, each with its type in words."""
        return {name: field.kind for name, field in fields_of(self._dataset.schema).items()}

    def unusable_fields(self) -> dict[str, list[str]]:
        """Return metadata keys that filters cannot name, by reason; only some of them if there are many."""
        reasons = {
            "nested values or values of several types": mixed_fields(self._dataset),
            "a name that filters cannot write, or too many fields": left_out_fields(self._dataset),
        }
        return {reason: names for reason, names in reasons.items() if names}

    def keys_where(self, condition: str) -> _Integers:
        """Return the keys of all rows that meet a condition.

        Args:
            condition: SQL, as in `"year > 2015 AND venue = 'ACL'"`; `_filter.py` has the grammar.

        Returns:
            Keys in no particular order.

        Raises:
            InputError: The condition cannot be understood, or names something that is not a field.
        """
        tree = self._read_filter(condition)
        columns = set(tree.columns())
        options = {**_READING, "batch_size": _READING["batch_size"] if "text" in columns else _ROWS_AT_ONCE}
        keys = [np.empty(0, np.int64)]
        read = {"key", *columns} | ({"metadata"} if self.passages and "title" in columns else set())
        for batch in self._dataset.to_batches(columns=sorted(read), **options):
            met = tree.evaluate(as_documents(batch) if self.passages else batch).fill_null(False)
            keys.append(batch.column("key").filter(met).to_numpy())
        return np.concatenate(keys)

    def search_texts(self, query: str, *, k: int, among: _Integers | None = None) -> tuple[_Integers, _Scores]:
        """Find documents by their words, with BM25 over titles and texts.

        Args:
            query: Words.
            k: Most documents, at least 1.
            among: `(n,)` keys of the documents that may be found; None for all.

        Returns:
            Keys and scores, best first.

        Raises:
            InputError: The query is not valid Unicode.
            StoreError: The full-text index is damaged.
        """
        check_text("the query", query)
        words = " ".join(query.split())
        if not words or not len(self) or (among is not None and not len(among)):
            return np.empty(0, np.int64), np.empty(0, np.float32)
        if not any(map(str.isalnum, words)) and (symbols := set(_SYMBOL.findall(words))):
            return self._containing(symbols, k, among)
        if among is None:
            return self._matches(words, k)
        if len(among) <= _MOST_LISTED:
            return self._matches(words, k, _is_one_of(among))
        # Such a long list would take longer than the search; ask for more until enough of them are allowed.
        most = k
        while True:
            most = min(len(self), 2 * most * len(self) // len(among))
            keys, scores = self._matches(words, most)
            met = np.isin(keys, among)
            if len(keys) < most or most == len(self) or met.sum() >= k:
                return keys[met][:k], scores[met][:k]

    def _matches(self, words: str, most: int, condition: str | None = None) -> tuple[_Integers, _Scores]:
        from lance.query import MultiMatchQuery

        table = self._dataset.to_table(
            columns=["key", "_score"],
            full_text_query=MultiMatchQuery(words, ["title", "text"]),
            limit=most,
            filter=condition,
            prefilter=condition is not None,
        )
        return table["key"].to_numpy(), table["_score"].to_numpy()

    def _containing(self, symbols: set[str], most: int, among: _Integers | None) -> tuple[_Integers, _Scores]:
        """Find documents by symbols, which the full-text index leaves out; the score is the number they contain.

        All texts are read once, however many symbols there are.
        """
        few = among is not None and len(among) <= _MOST_LISTED
        listed = _is_one_of(among) if among is not None and few else None
        any_symbol = "|".join(sorted(symbols))
        keys, counts = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        for batch in self._dataset.to_batches(columns=["key", "title", "text"], filter=listed, **_READING):
            met = [pc.match_substring_regex(batch.column(name), any_symbol) for name in ("title", "text")]
            rows = batch.filter(pc.or_(*met))
            texts = zip(rows.column("title").to_pylist(), rows.column("text").to_pylist(), strict=True)
            found = [len(symbols.intersection(_SYMBOL.findall(f"{title} {text}"))) for title, text in texts]
            keys.append(rows.column("key").to_numpy())
            counts.append(np.array(found, np.float32))
        own, scores = np.concatenate(keys), np.concatenate(counts)
        # The halves of two adjacent flags are not a flag.
        kept = scores > 0 if among is None or few else (scores > 0) & np.isin(own, among)
        own, scores = own[kept], scores[kept]
        best = np.lexsort((own, -scores))[:most]
        return own[best], scores[best]

    def _read_filter(self, condition: str) -> Node:
        if not isinstance(condition, str):
            raise InputError(f'a filter is a text of SQL, as in "year > 2015", not {shown(condition)}')
        try:
            return read_filter(condition, {**fields_of(self._dataset.schema), **TEXT_FIELDS})
        except InputError as error:
            fields = ", ".join(f"{name} ({kind})" for name, kind in self.fields().items()) or "none"
            unusable = "".join(
                f"; keys with {reason}, which cannot be used: {', '.join(names)}"
                for reason, names in self.unusable_fields().items()
            )
            raise InputError(
                f"the filter {shown(condition, 200)} cannot be used: {error}. Fields: id, title, text, "
                f"{fields}{unusable}"[:_LONGEST_MESSAGE]
            ) from None

    # Rows.

    def _new_rows(self, documents: Sequence[Document], points: Points) -> Any:
        vectors = points_array(documents, points, ragged=self.ragged, storage=self.storage)
        if grow_fields(self._dataset, documents):
            self._set(lance.dataset(str(self.path)))
        keys = self.next_key + np.arange(len(documents), dtype=np.int64)
        schema = self._dataset.schema
        texts = text_arrays(documents)
        base = dict(zip(BASE_COLUMNS, [pa.array(keys), *texts, vectors], strict=True))
        base |= checksum_columns(keys, texts, vectors)
        columns = [
            base[field.name] if field.name in base else field_array(documents, field.name, field.type)
            for field in schema
        ]
        return pa.table(columns, schema=schema)

    def _stored(self, ids: Sequence[str], *, whole: bool = False) -> tuple[_Integers, _Integers, list[str]]:
        """Return keys, fragments and ids of the stored documents among `ids`; of rows, unless these are whole ones.

        Ids are compared here and never written into SQL. Nor does Lance count by a condition: a fragment's
        `count_rows(filter=...)` holds the interpreter's lock while it waits for threads that may wait for that lock.
        """
        for document_id in ids:
            check_id(document_id)
        wanted = pa.array(ids, pa.string())
        keys, fragments, found = [np.empty(0, np.int64)], [np.empty(0, np.int64)], []
        if len(wanted):
            options = {**_READING, "batch_size": _ROWS_AT_ONCE}
            for batch in self._dataset.to_batches(columns=["id", "key"], with_row_address=True, **options):
                batch = as_documents(batch) if whole else batch
                rows = batch.filter(pc.is_in(batch.column("id"), value_set=wanted))
                keys.append(rows.column("key").to_numpy())
                fragments.append((rows.column("_rowaddr").to_numpy() >> 32).astype(np.int64))
                found += rows.column("id").to_pylist()
        return np.concatenate(keys), np.concatenate(fragments), found

    def _without(self, keys: _Integers, fragments: _Integers) -> tuple[list[int], list[Any]]:
        """Mark rows as deleted; return the numbers of fragments that this empties, and the other changed fragments."""
        removed, updated = [], []
        for number in np.unique(fragments).tolist():
            rest = self._dataset.get_fragment(number).delete(_is_one_of(keys[fragments == number]))
            removed += [number] if rest is None else []
            updated += [] if rest is None else [rest]
        return removed, updated

    def _take(self, rows: Sequence[int] | Tensor, columns: Sequence[str]) -> Any:
        taken = self._dataset.take(list(rows), columns=with_checksum(columns, self._dataset.schema))
        return check_rows(taken, columns, source=self.path)

    def _batches(self, columns: Sequence[str]) -> Iterator[Any]:
        names = with_checksum(columns, self._dataset.schema)
        for batch in self._dataset.to_batches(columns=names, scan_in_order=True, **_READING):
            yield check_rows(batch, columns, source=self.path)

    def _set(self, dataset: Any) -> None:
        """Switch to another version."""
        self._dataset = dataset
        for name in ("_count", "keys", "next_key"):
            self.__dict__.pop(name, None)


def _is_one_of(keys: npt.NDArray[np.int64]) -> str:
    return f"key IN ({', '.join(map(str, keys.tolist()))})"
