"""What is asked of hits: their groups by a metadata field, and what each token of a query found in them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from hyperseek._ancestors import path_parts
from hyperseek.errors import InputError, UnknownNameError, shown
from hyperseek.index._passages import best_passage
from hyperseek.scoring import Scorer
from hyperseek.store.table import Store
from hyperseek.types import Document, Hit, Token, TokenMatch

if TYPE_CHECKING:
    from hyperseek.models import Encoder
    from hyperseek.models.retriever import Side


@dataclass(frozen=True, slots=True)
class HitGroup:
    """Hits with the same value of a field, or the same beginning of a path.

    Attributes:
        path: The value, as names from the root of a hierarchy; empty for hits without the field.
        hits: In the order of their ranks.
    """

    path: tuple[str, ...]
    hits: list[Hit] = field(default_factory=list)


def grouped(hits: Iterable[Hit], by: str = "path", *, depth: int | None = None) -> list[HitGroup]:
    """Group the hits of a query by a metadata field.

    Args:
        hits: With their documents.
        by: The field. A list of names from the root, or a text of names separated by `" > "` or else by `"/"`, is a
            path; other values are paths of one name.
        depth: Names from the root that hits of a group share, at least 1; None for whole paths.

    Returns:
        The groups in the order of their best hits, those without the field included.

    Raises:
        InputError: The hits carry no documents, or `depth` is not a whole number of at least 1.
        UnknownNameError: No hit has the field.
    """
    if depth is not None and (isinstance(depth, bool) or not isinstance(depth, int) or depth < 1):
        raise InputError(f"depth must be a whole number of at least 1, or None for whole paths; given {shown(depth)}")
    groups: dict[tuple[str, ...], HitGroup] = {}
    known: set[str] = set()
    for hit in hits:
        if hit.document is None:
            raise InputError(
                "these hits carry no documents, so they have no fields to group by; search with texts=True"
            )
        known |= set(hit.document.metadata)
        path = tuple(path_parts(hit.document.metadata.get(by)))[:depth]
        groups.setdefault(path, HitGroup(path)).hits.append(hit)
    if groups and by not in known:
        raise UnknownNameError("metadata field of these hits", by, sorted(known))
    return list(groups.values())


_Rows = list[tuple[Token, ...]]


@dataclass(eq=False)
class AskedTokens:
    """A query as its hits see it; they share it.

    Attributes:
        scorer: Queries, of which this is one.
        place: Which.
        text: Its text; None for a query that was compiled elsewhere.
        model: What splits texts into tokens; None for nothing.
        encoded: How documents were encoded, as keywords of `LateRetriever.row_tokens`.
    """

    scorer: Scorer
    place: int
    text: str | None
    model: Encoder | None
    encoded: Mapping[str, Any]
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _known: list[_Rows | None] = field(default_factory=list, repr=False)

    def tokens(self) -> _Rows | None:
        """Return the tokens of each row of the query; None where they are unknown."""
        with self._lock:
            if not self._known:
                self._known.append(None if self.text is None else self._rows(self.text, "query"))
            return self._known[0]

    def document_tokens(self, text: str) -> _Rows | None:
        """Return the tokens of each row of a document; None where they are unknown."""
        return self._rows(text, "document")

    def _rows(self, text: str, side: Side) -> _Rows | None:
        split: Any = getattr(self.model, "row_tokens", None)  # which a model may offer
        return None if split is None else cast("_Rows | None", split(text, side, **self.encoded))


class Matching:
    """Finds the matches of one hit when it is called, once.

    Args:
        asked: The query.
        store: The table that the hit was found in.
        row: Where in it the document is.
    """

    def __init__(self, asked: AskedTokens, store: Store, row: int) -> None:
        self._asked = asked
        self._store = store
        self._row = row
        self._found: tuple[TokenMatch, ...] | None = None

    def __call__(self) -> tuple[TokenMatch, ...]:
        """Return the matches."""
        if self._found is None:
            self._found = self._find()
        return self._found

    def _find(self) -> tuple[TokenMatch, ...]:
        asked = self._asked
        document = self._store.take_points([self._row])
        own = asked.scorer[asked.place : asked.place + 1].detach().to("cpu")
        found = own.matches(document)
        if found is None:
            return ()
        rows, similarities, shares = (part[0].tolist() for part in found)
        matched = [place for place, row in enumerate(rows) if row >= 0]
        if not matched:
            return ()
        queries = asked.tokens()
        if queries is not None and len(queries) != len(matched):
            queries = None  # they are not the rows that were scored
        [text] = self._store.take([self._row])
        members = asked.document_tokens(text.full_text)
        if members is not None and len(members) != len(document.rows):
            members = None  # vectors that were made elsewhere, or pooled since
        if members is not None and self._store.passages:
            members = [tuple(_in_hit(token, text) for token in tokens) for tokens in members]
        return tuple(
            TokenMatch(
                query=() if queries is None else queries[number],
                document=() if members is None else members[rows[place]],
                vector=rows[place],
                similarity=similarities[place],
                share=shares[place],
            )
            for number, place in enumerate(matched)
        )


def _in_hit(token: Token, row: Document) -> Token:
    """Return a token of a passage with its place in the full text of the hit, whose title lacks the headings."""
    hit = best_passage(row)
    if token.start is None or token.end is None or row.title == hit.title:
        return token
    before, after = _text_start(row), _text_start(hit)
    if token.start < before:
        return replace(token, start=None, end=None)
    return replace(token, start=token.start - before + after, end=token.end - before + after)


def _text_start(document: Document) -> int:
    """Return where the text begins in `full_text`, below 0 if blanks at its beginning are left out."""
    whole = f"{document.title} "
    return len(whole) - len(whole + document.text) + len((whole + document.text).lstrip())
