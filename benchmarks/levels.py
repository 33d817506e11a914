"""Models with levels beside flat twins, on a frozen MiniLM: ancestors in hierarchies, and plain ranking.

    python benchmarks/levels.py TASK ... --indexes FOLDER --output FOLDER [--systems ...] [--dimensions ...]
        [--collections FOLDER]

FOLDER of indexes holds one MiniLM index per collection (`hyperseek encode minilm ...`); that of `--collections` holds
what `hyperseek prepare hierarchy` wrote, for the taxonomies. All systems of a task see the same queries, documents and
draws, for as many steps; negatives are drawn from all documents, and the temperature is learned. Its start, the rate,
and the pair of levels (of queries and of documents) that is reported, are chosen on queries that are not reported: the
dev split of MedQuAD for ranking, a tenth of the training queries for hierarchies, those of a tenth of the categories
for ICD-10. `R@A` is the recall of ancestors, by hops, at as many documents as a query has ancestors. What was done is
not done again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from torch import Tensor, nn

from _frozen import EDGES, TASKS, WIDTH, Judged, Task, best_documents, descend, gather, mean, own_document
from _hardware import describe_hardware
from _trees import DATA
from hyperseek._ancestors import Hierarchy, hop_range
from hyperseek._files import write_json
from hyperseek.data import read_hierarchy
from hyperseek.evaluation import calculate, paired_test
from hyperseek.models import LevelsHead
from hyperseek.nn.levels import build_levels
from hyperseek.scoring import LinearScorer, Points, Scorer, Space, VectorPoints
from hyperseek.training import LossesConfig, ScoredBatch
from hyperseek.training.losses import NO_DOCUMENT, Objective
from hyperseek.types import NO_OPTIONS, Run

BATCH, EXTRA, STEPS = 64, 1024, 600
RATES = {"linear": (3e-3, 1e-2), "mlp": (5e-4,), "hrm": (5e-4,)}
ALL_TASKS = TASKS | {
    "products": {"names": ["google-product-taxonomy"], "report": {"google-product-taxonomy": "test"}, "tune": None},
    "pydocs": {"names": ["pydocs"], "report": {"pydocs": "test"}, "tune": None},
    "arxiv": {"names": ["arxiv-taxonomy"], "report": {"arxiv-taxonomy": "test"}, "tune": None},
}


@dataclass(frozen=True)
class System:
    """What is compared.

    Attributes:
        network: What makes vectors: `linear`, `mlp` or `hrm`.
        levels: How many; 0 for a flat twin.
        compares: Space of a flat twin.
        radius: Radii of points.
        crossed: Whether queries of the last level are trained to find documents of every level.
        balanced: Whether ranges of hops are drawn alike, not ancestors.
        curved: Whether the curvature is trained.
        start: First tangent norm of level 1, of points with free or learned radii.
    """

    network: str
    levels: int = 0
    compares: str = "cosine"
    radius: str = "schedule"
    crossed: bool = False
    balanced: bool = False
    curved: bool = False
    start: float = 2.0

    @property
    def temperature(self) -> float:
        """The first one, where others are not asked for."""
        return 0.5 if self.levels else 0.1


SYSTEMS = {
    **{
        f"{kind}, {network}": System(network, compares=kind)
        for network in ("linear", "mlp")
        for kind in ("dot", "cosine", "euclidean")
    },
    "one level, linear": System("linear", 1, radius="norm"),
    "one level, mlp": System("mlp", 1, radius="norm"),
    "one level, hrm": System("hrm", 1, radius="norm"),
    "one level, mlp, schedule": System("mlp", 1),
    "one level, mlp, radius head": System("mlp", 1, radius="head"),
    "one level, mlp, balanced": System("mlp", 1, radius="norm", balanced=True),
    "one level, linear, radius head": System("linear", 1, radius="head"),
    "one level, linear, head and curvature": System("linear", 1, radius="head", curved=True),
    "one level, mlp, head and curvature": System("mlp", 1, radius="head", curved=True),
    "levels, linear": System("linear", 4, radius="norm"),
    "levels, mlp": System("mlp", 4, radius="norm"),
    "levels, hrm": System("hrm", 4, radius="norm"),
    "levels, mlp, crossed": System("mlp", 4, radius="norm", crossed=True),
    "levels, mlp, crossed, balanced": System("mlp", 4, radius="norm", crossed=True, balanced=True),
    "levels, mlp, crossed, schedule": System("mlp", 4, crossed=True),
    "levels, mlp, crossed, radius head": System("mlp", 4, radius="head", crossed=True),
}


class Flat(nn.Module):
    """A flat twin: the network of one level, whose vectors are compared in a flat space."""

    def __init__(self, kind: str, network: str, dimension: int, seed: int) -> None:
        super().__init__()
        self.network = build_levels(
            network, WIDTH, WIDTH, dimension, levels=1, n_cycles=1, hidden_mult=1, start="trunk", seed=seed
        )  # type: ignore[arg-type]
        self.space = Space(kind, dimension)

    def forward(self, features: dict[str, Tensor], task: str) -> dict[str, Tensor]:
        """Return the vectors of a trunk's vectors."""
        vectors = nn.functional.normalize(features["sentence_embedding"], dim=-1)
        scale = (WIDTH / min(WIDTH, self.space.dimension)) ** 0.5  # what an orthogonal map to fewer numbers loses
        return {"sentence_embedding": self.network(vectors * WIDTH**0.5)[:, 0] * scale / WIDTH**0.5}

    def points(self, rows: Tensor) -> Points:
        """Return the points of vectors."""
        return VectorPoints(self.space.canonical(rows))

    def scorer(self, rows: Tensor) -> Scorer:
        """Return queries at vectors."""
        return LinearScorer(self.space, self.space.canonical(rows))


def make(system: System, dimension: int, temperature: float, seed: int) -> tuple[nn.Module, Objective]:
    """Return a new head and its losses."""
    if system.levels > 1:
        asked = "documents_coarser" if system.crossed else "same"
        loss: dict[str, Any] = {"coarse_to_fine": {"levels": asked, "apart": 0.5 if system.crossed else 0.0}}
    else:
        loss = {"contrastive": {}}
    next(iter(loss.values())).update(temperature=temperature, learned_temperature=True)
    objective = Objective(LossesConfig.from_mapping(loss, source="the benchmark"))
    if not system.levels:
        return Flat(system.compares, system.network, dimension, seed), objective
    options: dict[str, Any] = {"n_cycles": 1, "hrm_hidden_mult": 1} if system.network != "linear" else {}
    scales = [system.start * (1 + level / 4) for level in range(system.levels)]
    head = LevelsHead(
        WIDTH,
        d_hrm=WIDTH,
        dimension=dimension,
        num_segments=system.levels,
        s_scales=scales,
        radius=system.radius,
        trainable_curvature=system.curved,
        refinement=system.network,
        seed=seed,
        **options,
    )
    return head, objective


def weights_of_positives(task: Task, hops: Tensor | None, balanced: bool) -> Tensor:
    """Return the `(Q, P)` weights by which positives are drawn."""
    weights = (task.positives >= 0).float()
    if not balanced or hops is None:
        return weights
    ranges = [hop_range(hop) for hop in range(1, int(hops.max()) + 1)]
    groups = torch.tensor([0, *(sorted(set(ranges), key=ranges.index).index(name) for name in ranges)])[hops]
    groups = groups.masked_fill(task.positives < 0, -1)
    same = (groups[:, :, None] == groups[:, None, :]).sum(2).clamp_min(1)
    return weights / same


def hops_of(task: Task, judged: Judged, hierarchy: Hierarchy) -> Tensor:
    """Return the `(Q, P)` edges between queries and their ancestors; 1 for a query that is no node's own text."""
    hops = torch.ones_like(task.positives)
    for row, (own, positives) in enumerate(zip(task.own.tolist(), task.positives.tolist(), strict=True)):
        if own < 0:
            # An inclusion term stands one hop below the most specific of its nodes.
            names = [judged.documents[place] for place in positives if place >= 0]
            above = {name: len(hierarchy.ancestors(name)) for name in names}
            deepest = max(above.values())
            own_hops = {name: 1 + deepest - depth for name, depth in above.items()}
        else:
            own_hops = hierarchy.ancestors(judged.documents[own])
        for column, place in enumerate(positives):
            if place >= 0:
                hops[row, column] = own_hops.get(judged.documents[place], 1)
    return hops


def batches(task: Task, weights: Tensor, hops: Tensor | None, seed: int) -> Iterator[tuple[Tensor, ScoredBatch]]:
    """Yield rows of queries, and a batch without scorer and points."""
    generator = torch.Generator().manual_seed(seed)
    spared = torch.cat([task.positives, task.own[:, None]], dim=1)
    farthest = None if hops is None else hops.masked_fill(task.positives < 0, 0).argmax(1)
    while True:
        for rows in torch.split(torch.randperm(len(task.queries), generator=generator), BATCH):
            drawn = torch.multinomial(weights[rows], 1, generator=generator)[:, 0]
            fine = task.positives[rows, drawn]
            coarse = fine if farthest is None else task.positives[rows, farthest[rows]]
            others = torch.randint(len(task.documents), (EXTRA,), generator=generator)
            documents, places = torch.unique(torch.cat([fine, coarse, others]), return_inverse=True)
            here = torch.zeros(len(task.documents) + 1, dtype=torch.bool).index_fill_(0, documents, True)  # -1 is last
            known = spared[rows].where(here[spared[rows]], torch.tensor(NO_DOCUMENT)).sort(descending=True).values
            items = places[: len(rows), None]
            yield (
                rows,
                ScoredBatch(
                    scorer=None,
                    points=None,
                    documents=documents,
                    items=items,  # type: ignore[arg-type]
                    known=known[:, : max(1, int((known >= 0).sum(1).max()))],
                    labels=torch.full(items.shape, torch.nan),
                    coarse=places[len(rows) : 2 * len(rows)],
                ),
            )


def run(head: nn.Module, vectors: Tensor, side: str) -> Tensor:
    """Return what the head makes of a trunk's vectors."""
    rows: Tensor = head({"sentence_embedding": vectors}, task=side)["sentence_embedding"]
    return rows


def compiled(head: nn.Module, vectors: Tensor) -> Scorer:
    """Return the scorer of queries."""
    rows = run(head, vectors, "query")
    return head.scorer(rows, NO_OPTIONS) if isinstance(head, LevelsHead) else head.scorer(rows)  # type: ignore[operator,no-any-return]


def train(
    head: nn.Module,
    objective: Objective,
    task: Task,
    weights: Tensor,
    hops: Tensor | None,
    rate: float,
    seed: int,
    steps: int,
) -> None:
    """Train the head and the temperature; the rate rises in 50 steps and falls to zero."""

    def scored() -> Iterator[ScoredBatch]:
        for rows, batch in batches(task, weights, hops, seed):
            batch.scorer = compiled(head, task.queries[rows])
            batch.points = head.points(run(head, task.documents[batch.documents], "document"))  # type: ignore[operator]
            yield batch

    descend(head, objective, scored(), rate=rate, steps=steps, rising=50)


@torch.inference_mode()
def measure(
    head: nn.Module, task: Task, judged: Judged, pairs: Sequence[tuple[int, int]], hierarchy: Hierarchy | None
) -> dict[str, Any]:
    """Return nDCG@10 of every query, `R@A` by hops, and `same_branch`, for each pair of levels."""
    chunks = torch.split(task.documents[judged.start : judged.start + len(judged.documents)], 8192)
    points = head.points(torch.cat([run(head, chunk, "document") for chunk in chunks]))  # type: ignore[operator]
    found: dict[str, Any] = {}
    for level, document_level in pairs:
        ranking: Run = {}
        recalled: dict[str, list[float]] = {}
        shared: list[list[bool]] = []
        for start in range(0, len(judged.ids), 64):
            names = judged.ids[start : start + 64]
            scorer = compiled(head, judged.vectors[start : start + 64])
            if isinstance(head, LevelsHead):
                scorer = scorer.at(level=level, document_level=document_level)  # type: ignore[attr-defined]
            scores = scorer.score(points)
            ranking |= best_documents(scores, names, judged.documents)
            if hierarchy is not None:
                for name, own in zip(names, scores, strict=True):
                    note_recall(recalled, own, name, judged, hierarchy)
                    if own_document(name) in hierarchy.parents:
                        continue
                    first = judged.documents[int(own.argmax())]
                    target = max(judged.qrels[name], key=judged.qrels[name].__getitem__)
                    shared.append(same_branch(first, target, hierarchy))
        values = dict(calculate(ranking, judged.qrels, "nDCG@10")["nDCG@10"])
        found[f"{level}-{document_level}"] = {
            "queries": values,
            "recall": {name: float(np.mean(hits)) for name, hits in sorted(recalled.items())},
            "same branch": [float(np.mean(hits)) for hits in zip(*shared, strict=False)],
        }
    return found


def same_branch(found: str, target: str, hierarchy: Hierarchy) -> list[bool]:
    """Return whether two nodes have the same root, the same node below it, ..., down to the target itself.

    Branches of different depths end in whether they are the same node.
    """
    own, other = ([*reversed(hierarchy.path(node)), node] for node in (found, target))
    return [own[:depth] == other[:depth] for depth in (1, 2, 3)] + [found == target]


def note_recall(
    recalled: dict[str, list[float]], scores: Tensor, name: str, judged: Judged, hierarchy: Hierarchy
) -> None:
    """Append whether each ancestor is among the first of as many documents as there are ancestors."""
    own = own_document(name)
    ancestors = hierarchy.ancestors(own)
    if not ancestors:
        return
    first = [judged.documents[row] for row in scores.topk(min(len(ancestors) + 1, len(scores))).indices.tolist()]
    kept = set([document for document in first if document != own][: len(ancestors)])
    for ancestor, hop in ancestors.items():
        recalled.setdefault(hop_range(hop), []).append(float(ancestor in kept))


def table(results: dict[str, Any], dimensions: Sequence[int]) -> None:
    """Print nDCG@10 by system and dimension, and the difference to the best flat twin with p of a paired test."""
    flat = [name for name in results if not SYSTEMS[name].levels]
    first = next(iter(next(iter(results.values()))["runs"].values()))
    for judged in first:
        print(f"\n{judged}\n\n| | {' | '.join(map(str, dimensions))} |\n{'|---' * (len(dimensions) + 1)}|")
        columns: dict[tuple[str, int], Any] = {}
        for (name, entry), dimension in itertools.product(results.items(), dimensions):
            runs = [run[judged] for key, run in entry["runs"].items() if key.startswith(f"{dimension}/")]
            if runs:
                columns[name, dimension] = np.mean([list(own["queries"].values()) for own in runs], axis=0), runs
        for name in results:
            cells = []
            for dimension in dimensions:
                if (name, dimension) not in columns:
                    cells.append("")
                    continue
                own, runs = columns[name, dimension]
                cell = f"{own.mean():.4f}"
                rivals = [columns[other, dimension][0] for other in flat if (other, dimension) in columns]
                if name not in flat and rivals:
                    best = max(rivals, key=np.mean)
                    cell += f" ({own.mean() - best.mean():+.3f}, p {paired_test('permutation', own - best)[0]:.3f})"
                if runs[0]["recall"]:
                    cell += "; " + " ".join(
                        f"{np.mean([own['recall'][hop] for own in runs]):.2f}" for hop in runs[0]["recall"]
                    )
                cells.append(cell)
            print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", choices=list(ALL_TASKS))
    parser.add_argument("--indexes", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--collections", type=Path, default=DATA)
    parser.add_argument("--systems", nargs="*", choices=list(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--dimensions", type=int, nargs="*", default=[32])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--rates", type=float, nargs="*", help="to choose from, in place of those of each network")
    parser.add_argument("--temperatures", type=float, nargs="*", help="to choose the first one from")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    print(describe_hardware(), flush=True)
    for title in arguments.tasks:
        names = ALL_TASKS[title]["names"]
        places = [str(next(arguments.collections.glob(f"{name}/{name}"), DATA / name)) for name in names]
        task = gather(
            places,
            ALL_TASKS[title]["report"],
            arguments.indexes,
            arguments.output / "queries",
            ALL_TASKS[title]["tune"],
        )
        edges = Path(places[0]) / EDGES
        hierarchy = read_hierarchy(edges) if edges.exists() else None
        hops = None if hierarchy is None else hops_of(task, task.report[0], hierarchy)
        path = arguments.output / f"{title}.json"
        results = json.loads(path.read_text()) if path.is_file() else {}
        for name, dimension, seed in itertools.product(arguments.systems, arguments.dimensions, arguments.seeds):
            system = SYSTEMS[name]
            entry = results.setdefault(name, {"runs": {}, "chosen": {}})
            if (key := f"{dimension}/{seed}") in entry["runs"]:
                continue
            pairs = [(level, other) for level in range(1, system.levels + 1) for other in range(1, system.levels + 1)]
            pairs = [pair for pair in pairs if pair[0] == pair[1] or (system.crossed and pair[0] == system.levels)]
            weights = weights_of_positives(task, hops, system.balanced)
            best: tuple[float, Any, tuple[int, int]] = (-1.0, None, (1, 1))
            start = time.perf_counter()
            for rate, temperature in itertools.product(
                arguments.rates or RATES[system.network], arguments.temperatures or [system.temperature]
            ):
                head, objective = make(system, dimension, temperature, seed)
                train(head, objective, task, weights, hops, rate, seed, arguments.steps)
                found = [measure(head, task, judged, pairs or [(1, 1)], None) for judged in task.tune]
                for pair in pairs or [(1, 1)]:
                    value = float(np.mean([mean(one["{}-{}".format(*pair)]["queries"]) for one in found]))
                    if value > best[0]:
                        best, chosen = (value, head, pair), {"rate": rate, "temperature": temperature}
            value, head, pair = best
            reported = {
                judged.name: measure(head, task, judged, [pair], hierarchy)["{}-{}".format(*pair)]
                for judged in task.report
            }
            entry["runs"][key] = reported
            entry["chosen"][key] = {**chosen, "pair": pair, "tune": value, "seconds": time.perf_counter() - start}
            write_json(path, results)
            shown = {
                judged: (round(mean(own["queries"]), 4), {hop: round(share, 3) for hop, share in own["recall"].items()})
                for judged, own in reported.items()
            }
            print(f"{title}: {name}: {key}: {entry['chosen'][key]} {shown}", flush=True)
        table({name: results[name] for name in SYSTEMS if name in results}, arguments.dimensions)


if __name__ == "__main__":
    main()
