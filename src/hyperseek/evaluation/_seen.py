"""Seen and unseen: a test's queries by how many of their relevant documents were relevant in training.

A model trained on one split of a collection has often met the documents of another. Its gain on those says little
about new text, so both are reported.
"""

from __future__ import annotations

from collections.abc import Collection

from hyperseek._config import Config
from hyperseek._relevance import is_relevant
from hyperseek.records import Qrels

SLICES = ("all", "some", "none")
"""Names of the slices: all, some, or none of a query's relevant documents were relevant in training."""


class Slices(Config):
    """Query ids of each slice, in the order of the judgements.

    Attributes:
        all: Every relevant document was relevant in training.
        some: At least one was and at least one was not.
        none: No relevant document was.
        without_relevant: Queries that have no relevant document at all and belong to no slice.
        trained_documents: How many documents the training record names.
    """

    all: tuple[str, ...]
    some: tuple[str, ...]
    none: tuple[str, ...]
    without_relevant: tuple[str, ...]
    trained_documents: int

    def queries(self, name: str) -> tuple[str, ...]:
        """Return the query ids of the slice `"all"`, `"some"` or `"none"`."""
        return {"all": self.all, "some": self.some, "none": self.none}[name]

    def empty(self) -> tuple[str, ...]:
        """Return the names of the slices without queries."""
        return tuple(name for name in SLICES if not self.queries(name))


def slice_by_training(qrels: Qrels, trained: Collection[str]) -> Slices:
    """Split a test's queries by what was relevant in training.

    Args:
        qrels: The test's judgements; a grade of at least 1 is relevant.
        trained: Ids of the documents that were relevant to some training query, in the same collection.

    Returns:
        The slices.
    """
    known = frozenset(trained)
    found: dict[str, list[str]] = {"all": [], "some": [], "none": [], "without_relevant": []}
    for query, judged in qrels.items():
        relevant = {document for document, grade in judged.items() if is_relevant(grade)}
        seen = len(relevant & known)
        if not relevant:
            found["without_relevant"].append(query)
        elif seen == len(relevant):
            found["all"].append(query)
        else:
            found["some" if seen else "none"].append(query)
    return Slices(**{name: tuple(queries) for name, queries in found.items()}, trained_documents=len(known))
