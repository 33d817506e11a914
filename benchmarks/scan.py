"""The exhaustive q-net scan of an index, beside the matrix products it consists of.

    python benchmarks/scan.py [--documents 100000] [--dimension 384] [--depths 1 2 4 6] [--queries 2] [--repeats 7]

Documents are random unit vectors: scanning time does not depend on what they mean. Beside the scan, in turns with it:

* "products": the scan's matrix products and nothing else, on the same blocks, with preallocated outputs, each core
  taking whole blocks as the scan does;
* "split": the same products one after the other, each split over all cores by torch;
* "large": one product of all documents with a square matrix, torch's best shape.

"share" is the products' time divided by the scan's, "share of split" likewise: medians over the rounds. Memory is the
rise of the process's resident size during the first search, which also reads the index from the disk; another process
made the index, and a small one was searched before, so that libraries are loaded.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue

import torch

from _hardware import describe_hardware, median_ratio, peak_memory, take_turns
from hyperseek._machine import run_on_cores
from hyperseek.index import Index
from hyperseek.scoring import QNetScorer, Space, vectors_of
from hyperseek.scoring._qnet import _SCAN_ELEMENTS
from hyperseek.types import Document


def make_index(folder: Path, documents: int, dimension: int) -> None:
    """Store random unit vectors."""

    def pairs() -> Iterator[tuple[Document, torch.Tensor]]:
        generator = torch.Generator().manual_seed(0)
        for start in range(0, documents, 1024):
            vectors = torch.randn(min(1024, documents - start), dimension, generator=generator)
            for row, vector in enumerate(torch.nn.functional.normalize(vectors, dim=1), start):
                yield Document(str(row), ""), vector

    Index.from_vectors(folder, pairs(), Space("dot", dimension), total=documents)


def make_scorer(queries: int, dimension: int, depth: int) -> QNetScorer:
    """Draw random q-nets."""
    generator = torch.Generator().manual_seed(depth)
    sizes = [dimension] * (depth + 1) + [1]
    shapes = list(pairwise(sizes))
    matrices = [torch.randn(queries, *shape, generator=generator) / shape[0] ** 0.5 for shape in shapes]
    vectors = [torch.randn(queries, size, 1, generator=generator) for size in sizes[1:-1]]
    return QNetScorer(Space("dot", dimension), matrices, vectors, converter_kwargs={"vector_dimensions": sizes})


def products(scorer: QNetScorer, documents: torch.Tensor, *, split: bool) -> Callable[[], None]:
    """Return a function that runs the scan's matrix products and nothing else."""
    count, dimension = documents.shape
    block = max(1, _SCAN_ELEMENTS // dimension)
    scores = torch.empty(len(scorer), count)
    spare = SimpleQueue[list[torch.Tensor]]()
    for _ in range(torch.get_num_threads()):
        spare.put([torch.empty(block, dimension) for _ in range(2)])

    def work(starts: Iterator[int]) -> None:
        buffers = spare.get()
        for start in starts:
            part = documents[start : start + block]
            for query, row in enumerate(scores[:, start : start + block]):
                state = part
                for layer, matrix in enumerate(scorer.matrices[:-1]):
                    state = torch.mm(state, matrix[query], out=buffers[layer % 2][: len(part)])
                torch.mv(state, scorer.matrices[-1][query, :, 0], out=row)
        spare.put(buffers)

    def run() -> None:
        with torch.inference_mode():
            starts = iter(range(0, count, block))
            if split:
                work(starts)
            else:
                run_on_cores(lambda: work(starts), at_most=len(range(0, count, block)))

    return run


def measure_memory(index: Index, scorer: QNetScorer) -> str:
    """Search for the first time, which reads the index, and say how far the memory rose."""
    matrix = len(index) * index.space.dimension * 4
    with peak_memory() as risen:
        index.search(scorer, k=10, texts=False)
    return f"{risen() / 1e6:.1f} MB, {risen() / matrix:.3f} times the document matrix of {matrix / 1e6:.1f} MB"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--depths", type=int, nargs="+", default=[1, 2, 4, 6])
    parser.add_argument("--queries", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    count, dimension, queries = arguments.documents, arguments.dimension, arguments.queries
    print(describe_hardware())
    with tempfile.TemporaryDirectory() as folder:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            pool.starmap(
                make_index, [(Path(folder, "small"), 5000, dimension), (Path(folder, "index"), count, dimension)]
            )
        deepest = make_scorer(queries, dimension, max(arguments.depths))
        Index.open(Path(folder, "small")).search(deepest, k=10, texts=False)
        index = Index.open(Path(folder, "index"))
        memory = measure_memory(index, deepest)
        vectors = vectors_of(next(index.points(rows=count))[1])
        print(f"\n{count:,} random unit vectors of {dimension} dimensions, {queries} queries a scan, k = 10, float32;")
        print(f"median of {arguments.repeats} rounds; peak memory of the first search: {memory}\n")
        print_table(index, vectors, arguments)


def print_table(index: Index, vectors: torch.Tensor, arguments: argparse.Namespace) -> None:
    """Print one line a depth."""
    count, dimension = vectors.shape
    square, large = torch.randn(dimension, dimension), torch.empty(count, dimension)
    print("| depth | ms a query | documents/s | share | share of split | GFLOP/s: scan | products | split | large |")
    print("|---|---|---|---|---|---|---|---|---|")
    for depth in arguments.depths:
        scorer = make_scorer(arguments.queries, dimension, depth)
        systems: dict[str, Callable[[], object]] = {
            "scan": partial(index.search, scorer, k=10, texts=False),
            "products": products(scorer, vectors, split=False),
            "split": products(scorer, vectors, split=True),
            "large": partial(torch.mm, vectors, square, out=large),
        }
        seconds = take_turns(systems, arguments.repeats)
        scans = arguments.queries * count
        flops = dict.fromkeys(systems, 2 * scans * (depth * dimension**2 + dimension)) | {
            "large": 2 * count * dimension**2
        }
        rates = [f"{flops[name] / statistics.median(times) / 1e9:.0f}" for name, times in seconds.items()]
        scan = statistics.median(seconds["scan"])
        print(
            f"| {depth} | {1000 * scan / arguments.queries:.0f} | {scans / scan:,.0f} | "
            f"{median_ratio(seconds['products'], seconds['scan']):.3f} | "
            f"{median_ratio(seconds['split'], seconds['scan']):.3f} | {' | '.join(rates)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
