"""Index: documents, their points and the model's name on the disk; searched exactly.

```python
index = Index.build("docs.index", documents, load("minilm"))
for hit in index.search("how are weak references made?", k=5):
    print(hit.score, hit.document.title)
```
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

import torch
from torch import Tensor

from hyperseek._errors import InputError, StoreError
from hyperseek._progress import progress
from hyperseek.index._build import build_index, import_vectors
from hyperseek.index._checks import check_model, check_scorer, open_finished
from hyperseek.index._info import Storage
from hyperseek.index._queries import scorer_groups
from hyperseek.index._results import collect_hits, find_rows
from hyperseek.index._scan import CHUNK, scan
from hyperseek.records import Document, Hit, Query, Run
from hyperseek.scoring import Points, Scorer, Space

if TYPE_CHECKING:
    from hyperseek.models import Retriever

CACHE_BYTES = 4 << 30
"""Largest float32 matrix of vectors, in bytes, that an index keeps in memory unless told otherwise: 4 GiB."""


class Index:
    """A finished index, open for search. Make one with `build`, `from_vectors` or `open`.

    Args:
        path: Its folder.
        model: Compiles queries; None loads the model that the index names when it is first needed.
        device: Where to load that model; None takes a GPU if there is one.
        cache_bytes: Vectors are kept in memory as one float32 matrix after the first scan if it is no larger than
            this; larger ones are read from the disk at every scan.

    Attributes:
        path: The folder.
        info: How the index was made.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        model: Retriever | None = None,
        device: str | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.path = Path(path)
        self.info, self._store = open_finished(self.path)
        self._device = device
        self._cache_bytes = cache_bytes
        self._matrix: Tensor | None = None
        self._model = model
        if model is not None:
            check_model(self.path, self.info, model)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        model: Retriever | None = None,
        device: str | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> Self:
        """Open a finished index.

        Args:
            path: Its folder.
            model: Compiles queries; None loads the model that the index names when it is first needed.
            device: Where to load that model, as in `"cuda:0"`; None takes a GPU if there is one.
            cache_bytes: Largest float32 matrix of vectors to keep in memory, in bytes.

        Returns:
            The index.

        Raises:
            StoreError: There is no index, it is unfinished, or it is damaged.
            FingerprintError: The document side of `model` is not the one that made the index.
        """
        return cls(path, model=model, device=device, cache_bytes=cache_bytes)

    @classmethod
    def build(
        cls,
        path: str | os.PathLike[str],
        documents: Iterable[Document],
        model: Retriever,
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
            documents: The corpus, in the order that ties will rank in; ids must be unique.
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
            InputError: Two documents have one id, or a vector is not finite.
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
        documents_and_vectors: Iterable[tuple[Document, Any]],
        space: Space | None = None,
        *,
        model: Retriever | None = None,
        storage: Storage = "float32",
        name: str | None = None,
        total: int | None = None,
        resume: bool = True,
        overwrite: bool = False,
    ) -> Self:
        """Make an index of vectors that were made elsewhere, as those of `read_docs`.

        Args:
            path: Folder of the index; made if missing.
            documents_and_vectors: The corpus in order, each document with its vector `(d,)`.
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
            InputError: A vector has the wrong size or is not finite, an id stands twice, or there is neither a space
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
        return self.info.count

    def __repr__(self) -> str:
        return f"Index({str(self.path)!r}, {len(self)} documents, {self.info.space}, model {self.info.source})"

    @property
    def space(self) -> Space:
        """Geometry of the points."""
        return self.info.space

    @cached_property
    def ids(self) -> list[str]:
        """The documents' ids, in order."""
        ids: list[str] = self._ids.to_pylist()
        return ids

    @property
    def model(self) -> Retriever:
        """The model that compiles queries; loaded now if it was not before.

        Raises:
            StoreError: The index names no model.
            FingerprintError: The document side of the model it names has changed since.
        """
        if self._model is None:
            if self.info.source is None:
                raise StoreError(f"the index {self.path} does not name its model; give one: model= or --model")
            from hyperseek.models import load

            model = load(self.info.source, device=self._device)
            check_model(self.path, self.info, model)
            self._model = model
        return self._model

    def documents(self) -> Iterator[Document]:
        """Stream the stored documents in order."""
        return self._store.documents()

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
        row = 0
        for chunk in self._chunks(rows):
            yield self._ids.slice(row, len(chunk)).to_pylist(), Points(chunk)
            row += len(chunk)

    @overload
    def search(  # type: ignore[overload-overlap]  # a string is a sequence of strings, and means one query
        self, queries: str, *, k: int = 10, exclude: Sequence[str | None] | None = None, texts: bool = True
    ) -> list[Hit]: ...

    @overload
    def search(
        self,
        queries: Sequence[str] | Scorer,
        *,
        k: int = 10,
        exclude: Sequence[str | None] | None = None,
        texts: bool = True,
    ) -> list[list[Hit]]: ...

    def search(
        self,
        queries: str | Sequence[str] | Scorer,
        *,
        k: int = 10,
        exclude: Sequence[str | None] | None = None,
        texts: bool = True,
    ) -> list[Hit] | list[list[Hit]]:
        """Find the best documents of one or many queries; exact, every document is scored.

        Args:
            queries: One text, many texts, or queries that are compiled already.
            k: Documents a query, at least 1; may exceed the size of the index.
            exclude: For each query the id of a document to leave out, or None. The others move up, so `k` remain.
            texts: Whether the hits carry their documents.

        Returns:
            For one text its hits, best first, ties in the order of the index; for others a list of hits a query.

        Raises:
            InputError: `k` is below 1, the number of exclusions is not that of queries, or a scorer does not fit.
            StoreError: The index names no model and none was given.
            FingerprintError: The model's document side is not the one that made the index.
        """
        if isinstance(queries, str):
            return self._search([queries], k, exclude, texts)[0]
        return self._search(queries, k, exclude, texts)

    def run(
        self,
        queries: Mapping[str, str] | Sequence[Query],
        *,
        k: int = 100,
        scorer: Scorer | None = None,
        exclude_same_id: bool = False,
    ) -> Run:
        """Search with named queries, for evaluation.

        Args:
            queries: Texts by id, or query records.
            k: Documents a query, at least 1.
            scorer: The same queries, compiled already, in order.
            exclude_same_id: Leave out of each ranking the document whose id is the query's.

        Returns:
            Scores by query and document, best first.

        Raises:
            InputError: `k` is below 1, two queries have one id, or a scorer does not fit.
            StoreError: The index names no model and none was given.
            FingerprintError: The model's document side is not the one that made the index.
        """
        texts = queries if isinstance(queries, Mapping) else {query.id: query.text for query in queries}
        if len(texts) != len(queries):
            raise InputError(f"there are {len(queries)} queries and {len(texts)} ids; ids must be unique")
        if scorer is not None and len(scorer) != len(texts):
            raise InputError(f"the scorer holds {len(scorer)} queries and {len(texts)} were named")
        exclude = list(texts) if exclude_same_id else None
        found = self._search(scorer if scorer is not None else list(texts.values()), k, exclude, texts=False)
        return {name: {hit.id: hit.score for hit in hits} for name, hits in zip(texts, found, strict=True)}

    def _search(
        self, queries: Sequence[str] | Scorer, k: int, exclude: Sequence[str | None] | None, texts: bool
    ) -> list[list[Hit]]:
        if k < 1:
            raise InputError(f"k must be at least 1, not {k}")
        if exclude is not None and len(exclude) != len(queries):
            raise InputError(f"there are {len(queries)} queries and {len(exclude)} exclusions; give one or None each")
        excluded = None if exclude is None else find_rows(self._ids, exclude)
        if isinstance(queries, Scorer):
            groups: Iterable[Scorer] = [queries] if len(queries) else []
        else:
            groups = scorer_groups(self.model, queries)
        hits: list[list[Hit]] = []
        with progress("searching", len(queries), unit="queries") as bar:
            for scorer in groups:
                check_scorer(self.info, scorer)
                done = len(hits)
                unwanted = None if excluded is None else excluded[done : done + len(scorer)]
                self._fill_cache()
                scores, rows = scan(scorer, self._chunks(CHUNK), k=k, excluded=unwanted)
                hits.extend(collect_hits(self._store, self._ids, scores, rows, texts=texts))
                bar.advance(len(scorer))
        return hits

    @cached_property
    def _ids(self) -> Any:
        return self._store.ids()

    def _fill_cache(self) -> None:
        if self._matrix is None and 0 < len(self) * self.space.dimension * 4 <= self._cache_bytes:
            self._matrix = next(self._store.vectors(len(self)))

    def _chunks(self, rows: int) -> Iterator[Tensor]:
        if self._matrix is None:
            return self._store.vectors(rows)
        return iter(torch.split(self._matrix, rows))
