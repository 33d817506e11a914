"""What is known to be relevant to a query, over all examples: it is never a negative.

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
    """A document with the key of its text, which costs too much to be made again for every query.

    Attributes:
        item: The document.
        key: What `text_key` makes of its text.
    """

    item: ExampleItem
    key: int

    @classmethod
    def of(cls, item: ExampleItem) -> Self:
        """Make the key."""
        return cls(item, text_key(item.text))

    def same(self, other: KeyedItem) -> bool:
        """Whether both have one id or one text."""
        return self.item.id == other.item.id or self.key == other.key


@dataclass(slots=True)
class Relevant:
    """What is relevant to one query.

    Attributes:
        ids: Of documents, as `SOURCE/ID`.
        texts: Keys of their texts, as far as they were seen.
        unseen: Those of `ids` that are no positive of the query, whose texts examples may not tell.
    """

    ids: set[str] = field(default_factory=set)
    texts: set[int] = field(default_factory=set)
    unseen: set[str] = field(default_factory=set)

    def has(self, found: KeyedItem) -> bool:
        """Whether a document is one of these, or has the text of one."""
        return found.item.id in self.ids or found.key in self.texts


class Known:
    """Relevant documents by query: examples whose queries have the same text share theirs.

    Args:
        examples: All of them, read once.
        judged: Further judgements by name of the collection, with its own ids.
        relevance: What is relevant to queries of which there is no example, or only of an example that is none of
            these.
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
            relevant.ids.update(item.id for item in example.positives)
            relevant.texts |= example.relevant_keys()
        for query, keys in relevance or ():
            if query in self._of_text:
                self._of_text[query].texts |= keys
        for relevant in self._of_text.values():
            relevant.unseen -= relevant.ids
            relevant.ids |= relevant.unseen

    def learn(self, read: Callable[[list[str]], Iterable[ExampleItem]]) -> None:
        """Learn the texts of documents that are judged relevant without being anybody's positive.

        Args:
            read: Returns the documents that it has of some ids.
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
        """Return what is relevant to the query of an example."""
        return self._of_text[text_key(example.query.text)]
