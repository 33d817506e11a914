"""The methods that change an index: documents come, change and go; engines and graphs are built."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hyperseek._documents import as_documents, joined
from hyperseek.engines import STRUCTURES, ChartRecord, StructureConfig, StructureEstimate, choose_engine
from hyperseek.engines.charts import widest_chart
from hyperseek.engines.structure import parse_structure
from hyperseek.errors import InputError, shown
from hyperseek.graph import GraphConfig
from hyperseek.index._build import piece_for, stack_points
from hyperseek.index._writing import SHARD, add_documents, compact_index, delete_documents
from hyperseek.plan import OpenIndex
from hyperseek.scoring import Points
from hyperseek.store import IndexInfo
from hyperseek.store.attachments import Attachment, Attachments, attach
from hyperseek.store.lance import writer_lock
from hyperseek.types import Document

if TYPE_CHECKING:
    from hyperseek.models import Retriever


_logger = logging.getLogger(__name__)


class Maintainer(ABC):
    """Something with documents and a folder, which can be changed."""

    path: Path

    @property
    @abstractmethod
    def info(self) -> IndexInfo:
        """How the index was made."""

    @property
    @abstractmethod
    def _ground(self) -> OpenIndex:
        """The version at hand; another one after `refresh`, so what belongs together is asked of one."""

    @property
    @abstractmethod
    def model(self) -> Retriever:
        """The model that made the documents' points."""

    @abstractmethod
    def refresh(self) -> None:
        """Go on with the newest version."""

    def add(
        self,
        documents: Iterable[Any],
        *,
        vectors: Iterable[Any] | None = None,
        replace: bool = False,
        total: int | None = None,
    ) -> int:
        """Add documents; when this returns, all of them are on the disk and this index sees them.

        Engines and graphs that were built before stay in use: what they do not know is scanned.

        Args:
            documents: With ids of their own; all forms that `build` takes, but for texts alone where `replace` is True.
            vectors: Their coordinates, where they were made elsewhere; None to encode them with the model.
            replace: Whether a document may take the place of one with its id.
            total: Number of documents, for the progress bar.

        Returns:
            How many were added or replaced.

        Raises:
            InputError: An id is stored already and `replace` is False, appears twice, a text or vector
                cannot be stored, something is no document, or there are more vectors or fewer. Earlier batches, of
                some thousands, stay.
            StoreError: Another writer is at work.
        """
        given = as_documents(documents, numbered=not replace)
        if vectors is None:
            model, dtype = self.model, self.info.dtype or "auto"

            def encode(batch: list[tuple[Document, Any]]) -> Points:
                return model.encode_documents([document.full_text for document, _ in batch], dtype=dtype)

            items: Iterable[tuple[Document, Any]] = ((document, None) for document in given)
            piece = piece_for(model)
        else:

            def encode(batch: list[tuple[Document, Any]]) -> Points:
                return stack_points(batch, self.info.space)

            items = joined(given, vectors)
            piece = SHARD
        try:
            return add_documents(self.path, items, encode, replace=replace, total=total, piece=piece)
        finally:
            self.refresh()

    def delete(self, ids: Iterable[str]) -> int:
        """Delete documents by id; when this returns, they are gone for every search that begins later.

        Args:
            ids: Ids that are not stored are passed over.

        Returns:
            How many documents were deleted.

        Raises:
            InputError: A single string was given, or what is no collection.
            StoreError: Another writer is at work.
        """
        if isinstance(ids, str):
            raise InputError(f"ids must be several strings; for one id give [{ids!r}]")
        if not isinstance(ids, Iterable):
            raise InputError(f"ids must be a collection of strings, not {shown(ids)}")
        try:
            return delete_documents(self.path, ids)
        finally:
            self.refresh()

    def compact(self) -> None:
        """Rewrite the documents without those that were deleted or replaced, and update the full-text index.

        Readers that are open go on with what they see; their files are deleted by a compaction that comes after them.

        Raises:
            StoreError: Another writer is at work.
        """
        compact_index(self.path)
        self.refresh()

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        """Engines and graphs of this index, in the order in which they were built."""
        return self._ground.attachments.items

    def choose_engine(self, *, max_bytes: int | None = None) -> tuple[StructureConfig, str]:
        """Return what `build_engine("auto")` builds, and why.

        Args:
            max_bytes: Memory that building may take; None for no limit.

        Returns:
            The configuration, and the reason in one sentence.

        Raises:
            InputError: No engine can be built in so little memory.
        """
        width = widest_chart(self.info.space)
        return choose_engine(count=len(self._ground.snapshot), dimension=width, metric="l2", max_bytes=max_bytes)

    def estimate_engine(
        self, engine: str | StructureConfig = "auto", *, charts: Sequence[ChartRecord] | None = None
    ) -> StructureEstimate:
        """Estimate what `build_engine` would cost, without building anything.

        Args:
            engine: As in `build_engine`.
            charts: As in `build_engine`. Where there are several, each has an engine of its own.

        Returns:
            Bytes of memory and disk, and seconds, of all charts together.

        Raises:
            UnknownNameError: There is no such kind of engine, or no such chart.
        """
        snapshot = self._ground.snapshot
        config = self._engine(engine, charts=charts)
        return STRUCTURES[config.kind].estimate(snapshot.space, config, count=len(snapshot))

    def _engine(
        self, engine: Any, max_bytes: int | None = None, charts: Sequence[ChartRecord] | None = None
    ) -> StructureConfig:
        if engine != "auto":
            return parse_structure(engine, **({} if charts is None else {"charts": tuple(charts)}))
        config, reason = self.choose_engine(max_bytes=max_bytes)
        _logger.info("the engine is %s", reason)
        return config

    def build_engine(
        self,
        engine: str | StructureConfig = "auto",
        *,
        name: str | None = None,
        charts: Sequence[ChartRecord] | None = None,
        max_bytes: int | None = None,
    ) -> Attachment:
        """Build a candidate engine for all documents.

        Args:
            engine: `"auto"` to choose by size, a kind with its defaults, as `"hnsw"`, `"ivf"`, `"scan"`, `"lance"` or
                `"qdrant"`, or a configuration.
            name: To search with it by name; None takes the kind. An engine of that name is replaced in the end.
            charts: What to build on; None for what suits the space and the kind of engine.
            max_bytes: Memory that building may take; None for no limit.

        Returns:
            What was built.

        Raises:
            InputError: It would take more memory than `max_bytes`, and the message says what would fit; or a document's
                vector is too long, and it says which.
            UnknownNameError: There is no such kind of engine.
            StoreError: Another writer is at work.
        """
        with writer_lock(self.path):
            self.refresh()
            snapshot = self._ground.snapshot
            config = self._engine(engine, max_bytes, charts)
            record = attach(self.path, snapshot, config, name=name, max_bytes=max_bytes)
        self.refresh()
        return record

    def build_graph(
        self,
        *,
        name: str = "graph",
        degree: int = 99,
        method: Literal["auto", "exact", "approximate"] = "auto",
        source: str | None = None,
        seed: int = 0,
    ) -> Attachment:
        """Build the neighbour graph of all documents, or import one of the original Hypencoder.

        Args:
            name: To search with it by name; a graph of that name is replaced in the end.
            degree: Neighbours of a document, at least 1.
            method: Exact takes time that grows with the square of the number of documents.
            source: A JSONL file of the original, to import instead.
            seed: Of approximate building.

        Returns:
            What was built.

        Raises:
            InputError: A parameter is out of range, or the file names documents that the index has not.
            StoreError: Another writer is at work.
        """
        with writer_lock(self.path):
            self.refresh()
            snapshot = self._ground.snapshot

            config = GraphConfig(degree=degree, method=method, seed=seed, source=source)
            record = attach(self.path, snapshot, config, name=name)
        self.refresh()
        return record

    def drop(self, name: str) -> None:
        """Delete an engine or a graph of this index; UnknownNameError if there is none of that name."""
        with writer_lock(self.path):
            Attachments.read(self.path).without(name).write(self.path)
        self.refresh()
