"""Heads that a recipe trained on a frozen trunk, beside that trunk alone, on test collections.

    python benchmarks/trained_heads.py NAME=MODEL ... --sets COLLECTION:SPLIT ... [--cache FOLDER]

All models must have the same trunk, prompts and lengths, and differ in the last module of their routes. What the trunk
makes of documents comes from the cache that training filled. Prints nDCG@10 by exhaustive search, and the p of a paired
permutation test against the frozen trunk.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import Tensor

from _frozen import best_documents
from _hardware import describe_hardware
from _trees import DATA
from hyperseek.data import Dataset, open_dataset
from hyperseek.evaluation import calculate, paired_test
from hyperseek.models import Retriever, load
from hyperseek.training._cache import FeatureCache


def trunk_features(retriever: Retriever, texts: Sequence[str], cache: Path) -> Tensor:
    """Return `(N, d)` vectors of documents in front of the head."""
    stop = len(retriever.route("document")) - 1
    features = FeatureCache(cache, retriever, "document", stop=stop, tokens=False)
    features.ensure(texts)
    return features.vectors(texts)


@torch.inference_mode()
def scores(retriever: Retriever, documents: Tensor, queries: Sequence[str], *, head: bool) -> Tensor:
    """Return `(Q, N)` scores of the model, or of its trunk alone."""
    stop = len(retriever.route("query")) - 1
    asked = retriever.forward(retriever.preprocess(queries, "query"), "query", stop=None if head else stop)
    if not head:
        rows: Tensor = asked["sentence_embedding"] @ documents.T
        return rows
    features = retriever.forward({"sentence_embedding": documents.clone()}, "document", start=stop)
    return retriever.scorer(asked).score(retriever.points(features))


def measure(data: Dataset, split: str, found: Tensor, documents: Sequence[str]) -> list[float]:
    """Return nDCG@10 of every judged query of a split, in their order."""
    qrels = data.qrels(split)
    names = [query.id for query in data.queries(split) if query.id in qrels]
    run = best_documents(found, names, documents)
    measured = calculate(run, {name: qrels[name] for name in names}, "nDCG@10")["nDCG@10"]
    return [measured[name] for name in names]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL")
    parser.add_argument("--sets", nargs="+", required=True)
    parser.add_argument("--cache", type=Path, required=True)
    arguments = parser.parse_args()
    print(describe_hardware(), flush=True)
    models = {name: load(path, device="cpu") for name, _, path in (entry.partition("=") for entry in arguments.models)}
    print(f"\n| | trunk | {' | '.join(models)} |\n|---{'|---' * (len(models) + 1)}|")
    for entry in arguments.sets:
        name, _, split = entry.partition(":")
        data = open_dataset(DATA / name)
        corpus = list(data.documents())
        ids, texts = [document.id for document in corpus], [document.full_text for document in corpus]
        qrels = data.qrels(split)
        queries = [query.text for query in data.queries(split) if query.id in qrels]
        vectors = trunk_features(next(iter(models.values())), texts, arguments.cache)
        frozen = measure(data, split, scores(next(iter(models.values())), vectors, queries, head=False), ids)
        cells = [f"{sum(frozen) / len(frozen):.4f}"]
        for model in models.values():
            own = measure(data, split, scores(model, vectors, queries, head=True), ids)
            p = paired_test("permutation", torch.tensor(own).numpy() - torch.tensor(frozen).numpy())[0]
            cells.append(f"{sum(own) / len(own):.4f} (p {p:.3f})")
        print(f"| {entry} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
