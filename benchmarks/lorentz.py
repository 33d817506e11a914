"""Lorentz heads beside flat twins of as many parameters, on a frozen MiniLM: ranking and hierarchies, by dimension.

    python benchmarks/lorentz.py --indexes FOLDER --output FOLDER [--tasks ...] [--dimensions ...] [--projection mlp]

FOLDER of indexes holds one MiniLM index a collection (`hyperseek encode minilm ...`). All systems of a task see the
same queries, documents and draws, for as many steps; negatives come from all documents, and temperature is learned.
Learning rate, first temperature and first radius of each system are chosen one after the other at 32 dimensions, on
queries that are not reported: MedQuAD's dev split for ranking, a tenth of the training queries for hierarchies. Each
result is nDCG@10 of every query, averaged over seeds; a query's own document is left out. What is done is not done
again.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from _frozen import TASKS, WIDTH, Judged, Task, best_documents, descend, gather, mean
from _hardware import describe_hardware
from hyperseek._files import write_json
from hyperseek.evaluation import calculate, paired_test
from hyperseek.models import LorentzHead
from hyperseek.training import ContrastiveConfig, EntailmentConfig, LossesConfig, RadiusConfig, ScoredBatch
from hyperseek.training.losses import NO_DOCUMENT, Objective
from hyperseek.types import Run

SYSTEMS: dict[str, dict[str, Any]] = {
    "cosine": {"distance": "cosine"},
    "dot": {"distance": "dot"},
    "euclidean": {"distance": "euclidean"},
    "geodesic": {"distance": "geodesic"},
    "lorentz inner": {"distance": "lorentz_inner"},
    "geodesic, trained curvature": {"distance": "geodesic", "trainable_curvature": True},
    "geodesic, radius head": {"distance": "geodesic", "radius": "head"},
    "geodesic, head and curvature": {"distance": "geodesic", "trainable_curvature": True, "radius": "head"},
    "geodesic, cones and radii": {"distance": "geodesic", "hierarchy": True},
    "geodesic, all of these": {
        "distance": "geodesic",
        "trainable_curvature": True,
        "radius": "head",
        "hierarchy": True,
    },
}
FLAT = ("cosine", "dot", "euclidean")
NOTED = {
    "norm": "mean norm of the space part",
    "spearman": "Spearman of norm and depth",
    "radius_squared": "R²",
}
HIERARCHICAL = tuple(system for system, options in SYSTEMS.items() if options.get("hierarchy"))
RATES = {"linear": (3e-3, 1e-2, 3e-2), "mlp": (1e-3, 3e-3, 1e-2)}
GRID = {"temperature": (0.02, 0.05, 0.2, 0.5), "radius": (0.5, 1.0, 2.0)}
FIRST = {"temperature": 0.1, "radius": 1.0}
# At a clip of 10 many vectors of WordNet, flat ones too, would end at the clip and lose what their norm says.
ROOM = {"norm_clip": 20.0, "radius_squared_min": 0.25}


def make(system: str, dimension: int, choice: dict[str, Any], seed: int) -> tuple[LorentzHead, Objective]:
    """Return a new head and its losses."""
    options, radius, temperature = dict(SYSTEMS[system]), choice["radius"], choice["temperature"]
    losses: dict[str, Any] = {"contrastive": ContrastiveConfig(temperature=temperature, learned_temperature=True)}
    if options.pop("hierarchy", False):
        losses |= {"entailment": EntailmentConfig(weight=0.1), "radius": RadiusConfig(weight=0.1)}
    # An orthogonal projection keeps d / 384 of a unit vector's square.
    scale = radius * (WIDTH / min(dimension, WIDTH)) ** 0.5
    options |= {"norm_scale": scale, "radius_start": radius, "projection": choice["projection"], **ROOM}
    head = LorentzHead(WIDTH, dimension=dimension, seed=seed, **options)
    return head, Objective(LossesConfig(**losses))


def batches(task: Task, size: int, extra: int, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield rows of queries, of the batch's documents, positions of positives among these, and known positives."""
    generator = torch.Generator().manual_seed(seed)
    counts = (task.positives >= 0).sum(1)
    spared = torch.cat([task.positives, task.own[:, None]], dim=1)
    while True:
        for rows in torch.split(torch.randperm(len(task.queries), generator=generator), size):
            drawn = (torch.rand(len(rows), generator=generator) * counts[rows]).long()
            own = task.positives[rows, drawn]
            others = torch.randint(len(task.documents), (extra,), generator=generator)
            documents, places = torch.unique(torch.cat([own, others]), return_inverse=True)
            here = torch.zeros(len(task.documents) + 1, dtype=torch.bool).index_fill_(0, documents, True)  # -1 is last
            known = spared[rows].where(here[spared[rows]], torch.tensor(-1)).sort(descending=True).values
            yield rows, documents, places[: len(rows), None], known[:, : int((known >= 0).sum(1).max())]


def train(head: LorentzHead, objective: Objective, task: Task, *, steps: int, rate: float, seed: int) -> None:
    """Train the head and the temperature; the rate falls to zero."""
    assert NO_DOCUMENT == -1  # as in the task's positives
    scored = (
        ScoredBatch(
            scorer=head.scorer(run(head, task.queries[rows], "query")),
            points=head.points(run(head, task.documents[documents], "document")),
            documents=documents,
            items=items,
            known=known,
            labels=torch.full(items.shape, torch.nan),
        )
        for rows, documents, items, known in batches(task, 64, 1024, seed)
    )
    descend(head, objective, scored, rate=rate, steps=steps)


def run(head: LorentzHead, vectors: Tensor, side: str) -> Tensor:
    """Return what the head makes of a trunk's vectors."""
    rows: Tensor = head({"sentence_embedding": vectors}, task=side)["sentence_embedding"]
    return rows


@torch.inference_mode()
def measure(head: LorentzHead, documents: Tensor, judged: Judged) -> dict[str, float]:
    """Return nDCG@10 of every query, by exhaustive search."""
    # Inner products of these vectors rank as the distances do; in float64 nothing is lost at these radii.
    return search(documents, run(head, judged.vectors, "query"), judged, head.distance)


def search(documents: Tensor, queries: Tensor, judged: Judged, distance: str) -> dict[str, float]:
    """Return nDCG@10 of every query."""
    vectors = documents[judged.start : judged.start + len(judged.documents)].double()
    queries = queries.double()
    if distance == "cosine":
        vectors, queries = (torch.nn.functional.normalize(part) for part in (vectors, queries))
    shift = vectors.square().sum(1) / 2 if distance == "euclidean" else 0
    found: Run = {}
    for part, names in zip(torch.split(queries, 128), _batched(judged.ids, 128), strict=True):
        found |= best_documents(part @ vectors.T - shift, names, judged.documents)
    return dict(calculate(found, judged.qrels, "nDCG@10")["nDCG@10"])


def _batched(names: list[str], size: int) -> list[list[str]]:
    return [names[start : start + size] for start in range(0, len(names), size)]


def outcome(task: Task, system: str, dimension: int, choice: dict[str, Any], *, steps: int, seed: int) -> LorentzHead:
    """Train one head with given settings."""
    head, objective = make(system, dimension, choice, seed)
    train(head, objective, task, steps=steps, rate=choice["rate"], seed=seed)
    return head


def tune(task: Task, system: str, projection: str, steps: int) -> dict[str, Any]:
    """Choose a system's settings at 32 dimensions, one after the other."""

    @functools.cache
    def value(**choice: Any) -> float:
        head = outcome(task, system, 32, choice, steps=steps, seed=100)
        with torch.inference_mode():
            documents = run(head, task.documents, "document")
        return sum(mean(measure(head, documents, judged)) for judged in task.tune) / len(task.tune)

    rates = RATES[projection]
    best: dict[str, Any] = {"projection": projection, "rate": rates[1], **FIRST}
    for name, values in {"rate": rates, **GRID}.items():
        best = max(({**best, name: value} for value in values), key=lambda choice: value(**choice))
    return {**best, "value": value(**best)}


def report(task: Task, head: LorentzHead, seconds: float) -> dict[str, Any]:
    """Measure a trained head on everything that is reported."""
    with torch.inference_mode():
        documents = run(head, task.documents, "document")
        values: dict[str, Any] = {judged.name: measure(head, documents, judged) for judged in task.report}
        vectors = documents[:, 1:] if head.curved else documents
        norms = torch.linalg.vector_norm(vectors, dim=1)
    found = {"seconds": seconds, "norm": float(norms.mean()), "parameters": sum(p.numel() for p in head.parameters())}
    if head.curved:
        found["radius_squared"] = head.space.radius_squared
    if task.depths is not None:
        found["spearman"] = float(spearmanr(norms, task.depths).statistic)
    return {"queries": values, **found}


def table(path: Path) -> None:
    """Print nDCG@10 by dimension, averaged over seeds, and paired tests against the best flat twin there."""
    results = json.loads(path.read_text())
    flat = [system for system in results if system in FLAT]
    first = next(iter(results[flat[0]]["runs"].values()))
    dimensions = sorted({int(key.split("/")[0]) for entry in results.values() for key in entry["runs"]})
    for judged, queries in first["queries"].items():
        print(f"\n{path.stem}: {judged}, {len(queries)} queries\n\n| | {' | '.join(map(str, dimensions))} |")
        print("|---" * (len(dimensions) + 1) + "|")
        columns = {
            (system, dimension): np.mean(
                [
                    [run["queries"][judged][query] for query in queries]
                    for key, run in entry["runs"].items()
                    if key.startswith(f"{dimension}/")
                ],
                axis=0,
            )
            for system, entry in results.items()
            for dimension in dimensions
            if any(key.startswith(f"{dimension}/") for key in entry["runs"])
        }
        for system in results:
            cells = []
            for dimension in dimensions:
                if (system, dimension) not in columns:
                    cells.append("")
                    continue
                own = columns[system, dimension]
                best = max((columns[other, dimension] for other in flat if (other, dimension) in columns), key=np.mean)
                p = paired_test("permutation", own - best)[0] if system not in flat else 1.0
                cells.append(f"{own.mean():.4f}" + (f" ({own.mean() - best.mean():+.3f}, p {p:.3f})" if p < 1 else ""))
            print(f"| {system} | {' | '.join(cells)} |")
    for key, label in NOTED.items():
        noted = {
            system: [
                [run[key] for name, run in entry["runs"].items() if name.startswith(f"{dimension}/") and key in run]
                for dimension in dimensions
            ]
            for system, entry in results.items()
        }
        noted = {system: cells for system, cells in noted.items() if any(cells)}
        if not noted:
            continue
        print(f"\n| {label} | {' | '.join(map(str, dimensions))} |")
        print("|---" * (len(dimensions) + 1) + "|")
        for system, means in noted.items():
            print(f"| {system} | {' | '.join(f'{np.mean(mean):.2f}' if mean else '' for mean in means)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--indexes", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tasks", nargs="*", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--systems", nargs="*", choices=list(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--dimensions", type=int, nargs="*", default=[8, 32, 128, 384])
    parser.add_argument("--projection", choices=list(RATES), default="linear")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=600)
    arguments = parser.parse_args()
    print(describe_hardware(), flush=True)
    for name in arguments.tasks:
        task = gather(**TASKS[name], indexes=arguments.indexes, cache=arguments.output / "queries")
        path = arguments.output / f"{name}{'' if arguments.projection == 'linear' else '-mlp'}.json"
        results = json.loads(path.read_text()) if path.is_file() else {}
        for judged in task.report:
            frozen = mean(search(task.documents, judged.vectors, judged, "cosine"))
            print(f"{name}: frozen MiniLM, 384 dimensions: {judged.name}: {frozen:.4f}", flush=True)
        for system in arguments.systems:
            if system in HIERARCHICAL and task.depths is None:
                continue
            if system not in results:
                choice = tune(task, system, arguments.projection, arguments.steps // 2)
                results[system] = {"choice": choice, "runs": {}}
            entry = results[system]
            write_json(path, results)
            print(f"{name}: {system}: {entry['choice']}", flush=True)
            for dimension, seed in itertools.product(arguments.dimensions, arguments.seeds):
                if (key := f"{dimension}/{seed}") in entry["runs"]:
                    continue
                start = time.perf_counter()
                head = outcome(task, system, dimension, entry["choice"], steps=arguments.steps, seed=seed)
                entry["runs"][key] = found = report(task, head, time.perf_counter() - start)
                write_json(path, results)
                values = {judged: round(mean(values), 4) for judged, values in found["queries"].items()}
                print(f"{name}: {system}: {key}: {values} {found['seconds']:.0f} s", flush=True)
        if any(system in FLAT for system in results):
            table(path)


if __name__ == "__main__":
    main()
