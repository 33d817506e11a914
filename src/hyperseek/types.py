"""The plain records that move between layers: documents, queries, judgements, runs.

They know no tensors and no files. `Qrels` and `Run` are the shapes every TREC tool uses:
`{query_id: {document_id: value}}`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from hyperseek.errors import InputError

__all__ = ["Document", "Hit", "Qrels", "Query", "Run"]

# Characters of a document that a hit shows of itself.
_SHOWN = 60

Qrels: TypeAlias = dict[str, dict[str, int]]
"""Judgements: `qrels[query_id][document_id]` is the grade; 0 means judged and not relevant."""

Run: TypeAlias = dict[str, dict[str, float]]
"""A ranking: `run[query_id][document_id]` is the score, higher is better, best first."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a corpus.

    Attributes:
        id: Unique in its corpus.
        text: The body.
        title: May be empty.
        metadata: Further fields of the source, plain JSON values; an index gives them back as they are, and refuses
            other values.
    """

    id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def full_text(self) -> str:
        """Title and text joined by a space, stripped: what encoders read."""
        return f"{self.title} {self.text}".strip()


@dataclass(frozen=True, slots=True)
class Query:
    """One query.

    Attributes:
        id: Unique among its queries.
        text: What is asked.
        metadata: Further fields of the source, plain JSON values.
    """

    id: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result.

    Attributes:
        id: The document's id.
        score: Higher is better.
        rank: From 1.
        document: The stored document, or None where texts were not asked for.
    """

    id: str
    score: float
    rank: int
    document: Document | None = None

    @property
    def title(self) -> str:
        """The document's title; InputError where texts were not asked for, which an empty title could not tell."""
        return self._stored("title").title

    @property
    def text(self) -> str:
        """The document's text; InputError where texts were not asked for."""
        return self._stored("text").text

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The document's metadata; InputError where texts were not asked for."""
        return self._stored("metadata").metadata

    def _stored(self, what: str) -> Document:
        if self.document is None:
            raise InputError(f"the hit {self.id!r} has no {what}, since the search had texts=False; search with texts")
        return self.document

    def __repr__(self) -> str:
        said = (
            "" if self.document is None else f", {textwrap.shorten(self.document.full_text, _SHOWN, placeholder='…')!r}"
        )
        return f"Hit({self.rank}, {self.id!r}, score={self.score:.6g}{said})"
