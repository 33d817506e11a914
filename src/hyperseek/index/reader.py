"""An index folder, open in one version: its documents and its model."""

from __future__ import annotations

import logging
import os
import sys
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast, overload

from hyperseek._folders import folder_path
from hyperseek._machine import Kept
from hyperseek.errors import InputError, MissingDocumentError, StoreError
from hyperseek.index._arguments import check_id_lists
from hyperseek.index._opening import check_model, check_retriever, open_finished
from hyperseek.index._passages import Passages, whole_documents
from hyperseek.index.searching import Explanation, Request, documents_by_id, find, hits_of, scorer_groups
from hyperseek.index.vector_files import write_token_files
from hyperseek.plan import OpenIndex
from hyperseek.scoring import Points, Scorer, Space
from hyperseek.store import IndexInfo, Snapshot
from hyperseek.store.attachments import Attachments, verify_attachments
from hyperseek.store.lance import use_tables, writer_lock
from hyperseek.store.snapshot import CHUNK
from hyperseek.store.table import Store
from hyperseek.types import Document, Hits, QueryOptions

if TYPE_CHECKING:
    from hyperseek.models import Encoder, Retriever
    from hyperseek.models.light import LightCompiler

CACHE_BYTES = 4 << 30
"""Largest float32 matrix of vectors, in bytes, that an index keeps in memory unless told otherwise: 4 GiB."""

MODEL_BYTES = 4 << 30
"""Largest total size of the weights of models that plans name: 4 GiB. Beyond it the least recently used
are dropped, but never the last three."""


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """The state of one version: it is replaced as a whole, so no thread sees parts of two versions."""

    info: IndexInfo
    opened: OpenIndex
    passages: Passages | None


logger = logging.getLogger(__name__)


class IndexReader:
    """The documents of a finished index, open in one version until `refresh`, and the model that made them.

    Args:
        path: Its folder.
        model: Compiles queries; None loads the model that the index names when it is first needed.
        device: Device of that model; None takes a GPU if there is one.
        backend: What runs that model, as for `hyperseek.load`; None for torch.
        cache_bytes: Vectors are kept in memory as one float32 matrix after the first scan if it is no larger than
            this; larger ones are read from disk at every scan.
        verify: Whether to verify the checksums of all files first.

    Attributes:
        path: The folder.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        model: Retriever | Encoder | None = None,
        device: str | None = None,
        backend: str | None = None,
        cache_bytes: int = CACHE_BYTES,
        verify: bool = False,
    ) -> None:
        self.path = folder_path(path, "an index")
        if model is not None:
            check_retriever(model)
        self._device, self._backend = device, backend
        self._cache_bytes = cache_bytes
        # An encoder that cannot compile queries is refused when they are compiled.
        self._model = cast("Retriever | None", model)
        self._models = Kept(most_bytes=MODEL_BYTES, least=3)
        self._refreshing = threading.Lock()
        self._state = self._newest(verify=verify)
        if self._model is not None:
            check_model(self.path, self.info, self._model)

    def refresh(self) -> None:
        """Switch to the newest version; until then an open index sees the documents it was opened with.

        Raises:
            StoreError: The index is missing, unfinished or damaged; this one keeps its version.
            FingerprintError: It was rebuilt with a different model than the one given for the queries.
        """
        with self._refreshing:  # one at a time, so that no thread goes back to an older version
            self._show(self._newest())

    def is_current(self) -> bool:
        """Whether the version that is shown is the newest one, with its engines and graphs."""
        state, info = self._state, IndexInfo.read(self.path, sealed=False)
        store = state.opened.snapshot.store
        return (
            info == state.info
            and Store.open(info.place(self.path)).version == store.version
            and Attachments.read(self.path) == state.opened.attachments
        )

    @contextmanager
    def _changing(self) -> Iterator[Store]:
        """Lock the index for one writer and open its table; then show the committed version, even after a failure."""
        try:
            with writer_lock(self.path):
                info, store = open_finished(self.path)
                yield store
                with self._refreshing:  # still locked, so no newer version can be shown
                    self._show(self._state_of(info, store))
        except BaseException:
            self.refresh()
            raise

    def _show(self, state: _State) -> None:
        if self._model is not None and state.info.fingerprint != self.info.fingerprint:
            check_model(self.path, state.info, self._model)  # the index was rebuilt
        self._state = state

    def _newest(self, *, verify: bool = False) -> _State:
        state = self._state_of(*open_finished(self.path, verify=verify))
        if verify:
            verify_attachments(self.path, state.opened.attachments)
        return state

    def _state_of(self, info: IndexInfo, store: Store) -> _State:
        own = weakref.ref(self)  # so that files and memory are free as soon as the index is

        def compile_(model: str | None, texts: Sequence[str], options: QueryOptions) -> Scorer:
            index = own()
            assert index is not None
            return index._compile(info, model, texts, options)

        def recompile(texts: Sequence[str], options: QueryOptions) -> Scorer:
            index = own()
            assert index is not None
            return index._beside(index.model).compile(texts, options)

        snapshot = Snapshot(store, info.space, cache_bytes=self._cache_bytes)
        passages = None if info.passages is None else Passages(snapshot)
        return _State(info, OpenIndex(self.path, snapshot, compile_, recompile), passages)

    @property
    def info(self) -> IndexInfo:
        """How the index was made."""
        return self._state.info

    @property
    def _opened(self) -> OpenIndex:
        use_tables()
        return self._state.opened

    @property
    def _documents(self) -> Passages | None:
        """Which rows are of which document; None if each is one."""
        use_tables()
        return self._state.passages

    def __len__(self) -> int:
        documents = self._documents
        return len(self._opened.snapshot if documents is None else documents)

    @property
    def version(self) -> int:
        """Which version of the documents is open; it grows with every change of them."""
        version: int = self._opened.snapshot.store.version
        return version

    @property
    def passages(self) -> int | None:
        """Number of passages; None in an index of whole documents."""
        return None if self._documents is None else len(self._opened.snapshot)

    def __repr__(self) -> str:
        passages = "" if self.passages is None else f" in {self.passages:,} passages"
        engines = ", ".join(item.name for item in self._opened.attachments.items) or "no engine"
        return (
            f"{type(self).__name__}({str(self.path)!r}: {len(self):,} documents{passages} in {self.info.space}, "
            f"model {self.info.source or 'unknown'}, {engines})"
        )

    def __iter__(self) -> Iterator[Document]:
        return self.documents()

    def __contains__(self, document_id: object) -> bool:
        return isinstance(document_id, str) and bool(self._by_id([document_id]))

    def __getitem__(self, document_id: str) -> Document:
        document = self.get(document_id) if isinstance(document_id, str) else None
        if document is None:
            hint = "" if isinstance(document_id, str) else "; ids of documents are strings"
            raise MissingDocumentError(f"the index {self.path} holds no document {document_id!r}{hint}")
        return document

    @property
    def space(self) -> Space:
        """Geometry of the points."""
        return self.info.space

    @property
    def ids(self) -> list[str]:
        """The documents' ids, in order."""
        documents = self._documents
        ids: list[str] = (self._opened.snapshot if documents is None else documents).ids.to_pylist()
        return ids

    @property
    def model(self) -> Retriever:
        """The model that compiles queries; loaded on first use.

        Raises:
            StoreError: The index names no model.
            FingerprintError: The document side of the model it names has changed since.
        """
        if self._model is not None:
            return self._model
        info = self.info
        if info.source is None:
            raise StoreError(f"the index {self.path} does not name its model; give one with model= or --model")
        return self._load(info, info.source)

    @property
    def data_fingerprint(self) -> str:
        """Fingerprint of the documents, in their order; reads them all if they have changed since it was recorded."""
        state = self._state
        store = state.opened.snapshot.store
        noted = state.info.data if store.version == state.info.version else None
        return noted or state.opened.keep("data fingerprint", store.fingerprint, size=len)

    def documents(self) -> Iterator[Document]:
        """Stream the stored documents in order."""
        rows = self._opened.snapshot.store.documents()
        return rows if self._documents is None else whole_documents(rows)

    @overload
    def get(self, ids: str) -> Document | None: ...  # type: ignore[overload-overlap]  # a string is one id

    @overload
    def get(self, ids: Sequence[str]) -> dict[str, Document]: ...

    def get(self, ids: str | Sequence[str]) -> Document | dict[str, Document] | None:
        """Return stored documents by id; `index[id]` raises if the document is missing.

        Args:
            ids: One id, or any number; ids may repeat.

        Returns:
            For one id its document, or None if it is not stored. For several the stored documents by id, in the
            order of the ids.

        Raises:
            InputError: An item is not an id.
        """
        if isinstance(ids, str):
            return self._by_id([ids]).get(ids)
        [listed] = check_id_lists([ids])
        return self._by_id(listed)

    def _by_id(self, ids: Sequence[str]) -> dict[str, Document]:
        documents = self._documents
        if documents is None:
            return documents_by_id(self._opened.snapshot, ids)
        return documents.documents_by_id(ids)

    def points(self, *, rows: int = CHUNK, passages: bool = False) -> Iterator[tuple[list[str], Points]]:
        """Stream ids and points in order.

        Args:
            rows: Most documents of a chunk, at least 1.
            passages: Whether they may be those of passages, with ids such as `"d1#0"`.

        Yields:
            Ids and their points, float32 on the CPU.

        Raises:
            InputError: `rows` is below 1, or the index is one of passages and they are not wanted.
        """
        if rows < 1:
            raise InputError(f"a chunk must have at least 1 row, not {rows}")
        if self._documents is not None and not passages:
            raise InputError(
                f"the index {self.path} has points of passages, and this needs one of each document; build it "
                f"without passages"
            )
        snapshot, row = self._opened.snapshot, 0
        for chunk in snapshot.chunks(rows):
            yield snapshot.ids.slice(row, len(chunk)).to_pylist(), chunk
            row += len(chunk)

    def export_tokens(self, folder: str | os.PathLike[str], *, token_ids: bool = True, overwrite: bool = False) -> None:
        """Write token vectors to plain files that other engines read; `read_token_files` reads them.

        Args:
            folder: To be made, whole or not at all, with `vectors.npy`, `token_ids.npy`, `doclens.npy` and
                `documents.jsonl`.
            token_ids: Whether to say which token each vector stands for, for which all documents are encoded once more;
                False writes -1 for each.
            overwrite: Whether earlier files may be replaced.

        Raises:
            InputError: The index has one vector for each document, or the folder may not be replaced.
            StoreError: Token numbers are wanted, and the index names no model and none was given.
        """
        opened, info = self._opened, self.info
        split: Any = getattr(self.model, "row_tokens_of", None) if token_ids and info.space.ragged else None
        given = {"side": "document", "dtype": info.dtype or "float32", "pooling": info.pooling}
        tokens = None if split is None else partial(split, **given)
        write_token_files(folder, opened.snapshot, tokens, overwrite=overwrite)

    @property
    def fields(self) -> dict[str, str]:
        """The metadata fields that conditions can name, each with its type as a word."""
        return self._opened.snapshot.store.fields()

    @property
    def unusable_fields(self) -> dict[str, list[str]]:
        """Metadata keys that filters cannot name, by reason; only some of them if there are many."""
        return self._opened.snapshot.store.unusable_fields()

    def _compile(self, info: IndexInfo, model: str | None, texts: Sequence[str], options: QueryOptions) -> Scorer:
        """Compile queries for a stage with its own model; None is the index's model."""
        name = info.source if model is None else model
        if self._model is not None and (name is None or name == self._model.source):
            return self._beside(self._model).compile(texts, options)
        return self._beside(self.model if name is None else self._load(info, name)).compile(texts, options)

    def _beside(self, model: Retriever) -> Retriever:
        """Let a model keep what it compiles with this index, and return it."""
        if hasattr(model, "keeps_in"):
            model.keeps_in(self.path)
        return model

    def _load(self, info: IndexInfo, source: str) -> Retriever:
        def load() -> Retriever:
            from hyperseek.models import load

            model = load(source, device=self._device, backend=self._backend)
            check_model(self.path, info, model)
            if info.dtype == "int8" != model.number_type():
                logger.info("documents were encoded in int8, and queries are not; their vectors differ a little")
            return model

        return self._models.get((source, info.fingerprint), load, size=_weight_bytes)

    def _hits(self, request: Request, *, texts: bool, explanation: list[Explanation] | None = None) -> list[Hits]:
        use_tables()
        state, texts_asked = self._state, None if isinstance(request.queries, Scorer) else request.queries
        opened, passages = state.opened, state.passages
        found = find(opened, request, self._groups, explanation=explanation, passages=passages)
        ranked = None if passages is None else partial(passages.ranked, k=request.k, combine=request.combine)
        hits = hits_of(
            opened,
            found,
            texts=texts,
            queries=texts_asked,
            model=lambda: self._model if texts_asked is None else self.model,
            encoded={"dtype": state.info.dtype or "float32", "pooling": state.info.pooling},
            ranked=ranked,
        )
        return list(hits)

    def _groups(self, texts: Sequence[str], options: QueryOptions) -> Iterable[Scorer]:
        return scorer_groups(self._light() or self._beside(self.model), texts, options)

    def _light(self) -> LightCompiler | None:
        """Return what compiles queries as the model does, without imports that take longer than a search."""
        info = self.info
        if (
            self._model is not None
            or self._backend is not None
            or info.source is None
            or "sentence_transformers" in sys.modules
        ):
            return None

        def load() -> LightCompiler | None:
            from hyperseek.models.light import light_compiler

            found = light_compiler(info.source or "", self._device)
            return found if found is not None and found.fingerprint == info.fingerprint else None

        return self._models.get(("light", info.source, info.fingerprint), load, size=_light_bytes)


def _weight_bytes(model: Retriever) -> int:
    return sum(tensor.nbytes for tensor in model.model.state_dict().values())


def _light_bytes(compiler: LightCompiler | None) -> int:
    return 0 if compiler is None else compiler.nbytes
