"""The graph search of the Hypencoder paper: the original's loop, ours, and the exhaustive scan.

    python benchmarks/graph.py [--sizes 5000 50000] [--depths 1 2 6] [--queries 16] [--vectors FILE.npy] [--threads 2]

Vectors are those of a file, taken in a random order, or unit vectors around random centres of random sizes. Queries
are q-nets near linear ones: the inner product with a document that was moved half a unit at random, plus a random
q-net whose scores vary `--strength` times as much as the inner product does.

All systems use the same vectors, graph and entry points (by default one in five documents, at most
10,000). "reference" is the
original's loop, one query and one document at a time, as `_reference_graph.py` writes it; "greedy" is ours, all
queries in one call; "best_first" is our variant that may turn back. Systems run in turns; times are medians over
rounds, in milliseconds a query. Recall is of the exhaustive best 10 and 100.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from _hardware import describe_hardware, median_ratio, take_turns
from _reference_graph import ReferenceGraphSearch
from hyperseek.graph import GRAPH_PRESETS, GraphSearchConfig, NeighbourGraph, graph_search
from hyperseek.graph._search import draw_entry_points
from hyperseek.scoring import QNetScorer, Space, VectorPoints

K = 100
Results: TypeAlias = dict[str, tuple[Tensor, list[int]]]
"""Rows of the best, and how many documents each query scored, by system."""


def make_vectors(count: int, dimension: int, file: Path | None) -> Tensor:
    """Take vectors from a file, or draw clustered ones."""
    generator = torch.Generator().manual_seed(0)
    if file is not None:
        stored = np.load(file, mmap_mode="r")
        if len(stored) < count:
            raise SystemExit(f"{file} holds {len(stored)} vectors, fewer than {count}")
        rows = torch.randperm(len(stored), generator=generator)[:count].sort().values.numpy()
        return torch.from_numpy(np.asarray(stored[rows], dtype=np.float32))
    centres = torch.randn(max(1, count // 50), dimension, generator=generator)
    sizes = torch.rand(len(centres), generator=generator) ** 2
    chosen = centres[torch.multinomial(sizes, count, replacement=True, generator=generator)]
    return torch.nn.functional.normalize(chosen + torch.randn(count, dimension, generator=generator), dim=1)


def make_scorer(vectors: Tensor, queries: int, depth: int, strength: float) -> QNetScorer:
    """Draw q-nets near linear ones."""
    generator = torch.Generator().manual_seed(depth)
    dimension = vectors.shape[1]
    places = torch.randint(len(vectors), (queries,), generator=generator)
    moved = torch.randn(queries, dimension, generator=generator) / dimension**0.5 / 2
    base = torch.nn.functional.normalize(vectors[places] + moved, dim=1)
    sizes = [dimension] * (depth + 1) + [1]
    matrices = [torch.randn(queries, *shape, generator=generator) / shape[0] ** 0.5 for shape in pairwise(sizes)]
    biases = [torch.randn(queries, size, 1, generator=generator) / dimension**0.5 for size in sizes[1:-1]]
    space, kwargs = Space("dot", dimension), {"vector_dimensions": sizes}
    sample = vectors[:2000]
    bare = QNetScorer(space, matrices, biases, converter_kwargs=kwargs).score_own(sample.expand(queries, -1, -1))
    spread = (base @ sample.T).std(dim=1) / bare.std(dim=1)
    matrices[-1] *= strength * spread[:, None, None]
    return QNetScorer(space, matrices, biases, converter_kwargs=kwargs, base=base)


def recall(found: Tensor, truth: Tensor, k: int) -> float:
    """Return the share of the true best `k` that was found among the first `k`."""
    return float((found[:, :k, None] == truth[:, None, :k]).any(dim=1).float().mean())


def reference_run(
    searcher: ReferenceGraphSearch, scorer: QNetScorer, entries: list[str], config: GraphSearchConfig
) -> tuple[Tensor, list[int]]:
    """Search with the original's loop."""
    rows, scored = [], []
    with torch.no_grad():
        for query in range(len(scorer)):
            found, count, _ = searcher.search(
                scorer[query : query + 1].score_own,
                entry_points=entries,
                top_k=K,
                ncandidates=config.ncandidates,
                max_iter=config.max_iter,
                early_stop=config.early_stop,
            )
            rows.append([searcher.row_of[identity] for identity, _ in found])
            scored.append(count)
    return torch.tensor(rows), scored


def measure(vectors: Tensor, graph: NeighbourGraph, arguments: argparse.Namespace) -> None:
    """Print the lines of one size."""
    points = VectorPoints(vectors)
    ids = [str(row) for row in range(len(vectors))]
    lists = {ids[row]: [ids[other] for other in own if other >= 0] for row, own in enumerate(graph.neighbours.tolist())}
    searcher = ReferenceGraphSearch(vectors, ids, lists)
    entry_points = arguments.entry_points or min(10_000, len(vectors) // 5)
    config = GRAPH_PRESETS[arguments.preset].model_copy(update={"num_entry_points": entry_points})
    turning = config.model_copy(update={"strategy": "best_first"})
    entries = draw_entry_points(len(vectors), config)
    for depth in arguments.depths:
        scorer = make_scorer(vectors, arguments.queries, depth, arguments.strength)
        results: Results = {}

        def exhaustive(scorer: QNetScorer = scorer, results: Results = results) -> None:
            with torch.inference_mode():
                results["exhaustive"] = scorer.score(points).topk(K).indices, [len(vectors)]

        def reference(scorer: QNetScorer = scorer, results: Results = results) -> None:
            results["reference"] = reference_run(searcher, scorer, [ids[row] for row in entries], config)

        def ours(name: str, config: GraphSearchConfig, scorer: QNetScorer = scorer, results: Results = results) -> None:
            found = graph_search(scorer, points, graph, k=K, config=config, entry_points=entries)
            results[name] = found.rows, found.scored.tolist()

        systems = {
            "exhaustive": exhaustive,
            "reference": reference,
            "greedy": lambda: ours("greedy", config),
            "best_first": lambda: ours("best_first", turning),
        }
        seconds = take_turns(systems, arguments.repeats)
        truth = results["exhaustive"][0]
        for name, times in seconds.items():
            rows, scored = results[name]
            ratios = [f"{median_ratio(seconds[other], times):.1f}" for other in ("reference", "exhaustive")]
            print(
                f"| {len(vectors):,} | {depth} | {name} | {1000 * statistics.median(times) / len(scorer):.1f} | "
                f"{statistics.mean(scored):,.0f} | {recall(rows, truth, 10):.3f} | {recall(rows, truth, 100):.3f} | "
                f"{recall(rows, results['reference'][0], K):.4f} | {' | '.join(ratios)} |",
                flush=True,
            )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[5_000, 50_000])
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--depths", type=int, nargs="+", default=[1, 2, 6])
    parser.add_argument("--queries", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--strength", type=float, default=0.3)
    parser.add_argument("--preset", choices=sorted(GRAPH_PRESETS), default="efficient_1")
    parser.add_argument("--entry-points", type=int)
    parser.add_argument("--method", choices=["auto", "exact", "approximate"], default="auto")
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(describe_hardware())
    source = arguments.vectors or "clustered random unit vectors"
    print(f"\n{source}; {arguments.queries} queries, k = {K}, {arguments.preset}, {arguments.repeats} rounds")
    with tempfile.TemporaryDirectory() as folder:
        graphs = []
        for size in arguments.sizes:
            vectors = make_vectors(size, arguments.dimension, arguments.vectors)
            start = time.perf_counter()
            graph = NeighbourGraph.build(Path(folder, str(size)), vectors, method=arguments.method)
            took = time.perf_counter() - start
            print(f"graph of {size:,} vectors, {graph.info.method}: {took:.0f} s, {graph.nbytes / 1e6:.0f} MB")
            graphs.append((vectors, graph))
        print("\n| documents | depth | system | ms a query | scored | recall@10 | recall@100 ", end="")
        print("| as the reference | reference's time / its | exhaustive's / its |")
        print("|---|---|---|---|---|---|---|---|---|---|")
        for vectors, graph in graphs:
            measure(vectors, graph, arguments)


if __name__ == "__main__":
    main()
