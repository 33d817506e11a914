"""Our own API: `/search`, `/explain`, `/documents`, `/indexes`."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator

from hyperseek.errors import InputError, shown
from hyperseek.index.searching import plain_hit
from hyperseek.serve._limits import Refused, routes
from hyperseek.serve._shelf import Served, Shelf, describe
from hyperseek.types import Document, Hits

router = APIRouter(route_class=routes())


def shelf_of(request: Request) -> Shelf:
    """Return the shelf of the server that a request came to; a dependency of routes."""
    shelf: Shelf | None = request.app.state.shelf
    if shelf is None:
        raise Refused(503, "the server is loading its indexes and models, or stopping", "Loading")
    return shelf


TheShelf = Annotated[Shelf, Depends(shelf_of)]


class Body(BaseModel):
    """Base of the bodies of our own API: no unknown keys, and no numbers in texts."""

    model_config = ConfigDict(extra="forbid", strict=True)


class SearchBody(Body):
    """A search; see `Index.search`."""

    index: str | None = None
    query: str | None = None
    queries: list[str] | None = None
    k: int = 10
    where: str | None = None
    engine: str = "auto"
    plan: dict[str, Any] | list[Any] | str | None = None
    combine: Literal["best", "soft"] = "best"
    options: dict[str, Any] = Field(default_factory=dict)
    level: int | None = None
    document_level: int | None = None
    broaden: float | None = None
    relation: Literal["distance", "is_a", "cone"] | None = None
    radius_weight: float | None = None
    card: dict[str, Any] | str | None = None
    texts: bool = True
    matches: bool = False

    @model_validator(mode="after")
    def _check(self) -> SearchBody:
        if (self.query is None) == (self.queries is None):
            raise ValueError("give either query, a text, or queries, a list of texts")
        return self

    @property
    def texts_asked(self) -> list[str]:
        """The queries."""
        return self.queries if self.queries is not None else [self.query or ""]


class DocumentBody(Body):
    """A document that is added."""

    id: str
    text: str
    title: str = ""
    metadata: dict[str, Any] = Field(default_factory=dict)


class DocumentsBody(Body):
    """Documents that are added."""

    index: str | None = None
    documents: list[DocumentBody]
    replace: bool = False


class IdsBody(Body):
    """Ids of documents."""

    index: str | None = None
    ids: list[str]


@router.post("/search")
async def search(body: SearchBody, shelf: TheShelf) -> dict[str, Any]:
    """Find the best documents of one or many queries."""
    start = time.perf_counter()
    served = shelf.index(body.index)
    hits = await served.search(body.texts_asked, **_arguments(body, shelf))
    return await asyncio.to_thread(_answer, served, body, hits, start)


@router.get("/search")
async def search_one(
    shelf: TheShelf,
    q: str,
    k: Annotated[int, Query(ge=1)] = 10,
    index: str | None = None,
    where: str | None = None,
) -> dict[str, Any]:
    """Find the best documents of one query."""
    return await search(SearchBody(query=q, k=k, index=index, where=where), shelf)


@router.post("/explain")
async def explain(body: SearchBody, shelf: TheShelf) -> dict[str, Any]:
    """Search, and say what was done; it searches exhaustively too, to tell the recall of each stage."""
    start = time.perf_counter()
    served = shelf.index(body.index)
    told = await served.explain(body.texts_asked, recall=True, **_arguments(body, shelf))
    answer = await asyncio.to_thread(_answer, served, body, told.hits, start)
    stages = [
        {
            "title": stage.title,
            "queries": stage.queries,
            "seconds": stage.seconds,
            "candidates": stage.candidates,
            "recall": stage.recall,
            "notes": stage.notes,
        }
        for stage in told.stages
    ]
    answer["explanation"] = {
        "plan": repr(told.plan),
        "reason": told.reason,
        "documents": told.documents,
        "passages": told.passages,
        "stages": stages,
    }
    return answer


@router.get("/indexes")
async def indexes(shelf: TheShelf) -> list[dict[str, Any]]:
    """List the indexes."""
    return [await asyncio.to_thread(describe, served) for served in shelf.indexes.values()]


@router.get("/documents/{id:path}")
async def get_document(id: str, shelf: TheShelf, index: str | None = None) -> dict[str, Any]:
    """Return one document."""
    served = shelf.index(index)
    found = await served.get([id])
    if id not in found:
        raise UnknownDocument(id, served.name)
    return _plain(found[id])


@router.post("/documents/get")
async def get_documents(body: IdsBody, shelf: TheShelf) -> dict[str, Any]:
    """Return documents by id, those that are stored."""
    found = await shelf.index(body.index).get(body.ids)
    return {"documents": [_plain(document) for document in found.values()]}


@router.post("/documents")
async def add_documents(body: DocumentsBody, shelf: TheShelf) -> dict[str, Any]:
    """Add documents; answered when they are on the disk."""
    served = _writable(shelf, body.index)
    documents = [Document(one.id, one.text, one.title, one.metadata) for one in body.documents]
    added = await served.add(documents, replace=body.replace)
    return {"added": added, "documents": len(served.index)}


@router.delete("/documents")
async def delete_documents(body: IdsBody, shelf: TheShelf) -> dict[str, Any]:
    """Delete documents; answered when that is on the disk."""
    served = _writable(shelf, body.index)
    deleted = await served.delete(body.ids)
    return {"deleted": deleted, "documents": len(served.index)}


class UnknownDocument(Refused):
    """An id that an index does not have."""

    def __init__(self, id: str, index: str) -> None:
        super().__init__(404, f"the index {index!r} holds no document {shown(id)}", "MissingDocumentError")


def _writable(shelf: Shelf, index: str | None) -> Served:
    if not shelf.settings.writable:
        raise Refused(403, "this server changes no documents; start it with --writable", "Refused")
    return shelf.index(index)


def _plain(document: Document) -> dict[str, Any]:
    return {
        "id": document.id,
        "title": document.title,
        "text": document.text,
        "metadata": dict(document.metadata),
    }


_OPTIONS = ("level", "document_level", "broaden", "relation", "radius_weight")


def _arguments(body: SearchBody, shelf: Shelf) -> dict[str, Any]:
    """Return the arguments of `Index.search`, within the limits of the server."""
    settings = shelf.settings
    if body.k > settings.most_k:
        raise InputError(f"k is {body.k}, and this server returns at most {settings.most_k} documents of a query")
    if len(body.texts_asked) > settings.most_queries:
        raise InputError(
            f"there are {len(body.texts_asked)} queries, and a request may have {settings.most_queries}; send several"
        )
    given = {name: value for name in _OPTIONS if (value := getattr(body, name)) is not None}
    return {
        "k": body.k,
        "where": body.where,
        "engine": body.engine,
        "plan": body.plan,
        "combine": body.combine,
        "options": body.options,
        "texts": body.texts,
        **given,
    }


def _answer(served: Served, body: SearchBody, hits: list[Hits], start: float) -> dict[str, Any]:
    return {
        "index": served.name,
        "documents": len(served.index),
        "queries": [
            {"query": query, "hits": [plain_hit(hit, matches=body.matches) for hit in found]}
            for query, found in zip(body.texts_asked, hits, strict=True)
        ],
        "milliseconds": round(1000 * (time.perf_counter() - start), 3),
    }
