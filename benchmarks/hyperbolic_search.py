"""Hyperbolic search: which engines find the nearest points of a hyperbolic space, and how fast.

    python benchmarks/hyperbolic_search.py --output FOLDER [--dimensions 5 10 50] [--trees wordnet 6-ary random]
        [--defaults-only]

Trees of 82,115 nodes (the nouns of WordNet below their first hypernym, a complete 6-ary tree, a random recursive tree)
are embedded by `_trees.py` in the Lorentz model. Queries near the nodes are nodes moved by tangent steps of up to 0.5;
queries far from them lie in random directions, a third among the nodes' radii and a third up to 2 beyond all nodes, and
the last third midway between two random nodes. Truth is an exhaustive search in float64, with another formula than the
library's and on points that were never rounded.

"default" is what `build_engine("auto")` builds, searched as `Index.search` does where nothing is said. "HNSW both" has
two charts, as any HNSW of such a space: the candidates of both, united, and a second look at the Poincaré chart around
the centre of the ball that holds the best so far; "once" leaves out the second look. All candidates are rescored
exactly, and recall is that of the result; recall@100 is of a search for 100. Times are milliseconds a query: of all
queries in one call of `Index.search`, of the bare engine calls within it, and the median of queries searched alone.
Memory is the engine's files, which are mapped; seconds are those of building it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import torch

import _trees
from _hardware import describe_hardware
from hyperseek._files import write_json
from hyperseek.engines import ChartRecord, FlatConfig, HnswConfig, IvfConfig, StructureConfig, VectorStructure
from hyperseek.index import Index
from hyperseek.plan import Engine, Exhaustive, OpenIndex, Plan, Rescore
from hyperseek.scoring import LinearScorer, Space
from hyperseek.store.attachments import Attached

Row: TypeAlias = dict[str, str | int | float]

RADII = {5: 11.8, 10: 10.7, 50: 5.0}
"""Of the farthest node, by dimension, in units of the curvature radius."""

TREES: dict[str, Callable[[int], _trees.Tree]] = {
    "wordnet": lambda size: _trees.wordnet(),
    "6-ary": lambda size: _trees.balanced_tree(6, size),
    "random": lambda size: _trees.random_tree(size),
}
BUILDS: dict[str, tuple[StructureConfig | Literal["auto"], list[str] | None]] = {
    "default": ("auto", None),
    "HNSW inner product": (HnswConfig(), ["inner_product"]),
    "HNSW Poincaré": (HnswConfig(), ["poincare"]),
    "HNSW balanced": (HnswConfig(), ["balanced"]),
    "HNSW both": (HnswConfig(), ["poincare", "balanced"]),
    "IVF": (IvfConfig(), ["inner_product"]),
    "flat": (FlatConfig(), ["inner_product"]),
}
WIDE, NARROW = [(64, 30), (128, 30), (128, 100), (256, 30), (256, 100), (256, 200)], [(256, 100)]
# Name, the engine, whether it may look twice, and its settings: effort and candidates of a chart.
SYSTEMS = [
    ("HNSW inner product", "HNSW inner product", True, NARROW),
    ("HNSW balanced", "HNSW balanced", True, NARROW),
    ("HNSW Poincaré, once", "HNSW Poincaré", False, NARROW),
    ("HNSW Poincaré", "HNSW Poincaré", True, NARROW),
    ("HNSW both, once", "HNSW both", False, [(128, 100), (256, 100), (256, 200)]),
    ("HNSW both", "HNSW both", True, WIDE),
    ("IVF", "IVF", True, [(8, 100), (32, 100)]),
    ("flat", "flat", True, [(1, 30), (1, 100)]),
]
_ALONE = 40  # queries that are searched alone


EXHAUSTIVE = Plan(stages=(Exhaustive(),))


@dataclass(frozen=True)
class Case:
    """An index, queries, and the rows of their true best documents."""

    index: Index
    rows: dict[str, int]
    scorer: LinearScorer
    truth: np.ndarray
    context: Row

    @cached_property
    def tenth(self) -> torch.Tensor:
        """Score of each query's tenth best document."""
        return torch.tensor([hits[-1].score for hits in self.search(EXHAUSTIVE, 10)])

    def search(self, plan: Plan | str, k: int, scorer: LinearScorer | None = None) -> list[Any]:
        """Return the hits of all queries, or of some, by a plan or by what an index does with an engine of a name."""
        way: dict[str, Any] = {"engine": plan} if isinstance(plan, str) else {"plan": plan}
        return self.index.search(scorer or self.scorer, k=k, texts=False, **way)

    def recall(self, found: list[Any], k: int) -> float:
        """Return the share of the true nearest `k` that is among the first `k` found."""
        sets = [{self.rows[hit.id] for hit in hits[:k]} for hits in found]
        return float(
            np.mean([len(own & set(true[:k])) / k for own, true in zip(sets, self.truth.tolist(), strict=True)])
        )


class OneLook(OpenIndex):
    """An index whose engines are never asked a second time."""

    def attached(self, name: str | None = None, kind: str | None = None) -> Attached:
        """Return the attachment without what its charts need for a second look."""
        found = super().attached(name, kind)
        structure = cast("VectorStructure", found.structure)
        engines = [(replace(chart, lift_within=None), engine) for chart, engine in structure.engines]
        return replace(found, structure=type(structure)(structure.config, engines))


@contextmanager
def looking(index: Index, twice: bool) -> Iterator[None]:
    state = index._state
    if not twice:
        version = state.opened
        once = OneLook(version.folder, version.snapshot, version.compile, version.recompile)
        index._state = replace(state, opened=once)
    try:
        yield
    finally:
        index._state = state


def plain(name: str) -> str:
    return name.lower().replace(" ", "-").replace("é", "e")


def prepare(
    tree: _trees.Tree, dimension: int, path: Path, builds: list[str]
) -> tuple[Index, _trees.Array, dict[str, float]]:
    """Embed and index a tree, and build engines; return the seconds that took, too."""
    start = time.perf_counter()
    points = _trees.embed(tree.parents, dimension, RADII.get(dimension, 8.0))
    seconds = time.perf_counter() - start
    radii = np.arccosh(points[:, 0])
    print(
        f"\n### {tree.name}, {dimension} dimensions\n\n{len(points):,} nodes embedded in {seconds:.0f} s: radii up to "
        f"{radii.max():.1f}, median {np.median(radii):.1f}; MAP of parents and children among all nodes "
        f"{_trees.average_precision(points, tree.parents):.3f}\n",
        flush=True,
    )
    pairs = zip(tree.documents, points, strict=True)
    index = Index.from_vectors(path, pairs, Space("lorentz", dimension), overwrite=True)
    times = {}
    for name in builds:
        config, charts = BUILDS[name]
        records = None if charts is None else [ChartRecord(name=chart) for chart in charts]
        start = time.perf_counter()
        index.build_engine(config, name=plain(name), charts=records)
        times[name] = time.perf_counter() - start
    return index, points, times


def milliseconds(run: Callable[[], object], *, repeats: int = 3) -> float:
    """Return the median time of some runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


def measure(case: Case, plan: Plan | str, bare: Callable[[], object] | None = None) -> Row:
    """Measure recall and times of a plan, or of an engine's name."""
    scorer, count = case.scorer, len(case.scorer)
    found = case.search(plan, 10)
    values: Row = {f"recall@{k}": case.recall(found, k) for k in (1, 10)}
    values["recall@100"] = case.recall(case.search(plan, 100), 100)
    values["ms together"] = milliseconds(lambda: case.search(plan, 10)) / count
    values["ms engines"] = milliseconds(bare) / count if bare else float("nan")
    alone = [scorer[place : place + 1] for place in range(0, count, max(1, count // _ALONE))]
    times = [milliseconds(lambda: case.search(plan, 10, one), repeats=1) for one in alone]  # noqa: B023
    return {**values, "ms alone": float(np.median(times))}


def engine_calls(case: Case, attached: Attached, n: int, effort: int) -> Callable[[], object]:
    """Return the calls of engines that a search makes, with their queries lifted already."""
    structure = attached.structure
    assert isinstance(structure, VectorStructure)
    looks = [(engine, case.scorer.lift(chart)) for chart, engine in structure.engines]
    looks += [(engine, case.scorer.lift_within(chart, case.tenth)) for chart, engine in structure.engines]
    calls = [(engine, queries) for engine, queries in looks if queries is not None]
    return lambda: [engine.search(queries, k=n, effort=effort) for engine, queries in calls]


def mebibytes(case: Case, built: str) -> float:
    """Return the size of an engine's files."""
    folder = case.index.path / case.index._opened.attached(plain(built)).record.folder
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20


def compare(case: Case, seconds: dict[str, float]) -> list[Row]:
    """Run all systems whose engines were built."""
    exhaustive = {"system": "exhaustive, float32", "effort": 0, "n": 0, **measure(case, EXHAUSTIVE)}
    results = [show({**case.context, **exhaustive, "build s": 0.0, "MiB": 0.0})]
    default = {"system": "default", "effort": 0, "n": 0, **measure(case, "default")}
    results.append(show({**case.context, **default, "build s": seconds["default"], "MiB": mebibytes(case, "default")}))
    for system, built, twice, settings in SYSTEMS:
        if built not in seconds:
            continue
        with looking(case.index, twice):
            attached = case.index._opened.attached(plain(built))
            for effort, n in settings:
                plan = Engine(n=n, name=plain(built), effort=effort) >> Rescore()
                values = measure(case, plan, engine_calls(case, attached, n, effort))
                row = {**case.context, "system": system, "effort": effort, "n": n, **values}
                results.append(show({**row, "build s": seconds[built], "MiB": mebibytes(case, built)}))
    return results


def show(row: Row) -> Row:
    cells = [f"{value:.4f}" if "recall" in name else _short(value) for name, value in row.items()]
    print("| " + " | ".join(cells[2:]) + " |", flush=True)
    return row


def _short(value: str | float) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


HEADER = ["queries", "system", "effort", "n", "recall@1", "recall@10", "recall@100"]
HEADER += ["ms together", "ms engines", "ms alone", "build s", "MiB"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dimensions", type=int, nargs="*", default=list(RADII))
    parser.add_argument("--trees", nargs="*", choices=list(TREES), default=list(TREES))
    parser.add_argument("--size", type=int, default=82_115, help="nodes of the synthetic trees")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--defaults-only", action="store_true", help="leave out the systems that are not the default")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(describe_hardware(), flush=True)
    results: list[Row] = []
    for name in arguments.trees:
        tree = TREES[name](arguments.size)
        for dimension in arguments.dimensions:
            builds = ["default"] if arguments.defaults_only else list(BUILDS)
            index, points, seconds = prepare(tree, dimension, arguments.output / f"{name}-{dimension}", builds)
            print("| " + " | ".join(HEADER) + " |\n" + "|---" * len(HEADER) + "|", flush=True)
            rows = {identity: row for row, identity in enumerate(index.ids)}
            for kind, make in (("near", _trees.queries_near), ("far", _trees.queries_far)):
                queries = make(points, arguments.queries)
                truth = np.argsort(_trees.half_chords(queries, points), axis=1)[:, :100]
                scorer = LinearScorer(index.space, index.space.canonical(torch.from_numpy(queries)).float())
                context: Row = {"tree": tree.name, "dimension": dimension, "queries": kind}
                results += compare(Case(index, rows, scorer, truth, context), seconds)
                write_json(arguments.output / "results.json", results)


if __name__ == "__main__":
    main()
