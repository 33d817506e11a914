"""Training examples that are known to an evaluation: its queries, and the documents that it judges relevant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from hyperseek._config import Config
from hyperseek._relevance import is_relevant, text_key
from hyperseek.data._dataset import Dataset
from hyperseek.data.examples import TrainingExample
from hyperseek.data.tables.instructed import INSTRUCTION
from hyperseek.errors import InputError

_KEPT = 5  # messages of a report


class LeakOptions(Config):
    """Which evaluations training examples are compared with.

    Attributes:
        against: Collections and their splits, as in `beir/scifact:test`; the split is `test` if not given.
        action: What happens to an example that an evaluation knows: `report` it, `drop` it, or `fail`.
    """

    against: tuple[str, ...] = ()
    action: Literal["report", "drop", "fail"] = "report"


class LeakInfo(Config):
    """What examples and an evaluation have in common; texts are compared as `normal_text` writes them.

    Attributes:
        against: The collection and its split, as given.
        queries: Examples whose query is one of its queries, with or without the instruction before it.
        documents: Examples with a positive that it judges relevant to one of its queries.
        examples: Examples that are counted in either.
        action: What happened to them.
        first: The first of them.
    """

    against: str
    queries: int
    documents: int
    examples: int
    action: Literal["report", "drop", "fail"]
    first: tuple[str, ...]

    def line(self) -> str:
        """Return a line for people to read."""
        first = f" (first: {self.first[0]})" if self.first else ""
        return (
            f"{self.against}: {self.examples:,} examples {'left out' if self.action == 'drop' else 'known to it'}, "
            f"{self.queries:,} by their query, {self.documents:,} by a document that is relevant there{first}"
        )


class LeakCheck:
    """The queries and relevant documents of one evaluation; memory holds hashes of their texts.

    Args:
        given: The source, as given.
        dataset: The collection, whose documents are read once.
        split: The judgements.
        action: For the report.
    """

    def __init__(
        self, given: str, dataset: Dataset, split: str, action: Literal["report", "drop", "fail"] = "report"
    ) -> None:
        self._given, self._action = given, action
        self._queries = {text_key(query.text): query.id for query in dataset.queries(split)}
        relevant = {
            one for judged in dataset.qrels(split).values() for one, grade in judged.items() if is_relevant(grade)
        }
        self._documents = {
            text_key(text): document.id
            for document in dataset.documents()
            if document.id in relevant
            for text in (document.full_text, document.text)
        }
        self._counts = {"queries": 0, "documents": 0, "examples": 0}
        self._first: list[str] = []

    def finds(self, example: TrainingExample) -> bool:
        """Count an example and return whether the evaluation knows its query or one of its positives."""
        text = example.query.text
        instruction = example.query.metadata.get(INSTRUCTION)
        forms = [text, text.removeprefix(instruction)] if isinstance(instruction, str) else [text]
        query = next((self._queries[key] for key in map(text_key, forms) if key in self._queries), None)
        keys = (text_key(item.text) for item in example.positives)
        document = next((self._documents[key] for key in keys if key in self._documents), None)
        if query is None and document is None:
            return False
        self._counts["queries"] += query is not None
        self._counts["documents"] += document is not None
        self._counts["examples"] += 1
        if len(self._first) < _KEPT:
            shared = [f"query {query!r}"] if query is not None else []
            shared += [f"document {document!r}"] if document is not None else []
            self._first.append(f"{example.query.id} has the text of {' and '.join(shared)}")
        return True

    def info(self) -> LeakInfo:
        """Return what was counted."""
        return LeakInfo(against=self._given, action=self._action, first=tuple(self._first), **self._counts)


def refuse_leaks(found: Sequence[LeakInfo]) -> None:
    """Raise InputError if an evaluation knows examples and that is to be an error."""
    for one in found:
        if one.examples and one.action == "fail":
            raise InputError(
                f"examples would leak into an evaluation; {one.line()}; leave them out with leaks.action=drop, or "
                f"count them with leaks.action=report"
            )
