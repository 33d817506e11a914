"""What the order of results costs: an exhaustive search of an index beside a plain float32 top-k of the same scores.

    python benchmarks/order.py [--documents 100000] [--queries 1 32 64] [--kinds cosine] [--depths 10 100 1000]

Documents and queries are random vectors of about norm 1. What takes turns:

* "plain": the same float32 scores (products of stored vectors, distances by explicit differences), `topk` of each
  block of documents, and equal scores by row among those that it took; each core takes groups of 32 queries;
* "bare": the product of all queries with all documents and its `topk`, two calls of torch; cosines as products of unit
  vectors; not for distances;
* "scan": the scan of an index, which ranks by float64 scores and makes those equal that differ by rounding alone;
* "search": `Index.search(engine="exact")`, which also looks up ids and makes a `Hit` of each result.

The table shows medians; the ratios are medians of the rounds'. "bare / search" is the share of a search's time that
the bare product would take: above 1, the search is faster.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from _hardware import describe_hardware, median_ratio, take_turns
from hyperseek._machine import run_on_cores
from hyperseek.index import Index
from hyperseek.plan import EXACT
from hyperseek.plan._rounding import longest_norm, uneven_norms
from hyperseek.plan.exhaustive import whole_scan
from hyperseek.scoring import LinearScorer, Space, VectorPoints
from hyperseek.store.snapshot import CHUNK
from hyperseek.types import Document

KINDS = ("dot", "cosine", "euclidean")


def draw(count: int, dimension: int, seed: int) -> Tensor:
    """Draw unit vectors, and make them a tenth longer or shorter."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.nn.functional.normalize(torch.randn(count, dimension, generator=generator), dim=1)
    return vectors * (1 + 0.1 * torch.rand(count, 1, generator=generator))


def plain_top(kind: str, queries: Tensor, documents: Tensor, k: int) -> Callable[[], None]:
    """Return a function that finds the best `k` by float32 scores."""
    groups = torch.split(queries, 32)

    def top(group: Tensor) -> tuple[Tensor, Tensor]:
        best, rows = torch.empty(len(group), 0), torch.empty(len(group), 0, dtype=torch.int64)
        for start in range(0, len(documents), CHUNK):
            chunk = documents[start : start + CHUNK]
            if kind == "euclidean":
                scores = -torch.cdist(group, chunk, compute_mode="donot_use_mm_for_euclid_dist")
            else:
                scores = group @ chunk.T
            values, columns = scores.topk(min(k, len(chunk)), dim=1)
            best, rows = torch.cat([best, values], dim=1), torch.cat([rows, columns + start], dim=1)
            best, order = best.topk(min(k, best.shape[1]), dim=1)
            rows = rows.gather(1, order)
        by_row = rows.argsort(dim=1)
        best, rows = best.gather(1, by_row), rows.gather(1, by_row)
        best, order = best.sort(dim=1, descending=True, stable=True)
        return best, rows.gather(1, order)

    def work(pending: Iterator[Tensor]) -> None:
        for group in pending:
            top(group)

    def run() -> None:
        with torch.inference_mode():
            pending = iter(groups)
            run_on_cores(partial(work, pending), at_most=len(groups))

    return run


def bare_top(queries: Tensor, documents: Tensor, k: int) -> None:
    """Multiply and choose."""
    with torch.inference_mode():
        (queries @ documents.T).topk(min(k, len(documents)), dim=1)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--queries", type=int, nargs="+", default=[1, 32, 64])
    parser.add_argument("--depths", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--processor-time", action="store_true", help="of all threads, for machines with other work")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    count, dimension = arguments.documents, arguments.dimension
    clock = "processor time" if arguments.processor_time else "wall time"
    print(describe_hardware())
    print(f"\n{count:,} vectors of {dimension} dimensions, ms of {clock} for all queries,")
    print(f"median of {arguments.repeats} rounds\n")
    print("| space | queries | k | plain | bare | scan | search | scan / plain | search / plain | bare / search |")
    print("|" + "---|" * 10)
    vectors = draw(count, dimension, 0)
    documents = [Document(str(row), "") for row in range(count)]
    for kind in arguments.kinds:
        space = Space(kind, dimension)
        stored = space.canonical(vectors)
        with tempfile.TemporaryDirectory() as folder:
            index = Index.from_vectors(Path(folder, "index"), zip(documents, stored, strict=True), space, total=count)
            for queries in arguments.queries:
                scorer = LinearScorer(space, space.canonical(draw(queries, dimension, 1)))
                for k in arguments.depths:
                    print_line(index, scorer, stored, k, arguments)


def print_line(index: Index, scorer: LinearScorer, stored: Tensor, k: int, arguments: argparse.Namespace) -> None:
    """Measure one number of queries and documents."""
    kind, points = index.space.kind, VectorPoints(stored)
    measured = {"longest": longest_norm(index.space, stored), "uneven": uneven_norms(index.space, stored)}
    bare = {"bare": partial(bare_top, scorer.queries, stored, k)} if index.space.plain_product else {}
    seconds = take_turns(
        {
            "plain": plain_top(kind, scorer.queries, stored, k),
            **bare,
            "scan": partial(whole_scan, scorer, points, k=k, chunk_rows=CHUNK, **measured),
            "search": partial(index.search, scorer, k=k, engine=EXACT, texts=False),
        },
        arguments.repeats,
        clock=time.process_time if arguments.processor_time else time.perf_counter,
    )
    times = " | ".join(
        f"{1000 * statistics.median(seconds[name]):.1f}" if name in seconds else "-"
        for name in ("plain", "bare", "scan", "search")
    )
    compared = [("scan", "plain"), ("search", "plain"), ("bare", "search")]
    ratios = " | ".join(f"{median_ratio(seconds[a], seconds[b]):.2f}" if a in seconds else "-" for a, b in compared)
    print(f"| {kind} | {len(scorer)} | {k:,} | {times} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
