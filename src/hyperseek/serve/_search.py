"""Our own API: `/search`, `/explain`, `/documents`, `/indexes`.

A request never names a file or a model to load: plans and cards are values, and names are those that the server knows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from hyperseek.cards import Card, is_card_file
from hyperseek.errors import InputError, shown
from hyperseek.index import Explanation
from hyperseek.plan import as_plan
from hyperseek.serve._limits import Refused, routes
from hyperseek.serve._shelf import Served, Shelf, describe
from hyperseek.types import Document

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
    plan: dict[str, Any] | list[Any] | Literal["hybrid", "broad_to_narrow"] | None = None
    combine: Literal["best", "soft"] = "best"
    options: dict[str, Any] = Field(default_factory=dict)
    level: int | None = None
    document_level: int | None = None
    broaden: float | None = None
    relation: Literal["distance", "is_a", "cone"] | None = None
    radius_weight: float | None = None
    card: dict[str, Any] | str | None = None
    exclude: list[str | list[str] | None] | None = None
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
async def search(body: SearchBody, shelf: TheShelf) -> Response:
    """Find the best documents of one or many queries."""
    return await _found(body, shelf)


@router.get("/search")
async def search_one(
    shelf: TheShelf,
    q: str,
    k: int = 10,
    index: str | None = None,
    where: str | None = None,
) -> Response:
    """Find the best documents of one query."""
    return await _found(SearchBody(query=q, k=k, index=index, where=where), shelf)


class ExplainBody(SearchBody):
    """A search that is explained."""

    recall: bool = True


@router.post("/explain")
async def explain(body: ExplainBody, shelf: TheShelf) -> Response:
    """Search, and say what was done; exhaustively too, for the recall of each stage, unless `recall` is false."""
    if not body.texts_asked:
        raise InputError("there are no queries to explain a search for; give at least one")
    return await _found(body, shelf, explain=True, recall=body.recall)


async def _found(body: SearchBody, shelf: Shelf, *, explain: bool = False, recall: bool = False) -> Response:
    start = time.perf_counter()
    served = shelf.index(body.index)
    arguments = _arguments(body, shelf)
    found = await served.find(
        body.texts_asked,
        rows="matches" if body.matches else "plain",
        alone=explain or body.exclude is not None,
        recall=recall,
        **arguments,
    )
    told = found.explanation if explain else None
    answer = {
        "index": served.name,
        "documents": found.documents,
        "queries": [{"query": query, "hits": hits} for query, hits in zip(body.texts_asked, found.rows, strict=True)],
        "milliseconds": round(1000 * (time.perf_counter() - start), 3),
        **({} if told is None else {"explanation": _explained(told)}),
    }
    return JSONResponse(answer)  # as it is: FastAPI would look at each value, which takes longer than to write it


def _explained(told: Explanation) -> dict[str, Any]:
    names = ("title", "queries", "seconds", "candidates", "recall", "notes")
    return {
        "plan": repr(told.plan),
        "reason": told.reason,
        "documents": told.documents,
        "passages": told.passages,
        "stages": [{name: getattr(stage, name) for name in names} for stage in told.stages],
    }


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
    served = shelf.index(index)
    if served.mirrors:
        raise Refused(409, f"the index {served.name!r} follows a folder of files; change the files", "Refused")
    return served


def _plain(document: Document) -> dict[str, Any]:
    return {
        "id": document.id,
        "title": document.title,
        "text": document.text,
        "metadata": dict(document.metadata),
    }


_OPTIONS = ("level", "document_level", "broaden", "relation", "radius_weight")
_LONGEST_QUERY = 1 << 16  # characters; models read far fewer
_LONGEST_CONDITION = 1 << 14
_LONGEST_CARD = 1 << 17
_MOST_PARTS = 200  # of a plan: stages, their options, and lists


def _arguments(body: SearchBody, shelf: Shelf) -> dict[str, Any]:
    """Return the arguments of `Index.search`, within the limits of the server."""
    settings, texts = shelf.settings, body.texts_asked
    if body.k > settings.most_k:
        raise InputError(
            f"k is {shown(body.k)}, and this server returns at most {settings.most_k} documents of a query"
        )
    if len(texts) > settings.most_queries:
        raise InputError(
            f"there are {len(texts):,} queries, and a request may have {settings.most_queries}; send several"
        )
    if max(map(len, texts), default=0) > _LONGEST_QUERY:
        raise InputError(f"a query may have {_LONGEST_QUERY:,} characters; models read far fewer")
    if body.where is not None and len(body.where) > _LONGEST_CONDITION:
        raise InputError(f"a condition may have {_LONGEST_CONDITION:,} characters")
    given = {name: value for name in _OPTIONS if (value := getattr(body, name)) is not None}
    card = _card(body.card)
    options = plain_options(body.options)
    return {
        "k": body.k,
        "where": body.where,
        "engine": body.engine,
        "plan": None if body.plan is None else as_plan(_plan(body.plan, shelf)),
        "combine": body.combine,
        "options": options or None,
        "exclude": body.exclude,
        "texts": body.texts,
        **given,
        **({} if card is None else {"card": card}),
    }


def plain_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of queries, in which no card is the path of a file."""
    return {**given, **({"card": _card(given["card"])} if "card" in given else {})}


def _card(given: object) -> str | None:
    """Return a card as JSON, or the name of one that the model knows."""
    if isinstance(given, dict):
        given = Card.from_mapping(given, source="the card").to_json_text()
    if given is None:
        return None
    if not isinstance(given, str) or is_card_file(given):
        raise InputError(f"a card is an object, or the name of a card of the model, not {shown(given)}")
    if len(given) > _LONGEST_CARD:
        raise InputError(f"a card may have {_LONGEST_CARD:,} characters here")
    return given


def _plan(given: Any, shelf: Shelf) -> Any:
    """Return a plan's plain values, in which models are those of the server; UnknownNameError for any other."""
    parts = 0

    def checked(value: Any) -> Any:
        nonlocal parts
        parts += 1
        if parts > _MOST_PARTS:
            raise InputError(f"the plan has more than {_MOST_PARTS} parts; give a shorter one")
        if isinstance(value, list):
            return [checked(part) for part in value]
        if not isinstance(value, dict):
            return value
        plain = {name: checked(part) for name, part in value.items()}
        if plain.get("model") is not None:
            plain["model"] = shelf.model(str(plain["model"])).retriever.source
        if "card" in plain:
            plain["card"] = _card(plain["card"])
        return plain

    return checked(given)
