"""Training examples: their schema and its rules, and their file format."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyperseek._fingerprint import fingerprint_texts
from hyperseek._relevance import key_name, key_of_name, text_key
from hyperseek.data.reading import ErrorReport
from hyperseek.types import Query

_INSTRUCTED = re.compile(r"\s*instruct\s*:.*?query\s*:\s*", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class ExampleItem:
    """A document of a training example.

    Attributes:
        id: `SOURCE/ID`: the collection's name, a slash, and the document's id there.
        text: The text that encoders read: title and text.
        score: A teacher's score, any real number, or None.
        grade: The judgement, or None.
        hops: How far above the query it is in a hierarchy, in edges; 0 for the query's own node, None if unknown.
    """

    id: str
    text: str
    score: float | None = None
    grade: int | None = None
    hops: int | None = None


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """A query with documents that answer it and documents that do not.

    Attributes:
        query: The query; its id is `SOURCE/ID` too.
        positives: At least one, best first.
        negatives: May be empty, with in-batch negatives.
        source: Name of the collection.
        task: Name of a task card, or None.
        instruction: The query's instruction in addition to its text, or None.
        relevant: Ids of other documents that are never negatives: judged relevant but not positives here, or, if
            documents are queries, the query itself.
        relevant_texts: Keys of their texts, as far as known (see `hyperseek._relevance`).
        coarse: Coarser answers to the query, the coarsest first: titles, ancestors, shortened positives, or positives
            themselves. A positive that is one of them counts as finer than those before it.
        weight: How much it counts, above 0: the confidence of the teachers that made it, relative to other examples.
    """

    query: Query
    positives: tuple[ExampleItem, ...]
    negatives: tuple[ExampleItem, ...] = ()
    source: str = ""
    task: str | None = None
    instruction: str | None = None
    relevant: tuple[str, ...] = ()
    relevant_texts: tuple[int, ...] = ()
    coarse: tuple[ExampleItem, ...] = ()
    weight: float = 1.0

    @property
    def items(self) -> tuple[ExampleItem, ...]:
        """All of its items: positives, negatives, coarse positives."""
        return (*self.positives, *self.negatives, *self.coarse)

    def relevant_keys(self) -> set[int]:
        """Return the keys of all texts that are relevant: of positives, coarse ones included, and `relevant_texts`."""
        return {*self.relevant_texts, *(text_key(item.text) for item in (*self.positives, *self.coarse))}


def qualified(source: str, identity: str) -> str:
    """Return the id of a record, unique across collections."""
    return f"{source}/{identity}"


def source_and_id(identity: str) -> tuple[str, str]:
    """Split an id that `qualified` made; names of collections contain no slash."""
    source, _, original = identity.partition("/")
    return source, original


def content_id(text: str) -> str:
    """Return an id derived from a text's content, 16 hexadecimal digits."""
    return fingerprint_texts([text])[:16]


def instruction_before(text: str) -> str:
    """Return the `Instruct: ... Query:` that a text begins with, blanks after it included; nothing without one."""
    found = _INSTRUCTED.match(text)
    return "" if found is None else found[0]


def without_instruction(text: str) -> str:
    """Return a text, stripped, without `Instruct: ... Query:` before it."""
    return text[len(instruction_before(text)) :].strip()


def cleaned(example: TrainingExample, report: ErrorReport) -> TrainingExample | None:
    """Apply the rules of the schema.

    Empty texts, a document that appears twice, a coarse positive that is the query itself, and a negative that is also
    a positive, coarse or not, otherwise known to be relevant, or the query itself are dropped, whether recognised by
    id or by text; so is an example without a query or without a positive. Each is counted.

    Args:
        example: The output of a converter.
        report: Counts drops.

    Returns:
        The example without dropped items, or None.
    """
    if not example.query.text.strip():
        report.add("empty_query", example.query.id)
        return None
    place = f"query {example.query.id}"
    seen: set[str] = set()
    positives = _distinct(example.positives, seen, "positive_twice", place, report)
    query = text_key(example.query.text)
    coarse = _distinct(
        [item for item in example.coarse if text_key(item.text) != query], set(), "coarse_twice", place, report
    )
    seen |= {item.id for item in coarse}
    answers = {text_key(item.text) for item in (*positives, *coarse)}
    different = []
    for item in example.negatives:
        key = text_key(item.text)
        if item.id in seen or key in answers:
            report.add("negative_is_positive", f"{place}: {item.id}")
        elif item.id in example.relevant or key in example.relevant_texts:
            report.add("relevant_document", f"{place}: {item.id}")
        elif key == query:
            report.add("query_itself", f"{place}: {item.id}")
        else:
            different.append(item)
    negatives = _distinct(different, seen, "negative_twice", place, report)
    if not positives:
        report.add("no_positive", place)
        return None
    return dataclasses.replace(example, positives=positives, negatives=negatives, coarse=coarse)


def _distinct(
    items: list[ExampleItem] | tuple[ExampleItem, ...], seen: set[str], reason: str, place: str, report: ErrorReport
) -> tuple[ExampleItem, ...]:
    kept = []
    for item in items:
        if not item.text.strip():
            report.add("empty_text", f"{place}: {item.id}")
        elif item.id in seen:
            report.add(reason, f"{place}: {item.id}")
        else:
            seen.add(item.id)
            kept.append(item)
    return tuple(kept)


def example_record(example: TrainingExample) -> dict[str, Any]:
    """Return an example without the texts of its items.

    Args:
        example: Any.

    Returns:
        An object without empty fields.
    """
    query = {"_id": example.query.id, "text": example.query.text}
    record = {
        "query": query | ({"metadata": dict(example.query.metadata)} if example.query.metadata else {}),
        "positives": [_reference(item) for item in example.positives],
        "negatives": [_reference(item) for item in example.negatives],
        "coarse": [_reference(item) for item in example.coarse] or None,
        "source": example.source,
        "task": example.task,
        "instruction": example.instruction,
        "relevant": list(example.relevant) or None,
        "relevant_texts": [key_name(key) for key in example.relevant_texts] or None,
        "weight": None if example.weight == 1 else example.weight,
    }
    return {key: value for key, value in record.items() if value is not None}


def example_from_record(record: Mapping[str, Any], texts: Mapping[str, str]) -> TrainingExample:
    """Read an example back from its `example_record`.

    Args:
        record: The object.
        texts: Texts by id, including those of its items.

    Returns:
        The example.

    Raises:
        KeyError: A field or a text is missing.
    """
    relevant = tuple(record.get("relevant", ()))
    names = record.get("relevant_texts")
    # Folders of earlier versions have ids alone; a text is known only if it is an item of an example.
    known = map(key_of_name, names) if names is not None else (text_key(texts[one]) for one in relevant if one in texts)
    query = record["query"]

    def items(key: str) -> tuple[ExampleItem, ...]:
        return tuple(
            ExampleItem(item["_id"], texts[item["_id"]], item.get("score"), item.get("grade"), item.get("hops"))
            for item in (record.get(key, ()) if key == "coarse" else record[key])
        )

    return TrainingExample(
        Query(query["_id"], query["text"], query.get("metadata", {})),
        items("positives"),
        items("negatives"),
        record["source"],
        record.get("task"),
        record.get("instruction"),
        relevant,
        tuple(dict.fromkeys(known)),
        items("coarse"),
        record.get("weight", 1.0),
    )


def _reference(item: ExampleItem) -> dict[str, Any]:
    values = {"_id": item.id, "score": item.score, "grade": item.grade, "hops": item.hops}
    return {key: value for key, value in values.items() if value is not None}
