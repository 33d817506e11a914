"""Quality of late-interaction models against the vectors that are kept of each document.

    python benchmarks/fewer_vectors.py NAME=MODEL ... --sets COLLECTION:SPLIT[@LENGTH] ... \
        [--methods average ward k_means sequential attention] [--factors 1.5 2 3 4 5 6 8] [--pruning idf length ...]

Documents are encoded once and pooled afterwards, by every method and factor; all documents are scored. `--pruning`
instead encodes them anew with a share of their tokens, and prints the time of that beside the time of all tokens.
Prints nDCG@10, its share of what all vectors reach with the 95 % interval of the difference (paired bootstrap), and
bytes a document (float16).
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from _hardware import describe_hardware
from _trees import DATA
from hyperseek.data import open_dataset
from hyperseek.evaluation import bootstrap_intervals, calculate
from hyperseek.models import LateRetriever, load
from hyperseek.models.loading import set_length
from hyperseek.nn.token_pooling import TokenPooling
from hyperseek.nn.token_pruning import PruningTransformer
from hyperseek.plan import scan
from hyperseek.scoring import TokenPoints
from hyperseek.types import Document, Qrels, Query

METHODS = {
    "average": {},
    "ward": {"linkage": "ward", "distance": "euclidean"},
    "k_means": {"method": "k_means"},
    "sequential": {"method": "sequential"},
    "attention": {"method": "attention"},
}
PRUNINGS = {
    "length": {"strategy": "length"},
    "random": {"strategy": "random"},
    "idf": {"importance": "idf"},
    "first_layer": {"importance": "first_layer"},
}


class Collection:
    """A set of the command line, with what is measured on it.

    Args:
        entry: COLLECTION:SPLIT[@LENGTH].
    """

    def __init__(self, entry: str) -> None:
        place, _, length = entry.partition("@")
        name, _, split = place.partition(":")
        data = open_dataset(DATA / name)
        self.length = int(length) if length else None
        self.qrels: Qrels = data.qrels(split)
        self.queries: list[Query] = [query for query in data.queries(split) if query.id in self.qrels]
        self.documents: list[Document] = list(data.documents())
        self.texts = [document.full_text for document in self.documents]

    def measure(self, model: LateRetriever, points: TokenPoints) -> np.ndarray:
        """Return nDCG@10 of every query."""
        run = {}
        for start in range(0, len(self.queries), 32):
            asked = self.queries[start : start + 32]
            scores, rows = scan(model.compile([query.text for query in asked]), [points], k=10)
            for query, best, places in zip(asked, scores.tolist(), rows.tolist(), strict=True):
                run[query.id] = {self.documents[row].id: score for row, score in zip(places, best, strict=True)}
        values = calculate(run, {query.id: self.qrels[query.id] for query in self.queries}, "nDCG@10")["nDCG@10"]
        return np.array([values[query.id] for query in self.queries])


def pooled(points: TokenPoints, factor: float, options: dict[str, Any]) -> TokenPoints:
    """Return the points with the tokens of each document pooled."""
    pooling = TokenPooling(pool_factor=factor, **options)
    return TokenPoints.from_documents([pooling.pool_one(points[row : row + 1].vectors) for row in range(len(points))])


def print_row(label: str, points: TokenPoints, values: np.ndarray, whole: np.ndarray, seconds: float) -> None:
    """Print a line of the table."""
    [(low, high)] = bootstrap_intervals(values - whole)
    kept = 2 * points.vectors.numel() / len(points)
    print(
        f"| {label} | {len(points.vectors) / len(points):.1f} | {kept:,.0f} | {values.mean():.4f} | "
        f"{values.mean() / whole.mean():.4f} | {low:+.4f} to {high:+.4f} | {seconds:.1f} |",
        flush=True,
    )


def encode(model: LateRetriever, texts: Sequence[str]) -> tuple[TokenPoints, float]:
    """Return the points of texts, and the seconds that encoding took."""
    start = time.perf_counter()
    return model.encode_documents(texts), time.perf_counter() - start


@torch.inference_mode()
def main() -> None:
    """Encode, pool, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL")
    parser.add_argument("--sets", nargs="+", required=True)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--factors", type=float, nargs="+", default=[1.5, 2, 3, 4, 5, 6, 8])
    parser.add_argument("--renormalise", action="store_true", help="scale means to norm 1")
    parser.add_argument("--pruning", nargs="*", default=[], choices=PRUNINGS)
    arguments = parser.parse_args()
    print(f"{describe_hardware()}\n")
    for entry in arguments.sets:
        collection = Collection(entry)
        for label in arguments.models:
            name, place = label.split("=", 1)
            model = load(place, device="cpu")
            if not isinstance(model, LateRetriever):
                raise SystemExit(f"{place} has one vector a text; give late-interaction models")
            if collection.length is not None:
                set_length(model, "document", collection.length)
            points, seconds = encode(model, collection.texts)
            whole = collection.measure(model, points)
            print(f"{entry}, {name}: {len(points):,} documents, {len(whole)} queries\n")
            print(
                "| kept | vectors a document | bytes | nDCG@10 | share | difference, 95 % | seconds |\n|" + "---|" * 7
            )
            print_row("all", points, whole, whole, seconds)
            for method in arguments.methods:
                for factor in arguments.factors:
                    start = time.perf_counter()
                    options = {**METHODS[method], "renormalise": arguments.renormalise}
                    fewer = pooled(points, factor, options)
                    seconds = time.perf_counter() - start
                    print_row(f"{method}, {factor:g}", fewer, collection.measure(model, fewer), whole, seconds)
            first = model.model[0]
            for pruning in arguments.pruning:
                for factor in arguments.factors:
                    model.model[0] = PruningTransformer.around(first, {**PRUNINGS[pruning], "keep_ratio": 1 / factor})
                    if not model.model[0].is_fitted:
                        model.model[0].fit_importance(collection.texts)
                    fewer, seconds = encode(model, collection.texts)
                    print_row(f"{pruning}, {factor:g}", fewer, collection.measure(model, fewer), whole, seconds)
            print(flush=True)


if __name__ == "__main__":
    main()
