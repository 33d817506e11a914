"""LangChain: retriever, vector store, embeddings, and a document compressor that ranks again.

```python
from hyperseek.integrations.langchain import HyperseekRetriever

retriever = HyperseekRetriever(index="notes.index", k=5, where="year > 2015")
documents = retriever.invoke("how are weak references made?")
```

Asynchronous methods run in LangChain's threads, from which an index may be searched.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import ConfigDict, field_validator

from hyperseek.errors import InputError, UnknownNameError, require, shown
from hyperseek.integrations import (
    best_first,
    both,
    compared,
    described,
    joined,
    loaded,
    negated,
    opened,
    scores,
    vectors,
)
from hyperseek.types import Document, Hit, Hits

try:
    from langchain_core.callbacks import (
        AsyncCallbackManagerForRetrieverRun,
        CallbackManagerForRetrieverRun,
        Callbacks,
    )
    from langchain_core.documents import BaseDocumentCompressor
    from langchain_core.documents import Document as Found
    from langchain_core.embeddings import Embeddings
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables import run_in_executor
    from langchain_core.vectorstores import VectorStore
except ImportError:
    require("langchain_core", extra="langchain")
    raise

if TYPE_CHECKING:
    from hyperseek.integrations import AnyIndex, IndexLike, ModelLike

_OPERATORS = {
    "$eq": "==",
    "$ne": "!=",
    "$gt": ">",
    "$gte": ">=",
    "$lt": "<",
    "$lte": "<=",
    "$in": "in",
    "$nin": "not in",
    "$contains": "contains",
}


class HyperseekRetriever(BaseRetriever):
    """A retriever of an index; `invoke` takes the fields below as keywords too, and other arguments of a search.

    Documents have the text of their best passage; their metadata have `score`, `rank`, and in an index of passages
    `passages`, each with `text`, `start`, `end`, `score` and `headings`.

    Attributes:
        index: An index, the path of one, or the address of a server.
        k: Documents of a query.
        where: As in `Index.search`, like the rest.
        engine: Likewise.
        plan: Likewise.
        options: Likewise.
        combine: Likewise.
    """

    index: Any
    k: int = 10
    where: str | None = None
    engine: str = "auto"
    plan: Any = None
    options: Mapping[str, Any] | None = None
    combine: Literal["best", "soft"] = "best"

    @field_validator("index", mode="before")
    @classmethod
    def _opened(cls, index: IndexLike) -> AnyIndex:
        return opened(index)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun | None = None, **given: Any
    ) -> list[Found]:
        asked = {name: getattr(self, name) for name in ("k", "where", "engine", "plan", "options", "combine")} | given
        return [
            Found(hit.text or hit.title, id=hit.id, metadata=described(hit))
            for hit in self.index.search(query, **asked)
        ]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun | None = None, **given: Any
    ) -> list[Found]:
        return await run_in_executor(None, partial(self._get_relevant_documents, query, **given))


class HyperseekEmbeddings(Embeddings):
    """Vectors of a model, for vector stores that compare by inner product.

    The vectors of models of curved spaces are their features, whose inner product ranks as the model does.

    Args:
        model: A model, or its folder or name.
        device: Where to load it.

    Attributes:
        model: The model.

    Raises:
        ModelError: There is no such model.
    """

    def __init__(self, model: ModelLike, *, device: str | None = None) -> None:
        self.model = loaded(model, device=device)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector for each document."""
        return vectors(self.model, texts, "document")

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a query; InputError for models whose queries are not vectors."""
        return vectors(self.model, [text], "query")[0]


class HyperseekCompressor(BaseDocumentCompressor):
    """Ranks documents again by a model of any kind, and keeps the best.

    Attributes:
        model: A model, or its folder or name.
        top_n: How many documents to keep; None for all.
        options: Options of queries, as in `Index.search`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    model: Any
    top_n: int | None = None
    options: Mapping[str, Any] | None = None

    @field_validator("model", mode="before")
    @classmethod
    def _loaded(cls, model: ModelLike) -> Any:
        return loaded(model)

    def compress_documents(
        self, documents: Sequence[Found], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Found]:
        """Return the best documents, best first, each with its `relevance_score` in the metadata.

        Args:
            documents: What was found by anything.
            query: The query.
            callbacks: They are not called.

        Returns:
            Copies.
        """
        found = scores(self.model, query, [document.page_content for document in documents], self.options)
        return [
            documents[place].model_copy(
                update={"metadata": {**documents[place].metadata, "relevance_score": found[place]}}
            )
            for place in best_first(found, self.top_n)
        ]


class HyperseekVectorStore(VectorStore):
    """An index as a vector store.

    Searches take `where`, a condition as SQL, and `filter`, one as a mapping: `{"year": 2015}`, `{"year": {"$gte":
    2015}}`, joined by `$and`, `$or` and `$not`; and all other arguments of `Index.search`.

    Args:
        index: An index, the path of one, or the address of a server.

    Attributes:
        index: The index.

    Raises:
        StoreError: There is no index.
    """

    def __init__(self, index: IndexLike) -> None:
        self.index: Any = opened(index)

    @property
    def embeddings(self) -> Embeddings | None:
        """The model of an index on this machine; None for a server."""
        model = getattr(self.index, "model", None)
        return None if model is None else HyperseekEmbeddings(model)

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Add documents, or replace those with the same ids; when this returns, they are on the disk.

        Args:
            texts: Their texts.
            metadatas: Of each, plain JSON values.
            ids: Of each; those that are missing are made.
            **kwargs: None are known.

        Returns:
            The ids.

        Raises:
            InputError: The numbers differ, an id appears twice, or something cannot be stored.
        """
        if kwargs:
            raise InputError(f"add_texts takes texts, metadatas and ids, and not {shown(sorted(kwargs))}")
        documents = _documents(texts, metadatas, ids)
        if documents:
            self.index.add(documents, replace=True)
        return [document.id for document in documents]

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Delete documents.

        Args:
            ids: Ids that are not stored are passed over; None for all documents.
            **kwargs: They are ignored.

        Returns:
            True.

        Raises:
            InputError: All documents of a server are to be deleted.
        """
        if ids is None and not hasattr(self.index, "ids"):
            raise InputError("an index on a server is not emptied at once; give the ids of the documents")
        self.index.delete(self.index.ids if ids is None else ids)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Found]:
        """Return whole documents; ids that are not stored are passed over."""
        return [
            Found(document.text, id=document.id, metadata=dict(document.metadata))
            for document in self.index.get(list(ids)).values()
        ]

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Found]:
        """Return the best documents.

        Args:
            query: A text.
            k: How many.
            **kwargs: `where`, `filter`, and other arguments of `Index.search`.

        Returns:
            The documents, best first, with the texts of their best passages.

        Raises:
            InputError: The query is blank, or the condition cannot be used.
        """
        return [document for document, _ in self.similarity_search_with_score(query, k, **kwargs)]

    def similarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> list[tuple[Found, float]]:
        """Return the best documents with their scores, of which higher is better.

        Args:
            query: A text.
            k: How many.
            **kwargs: As for `similarity_search`.

        Returns:
            The documents, best first.

        Raises:
            InputError: As in `similarity_search`.
        """
        return _scored(self.index.search(query, k=k, **_asked(kwargs)))

    async def asimilarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> list[tuple[Found, float]]:
        """As `similarity_search_with_score`, in a thread."""
        return await run_in_executor(None, partial(self.similarity_search_with_score, query, k, **kwargs))

    def similarity_search_by_vector(self, embedding: list[float], k: int = 4, **kwargs: Any) -> list[Found]:
        """Return the best documents for a vector in the coordinates of the index' space.

        Args:
            embedding: The vector.
            k: How many.
            **kwargs: As for `similarity_search`.

        Returns:
            The documents, best first.

        Raises:
            InputError: The vector is not one of this space, or the index is on a server.
        """
        import numpy as np

        return [document for document, _ in _scored(self.index.search(np.array(embedding), k=k, **_asked(kwargs)))]

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        raise InputError(
            "scores have no common range that could be mapped to one from 0 to 1; use similarity_search_with_score"
        )

    @classmethod
    def from_texts(  # type: ignore[override]  # an index needs a place
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        path: str | os.PathLike[str],
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Build an index of texts.

        Args:
            texts: The texts.
            embedding: `HyperseekEmbeddings`, whose model encodes them.
            metadatas: Of each, plain JSON values.
            path: Folder of the index; made if missing.
            ids: Of each; made if missing.
            **kwargs: Other arguments of `Index.build`.

        Returns:
            The vector store.

        Raises:
            InputError: The embeddings are others, or something cannot be stored.
            StoreError: The folder is in use, or holds something else.
        """
        from hyperseek.index import Index

        if not isinstance(embedding, HyperseekEmbeddings):
            raise InputError(
                f"an index is built by a model of hyperseek, since it stores what that model compares: give "
                f"HyperseekEmbeddings(MODEL), not {shown(embedding)}"
            )
        return cls(Index.build(path, _documents(texts, metadatas, ids), embedding.model, **kwargs))


def _documents(
    texts: Iterable[str], metadatas: Sequence[Mapping[str, Any]] | None, ids: Sequence[str | None] | None
) -> list[Document]:
    given = list(texts)
    for name, other in (("metadatas", metadatas), ("ids", ids)):
        if other and len(other) != len(given):
            raise InputError(f"there are {len(given)} texts and {len(other)} {name}; give one each")
    return [
        Document(own or str(uuid.uuid4()), text, metadata=dict(metadata or {}))
        for text, metadata, own in zip(given, metadatas or [{}] * len(given), ids or [None] * len(given), strict=True)
    ]


def _scored(hits: Hits) -> list[tuple[Found, float]]:
    return [(_found(hit), hit.score) for hit in hits]


def _found(hit: Hit) -> Found:
    return Found(hit.text, id=hit.id, metadata=described(hit, ranked=False))


def _asked(given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a search, its filter joined to its condition."""
    asked = dict(given)
    chosen = asked.pop("filter", None)
    return asked if chosen is None else {**asked, "where": both(asked.get("where"), _condition(chosen))}


def _condition(filters: object) -> str:
    """Return the condition of a filter in the language of MongoDB, which many stores of LangChain take."""
    if not isinstance(filters, Mapping) or not filters:
        raise InputError(f"a filter is a mapping, as in {{'year': 2015}}; give SQL as where, not {shown(filters)}")
    return joined("AND", (_part(name, value) for name, value in filters.items())) or ""


def _part(name: str, value: Any) -> str:
    if name in ("$and", "$or"):
        if not isinstance(value, list | tuple) or not value:
            raise InputError(f"{name} takes a list of filters, not {shown(value)}")
        return joined(name[1:].upper(), map(_condition, value)) or ""
    if name == "$not":
        return negated(_condition(value))
    if not isinstance(value, Mapping):
        return compared(name, "==", value)
    for operator in value:
        if operator not in _OPERATORS:
            raise UnknownNameError("operator of filters", operator, [*_OPERATORS, "$and", "$or", "$not"])
    return joined("AND", (compared(name, _OPERATORS[key], each) for key, each in value.items())) or "TRUE"
