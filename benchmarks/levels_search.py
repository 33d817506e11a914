"""Search from broad to narrow: recall and time of a neighbourhood at a broad level that level M decides within.

    python benchmarks/levels_search.py --output FOLDER [--dimension 64] [--levels 4] [--queries 200] [--through 1]
        [--candidates 300 3000] [--engines ivf hnsw] [--threads 1] [--points FILE.npz]

82,115 nodes of a tree (the nouns of WordNet below their first hypernym; a random recursive tree where there is no
WordNet) get a point per level. The direction of a node at level m is that of the sum of random vectors of the root, of
its ancestors and itself, those below the root multiplied by m / M, and of noise that is drawn anew at each level: at
level 1 the noise hides what level M can tell apart. Points of deep nodes lie farther out within the band of their
level. A query is a node whose vectors are given noise once more. How many candidates of level 1 hold the best of level
M depends on the model, and here on that noise; the time of a plan does not. A file of points has the tangents of a
model instead, `documents` and `queries`, `(N, M d)` and `(Q, M d)`.

The truth is `Index.search` at level M, with every document scored. Times are milliseconds of the processor a query, so
that other programs matter less: medians of searches of one query at a time, and of all queries together. Recall is that
of the result, and of the first stage.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import _trees
from _hardware import describe_hardware
from hyperseek._files import write_json
from hyperseek.index import Index
from hyperseek.plan import Plan, broad_to_narrow
from hyperseek.scoring import LevelScorer, Space
from hyperseek.types import Document

_ALONE = 60  # queries that are searched alone


def tangents(tree: _trees.Tree, dimension: int, levels: int, *, noise: float, seed: int = 0) -> torch.Tensor:
    """Return `(N, levels * dimension)` tangents of all nodes.

    Args:
        tree: The tree.
        dimension: Of each level.
        levels: M.
        noise: Norm of the noise that is added to a direction.
        seed: Of the vectors of nodes and of the noise.
    """
    generator = np.random.default_rng(seed)
    own = generator.standard_normal((len(tree.parents), dimension)).astype(np.float32) / np.sqrt(dimension)
    depth = depths(tree.parents)
    order = np.argsort(depth, kind="stable")
    parts = []
    for level in range(1, levels + 1):
        keep = level / levels  # of a node's own vector beside that of its parent
        sums = np.zeros_like(own)
        for node in order:
            parent = tree.parents[node]
            sums[node] = own[node] if parent < 0 else sums[parent] + keep * own[node]
        sums /= np.linalg.norm(sums, axis=1, keepdims=True)
        sums += noise * generator.standard_normal(sums.shape).astype(np.float32) / np.sqrt(dimension)
        radius = level * (0.75 + 0.5 * depth / depth.max())  # within the band of the level
        parts.append(sums / np.linalg.norm(sums, axis=1, keepdims=True) * radius[:, None])
    return torch.from_numpy(np.concatenate(parts, axis=1).astype(np.float32))


def depths(parents: _trees.Parents) -> np.ndarray:
    """Return the number of edges between each node and its root."""
    depth = np.full(len(parents), -1)
    depth[parents < 0] = 0
    while (depth < 0).any():
        below = (depth < 0) & (depth[parents] >= 0)
        depth[below] = depth[parents[below]] + 1
    return depth


def queries_of(points: torch.Tensor, levels: int, *, count: int, noise: float, seed: int = 1) -> torch.Tensor:
    """Return the tangents of some nodes with noise of this norm added to the direction of each level."""
    generator = torch.Generator().manual_seed(seed)
    chosen = points[torch.randperm(len(points), generator=generator)[:count]].view(count, levels, -1)
    norms = chosen.norm(dim=2, keepdim=True)
    moved = chosen / norms + noise * torch.randn(chosen.shape, generator=generator) / chosen.shape[2] ** 0.5
    return (moved / moved.norm(dim=2, keepdim=True) * norms).flatten(1)


def measure(index: Index, queries: LevelScorer, plan: Plan, truth: list[set[str]]) -> dict[str, Any]:
    """Return recall@10 and milliseconds of a plan."""
    index.search(queries[:2], k=10, plan=plan)
    told = index.explain(queries, k=10, plan=plan, recall=True)
    found = [{hit.id for hit in hits} for hits in told.hits]
    start = time.process_time()
    index.search(queries, k=10, plan=plan, texts=False)
    together = (time.process_time() - start) / len(queries)
    alone = []
    for query in range(min(_ALONE, len(queries))):
        start = time.process_time()
        index.search(queries[query : query + 1], k=10, plan=plan, texts=False)
        alone.append(time.process_time() - start)
    return {
        "recall@10": sum(len(a & b) for a, b in zip(found, truth, strict=True)) / sum(map(len, truth)),
        "recall of the first stage": told.stages[0].recall,
        "ms alone": 1000 * statistics.median(alone),
        "ms together": 1000 * together,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the index, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="where the index and the results go")
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--levels", type=int, default=4)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--noise", type=float, default=0.2, help="of points; that of queries is half as much again")
    parser.add_argument("--candidates", type=int, nargs="+", default=[300, 3000], help="of the broad level")
    parser.add_argument("--through", type=int, default=1, help="the broad level")
    parser.add_argument("--points", type=Path, help="documents and queries of a model")
    parser.add_argument("--engines", nargs="*", default=["ivf", "hnsw"], choices=["ivf", "hnsw"])
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    print(describe_hardware())
    space = Space("levels", given.dimension, levels=given.levels)
    if given.points is None:
        tree = _trees.wordnet() if (_trees.DATA / "wordnet-nouns").is_dir() else _trees.random_tree(82_115)
        named, title = tree.documents, tree.name
        points = tangents(tree, given.dimension, given.levels, noise=given.noise)
        asked = queries_of(points, given.levels, count=given.queries, noise=1.5 * given.noise)
    else:
        arrays, title = np.load(given.points), given.points.stem
        points, asked = (torch.from_numpy(arrays[name]) for name in ("documents", "queries"))
        asked = asked[torch.randperm(len(asked), generator=torch.Generator().manual_seed(0))[: given.queries]]
        named = [Document(f"d{row}", f"document {row}") for row in range(len(points))]
    index = Index.from_vectors(given.output / "levels.index", zip(named, points, strict=True), space, overwrite=True)
    queries = LevelScorer(space, space.canonical(asked))
    truth = [{hit.id for hit in hits} for hits in index.search(queries, k=10, engine="exact", texts=False)]
    plans: dict[str, Plan] = {f"full search at level {given.levels}": Plan.from_mapping({"stages": ["exhaustive"]})}
    for n in given.candidates:
        plans[f"{n} candidates, scan"] = broad_to_narrow(n, through=[given.through], engine="exhaustive")
    for kind in given.engines:
        start = time.process_time()
        name = index.build_engine(kind, level=given.through).name
        print(f"{kind} of level {given.through}: built in {time.process_time() - start:.0f} s of processor time")
        for n, effort in itertools.product(given.candidates, (8, 32, 64) if kind == "ivf" else (None,)):
            title_of = f"{n} candidates, {kind}" + (f", effort {effort}" if effort else "")
            plans[title_of] = broad_to_narrow(n, through=[given.through], engine=name, effort=effort)
    rows = {name: measure(index, queries, plan, truth) for name, plan in plans.items()}
    full = next(iter(rows.values()))
    print(f"\n{title}, {len(index):,} documents, {given.levels} levels of {given.dimension} numbers")
    print("| plan | recall@10 | of the first stage | ms alone | ms together | of the full search's time |")
    print("|---|---|---|---|---|---|")
    for name, row in rows.items():
        row["share of time alone"] = row["ms alone"] / full["ms alone"]
        row["share of time together"] = row["ms together"] / full["ms together"]
        print(
            f"| {name} | {row['recall@10']:.4f} | {row['recall of the first stage']:.4f} | {row['ms alone']:.1f} | "
            f"{row['ms together']:.1f} | {row['share of time alone']:.2f} alone, {row['share of time together']:.2f} |"
        )
    write_json(given.output / "levels_search.json", {"hardware": describe_hardware(), "rows": rows})


if __name__ == "__main__":
    main()
