"""Late-interaction models beside their dense twins, on test collections.

    python benchmarks/late_heads.py NAME=MODEL ... --sets COLLECTION:SPLIT[@LENGTH] ... --twin LATE=DENSE ... \
        --results FOLDER [--trained COLLECTION:SPLIT]

Every model encodes every document itself, at most LENGTH tokens of each, and all documents are scored. The values of
each query are kept in FOLDER, so that what was measured before is not measured again. Prints nDCG@10, and the
difference of each twin's pair with its 95 % interval and p (paired bootstrap and permutation test, 10,000 draws);
`--trained` splits a collection's queries by whether their relevant documents were relevant in training.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from _hardware import describe_hardware
from _trees import DATA
from hyperseek._files import read_json, write_json
from hyperseek.data import open_dataset
from hyperseek.evaluation import bootstrap_intervals, calculate, paired_test, slice_by_training
from hyperseek.models import Retriever, load
from hyperseek.models.loading import set_length
from hyperseek.plan import scan
from hyperseek.types import Qrels

_DOCUMENTS_AT_ONCE = 1024


@torch.inference_mode()
def measure(model: Retriever, entry: str) -> dict[str, float]:
    """Return nDCG@10 of every judged query of a set, by its id."""
    place, _, length = entry.partition("@")
    name, _, split = place.partition(":")
    data = open_dataset(DATA / name)
    qrels = data.qrels(split)
    queries = [query for query in data.queries(split) if query.id in qrels]
    documents = list(data.documents())
    if length:
        set_length(model, "document", int(length))
    texts = [document.full_text for document in documents]
    parts = range(0, len(texts), _DOCUMENTS_AT_ONCE)
    points = [model.encode_documents(texts[start : start + _DOCUMENTS_AT_ONCE]) for start in parts]
    run = {}
    for start in range(0, len(queries), 32):
        asked = queries[start : start + 32]
        scores, rows = scan(model.compile([query.text for query in asked]), points, k=10)
        for query, best, places in zip(asked, scores.tolist(), rows.tolist(), strict=True):
            run[query.id] = {documents[row].id: score for row, score in zip(places, best, strict=True)}
    return dict(calculate(run, {query.id: qrels[query.id] for query in queries}, "nDCG@10")["nDCG@10"])


def row(label: str, values: Mapping[str, Mapping[str, float]], twins: list[list[str]], ids: list[str]) -> str:
    """Return a line of the table over some queries."""
    own = {name: np.array([found[query] for query in ids]) for name, found in values.items()}
    cells = [f"{array.mean():.4f}" for array in own.values()]
    for late, dense in twins:
        difference = own[late] - own[dense]
        [(low, high)] = bootstrap_intervals(difference)
        p = paired_test("permutation", difference)[0]
        cells.append(f"{difference.mean():+.4f} ({low:+.3f} to {high:+.3f}, p {p:.3f})")
    return f"| {label} | {len(ids)} | {' | '.join(cells)} |"


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL")
    parser.add_argument("--sets", nargs="+", required=True)
    parser.add_argument("--twin", action="append", default=[])
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--trained", default="")
    arguments = parser.parse_args()
    places = dict(entry.split("=", 1) for entry in arguments.models)
    twins = [entry.split("=", 1) for entry in arguments.twin]
    print(f"{describe_hardware()}\n", flush=True)
    heads = ["set", "queries", *places, *(f"{late} - {dense}" for late, dense in twins)]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    for entry in arguments.sets:
        values: dict[str, dict[str, float]] = {}
        for name, place in places.items():
            file = arguments.results / name / f"{entry.replace(':', '-').replace('@', '-')}.json"
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                start = time.perf_counter()
                found = measure(load(place, device="cpu"), entry)
                write_json(file, {"values": found, "seconds": round(time.perf_counter() - start, 1)})
            values[name] = read_json(file)["values"]
        print(row(entry, values, twins, sorted(next(iter(values.values())))), flush=True)
        collection, _, split = arguments.trained.partition(":")
        if entry.startswith(f"{collection}:"):
            data = open_dataset(DATA / collection)
            trained: Qrels = data.qrels(split)
            known = {document for judged in trained.values() for document, grade in judged.items() if grade > 0}
            slices = slice_by_training(data.qrels(entry.partition("@")[0].partition(":")[2]), known)
            for label, ids in (("seen", slices.all), ("unseen", slices.none)):
                print(row(f"… {label} in training", values, twins, list(ids)), flush=True)


if __name__ == "__main__":
    main()
