"""Index: documents, their points and the model's name on the disk.

```python
index = Index.build("docs.index", documents, load("minilm"))
for hit in index.search("how are weak references made?", k=5):
    print(hit.score, hit.document.title)
```
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast, overload

from hyperseek._folders import folder_path
from hyperseek._kept import Kept
from hyperseek.errors import InputError, MissingDocumentError, StoreError
from hyperseek.index._arguments import check_id_lists
from hyperseek.index._build import build_index, import_vectors
from hyperseek.index._checks import check_model, check_retriever, open_finished
from hyperseek.index._maintainer import Maintainer
from hyperseek.index._searcher import Searcher
from hyperseek.index.searching import documents_by_id
from hyperseek.plan import OpenIndex
from hyperseek.scoring import Points, Scorer, Space
from hyperseek.store import IndexInfo, Snapshot
from hyperseek.store.attachments import verify_attachments
from hyperseek.store.info import Storage
from hyperseek.store.lance import use_tables
from hyperseek.store.snapshot import CHUNK
from hyperseek.types import Document, QueryOptions

if TYPE_CHECKING:
    from hyperseek.models import Encoder, Retriever

CACHE_BYTES = 4 << 30
"""Largest float32 matrix of vectors, in bytes, that an index keeps in memory unless told otherwise: 4 GiB."""

MODEL_BYTES = 4 << 30
"""What the weights of the models that stages of plans name may take together: 4 GiB. Beyond it the least recently used
are forgotten, but never the last three."""


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """What belongs together of one version: it is replaced whole, so no thread sees parts of two."""

    info: IndexInfo
    ground: OpenIndex


class Index(Searcher, Maintainer):
    """A finished index, open for search. Make one with `build`, `from_vectors` or `open`.

    Any number of threads may search it, also while one of them changes or refreshes it: each search is answered from
    one version.

    Args:
        path: Its folder.
        model: Compiles queries; None loads the model that the index names when it is first needed.
        device: Where to load that model; None takes a GPU if there is one.
        cache_bytes: Vectors are kept in memory as one float32 matrix after the first scan if it is no larger than
            this; larger ones are read from the disk at every scan.
        verify: Whether all files are first compared with what was written; see `open`.

    Attributes:
        path: The folder.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        model: Retriever | Encoder | None = None,
        device: str | None = None,
        cache_bytes: int = CACHE_BYTES,
        verify: bool = False,
    ) -> None:
        self.path = folder_path(path, "an index")
        if model is not None:
            check_retriever(model)
        self._device = device
        self._cache_bytes = cache_bytes
        # An encoder that compiles no queries is refused when it is asked to.
        self._model = cast("Retriever | None", model)
        self._models = Kept(most_bytes=MODEL_BYTES, least=3)
        self._refreshing = threading.Lock()
        self._state = self._newest(verify=verify)
        if self._model is not None:
            check_model(self.path, self.info, self._model)

    def refresh(self) -> None:
        """Go on with the newest version; until then an open index sees the documents it was opened with.

        Raises:
            StoreError: The index is gone, unfinished or damaged; this one goes on with what it has.
            FingerprintError: It was built anew with another model than the one given for the queries.
        """
        with self._refreshing:  # one after the other, so that no thread goes back to what it opened earlier
            state = self._newest()
            if self._model is not None and state.info.fingerprint != self.info.fingerprint:
                check_model(self.path, state.info, self._model)  # the index was built anew
            self._state = state

    def _newest(self, *, verify: bool = False) -> _State:
        info, store = open_finished(self.path, verify=verify)
        own = weakref.ref(self)  # so that files and memory are free as soon as the index is

        def compile_(model: str | None, texts: Sequence[str], options: QueryOptions) -> Scorer:
            index = own()
            assert index is not None
            return index._compile(info, model, texts, options)

        def recompile(texts: Sequence[str], options: QueryOptions) -> Scorer:
            index = own()
            assert index is not None
            return index.model.compile(texts, options)

        snapshot = Snapshot(store, info.space, cache_bytes=self._cache_bytes)
        ground = OpenIndex(self.path, snapshot, compile_, recompile)
        if verify:
            verify_attachments(self.path, ground.attachments)
        return _State(info, ground)

    @property
    def info(self) -> IndexInfo:
        """How the index was made."""
        return self._state.info

    @property
    def _ground(self) -> OpenIndex:
        use_tables()
        return self._state.ground

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        model: Retriever | Encoder | None = None,
        device: str | None = None,
        cache_bytes: int = CACHE_BYTES,
        verify: bool = False,
    ) -> Self:
        """Open a finished index.

        Args:
            path: Its folder.
            model: Compiles queries; None loads the model that the index names when it is first needed.
            device: Where to load that model, as in `"cuda:0"`; None takes a GPU if there is one.
            cache_bytes: Largest float32 matrix of vectors to keep in memory, in bytes.
            verify: Whether to compare all files, those of engines and graphs included, with the checksums that were
                noted when they were written, which takes a second for some 2 GB. Without it that is done for up to
                256 MiB, the smallest files first, and for texts and points row by row when they are read.

        Returns:
            The index.

        Raises:
            StoreError: There is no index, it is unfinished, it is damaged (the message names the file), it leads out
                of its folder, or it shall be verified and was written without checksums.
            FingerprintError: The document side of `model` is not the one that made the index.
            InputError: `model` was not loaded, or `path` is no path.
        """
        return cls(path, model=model, device=device, cache_bytes=cache_bytes, verify=verify)

    @classmethod
    def build(
        cls,
        path: str | os.PathLike[str],
        documents: Iterable[Any],
        model: Retriever | Encoder,
        *,
        storage: Storage = "float32",
        dtype: str = "auto",
        name: str | None = None,
        total: int | None = None,
        resume: bool = True,
        overwrite: bool = False,
    ) -> Self:
        """Encode a corpus into an index, or go on where an earlier, killed attempt stopped.

        Memory stays bounded: documents are read, encoded and stored some thousands at a time. What the progress bar
        counts is on the disk. What is on the disk is compared with the corpus and not encoded again; a finished
        index of the same corpus is opened at once.

        Args:
            path: Folder of the index; made if missing.
            documents: The corpus, in the order that ties will rank in; ids must be unique. Documents, texts (whose ids
                are their positions), tuples `(id, text)` or `(id, text, title)`, mappings as a `datasets.Dataset` has
                them, a table of pandas, pyarrow or polars, or a `hyperseek.data.Dataset`.
            model: Encodes each document's title and text.
            storage: Number type of the stored vectors; `"float16"` halves the size and rounds to 3 digits.
            dtype: Number type the model computes in; see `Retriever.encode_documents`.
            name: The corpus' name, for people.
            total: Number of documents, for the progress bar; None where that is unknown.
            resume: Whether to go on with an index that is there; False makes that an error.
            overwrite: Delete an index that is there first.

        Returns:
            The finished index, open.

        Raises:
            StoreError: The folder is in use, holds something else, or holds an index of other documents or settings.
            FingerprintError: It holds an index of another model.
            InputError: Something is no document, two have one id, a vector is not finite, `model` was not loaded, or
                `path` is no path.
        """
        build_index(
            path,
            documents,
            model,
            storage=storage,
            dtype=dtype,
            name=name,
            total=total,
            resume=resume,
            overwrite=overwrite,
        )
        return cls(path, model=model)

    @classmethod
    def from_vectors(
        cls,
        path: str | os.PathLike[str],
        documents_and_vectors: Iterable[tuple[Any, Any]],
        space: Space | None = None,
        *,
        model: Retriever | Encoder | None = None,
        storage: Storage = "float32",
        name: str | None = None,
        total: int | None = None,
        resume: bool = True,
        overwrite: bool = False,
    ) -> Self:
        """Make an index of vectors that were made elsewhere, as those of `read_docs`.

        Args:
            path: Folder of the index; made if missing.
            documents_and_vectors: The corpus in order, each document, in any form that `build` takes, with its vector
                `(d,)`.
            space: Geometry of the vectors; left out where `model` is given.
            model: The model that made the vectors; some are compared with what it makes of the same texts. Without
                one, the index cannot check the models that later search it.
            storage: Number type of the stored vectors.
            name: The corpus' name, for people.
            total: Number of documents, for the progress bar.
            resume: Whether to go on with an index that is there; False makes that an error.
            overwrite: Delete an index that is there first.

        Returns:
            The finished index, open.

        Raises:
            StoreError: As in `build`.
            FingerprintError: The vectors are not what `model` makes of the texts, or the folder holds an index of
                another model.
            InputError: A vector has the wrong size or is not finite, an id appears twice, or there is neither a space
                nor a model.
        """
        import_vectors(
            path,
            documents_and_vectors,
            space,
            model=model,
            storage=storage,
            name=name,
            total=total,
            resume=resume,
            overwrite=overwrite,
        )
        return cls(path, model=model)

    def __len__(self) -> int:
        return len(self._ground.snapshot)

    def __repr__(self) -> str:
        snapshot = self._ground.snapshot
        engines = ", ".join(item.name for item in self._ground.attachments.items) or "no engine"
        return (
            f"Index({str(self.path)!r}: {len(snapshot):,} documents in {self.info.space}, "
            f"model {self.info.source or 'unknown'}, {engines})"
        )

    def __iter__(self) -> Iterator[Document]:
        return self.documents()

    def __contains__(self, document_id: object) -> bool:
        return isinstance(document_id, str) and bool(documents_by_id(self._ground.snapshot, [document_id]))

    def __getitem__(self, document_id: str) -> Document:
        document = self.get(document_id) if isinstance(document_id, str) else None
        if document is None:
            hint = "" if isinstance(document_id, str) else "; documents go by their ids, which are texts"
            raise MissingDocumentError(f"the index {self.path} holds no document {document_id!r}{hint}")
        return document

    @property
    def space(self) -> Space:
        """Geometry of the points."""
        return self.info.space

    @property
    def ids(self) -> list[str]:
        """The documents' ids, in order."""
        ids: list[str] = self._ground.snapshot.ids.to_pylist()
        return ids

    @property
    def model(self) -> Retriever:
        """The model that compiles queries; loaded now if it was not before.

        Raises:
            StoreError: The index names no model.
            FingerprintError: The document side of the model it names has changed since.
        """
        if self._model is not None:
            return self._model
        info = self.info
        if info.source is None:
            raise StoreError(f"the index {self.path} does not name its model; give one: model= or --model")
        return self._load(info, info.source)

    @property
    def data_fingerprint(self) -> str:
        """Fingerprint of the documents, in their order; reads them all where they have changed since it was noted."""
        state = self._state
        store = state.ground.snapshot.store
        noted = state.info.data if store.version == state.info.version else None
        return noted or state.ground.keep("data fingerprint", store.fingerprint, size=len)

    def documents(self) -> Iterator[Document]:
        """Stream the stored documents in order."""
        return self._ground.snapshot.store.documents()

    @overload
    def get(self, ids: str) -> Document | None: ...  # type: ignore[overload-overlap]  # a string means one id

    @overload
    def get(self, ids: Sequence[str]) -> dict[str, Document]: ...

    def get(self, ids: str | Sequence[str]) -> Document | dict[str, Document] | None:
        """Return stored documents by id; `index[id]` is the one that must be there.

        Args:
            ids: One, or any number; one may appear twice.

        Returns:
            For one id its document, or None if it is not stored. For several the documents by id, in their order;
            those that are not stored are missing.

        Raises:
            InputError: Something is no id.
        """
        if isinstance(ids, str):
            return documents_by_id(self._ground.snapshot, [ids]).get(ids)
        [listed] = check_id_lists([ids])
        return documents_by_id(self._ground.snapshot, listed)

    def points(self, *, rows: int = CHUNK) -> Iterator[tuple[list[str], Points]]:
        """Stream ids and points in order.

        Args:
            rows: Most documents of a chunk, at least 1.

        Yields:
            Ids, and as many points, float32 on the CPU.

        Raises:
            InputError: `rows` is below 1.
        """
        if rows < 1:
            raise InputError(f"a chunk must have at least 1 row, not {rows}")
        snapshot, row = self._ground.snapshot, 0
        for chunk in snapshot.chunks(rows):
            yield snapshot.ids.slice(row, len(chunk)).to_pylist(), chunk
            row += len(chunk)

    @property
    def fields(self) -> dict[str, str]:
        """The metadata fields that conditions can name, each with its type in words."""
        return self._ground.snapshot.store.fields()

    @property
    def unusable_fields(self) -> dict[str, list[str]]:
        """Metadata keys that filters cannot name, by the reason; some of them where they are many."""
        return self._ground.snapshot.store.unusable_fields()

    def _compile(self, info: IndexInfo, model: str | None, texts: Sequence[str], options: QueryOptions) -> Scorer:
        """Compile queries for a stage that has a model of its own; None for the one that made the index."""
        name = info.source if model is None else model
        if self._model is not None and (name is None or name == self._model.source):
            return self._model.compile(texts, options)
        return (self.model if name is None else self._load(info, name)).compile(texts, options)

    def _load(self, info: IndexInfo, source: str) -> Retriever:
        def load() -> Retriever:
            from hyperseek.models import load

            model = load(source, device=self._device)
            check_model(self.path, info, model)
            return model

        return self._models.get((source, info.fingerprint), load, size=_weight_bytes)


def _weight_bytes(model: Retriever) -> int:
    return sum(tensor.nbytes for tensor in model.model.state_dict().values())
