"""Rows of an index of passages: which document each is of, and where in its text.

The id of a row is that of its document, `#`, and the number of the passage from 0, so any id of a document is possible.
"""

from __future__ import annotations

PASSAGE = "hyperseek:passage"
"""The key of a row's metadata that holds its place in the document: `start`, `end`, `headings` and `title`.

Filters cannot name it, since it has a colon.
"""


def row_id(document_id: str, number: int) -> str:
    """Return the id of a row."""
    return f"{document_id}#{number}"


def document_id_of(row: str) -> str:
    """Return the id of the document that a row is a passage of."""
    return row.rpartition("#")[0]
