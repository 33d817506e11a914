"""Index: documents, their points and the model's name on the disk.

```python
index = Index.build("docs.index", documents, load("minilm"))
for hit in index.search("how are weak references made?", k=5):
    print(hit.score, hit.document.title)
```

Shapes: `Q` queries.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Self, Unpack, overload

from hyperseek._documents import as_documents, joined
from hyperseek.errors import InputError, shown
from hyperseek.index._arguments import (
    HABITS,
    NAMED,
    SearchArguments,
    Vectors,
    check_flag,
    check_id_lists,
    check_options,
    check_queries,
    compiled_queries,
    meant,
    named_queries,
)
from hyperseek.index._build import (
    build_index,
    encoding,
    import_vectors,
    piece_for,
    rows_of,
    stack_points,
    truncation_reported,
)
from hyperseek.index._passages import Combine
from hyperseek.index._writing import SHARD, add_documents, compact_index, delete_documents
from hyperseek.index.engines import IndexWithEngines
from hyperseek.index.reader import CACHE_BYTES
from hyperseek.index.searching import Explanation, Request, score_chosen
from hyperseek.plan import AUTO, PlanLike
from hyperseek.scoring import Scorer, Space
from hyperseek.store.attachments import keep_up
from hyperseek.store.info import Storage
from hyperseek.store.snapshot import Snapshot
from hyperseek.types import Document, Hits, NamedOptions, Query, Run

if TYPE_CHECKING:
    from hyperseek.models import Encoder, Retriever


class Index(IndexWithEngines):
    """A finished index, open for search. Make one with `build`, `from_vectors` or `open`.

    Any number of threads may search it, also while one of them changes or refreshes it: each search is answered from
    one version.

    Attributes:
        path: The folder.
    """

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        model: Retriever | Encoder | None = None,
        device: str | None = None,
        backend: str | None = None,
        cache_bytes: int = CACHE_BYTES,
        verify: bool = False,
    ) -> Self:
        """Open a finished index.

        Args:
            path: Its folder.
            model: Compiles queries; None loads the model that the index names when it is first needed.
            device: Where to load that model, as in `"cuda:0"`; None takes a GPU if there is one.
            backend: What runs that model, as for `hyperseek.load`; None for torch.
            cache_bytes: Largest float32 matrix of vectors to keep in memory, in bytes.
            verify: Whether to compare all files, those of engines and graphs included, with the checksums that were
                recorded when they were written, which takes a second for some 2 GB. Without it that is done for up to
                256 MiB, the smallest files first, and for texts and points row by row when they are read.

        Returns:
            The index.

        Raises:
            StoreError: There is no index, it is unfinished, it is damaged (the message names the file), it leads out
                of its folder, or it is to be verified and was written without checksums.
            FingerprintError: The document side of `model` is not the one that made the index.
            InputError: `model` was not loaded, or `path` is not a path.
        """
        return cls(path, model=model, device=device, backend=backend, cache_bytes=cache_bytes, verify=verify)

    @classmethod
    def build(
        cls,
        path: str | os.PathLike[str],
        documents: Iterable[Any],
        model: Retriever | Encoder,
        *,
        storage: Storage = "float32",
        dtype: str = "auto",
        pooling: Mapping[str, Any] | None = None,
        passages: bool | Mapping[str, int] | None = None,
        name: str | None = None,
        total: int | None = None,
        resume: bool = True,
        overwrite: bool = False,
    ) -> Self:
        """Encode a corpus into an index, or resume where an earlier, killed attempt stopped.

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
            pooling: How the token vectors of a document are made fewer, as in `{"pool_factor": 5}`; see
                `TokenPooling`. The index remembers it, and pools documents that are added later. None keeps them all.
            passages: Whether to split documents into passages that the model reads whole: True, or as in
                `{"tokens": 256, "overlap": 32}`. Searches still find documents, by their passages.
            name: The corpus' name, for people.
            total: Number of documents, for the progress bar; None where that is unknown.
            resume: Whether to resume an index that is there; False makes that an error.
            overwrite: Delete an index that is there first.

        Returns:
            The finished index, open.

        Raises:
            StoreError: The folder is in use, holds something else, or holds an index of other documents or settings.
            FingerprintError: It holds an index of another model.
            InputError: Something is not a document, two have one id, a vector is not finite, `model` was not loaded, or
                `path` is not a path.
        """
        build_index(
            path,
            documents,
            model,
            storage=storage,
            dtype=dtype,
            pooling=pooling,
            passages=passages,
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
            resume: Whether to resume an index that is there; False makes that an error.
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

    @overload
    def search(self, queries: str, **rest: Unpack[SearchArguments]) -> Hits: ...  # type: ignore[overload-overlap]

    @overload
    def search(self, queries: Sequence[str] | Scorer, **rest: Unpack[SearchArguments]) -> list[Hits]: ...

    @overload
    def search(self, queries: Vectors, **rest: Unpack[SearchArguments]) -> list[Any]: ...

    @meant(*NAMED, **HABITS)
    def search(
        self,
        queries: str | Sequence[str] | Scorer | Vectors,
        *,
        k: int = 10,
        where: str | None = None,
        engine: str = AUTO,
        plan: PlanLike | None = None,
        options: Mapping[str, Any] | None = None,
        exclude: Sequence[str | Collection[str] | None] | None = None,
        texts: bool = True,
        combine: Combine = "best",
        **named: Unpack[NamedOptions],
    ) -> Hits | list[Hits]:
        """Find the best documents of one or many queries.

        Args:
            queries: One text, many texts, queries that are compiled already, or vectors of yours in the coordinates of
                the index' space: `(d,)` for one query, `(Q, d)` for many, numpy or torch, float64 as well.
            k: Documents per query, at least 1; may exceed the size of the index.
            where: SQL over ids, titles, texts and metadata fields that documents must meet, as in
                `"year > 2015 AND venue = 'ACL'"`; None for all. See `fields`.
            engine: `"auto"` for the plan that was tuned on this index or else for what its size suggests, `"exact"` to
                score every document, or the name of an engine, whose candidates are then scored exactly.
            plan: What to do instead, stage by stage: a plan, a source such as `FullText()`, a list of stages, or plain
                values as those of a file.
            options: What is asked of the model besides the texts, as in `{"level": 2}`; see `QueryOptions`.
            exclude: For each query the id of a document to leave out, several ids, or None. The others move up, so `k`
                remain. See `excluded_ids` for what queries of a collection leave out.
            texts: Whether the hits carry their documents.
            combine: In an index of passages, `"best"` for the score of a document's best passage, or `"soft"` for the
                soft maximum of the scores of all its passages.
            **named: Options of the model, as in `card="task.yaml"` or `level=1`; see `NamedOptions`.

        Returns:
            For one text its hits, best first, ties in the order of the index; for others a list of such `Hits`.

        Raises:
            InputError: A query is not a text or is blank, `k` is not a whole number of at least 1, the number of
                exclusions is not that of queries, a scorer does not fit, or the condition or the plan cannot be used.
            UnknownNameError: The index has no engine of this name.
            StoreError: The index names no model and none was given.
            FingerprintError: The model's document side is not the one that made the index.
        """
        asked, single = compiled_queries(queries, self._opened.snapshot.space)
        given = {"exclude": exclude, "engine": engine, "plan": plan, "where": where, "options": options}
        request = Request.checked(asked, k, **given, named=named, combine=combine)
        hits = self._hits(request, texts=check_flag(texts, "texts"))
        return hits[0] if single else hits

    @meant(*NAMED, **HABITS)
    def explain(
        self,
        queries: str | Sequence[str] | Scorer | Vectors,
        *,
        k: int = 10,
        where: str | None = None,
        engine: str = AUTO,
        plan: PlanLike | None = None,
        options: Mapping[str, Any] | None = None,
        exclude: Sequence[str | Collection[str] | None] | None = None,
        texts: bool = False,
        recall: bool = False,
        combine: Combine = "best",
        **named: Unpack[NamedOptions],
    ) -> Explanation:
        """Search, and say which stages ran, why, how long they took, and what they found.

        Args:
            queries: As in `search`; at least one.
            k: Documents per query, at least 1.
            where: As in `search`.
            engine: As in `search`.
            plan: As in `search`.
            options: As in `search`.
            exclude: As in `search`.
            texts: Whether the hits carry their documents.
            recall: Whether to search exhaustively too, and report the recall of every stage.
            combine: As in `search`.
            **named: As in `search`.

        Returns:
            The explanation, with the hits of every query; `lines` prints it.

        Raises:
            InputError: As in `search`, or there are no queries.
        """
        asked, _ = compiled_queries(queries, self._opened.snapshot.space)
        given = {"exclude": exclude, "engine": engine, "plan": plan, "where": where, "options": options}
        request = Request.checked(asked, k, **given, named=named, combine=combine, measure=check_flag(recall, "recall"))
        told: list[Explanation] = []
        hits = self._hits(request, texts=check_flag(texts, "texts"), explanation=told)
        if not told:
            raise InputError("there are no queries to explain a search for; give at least one")
        told[0].hits = hits
        return told[0]

    @meant(*NAMED, **HABITS)
    def run(
        self,
        queries: Mapping[str, str] | Sequence[Query],
        *,
        k: int = 100,
        scorer: Scorer | None = None,
        where: str | None = None,
        engine: str = AUTO,
        plan: PlanLike | None = None,
        options: Mapping[str, Any] | None = None,
        exclude_same_id: bool = False,
        combine: Combine = "best",
        **named: Unpack[NamedOptions],
    ) -> Run:
        """Search with named queries, for evaluation.

        Documents that a query record's metadata list as `excluded_ids` are left out of its ranking.

        Args:
            queries: Texts by id, or query records.
            k: Documents per query, at least 1.
            scorer: The same queries, compiled already, in order.
            where: As in `search`.
            engine: As in `search`.
            plan: As in `search`.
            options: As in `search`.
            exclude_same_id: Leave out of each ranking the document whose id is the query's.
            combine: As in `search`.
            **named: As in `search`.

        Returns:
            Scores by query and document, best first.

        Raises:
            InputError: As in `search`, or two queries have one id; a query's id is named.
            StoreError: The index names no model and none was given.
            FingerprintError: The model's document side is not the one that made the index.
        """
        texts, exclude = named_queries(queries)
        if scorer is not None and not isinstance(scorer, Scorer):
            raise InputError(f"scorer is the queries compiled, as by model.compile, not {shown(scorer)}")
        if scorer is not None and len(scorer) != len(texts):
            raise InputError(f"the scorer holds {len(scorer)} queries and {len(texts)} were named")
        if check_flag(exclude_same_id, "exclude_same_id"):
            exclude = [ids | {name} for name, ids in zip(texts, exclude, strict=True)]
        asked = list(texts.values())
        request = Request.checked(
            asked if scorer is None else scorer,
            k,
            names=list(texts),
            texts=asked,
            exclude=exclude,
            engine=engine,
            plan=plan,
            where=where,
            options=options,
            named=named,
            combine=combine,
        )
        found = self._hits(request, texts=False)
        return {name: {hit.id: hit.score for hit in hits} for name, hits in zip(texts, found, strict=True)}

    @meant(*NAMED, **HABITS)
    def score(
        self,
        queries: Sequence[str] | Scorer | Vectors,
        ids: Sequence[Sequence[str]],
        *,
        options: Mapping[str, Any] | None = None,
        **named: Unpack[NamedOptions],
    ) -> list[list[float]]:
        """Score documents of the caller's choice exactly, each by the query it is listed for.

        Args:
            queries: Many texts, queries that are compiled already, or `(Q, d)` vectors, as in `search`.
            ids: For each query the ids of its documents; any number, none included.
            options: As in `search`.
            **named: As in `search`.

        Returns:
            For each query its documents' scores, in the order of the ids; higher is better.

        Raises:
            InputError: The number of lists is not that of queries, an id is not stored, or a scorer does not fit.
            StoreError: The index names no model and none was given.
        """
        if not isinstance(queries, str):  # which is refused: ids are for many queries
            queries = compiled_queries(queries, self._opened.snapshot.space)[0]
        asked = check_queries(queries)
        lists = check_id_lists(ids)
        if len(asked) != len(lists):
            raise InputError(f"there are {len(asked)} queries and {len(lists)} lists of ids; give one each")
        asked, checked = check_options(options, asked, named)
        scorers = [asked] if isinstance(asked, Scorer) else self._groups(asked, checked)
        return score_chosen(self._opened, scorers, lists, self._documents)

    def add(
        self,
        documents: Iterable[Any],
        *,
        vectors: Iterable[Any] | None = None,
        replace: bool = False,
        total: int | None = None,
    ) -> int:
        """Add documents; when this returns, all of them are on the disk and this index sees them.

        Engines and graphs that were built before stay in use: a token index takes in the new documents, and what others
        do not know is scanned.

        Args:
            documents: With ids of their own; all forms that `build` takes, but for texts alone where `replace` is True.
            vectors: Their coordinates, where they were made elsewhere; None to encode them with the model.
            replace: Whether a document may take the place of one with its id.
            total: Number of documents, for the progress bar.

        Returns:
            How many were added or replaced.

        Raises:
            InputError: An id is stored already and `replace` is False, appears twice, a text or vector
                cannot be stored, something is not a document, or there are more vectors or fewer. Earlier batches, of
                some thousands, stay.
            StoreError: Another writer is at work.
        """
        given = as_documents(documents, numbered=not replace)
        items: Iterable[tuple[Document, Any]]
        model: Retriever | None
        if vectors is None:
            model = self.model
            items = ((row, None) for row in rows_of(given, model, self.info.passages))
            encode, piece = encoding(model, self.info.dtype or "auto", self.info.pooling), piece_for(model)
        elif self.info.passages is not None:
            raise InputError("vectors are of whole documents, and this index has passages, which its model encodes")
        else:
            model = None
            items = joined(given, vectors)
            encode, piece = partial(stack_points, space=self.space), SHARD
        with truncation_reported(model), self._changing() as store:
            added = add_documents(store, items, encode, replace=replace, total=total, piece=piece)
            keep_up(self.path, Snapshot(store, self.space, cache_bytes=0))
            return added

    def delete(self, ids: Iterable[str]) -> int:
        """Delete documents by id; when this returns, they are gone for every search that begins later.

        Args:
            ids: Ids that are not stored are passed over.

        Returns:
            How many documents were deleted.

        Raises:
            InputError: A single string was given, or something that is not a collection.
            StoreError: Another writer is at work.
        """
        if isinstance(ids, str):
            raise InputError(f"ids must be several strings; for one id give [{ids!r}]")
        if not isinstance(ids, Iterable):
            raise InputError(f"ids must be a collection of strings, not {shown(ids)}")
        with self._changing() as store:
            return delete_documents(store, ids)

    def compact(self) -> None:
        """Rewrite the documents without those that were deleted or replaced, and update the full-text index.

        Open readers keep what they see; their files are deleted by a compaction that comes after them.

        Raises:
            StoreError: Another writer is at work.
        """
        compact_index(self.path)
        self.refresh()
