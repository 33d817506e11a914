"""Haystack: a retriever, text and document embedders, and a ranker, as components.

```python
from haystack import Pipeline

from hyperseek.integrations.haystack import HyperseekRetriever

pipeline = Pipeline()
pipeline.add_component("retriever", HyperseekRetriever("notes.index", top_k=5))
documents = pipeline.run({"retriever": {"query": "how are weak references made?"}})["retriever"]["documents"]
```

A component opens its index, or loads its model, when it first runs or is warmed up. In a pipeline's file an index is
its path or the address of its server, and a model its folder or name; keys are read from the environment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

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
    place_of,
    scores,
    source_of,
    vectors,
)

try:
    from haystack import Document, component, default_from_dict, default_to_dict
except ImportError:
    require("haystack", extra="haystack")
    raise

if TYPE_CHECKING:
    from hyperseek.index import Index
    from hyperseek.integrations import AnyIndex, IndexLike, ModelLike
    from hyperseek.models import Retriever


@component
class HyperseekRetriever:
    """A retriever of an index.

    Documents have the text of their best passage and their score; their metadata have `rank`, and in an index of
    passages `passages`, each with `text`, `start`, `end`, `score` and `headings`.

    Args:
        index: An index, the path of one, or the address of a server.
        top_k: Documents of a query.
        where: As in `Index.search`.
        filters: Haystack's own filters, which hold besides `where`.
        engine: As in `Index.search`, like the rest.
        plan: Likewise.
        options: Likewise.
        combine: Likewise.
    """

    def __init__(
        self,
        index: IndexLike,
        *,
        top_k: int = 10,
        where: str | None = None,
        filters: dict[str, Any] | None = None,
        engine: str = "auto",
        plan: Any = None,
        options: dict[str, Any] | None = None,
        combine: str = "best",
    ) -> None:
        self.index = index
        self.top_k = top_k
        self.where = where
        self.filters = filters
        self.engine = engine
        self.plan = plan
        self.options = options
        self.combine = combine
        self._open: AnyIndex | None = None

    def warm_up(self) -> None:
        """Open the index."""
        if self._open is None:
            self._open = opened(self.index)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, from which `from_dict` makes the component again."""
        return default_to_dict(
            self,
            index=place_of(self.index),
            top_k=self.top_k,
            where=self.where,
            filters=self.filters,
            engine=self.engine,
            plan=_plain_plan(self.plan),
            options=None if self.options is None else dict(self.options),
            combine=self.combine,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> HyperseekRetriever:
        """Make the component from what `to_dict` returned."""
        return default_from_dict(cls, data)

    @component.output_types(documents=list[Document])
    def run(
        self,
        query: str,
        top_k: int | None = None,
        where: str | None = None,
        filters: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
    ) -> dict[str, list[Document]]:
        """Search.

        Args:
            query: A text.
            top_k: Instead of the component's, like the rest.
            where: Likewise.
            filters: Likewise.
            options: Likewise.

        Returns:
            `documents`, best first.

        Raises:
            InputError: The query is blank, or a condition cannot be used.
        """
        self.warm_up()
        index = cast("Index", self._open)  # a connection has the same method
        chosen = self.filters if filters is None else filters
        hits = index.search(
            query,
            k=self.top_k if top_k is None else top_k,
            where=both(self.where if where is None else where, _condition(chosen) if chosen else None),
            engine=self.engine,
            plan=self.plan,
            options=self.options if options is None else options,
            combine=cast("Any", self.combine),
        )
        return {
            "documents": [
                Document(id=hit.id, content=hit.text or hit.title, meta=described(hit), score=hit.score) for hit in hits
            ]
        }

    @component.output_types(documents=list[Document])
    async def run_async(
        self,
        query: str,
        top_k: int | None = None,
        where: str | None = None,
        filters: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
    ) -> dict[str, list[Document]]:
        """Search in a thread.

        Args:
            query: As in `run`, like the rest.
            top_k: Likewise.
            where: Likewise.
            filters: Likewise.
            options: Likewise.

        Returns:
            As `run`.
        """
        return await asyncio.to_thread(partial(self.run, query, top_k, where, filters, options))


class _WithModel:
    """What the components that need a model share: it is loaded once, when it is first needed.

    Components call its initialiser by name, since Haystack makes classes of its own of theirs, which `super()` refuses.

    Args:
        model: A model, or its folder or name.
        device: Where to load it.
    """

    def __init__(self, model: ModelLike, *, device: str | None = None) -> None:
        self.model = model
        self.device = device
        self._loaded: Retriever | None = None

    def warm_up(self) -> None:
        """Load the model."""
        self._retriever()

    def _retriever(self) -> Retriever:
        if self._loaded is None:
            self._loaded = loaded(self.model, device=self.device)
        return self._loaded

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, from which `from_dict` makes the component again."""
        return default_to_dict(self, model=source_of(self.model), device=self.device)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Any:
        """Make the component from what `to_dict` returned."""
        return default_from_dict(cls, data)


@component
class HyperseekTextEmbedder(_WithModel):
    """The vector of a query, for document stores that compare by inner product.

    Args:
        model: A model, or its folder or name, whose queries are vectors.
        device: Where to load it.
    """

    def __init__(self, model: ModelLike, *, device: str | None = None) -> None:
        _WithModel.__init__(self, model, device=device)

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, list[float]]:
        """Return the `embedding` of a query; InputError for models whose queries are not vectors."""
        if not isinstance(text, str):
            raise InputError(f"a text embedder takes a text, not {shown(text)}; documents are for a document embedder")
        return {"embedding": vectors(self._retriever(), [text], "query")[0]}

    @component.output_types(embedding=list[float])
    async def run_async(self, text: str) -> dict[str, list[float]]:
        """As `run`, in a thread."""
        return await asyncio.to_thread(self.run, text)


@component
class HyperseekDocumentEmbedder(_WithModel):
    """The vectors of documents, for document stores that compare by inner product.

    Args:
        model: A model, or its folder or name.
        device: Where to load it.
        meta_fields_to_embed: Fields of the metadata whose values are put before the text.
    """

    def __init__(
        self, model: ModelLike, *, device: str | None = None, meta_fields_to_embed: list[str] | None = None
    ) -> None:
        _WithModel.__init__(self, model, device=device)
        self.meta_fields_to_embed = meta_fields_to_embed

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, from which `from_dict` makes the component again."""
        fields = self.meta_fields_to_embed
        return default_to_dict(self, model=source_of(self.model), device=self.device, meta_fields_to_embed=fields)

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, list[Document]]:
        """Return copies of `documents` with their embeddings."""
        texts = [
            " ".join([*(str(each.meta[name]) for name in self.meta_fields_to_embed or () if each.meta.get(name)), text])
            for each in documents
            for text in (each.content or "",)
        ]
        found = vectors(self._retriever(), texts, "document")
        return {"documents": [replace(each, embedding=own) for each, own in zip(documents, found, strict=True)]}

    @component.output_types(documents=list[Document])
    async def run_async(self, documents: list[Document]) -> dict[str, list[Document]]:
        """As `run`, in a thread."""
        return await asyncio.to_thread(self.run, documents)


@component
class HyperseekRanker(_WithModel):
    """Ranks documents again by a model of any kind, and keeps the best.

    Args:
        model: A model, or its folder or name.
        top_k: How many documents to keep; None for all.
        options: Options of queries, as in `Index.search`.
        device: Where to load the model.
    """

    def __init__(
        self,
        model: ModelLike,
        *,
        top_k: int | None = None,
        options: dict[str, Any] | None = None,
        device: str | None = None,
    ) -> None:
        _WithModel.__init__(self, model, device=device)
        self.top_k = top_k
        self.options = options

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, from which `from_dict` makes the component again."""
        options = None if self.options is None else dict(self.options)
        return default_to_dict(self, model=source_of(self.model), top_k=self.top_k, options=options, device=self.device)

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, list[Document]]:
        """Rank documents.

        Args:
            query: A text.
            documents: What was found by anything.
            top_k: Instead of the component's.

        Returns:
            Copies of `documents`, best first, with their scores.

        Raises:
            InputError: The query is blank.
        """
        found = scores(self._retriever(), query, [each.content or "" for each in documents], self.options)
        kept = best_first(found, self.top_k if top_k is None else top_k)
        return {"documents": [replace(documents[place], score=found[place]) for place in kept]}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, documents: list[Document], top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """As `run`, in a thread."""
        return await asyncio.to_thread(self.run, query, documents, top_k)


def _plain_plan(plan: Any) -> Any:
    if plan is None or isinstance(plan, Mapping):
        return plan
    from hyperseek.plan import as_plan

    return as_plan(plan).model_dump(mode="json")


def _condition(filters: Mapping[str, Any]) -> str:
    """Return the condition of Haystack's filters, which are comparisons and `AND`, `OR`, `NOT` of them."""
    operator = filters.get("operator") if isinstance(filters, Mapping) else None
    if operator is None:
        raise InputError(
            f"a filter is {{'field': …, 'operator': …, 'value': …}} or {{'operator': 'AND', 'conditions': […]}}, "
            f"not {shown(filters)}"
        )
    if "field" in filters:
        name = str(filters["field"])
        return compared("text" if name == "content" else name.removeprefix("meta."), operator, filters.get("value"))
    parts = filters.get("conditions")
    if operator not in ("AND", "OR", "NOT"):
        raise UnknownNameError("operator that joins filters", operator, ["AND", "OR", "NOT"])
    if not isinstance(parts, list | tuple) or not parts:
        raise InputError(f"{operator} takes a list of conditions, not {shown(parts)}")
    conditions = [_condition(part) for part in parts]
    if operator == "NOT":
        return negated(joined("AND", conditions) or "")
    return joined(operator, conditions) or ""
