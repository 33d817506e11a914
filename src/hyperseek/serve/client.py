"""A connection to a server of indexes, with the methods of `Index`; it needs neither torch nor a model."""

from __future__ import annotations

import functools
import json
import math
import os
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, Self, TypeAlias, Unpack, overload

from pydantic import TypeAdapter

from hyperseek._display import ShowsStages
from hyperseek._documents import as_documents
from hyperseek._long_work import progress
from hyperseek.errors import (
    ArgumentError,
    InputError,
    MissingDocumentError,
    ServerError,
    UnknownNameError,
    brief,
    shown,
    suggestion,
)
from hyperseek.serve._connection import Connection
from hyperseek.types import Document, Hit, Hits, NamedOptions, Passage, QueryOptions, Snippet, TokenMatch

Matches: TypeAlias = tuple[TokenMatch, ...]

_QUERIES = 64  # of a request
_DOCUMENTS = 100  # of a request that adds some, so that a slow machine encodes them in time
_CHARACTERS = 1 << 18  # of the documents of a request, unless one has more
_IDS = 1000  # of a request


class RemoteArguments(NamedOptions, total=False):
    """What `RemoteIndex.search` takes besides the queries: the arguments of `Index.search`."""

    k: int
    where: str | None
    engine: str
    plan: Any
    options: Mapping[str, Any] | None
    exclude: Sequence[str | Collection[str] | None] | None
    texts: bool
    combine: Literal["best", "soft"]


@dataclass(slots=True)
class RemoteStage:
    """What one stage of a search did, over all queries."""

    title: str
    seconds: float
    queries: int
    candidates: int
    recall: float | None = None
    notes: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class RemoteExplanation(ShowsStages):
    """What a search on a server did, as `Explanation` says it for an index on this machine; `plan` is a text."""

    plan: str
    reason: str
    documents: int
    passages: int | None
    stages: list[RemoteStage]
    hits: list[Hits]


_PASSAGES = TypeAdapter(tuple[Passage, ...])
_SNIPPET = TypeAdapter(Snippet)
_MATCHES = TypeAdapter(Matches)
_STAGES = TypeAdapter(list[RemoteStage])


class RemoteIndex:
    """An index on a server. Make one with `connect`.

    Any number of threads may use it. Each search is of the newest version of the index.

    Args:
        connection: To the server, whose address is kept as `url`.
        name: Name of the index there; kept as `name`.
    """

    def __init__(self, connection: Connection, name: str) -> None:
        self.url = connection.url
        self.name = name
        self._connection = connection
        self._closing = weakref.finalize(self, connection.close)

    @property
    def place(self) -> str:
        """The address of the server and the name of the index, in one text; it holds no key."""
        return f"{self.url}#{self.name}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r}, {self.name!r})"

    def close(self) -> None:
        """Close the connection, as happens by itself when the object is no longer used."""
        self._closing()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return _count(self._described(), "documents")

    @property
    def passages(self) -> int | None:
        """Number of passages; None in an index of whole documents."""
        described = self._described()
        return None if described.get("passages") is None else _count(described, "passages")

    @property
    def fields(self) -> dict[str, str]:
        """The metadata fields that conditions can name, each with its type as a word."""
        return self._connection.read(
            lambda: {str(name): str(kind) for name, kind in self._described()["fields"].items()}
        )

    @overload
    def search(self, queries: str, **asked: Unpack[RemoteArguments]) -> Hits: ...  # type: ignore[overload-overlap]

    @overload
    def search(self, queries: Sequence[str], **asked: Unpack[RemoteArguments]) -> list[Hits]: ...

    def search(self, queries: str | Sequence[str], **asked: Unpack[RemoteArguments]) -> Hits | list[Hits]:
        """Find the best documents of one or many queries.

        Args:
            queries: One text, or many.
            **asked: As in `Index.search`.

        Returns:
            For one text its hits, best first; for many a list of such `Hits`.

        Raises:
            InputError: As in `Index.search`, or the queries are no texts.
            UnknownNameError: The index has no engine of this name, or the server no longer has this index.
            ServerError: The server cannot be reached, is busy for longer than the timeout, or failed.
        """
        hits: list[Hits] = []
        requests = [*_requests(queries, asked, "search")]
        with progress("searching", len(requests), unit="requests") as bar:
            for request in requests:
                hits += self._hits(request, self._ask("/search", request))
                bar.advance()
        return hits[0] if isinstance(queries, str) else hits

    def explain(
        self, queries: str | Sequence[str], *, recall: bool = False, **asked: Unpack[RemoteArguments]
    ) -> RemoteExplanation:
        """Search, and say what was done, as `Index.explain` does; errors are those of `search`."""
        requests = [*_requests(queries, {"texts": False, **asked}, "explain", at_once=1 << 30)]
        if not requests:
            raise InputError("there are no queries to explain a search for; give at least one")
        answer = self._ask("/explain", requests[0] | {"recall": recall, "matches": True})
        hits = self._hits(requests[0], answer)
        return self._connection.read(lambda: _explanation(answer["explanation"], hits))

    def add(self, documents: Iterable[Any], *, replace: bool = False, total: int | None = None) -> int:
        """Add documents, as `Index.add` does: when this returns, all of them are on the server's disk.

        They are sent a hundred at a time; where one request is refused, those before it stay. ServerError if the
        server was started without `--writable`.
        """
        added = 0
        with progress("adding", total, unit="documents") as bar:
            for part in _documents(as_documents(documents, numbered=not replace)):
                answer = self._ask("/documents", {"documents": part, "replace": bool(replace)})
                added += _count(answer, "added")
                bar.advance(len(part))
        return added

    def delete(self, ids: Iterable[str]) -> int:
        """Delete documents by id, as `Index.delete` does, and return how many there were."""
        if isinstance(ids, str):
            raise InputError(f"ids must be several strings; for one id give [{ids!r}]")
        return sum(_count(self._ask("/documents", {"ids": part}, method="DELETE"), "deleted") for part in _ids(ids))

    @overload
    def get(self, ids: str) -> Document | None: ...  # type: ignore[overload-overlap]  # a string is one id

    @overload
    def get(self, ids: Sequence[str]) -> dict[str, Document]: ...

    def get(self, ids: str | Sequence[str]) -> Document | dict[str, Document] | None:
        """Return stored documents by id, as `Index.get` does; `index[id]` raises if the document is missing."""
        if isinstance(ids, str):
            return self.get([ids]).get(ids)
        answers = [self._ask("/documents/get", {"ids": part}) for part in _ids(ids)]
        return self._connection.read(
            lambda: {str(one["id"]): _document(one) for answer in answers for one in answer["documents"]}
        )

    def __contains__(self, document_id: object) -> bool:
        return isinstance(document_id, str) and self.get(document_id) is not None

    def __getitem__(self, document_id: str) -> Document:
        document = self.get(document_id) if isinstance(document_id, str) else None
        if document is None:
            raise MissingDocumentError(f"the index {self.place} holds no document {shown(document_id)}")
        return document

    def _described(self) -> dict[str, Any]:
        return _named(self._connection.indexes(), self.name)

    def _ask(self, path: str, body: Mapping[str, Any], *, method: str = "POST") -> Any:
        return self._connection.ask(method, path, {"index": self.name, **body})

    def _hits(self, request: Mapping[str, Any], answer: Any) -> list[Hits]:
        """Return the hits of an answer; their matches, if it lacks them, are asked for when they are needed."""

        def read() -> list[Hits]:
            if len(answer["queries"]) != len(request["queries"]):
                raise ValueError
            return [
                Hits(_hit(values, self._matches(request, place)) for values in own["hits"])
                for place, own in enumerate(answer["queries"])
            ]

        return self._connection.read(read)

    def _matches(self, request: Mapping[str, Any], place: int) -> Callable[[], dict[str, Matches]]:
        """Return what asks for the matches of the hits of one query, by id; it asks once."""
        own = {name: [request[name][place]] for name in ("queries", "exclude") if name in request}

        @functools.cache
        def found() -> dict[str, Matches]:
            answer = self._ask("/search", {**request, **own, "texts": True, "matches": True})
            return self._connection.read(
                lambda: {values["id"]: _matches_of(values) for values in answer["queries"][0]["hits"]}
            )

        return found


def connect(url: str, index: str | None = None, *, api_key: str | None = None, timeout: float = 60.0) -> RemoteIndex:
    """Connect to an index on a server that `hyperseek serve` started.

    Args:
        url: Address of the server, as in `"http://127.0.0.1:8080"`.
        index: Name of the index there; None for the first.
        api_key: The server's key; None for that of the environment variable `HYPERSEEK_API_KEY`, if there is one.
        timeout: Seconds for a request. Where the server is busy, further attempts are made until then.

    Returns:
        The index.

    Raises:
        InputError: The address or the timeout cannot be used.
        UnknownNameError: The server has no index of this name; the message lists those that it has.
        ServerError: The server cannot be reached, or wants another key.
    """
    key = os.environ.get("HYPERSEEK_API_KEY") if api_key is None else api_key
    connection = Connection(url, api_key=key, timeout=timeout)
    try:
        return RemoteIndex(connection, _named(connection.indexes(), index)["name"])
    except BaseException:
        connection.close()
        raise


def _named(listed: Sequence[dict[str, Any]], name: str | None) -> dict[str, Any]:
    if found := [one for one in listed if name in (None, one["name"])]:
        return found[0]
    raise UnknownNameError("index of this server", name, [one["name"] for one in listed], hint="it has models only")


def _requests(
    queries: str | Sequence[str], asked: Mapping[str, Any], function: str, *, at_once: int = _QUERIES
) -> Iterator[dict[str, Any]]:
    """Yield the bodies of the requests of a search, of some queries each, as plain values."""
    texts = [queries] if isinstance(queries, str) else queries
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"a server is asked with a text or a list of texts, not {shown(queries)}")
    known = tuple(RemoteArguments.__annotations__)
    if odd := [name for name in asked if name not in known]:
        hint = suggestion(odd[0], known)
        raise ArgumentError(f"{function}() has no argument {odd[0]!r}{hint}; arguments: {', '.join(known)}")
    request = {name: value for name, value in asked.items() if value is not None and name != "exclude"}
    options = QueryOptions.of(request.pop("options", None)).to_json()
    cards = [given.pop("card") for given in (request, options) if given.get("card") is not None]
    if len(cards) > 1:
        raise InputError("give a card by name or in options, not both")
    request |= {"options": options} | ({"card": _plain_card(QueryOptions(card=cards[0]).card)} if cards else {})
    if "plan" in request:
        request["plan"] = _plain_plan(request["plan"])
    exclude = _excluded(asked.get("exclude"), len(texts))
    for start in range(0, len(texts), max(1, at_once)):
        body = request | {"queries": list(texts[start : start + at_once])}
        if any(exclude):
            body["exclude"] = exclude[start : start + at_once]
        yield body


def _excluded(exclude: object, count: int) -> list[list[str]]:
    """Return the ids to leave out of the ranking of each query; an empty list for none at all."""
    if exclude is None:
        return []
    if not isinstance(exclude, Sequence) or isinstance(exclude, str) or len(exclude) != count:
        raise InputError(f"there are {count} queries; give exclude as a list with an id, ids, or None for each")
    return [
        [own] if isinstance(own, str) else [id for part in _ids(() if own is None else own) for id in part]
        for own in exclude
    ]


def _plain_card(card: str) -> Any:
    """Return the values of a card that is a file of this machine, or JSON; names are the server's business."""
    from hyperseek.cards import is_card_file, read_card

    if card.lstrip().startswith("{"):
        try:
            return json.loads(card)
        except ValueError as error:
            raise InputError(f"the card is not valid JSON: {brief(error)}") from None
    return read_card(card).to_mapping() if is_card_file(card) else card


def _plain_plan(plan: Any) -> Any:
    if isinstance(plan, list | tuple):
        return [_plain_plan(stage) for stage in plan]
    return plan.model_dump(mode="json") if hasattr(plan, "model_dump") else plan


def _documents(documents: Iterator[Document]) -> Iterator[list[dict[str, Any]]]:
    """Yield the documents of each request."""
    part: list[dict[str, Any]] = []
    size = 0
    for one in documents:
        length = len(one.text) + len(one.title)
        if part and (len(part) == _DOCUMENTS or size + length > _CHARACTERS):
            yield part
            part, size = [], 0
        part.append({"id": one.id, "text": one.text, "title": one.title, "metadata": dict(one.metadata)})
        size += length
    if part:
        yield part


def _ids(ids: object) -> Iterator[list[str]]:
    if not isinstance(ids, Iterable) or isinstance(ids, Mapping | bytes):
        raise InputError(f"ids must be a collection of strings, not {shown(ids)}")
    rest = iter(ids)
    while part := list(islice(rest, _IDS)):
        if odd := [one for one in part if not isinstance(one, str)]:
            raise InputError(f"ids must be strings, and one is {shown(odd[0])}")
        yield part


def _count(answer: Any, name: str) -> int:
    number = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(number, int):
        raise ServerError(f"the answer of the server lacks the number {name!r}; check the address")
    return number


def _document(values: Mapping[str, Any]) -> Document:
    return Document(str(values["id"]), str(values["text"]), str(values["title"]), dict(values["metadata"]))


def _hit(values: Mapping[str, Any], matches: Callable[[], dict[str, Matches]]) -> Hit:
    name, document = str(values["id"]), _document(values) if "text" in values else None
    passages = _PASSAGES.validate_python(values.get("passages", ()))
    score = values["score"]
    if not math.isfinite(score):
        raise ValueError
    hit = Hit(name, float(score), int(values["rank"]), document, passages)
    if document is not None:
        snippet = _SNIPPET.validate_python(values["snippet"])
        hit.excerpted_by(lambda _: snippet)
    if "matches" in values:
        found = _matches_of(values)
        return hit.matched_by(lambda: found)
    return hit.matched_by(lambda: matches().get(name, ()))


def _matches_of(values: Mapping[str, Any]) -> Matches:
    return _MATCHES.validate_python(values.get("matches", ()))


def _explanation(said: Mapping[str, Any], hits: list[Hits]) -> RemoteExplanation:
    stages = _STAGES.validate_python(said["stages"])
    return RemoteExplanation(said["plan"], said["reason"], said["documents"], said["passages"], stages, hits)
