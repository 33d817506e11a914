"""A training example as a JSON object that names its texts, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperseek._relevance import key_name, key_of_name, text_key
from hyperseek.data._examples import ExampleItem, TrainingExample
from hyperseek.records import Query


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
        "source": example.source,
        "task": example.task,
        "instruction": example.instruction,
        "relevant": list(example.relevant) or None,
        "relevant_texts": [key_name(key) for key in example.relevant_texts] or None,
    }
    return {key: value for key, value in record.items() if value is not None}


def example_from_record(record: Mapping[str, Any], texts: Mapping[str, str]) -> TrainingExample:
    """Read back what `example_record` gave.

    Args:
        record: The object.
        texts: Of its items, by id, and perhaps of others.

    Returns:
        The example.

    Raises:
        KeyError: A field or a text is missing.
    """
    relevant = tuple(record.get("relevant", ()))
    names = record.get("relevant_texts")
    # Folders of before say ids alone; what of them is also another example's item has its text here.
    known = map(key_of_name, names) if names is not None else (text_key(texts[one]) for one in relevant if one in texts)
    query = record["query"]

    def items(key: str) -> tuple[ExampleItem, ...]:
        return tuple(
            ExampleItem(item["_id"], texts[item["_id"]], item.get("score"), item.get("grade")) for item in record[key]
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
    )


def _reference(item: ExampleItem) -> dict[str, Any]:
    values = {"_id": item.id, "score": item.score, "grade": item.grade}
    return {key: value for key, value in values.items() if value is not None}
