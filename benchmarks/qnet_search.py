"""Q-net search beyond the exhaustive scan: surrogates, the paper's graph and full text, by size and depth.

    python benchmarks/qnet_search.py --indexes DIR --models DIR --queries FILE --output FOLDER [--sizes 5000 50000]

DIR of indexes holds MiniLM indexes (`hyperseek encode minilm ...`), whose documents are joined and shuffled; DIR of
models holds trained heads named `warm-0`, `warm-1`, ... as `benchmarks/depths.py` leaves them. Where the real documents
end, copies of them follow, text and all, whose vectors are moved: a third to two thirds of the way towards one of the
document's 10 nearest neighbours, plus noise of norm 0.2, then scaled to norm 1. So copies lie where documents lie, at
about the distance of near neighbours, and not on top of their originals.

Results of other sizes that the output folder holds are kept and drawn, too. All systems search the same index with the
same compiled queries. Times are medians of single queries, in milliseconds; "together" is the mean when all queries are
searched in one call. Recall is of the exhaustive best 10 and 100.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from torch import Tensor

from _hardware import describe_hardware
from hyperseek._files import write_json
from hyperseek.data import read_queries
from hyperseek.index import Index
from hyperseek.models import load
from hyperseek.plan import Candidates, Exhaustive, FullText, Graph, OpenIndex, Plan, Rescore, Search, Surrogate
from hyperseek.scoring import QNetScorer, Scorer, Space, vectors_of
from hyperseek.types import Document

Row: TypeAlias = dict[str, str | int | float]

QUERIES = {5_000: 60, 50_000: 40, 200_000: 20, 1_000_000: 8}


def gather(folder: Path) -> tuple[list[Document], Tensor]:
    """Join the documents and vectors of all indexes of a folder, shuffled."""
    documents, vectors = [], []
    for path in sorted(folder.iterdir()):
        index = Index.open(path)
        documents += [Document(f"{path.name}/{d.id}", d.text, d.title) for d in index.documents()]
        vectors += [vectors_of(points) for _, points in index.points()]
    order = torch.randperm(len(documents), generator=torch.Generator().manual_seed(0))
    return [documents[place] for place in order.tolist()], torch.cat(vectors)[order]


def grown(documents: list[Document], vectors: Tensor, size: int) -> Iterator[tuple[Document, np.ndarray]]:
    """Yield the real documents, and then moved copies until there are `size`."""
    generator = torch.Generator().manual_seed(1)
    neighbours = torch.cat([(part @ vectors.T).topk(11, dim=1).indices[:, 1:] for part in torch.split(vectors, 1024)])
    count = 0
    for round_ in range(-(-size // len(documents))):
        moved = vectors
        if round_:
            towards = neighbours[torch.arange(len(vectors)), torch.randint(10, (len(vectors),), generator=generator)]
            share = 1 / 3 + torch.rand(len(vectors), 1, generator=generator) / 3
            noise = torch.randn(vectors.shape, generator=generator) * 0.2 / vectors.shape[1] ** 0.5
            moved = torch.nn.functional.normalize(vectors + share * (vectors[towards] - vectors) + noise, dim=1)
        for document, vector in zip(documents, moved.numpy(), strict=True):
            if count == size:
                return
            yield Document(f"{round_}/{document.id}", document.text, document.title), vector
            count += 1


def reference(scorer: QNetScorer, vectors: Tensor, k: int) -> tuple[Tensor, float]:
    """Search as the original does: one query at a time, chunks of 100,000 documents, each chunk's best to the host."""
    rows, start = [], time.perf_counter()
    for query in range(len(scorer)):
        own, scores, places = scorer[query : query + 1], [], []
        for first in range(0, len(vectors), 100_000):
            found = own.score_own(vectors[None, first : first + 100_000])[0].topk(min(k, len(vectors) - first))
            scores.append(found.values)
            places.append(found.indices + first)
        best = torch.cat(scores).topk(k).indices
        rows.append(torch.cat(places)[best])
    return torch.stack(rows), 1000 * (time.perf_counter() - start) / len(scorer)


def plans(opened: OpenIndex, depth: int) -> dict[str, Plan]:
    """Name what is compared."""
    kinds = [item.name for item in opened.attachments.items]
    named = {"exhaustive": Plan(stages=(Exhaustive(),))}
    for engine in ("exhaustive", *(name for name in kinds if name in ("hnsw", "ivf"))):
        label = "flat" if engine == "exhaustive" else engine
        for n, refits in ((300, 0), (1000, 0), (1000, 1)):
            effort = None if engine == "exhaustive" else {"hnsw": n, "ivf": 64}[engine]
            source = Surrogate(n=n, engine=engine, effort=effort, refits=refits, refit_n=300)
            named[f"surrogate {label} {n}{' refit' * refits}"] = source >> Rescore()
    if "graph" in kinds and depth:
        named["graph efficient 1"] = Plan(stages=(Graph(preset="efficient_1"),))
        named["graph efficient 2"] = Plan(stages=(Graph(preset="efficient_2"),))
    named["BM25 1000"] = FullText(n=1000) >> Rescore()
    return named


def recall(found: Candidates, truth: Candidates, k: int) -> float:
    """Return the share of the true best `k` that was found among the first `k`."""
    return float((found.rows[:, :k, None] == truth.rows[:, None, :k]).any(dim=1).float().mean())


def single(plan: Plan, search: Search) -> float:
    """Return the median milliseconds of a query searched alone; of three queries where each takes long."""
    times: list[float] = []
    for query in range(len(search.scorer)):
        if len(times) >= 3 and sum(times) > 5:
            break
        assert search.texts is not None
        alone = Search(search.index, search.scorer[query : query + 1], search.texts[query : query + 1], None, search.k)
        start = time.perf_counter()
        plan.run(alone)
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


def measure(index: Index, scorer: Scorer, texts: list[str], depth: int, vectors: Tensor | None) -> list[Row]:
    """Run every plan and compare it with the exhaustive one."""
    opened = index._opened
    search = Search(opened, scorer, texts, None, 100)
    rows: list[Row] = []
    truth, exhaustive = None, 0.0
    for name, plan in plans(opened, depth).items():
        plan.run(Search(opened, scorer[:1], texts[:1], None, 100))  # what is made once is not a query's cost
        start = time.perf_counter()
        found = plan.run(search)
        together = 1000 * (time.perf_counter() - start) / len(texts)
        truth = truth or found
        alone = single(plan, search)
        exhaustive = exhaustive or alone
        values: Row = {"depth": depth, "system": name, "recall@10": recall(found, truth, 10)}
        values |= {"recall@100": recall(found, truth, 100), "ms alone": alone, "ms together": together}
        rows.append({**values, "share": alone / exhaustive})
        show(rows[-1])
    if vectors is not None and isinstance(scorer, QNetScorer):
        found_rows, alone = reference(scorer[:4], vectors, 100)
        assert truth is not None
        four = Candidates(truth.rows[:4], truth.scores[:4])
        same = recall(Candidates(found_rows, torch.zeros(found_rows.shape)), four, 10)
        values = {"depth": depth, "system": "the original's loop", "recall@10": same, "recall@100": float("nan")}
        rows.append({**values, "ms alone": alone, "ms together": alone, "share": alone / exhaustive})
        show(rows[-1])
    return rows


def show(row: Row) -> None:
    cells = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()]
    print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--indexes", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="*", default=[5_000, 50_000, 200_000])
    parser.add_argument("--depths", type=int, nargs="*", default=[0, 1, 2, 4, 6])
    parser.add_argument("--engines", nargs="*", default=["hnsw"])
    parser.add_argument("--graph", type=int, default=50_000, help="build the neighbour graph up to this size")
    parser.add_argument("--reference", type=int, default=50_000, help="run the original's loop up to this size")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    print(describe_hardware(), flush=True)
    documents, vectors = gather(arguments.indexes)
    print(f"{len(documents):,} real documents")
    texts = [query.text for query in read_queries(arguments.queries)]
    earlier = json.loads(file.read_text()) if (file := arguments.output / "results.json").is_file() else []
    results = [row for row in earlier if row["documents"] not in arguments.sizes]
    for size in arguments.sizes:
        start = time.perf_counter()
        path = arguments.output / f"index-{size}"
        Index.from_vectors(path, grown(documents, vectors, size), Space("dot", vectors.shape[1]), total=size)
        index = Index.open(path)
        print(f"\n{size:,} documents, stored and full-text indexed in {time.perf_counter() - start:.0f} s")
        for engine in arguments.engines:
            start = time.perf_counter()
            index.build_engine(engine)
            print(f"{engine}: built in {time.perf_counter() - start:.0f} s", flush=True)
        if size <= arguments.graph:
            start = time.perf_counter()
            index.build_graph()
            print(f"graph: built in {time.perf_counter() - start:.0f} s", flush=True)
        chosen = texts[:: max(1, len(texts) // QUERIES.get(size, 20))][: QUERIES.get(size, 20)]
        print(f"{len(chosen)} queries\n\n| depth | system | recall@10 | recall@100 | ms alone | ms together | share |")
        print("|---|---|---|---|---|---|---|", flush=True)
        for depth in arguments.depths:
            with torch.inference_mode():
                scorer = load(arguments.models / f"warm-{depth}", device="cpu").compile(chosen)
            index._opened.snapshot.load()
            whole = (
                torch.cat([vectors_of(points) for _, points in index.points()]) if size <= arguments.reference else None
            )
            rows = measure(index, scorer, chosen, depth, whole)
            results += [{"documents": size, **row} for row in rows]
            write_json(file, results)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        matrix = size * vectors.shape[1] * 4 / 2**30
        print(f"\npeak memory of the process so far: {peak:.2f} GiB; the vectors alone: {matrix:.2f}")
    plot(arguments.output)


STYLES = {
    "the original's loop": ("tab:red", "v", "the original's loop"),
    "exhaustive": ("black", "o", "exhaustive"),
    "graph efficient 1": ("tab:brown", "s", "paper's graph, efficient 1"),
    "BM25 1000": ("tab:gray", "^", "BM25, 1000 candidates"),
    "surrogate flat 1000": ("tab:orange", "D", "surrogate, flat, 1000"),
    "surrogate hnsw 1000": ("tab:blue", "P", "surrogate, HNSW, 1000"),
    "surrogate hnsw 300": ("tab:cyan", "X", "surrogate, HNSW, 300"),
}


def plot(folder: Path) -> None:
    """Draw how the cost of a query grows with the number of documents."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    results = sorted(json.loads((folder / "results.json").read_text()), key=lambda row: row["documents"])
    depths = sorted({row["depth"] for row in results})
    figure, axes = plt.subplots(1, len(depths), figsize=(2.6 * len(depths), 3.4), sharey=True, squeeze=False)
    for axis, depth in zip(axes[0], depths, strict=True):
        for system, (colour, marker, label) in STYLES.items():
            own = [row for row in results if row["depth"] == depth and row["system"] == system]
            places, times = [row["documents"] for row in own], [row["ms alone"] for row in own]
            axis.plot(places, times, color=colour, marker=marker, markersize=4, linewidth=1.2, label=label)
        axis.set(xscale="log", yscale="log", title=f"depth {depth}", xlabel="documents")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("ms a query")
    figure.legend(*axes[0][-1].get_legend_handles_labels(), loc="lower center", ncols=4, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.13, 1, 1))
    figure.savefig(folder / "growth.png", dpi=110)


if __name__ == "__main__":
    main()
