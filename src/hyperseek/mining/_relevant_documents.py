"""Documents known to be relevant to a query, from all examples: they are never its negatives.

Memory holds ids and 8-byte hashes of texts, never the texts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Self

from hyperseek._relevance import Relevance, is_relevant, text_key
from hyperseek.data.examples import ExampleItem, TrainingExample, qualified
from hyperseek.types import Qrels

_READ_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class KeyedItem:
    """A document with the key of its text, which is too costly to compute per query.

    Attributes:
        item: The document.
        key: `text_key` of its text.
    """

    item: ExampleItem
    key: int

    @classmethod
    def of(cls, item: ExampleItem) -> Self:
        """Make the key."""
        return cls(item, text_key(item.text))

    def same(self, other: KeyedItem) -> bool:
        """Return whether both have the same id or the same text."""
        return self.item.id == other.item.id or self.key == other.key


@dataclass(slots=True)
class Relevant:
    """The relevant documents of one query.

    Attributes:
        ids: Ids of documents, as `SOURCE/ID`.
        texts: Keys of their texts, as far as known.
        unseen: Those of `ids` that are not positives of the query, and whose texts may not appear in the examples.
    """

    ids: set[str] = field(default_factory=set)
    texts: set[int] = field(default_factory=set)
    unseen: set[str] = field(default_factory=set)

    def has(self, found: KeyedItem) -> bool:
        """Return whether a document is one of these, or has the text of one."""
        return found.item.id in self.ids or found.key in self.texts


class RelevantByQuery:
    """Relevant documents by query: examples whose queries have the same text share theirs.

    Args:
        examples: All of them, read once.
        judged: Additional judgements by name of the collection, with its own ids.
        relevance: Relevant texts of queries without an example among these.
    """

    def __init__(
        self,
        examples: Iterable[TrainingExample],
        judged: Mapping[str, Qrels] | None = None,
        relevance: Relevance | None = None,
    ) -> None:
        self._of_text: defaultdict[int, Relevant] = defaultdict(Relevant)
        self.sources: dict[str, int] = {}
        judged_ids = {
            qualified(name, query_id): [
                qualified(name, document_id) for document_id, grade in own.items() if is_relevant(grade)
            ]
            for name, qrels in (judged or {}).items()
            for query_id, own in qrels.items()
        }
        for example in examples:
            self.sources[example.source] = self.sources.get(example.source, 0) + 1
            relevant = self._of_text[text_key(example.query.text)]
            relevant.unseen.update(example.relevant, judged_ids.get(example.query.id, ()))
            relevant.ids.update(item.id for item in (*example.positives, *example.coarse))
            relevant.texts |= example.relevant_keys()
        for query, keys in relevance or ():
            if query in self._of_text:
                self._of_text[query].texts |= keys
        for relevant in self._of_text.values():
            relevant.unseen -= relevant.ids
            relevant.ids |= relevant.unseen

    def learn(self, read: Callable[[list[str]], Iterable[ExampleItem]]) -> None:
        """Add the texts of documents that are judged relevant but are not positives of any example.

        Args:
            read: Returns the documents it has of given ids.
        """
        owners: defaultdict[str, list[Relevant]] = defaultdict(list)
        for relevant in self._of_text.values():
            for identity in relevant.unseen:
                owners[identity].append(relevant)
        ids = iter(sorted(owners))
        while part := list(islice(ids, _READ_AT_ONCE)):
            for item in read(part):
                for relevant in owners[item.id]:
                    relevant.texts.add(text_key(item.text))

    def of(self, example: TrainingExample) -> Relevant:
        """Return the relevant documents of an example's query."""
        return self._of_text[text_key(example.query.text)]
