"""Graph engines on hyperbolic points, against sorting everything."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from hyperseek.engines import ChartRecord, HnswConfig
from hyperseek.index import Index
from hyperseek.plan import Engine, Exhaustive, Plan, Rescore
from hyperseek.scoring import LinearScorer, Space
from hyperseek.types import Document

SPACE = Space("lorentz", 3)


def hyperboloid(count: int, *, nearest: float, farthest: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    direction = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=1)
    rho = nearest + (farthest - nearest) * torch.rand(count, 1, generator=generator, dtype=torch.float64)
    return torch.cat([rho.cosh(), rho.sinh() * direction], dim=1)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    points = hyperboloid(1500, nearest=0, farthest=8, seed=0)
    documents = [Document(f"d{place}", "") for place in range(len(points))]
    index = Index.from_vectors(
        tmp_path_factory.mktemp("hyperbolic") / "index", zip(documents, points, strict=True), SPACE
    )
    config = HnswConfig(m=16, ef_construction=100)
    index.build_engine(config, name="ball", charts=[ChartRecord(name="poincare")])
    index.build_engine(config, name="both")
    return index


def found(index: Index, queries: Tensor, plan: Plan, where: str | None = None) -> list[list[str]]:
    scorer = LinearScorer(SPACE, SPACE.canonical(queries))
    return [[hit.id for hit in hits] for hits in index.search(scorer, k=10, plan=plan, where=where)]


def recall(given: list[list[str]], wanted: list[list[str]]) -> float:
    pairs = zip(given, wanted, strict=True)
    return sum(len(set(own) & set(true)) for own, true in pairs) / sum(map(len, wanted))


@pytest.mark.parametrize("engine", ["ball", "both"])
@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize("where", [None, "id < 'd3'"])
def test_near_the_documents_and_far_from_them(index: Index, engine: str, far: bool, where: str | None) -> None:
    queries = hyperboloid(40, nearest=8 if far else 0, farthest=11 if far else 8, seed=1)
    wanted = found(index, queries, Plan(stages=(Exhaustive(),)), where)
    given = found(index, queries, Engine(n=60, name=engine, effort=128) >> Rescore(), where)
    assert recall(given, wanted) >= 0.99


def test_the_second_look_is_what_finds_them(index: Index) -> None:
    """Far out, the engine's own nearest are others: the ball bends distances."""
    queries = hyperboloid(40, nearest=8, farthest=11, seed=1)
    opened = index._opened
    (chart, engine), *_ = opened.attached("ball").structure.engines
    scorer = LinearScorer(SPACE, SPACE.canonical(queries))
    lifted = scorer.lift(chart)
    assert lifted is not None
    _, places = engine.search(lifted, k=30, effort=128)
    ids = [[f"d{place}" for place in row] for row in places.tolist()]
    assert recall(ids, found(index, queries, Plan(stages=(Exhaustive(),)))) < 0.98


def test_more_are_wanted_than_there_are(index: Index, tmp_path: Path) -> None:
    points = hyperboloid(6, nearest=0, farthest=4, seed=2)
    small = Index.from_vectors(
        tmp_path / "small", [(Document(f"d{n}", ""), point) for n, point in enumerate(points)], SPACE
    )
    small.build_engine("hnsw")
    queries = hyperboloid(3, nearest=0, farthest=6, seed=3)
    assert found(small, queries, Engine(n=30) >> Rescore()) == found(small, queries, Plan(stages=(Exhaustive(),)))
