"""For other programs: results as files, in our formats and in those of the Hypencoder repository, and mteb's encoder.

mteb also takes a saved model itself, as a `SentenceTransformer`: queries and documents are then compared by a plain
inner product of float32 coordinates. `MtebEncoder` compares them by the space's own, exact similarity, and encodes in
batches of similar length, with the model's prompts and lengths.

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hyperseek._files import atomic_write
from hyperseek._order import best_first
from hyperseek.data import write_run
from hyperseek.errors import InputError, require
from hyperseek.evaluation._comparison import Comparison
from hyperseek.evaluation._ranking import Ranking
from hyperseek.evaluation._result import Evaluation
from hyperseek.geometry.euclidean import cosine_similarity, unit_vectors
from hyperseek.models import Retriever
from hyperseek.scoring import LinearScorer, VectorPoints, vectors_of
from hyperseek.types import Run

if TYPE_CHECKING:
    import numpy as np

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
    for ranking, evaluation, name in zip(rankings, evaluations, folder_names(rankings), strict=True):
        target = Path(folder) if len(rankings) == 1 else Path(folder) / name
        kind = _KINDS.get(ranking.protocol.system.get("kind", ""), "run")
        write_hypencoder_files(target, evaluation, ranking.run, queries=queries, documents=documents, kind=kind)


def folder_names(rankings: Sequence[Ranking]) -> list[str]:
    """Turn the systems' names into folder names that differ even on case-insensitive file systems."""
    names: list[str] = []
    for ranking in rankings:
        plain = re.sub(r"[^\w.@+-]+", "-", ranking.name).strip("-.") or "system"
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


class MtebEncoder:
    """An mteb encoder: `mteb.evaluate(MtebEncoder(load(...)), tasks)`.

    Retrieval and reranking compare queries with documents as the model does. All other tasks get one vector per text
    (see `Retriever.encode_features`): for hyperbolic models the logarithmic map at the origin, compared by the cosine.

    Args:
        retriever: A model whose queries are points.
        name: Name of the results, as in `"ours/lorentz-minilm"`; None takes the model's source.
        options: Options of the model for every query, as in `{"level": 2}`; results record them too.

    Attributes:
        mteb_model_meta: The model's description for mteb.
        options: The options, checked by the model.

    Raises:
        InputError: The model's queries are not points, or it does not understand an option.
    """

    def __init__(
        self, retriever: Retriever, *, name: str | None = None, options: Mapping[str, Any] | None = None
    ) -> None:
        mteb = require("mteb.models.model_meta", extra="mteb")
        self.options = retriever.check_options(options)
        if not isinstance(retriever.compile(["a"], self.options), LinearScorer):
            raise InputError(
                "mteb compares vectors, but this model compiles queries to functions; "
                "measure it with `hyperseek evaluate`"
            )
        self.retriever = retriever
        stem = (name or retriever.source or "model").strip("/").split("/")[-2:]
        self.mteb_model_meta = mteb.ModelMeta.create_empty(
            overwrites={
                "name": "/".join(["hyperseek", *stem][-2:]),
                "revision": retriever.fingerprint[:16],
                "embed_dim": retriever.space.dimension,
                "loader": type(self),
                "experiment_kwargs": self.options.to_json() or None,
            }
        )

    def encode(
        self,
        inputs: Iterable[dict[str, Any]],
        *,
        task_metadata: Any = None,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> np.ndarray[Any, Any]:
        """Encode texts.

        Args:
            inputs: Batches with a list of `text`.
            task_metadata: Ignored.
            hf_split: Ignored.
            hf_subset: Ignored.
            prompt_type: Whether the texts are queries, documents, or neither.
            **kwargs: Ignored.

        Returns:
            `(N, w)` stored points of queries and documents, `(N, d)` vectors of other texts.
        """
        texts = [text for batch in inputs for text in batch["text"]]
        side = getattr(prompt_type, "value", prompt_type)
        if side == "query":
            return self._queries(texts).numpy()
        if side == "document":
            return vectors_of(self.retriever.encode_documents(texts)).numpy()
        return self.retriever.encode_features(texts).numpy()

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Return `(Q, N)` similarities of results of `encode`; higher is better."""
        queries, documents = torch.as_tensor(embeddings1), torch.as_tensor(embeddings2)
        if self._are_points(queries, documents):
            return self.retriever.space.score(queries, VectorPoints(documents))
        return cosine_similarity(queries, documents)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Return the `(N,)` similarities of rows."""
        queries, documents = torch.as_tensor(embeddings1), torch.as_tensor(embeddings2)
        if self._are_points(queries, documents):
            return self.retriever.space.score_own(queries, documents[:, None])[:, 0]
        return (unit_vectors(queries) * unit_vectors(documents)).sum(dim=-1)

    def _are_points(self, *vectors: Tensor) -> bool:
        # Tangent vectors of a hyperbolic space have two numbers fewer than its stored points.
        return all(part.shape[-1] == self.retriever.space.width for part in vectors)

    def _queries(self, texts: list[str]) -> Tensor:
        vectors = [scorer.linear() for scorer in self.retriever.compile_batches(texts, self.options)]
        found = [part.cpu() for part in vectors if part is not None]
        return torch.cat(found) if found else torch.zeros(0, self.retriever.space.width)
