"""A folder with everything that was measured."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hyperseek._files import atomic_write
from hyperseek.data import write_run
from hyperseek.evaluation._comparison import Comparison
from hyperseek.evaluation._hypencoder_files import write_hypencoder_files
from hyperseek.evaluation._ranking import Ranking
from hyperseek.evaluation._result import Evaluation

if TYPE_CHECKING:
    from hyperseek.data import Dataset

_KINDS = {"index": "hypencoder_retriever", "bm25": "bm25"}


def write_results(
    folder: str | os.PathLike[str],
    rankings: Sequence[Ranking],
    evaluations: Sequence[Evaluation],
    comparison: Comparison,
) -> None:
    """Write `comparison.json`, `comparison.md`, and for each system a folder of its name.

    Its folder holds `evaluation.json`, `per_query.jsonl` and `run.trec`.

    Args:
        folder: Where to; made if need be.
        rankings: One for each system.
        evaluations: Of these rankings, in the same order.
        comparison: Of these evaluations.
    """
    target = Path(folder)
    for ranking, evaluation, name in zip(rankings, evaluations, folder_names(rankings), strict=True):
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
    """Write the Hypencoder repository's files: into `folder` for one system, else into a folder for each.

    Args:
        folder: Where to; made if need be.
        rankings: One for each system.
        evaluations: Of these rankings, in the same order.
        dataset: Where the texts come from; its corpus is read once, and only retrieved documents are kept.
        split: Which queries.
    """
    wanted = {document for ranking in rankings for hits in ranking.run.values() for document in hits}
    documents = {document.id: document.full_text for document in dataset.documents() if document.id in wanted}
    queries = {query.id: query.text for query in dataset.queries(split)}
    for ranking, evaluation, name in zip(rankings, evaluations, folder_names(rankings), strict=True):
        target = Path(folder) if len(rankings) == 1 else Path(folder) / name
        kind = _KINDS.get(ranking.protocol.system.get("kind", ""), "run")
        write_hypencoder_files(target, evaluation, ranking.run, queries=queries, documents=documents, kind=kind)


def folder_names(rankings: Sequence[Ranking]) -> list[str]:
    """Turn the systems' names into folder names, no two alike even where case does not count."""
    names: list[str] = []
    for ranking in rankings:
        plain = re.sub(r"[^\w.@+-]+", "-", ranking.name).strip("-.") or "system"
        name, number = plain, 2
        while name.lower() in {other.lower() for other in names}:
            name, number = f"{plain}-{number}", number + 1
        names.append(name)
    return names
