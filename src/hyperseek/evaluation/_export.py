"""For other programs: results as files, in our formats and in those of the Hypencoder repository.

The files of Hypencoder:

```
FOLDER/retrieved_items.jsonl              {"query": {"content", "id"}, "items": [{"content", "id", "score", "type"}]}
FOLDER/retrieved_items.txt                the same as readable text
FOLDER/metrics/aggregated_metrics.json
FOLDER/metrics/aggregated_metrics.txt     two lines: the names, and the values times 100
FOLDER/metrics/per_query_metrics.json     by query, then by measure
```
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperseek._files import atomic_write
from hyperseek._order import best_first
from hyperseek.data import write_run
from hyperseek.evaluation._comparison import Comparison
from hyperseek.evaluation._ranking import Ranking
from hyperseek.evaluation._result import Evaluation
from hyperseek.types import Run

if TYPE_CHECKING:
    from hyperseek.data import Dataset


_KINDS = {"index": "hypencoder_retriever", "bm25": "bm25"}


def write_results(
    folder: str | os.PathLike[str],
    rankings: Sequence[Ranking],
    evaluations: Sequence[Evaluation],
    comparison: Comparison,
) -> None:
    """Write `comparison.json`, `comparison.md`, and a folder per system, named after it.

    Its folder holds `evaluation.json`, `per_query.jsonl` and `run.trec`.

    Args:
        folder: The folder to write; created if missing.
        rankings: One for each system.
        evaluations: Evaluations of the rankings, in the same order.
        comparison: Comparison of the evaluations.
    """
    target = Path(folder)
    names = folder_names([ranking.name for ranking in rankings])
    for ranking, evaluation, name in zip(rankings, evaluations, names, strict=True):
        evaluation.save(target / name / "evaluation.json")
        evaluation.write_per_query(target / name / "per_query.jsonl")
        write_run(ranking.run, target / name / "run.trec", tag=name)
    comparison.save(target / "comparison.json")
    with atomic_write(target / "comparison.md") as file:
        file.write(comparison.to_markdown())


def write_original_files(
    folder: str | os.PathLike[str],
    rankings: Sequence[Ranking],
    evaluations: Sequence[Evaluation],
    dataset: Dataset,
    *,
    split: str,
) -> None:
    """Write the Hypencoder repository's files: into `folder` for one system, otherwise into a folder for each.

    Args:
        folder: The folder to write; created if missing.
        rankings: One for each system.
        evaluations: Evaluations of the rankings, in the same order.
        dataset: Source of the texts; its corpus is read once, and only retrieved documents are kept.
        split: The split of the queries.
    """
    wanted = {document for ranking in rankings for hits in ranking.run.values() for document in hits}
    documents = {document.id: document.full_text for document in dataset.documents() if document.id in wanted}
    queries = {query.id: query.text for query in dataset.queries(split)}
    names = folder_names([ranking.name for ranking in rankings])
    for ranking, evaluation, name in zip(rankings, evaluations, names, strict=True):
        target = Path(folder) if len(rankings) == 1 else Path(folder) / name
        kind = _KINDS.get(ranking.protocol.system.get("kind", ""), "run")
        write_hypencoder_files(target, evaluation, ranking.run, queries=queries, documents=documents, kind=kind)


def folder_names(systems: Sequence[str]) -> list[str]:
    """Turn the systems' names into folder names that differ even on case-insensitive file systems."""
    names: list[str] = []
    for system in systems:
        plain = re.sub(r"[^\w.@+-]+", "-", system).strip("-.") or "system"
        name, number = plain, 2
        while name.lower() in {other.lower() for other in names}:
            name, number = f"{plain}-{number}", number + 1
        names.append(name)
    return names


def write_hypencoder_files(
    folder: str | os.PathLike[str],
    evaluation: Evaluation,
    run: Run,
    *,
    queries: Mapping[str, str],
    documents: Mapping[str, str] | None = None,
    kind: str = "hypencoder_retriever",
) -> None:
    """Write the files of the original's retrieval command.

    Args:
        folder: The folder to write; created if missing.
        evaluation: The measured values.
        run: The ranking they were measured on.
        queries: Query texts by id, for all queries of the run.
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
