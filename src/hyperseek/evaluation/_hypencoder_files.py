"""The result files of the Hypencoder repository, byte for byte in its formats.

```
FOLDER/retrieved_items.jsonl              {"query": {"content", "id"}, "items": [{"content", "id", "score", "type"}]}
FOLDER/retrieved_items.txt                the same for people
FOLDER/metrics/aggregated_metrics.json
FOLDER/metrics/aggregated_metrics.txt     two lines: the names, and the values times 100
FOLDER/metrics/per_query_metrics.json     by query, then by measure
```
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hyperseek._files import atomic_write
from hyperseek._order import best_first
from hyperseek.evaluation._result import Evaluation
from hyperseek.records import Run


def write_hypencoder_files(
    folder: str | os.PathLike[str],
    evaluation: Evaluation,
    run: Run,
    *,
    queries: Mapping[str, str],
    documents: Mapping[str, str] | None = None,
    kind: str = "hypencoder_retriever",
) -> None:
    """Write what the original's retrieval command writes.

    Args:
        folder: Where to; made if need be.
        evaluation: The measured values.
        run: The ranking they were measured on.
        queries: Query texts by id; of all queries of the run.
        documents: Texts of at least the retrieved documents by id; None leaves them out.
        kind: The items' `type`.
    """
    target = Path(folder)
    with atomic_write(target / "retrieved_items.jsonl") as file:
        for record in _records(run, queries, documents, kind):
            file.write(json.dumps(record) + "\n")
    with atomic_write(target / "retrieved_items.txt") as file:
        for record in _records(run, queries, documents, kind):
            file.write(_readable(record))
    by_query: dict[str, dict[str, float]] = {query: {} for query in evaluation.queries}
    for name, values in evaluation.per_query.items():
        for query, value in values.items():
            by_query[query][name] = value
    _write_sorted(target / "metrics/aggregated_metrics.json", evaluation.aggregate)
    _write_sorted(target / "metrics/per_query_metrics.json", by_query)
    with atomic_write(target / "metrics/aggregated_metrics.txt") as file:
        file.write("".join(f"{name}," for name in evaluation.measures) + "\n")
        file.write("".join(f"{100 * evaluation.aggregate[name]:.2f}," for name in evaluation.measures) + "\n")


def _records(
    run: Run, queries: Mapping[str, str], documents: Mapping[str, str] | None, kind: str
) -> Iterator[dict[str, Any]]:
    for query, ranking in run.items():
        items = []
        for document in best_first(ranking):
            content = {} if documents is None else {"content": documents[document]}
            items.append({**content, "id": document, "score": ranking[document], "type": kind})
        yield {"query": {"content": queries[query], "id": query}, "items": items}


def _readable(record: dict[str, Any]) -> str:
    lines = [f"Query: {record['query']['content']} ({record['query']['id']})"]
    for rank, item in enumerate(record["items"], start=1):
        lines.append(f"\t{rank}. {item.get('content', '')} ({item['id']}) - {item['score']}")
    return "\n".join([*lines, "", "-" * 80, "", ""])


def _write_sorted(path: Path, values: object) -> None:
    with atomic_write(path) as file:
        json.dump(values, file, sort_keys=True, indent=4)
