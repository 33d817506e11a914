"""What float32 cannot tell apart: an index ranks as float64 does, and equal documents by row."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hyperseek import Document
from hyperseek.index import Index
from hyperseek.plan import Engine, Exhaustive, Graph, Plan, Rescore, scan
from hyperseek.plan._rounding import longest_norm, uneven_norms
from hyperseek.plan.exhaustive import whole_scan
from hyperseek.scoring import LinearScorer, Space, VectorPoints

COUNT, DIMENSION, QUERIES = 600, 32, 8


def near(kind: str, spread: float, offset: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(1, DIMENSION, generator=generator)
    vectors = offset + base + spread * torch.randn(COUNT, DIMENSION, generator=generator)
    vectors[COUNT // 2 :] = vectors[: COUNT // 2].clone()  # every document twice
    queries = offset + base + 0.3 * torch.randn(QUERIES, DIMENSION, generator=generator)
    if kind == "cosine":
        vectors = torch.nn.functional.normalize(vectors, dim=1)
    return vectors, queries


def truth(space: Space, vectors: Tensor, queries: Tensor, k: int) -> list[list[int]]:
    half = space.score(queries.double(), VectorPoints(vectors[: COUNT // 2].double()))
    scores = torch.cat([half, half], dim=1)
    return scores.sort(dim=1, descending=True, stable=True).indices[:, :k].tolist()


@pytest.mark.parametrize("kind", ["dot", "cosine", "euclidean"])
def test_a_scan_ranks_near_ties_as_float64_does(kind: str) -> None:
    space = Space(kind, DIMENSION)
    for spread, offset in [(1e-3, 0), (1e-5, 0), (1e-6, 0), (1e-4, 100), (0, 0)]:
        if offset and kind == "cosine":
            continue  # cosines of 1 - 1e-13: what parts them is float64's own rounding
        vectors, queries = near(kind, spread, offset)
        for k in (1, 10, COUNT + 5):
            for size in (COUNT, 97) if k == 10 else (COUNT,):
                _, rows = scan(LinearScorer(space, queries), map(VectorPoints, vectors.split(size)), k=k)
                wanted = truth(space, vectors, queries, k)
                assert rows.tolist() == wanted, (spread, offset, k, size)
                for uneven in {math.inf, uneven_norms(space, vectors)}:  # which unit vectors are scanned with
                    _, rows = whole_scan(
                        LinearScorer(space, queries),
                        VectorPoints(vectors),
                        k=k,
                        longest=longest_norm(space, vectors),
                        chunk_rows=size,
                        uneven=uneven,
                    )
                    assert rows.tolist() == wanted, (spread, offset, k, size, uneven)


@pytest.mark.parametrize("kind", ["dot", "cosine", "euclidean"])
def test_every_way_through_an_index_ranks_near_ties_alike(tmp_path: Path, kind: str) -> None:
    space = Space(kind, DIMENSION)
    vectors, queries = near(kind, 1e-5, 0)
    vectors = space.canonical(vectors)  # what is stored
    documents = [Document(f"d{row}", f"text {row}") for row in range(COUNT)]
    index = Index.from_vectors(tmp_path / "index", zip(documents, vectors, strict=True), space)
    index.build_engine("flat")
    index.build_graph(degree=8)
    wanted = truth(space, vectors, queries, 10)
    scorer = LinearScorer(space, queries)
    ways = {
        "exact": {"engine": "exact"},
        "auto": {},
        "engine": {"engine": "flat"},
        "where": {"engine": "exact", "where": "id LIKE 'd%'"},
        "plan": {"plan": Engine(n=COUNT) >> Rescore()},
        "scan": {"plan": Plan(stages=(Exhaustive(n=50),))},
        "all": {"plan": Exhaustive(n=COUNT) >> Rescore()},
        "graph": {"plan": Plan(stages=(Graph(n=COUNT, walk={"num_entry_points": COUNT}),))},  # type: ignore[arg-type]
    }
    found = {}
    for way, options in ways.items():
        hits = index.search(scorer, k=10, texts=False, **options)  # type: ignore[arg-type]
        assert [[int(hit.id[1:]) for hit in line] for line in hits] == wanted, way
        found[way] = [[hit.score for hit in line] for line in hits]
        assert all(line == sorted(line, reverse=True) for line in found[way])
        for line, exact in zip(found[way], found["exact"], strict=True):
            assert line == pytest.approx(exact, rel=1e-12)
    chosen = index.score(scorer, [[f"d{row}" for row in line] for line in wanted])
    for line, own in zip(found["exact"], chosen, strict=True):
        assert line == pytest.approx(own, rel=1e-12)


def test_float64_scores_level_equal_documents_without_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Marks of what float32 puts first took two thirds of such a scan for k = 1,000."""
    monkeypatch.setattr("hyperseek.plan.exhaustive.marks_of", lambda points: pytest.fail("nothing asks for marks"))
    space = Space("dot", DIMENSION)
    vectors, queries = near("dot", 1e-3, 0)
    scorer, longest = LinearScorer(space, queries), longest_norm(space, vectors)
    _, rows = whole_scan(scorer, VectorPoints(vectors), k=100, longest=longest, chunk_rows=97)
    assert rows.tolist() == truth(space, vectors, queries, 100)


def test_scores_that_are_equal_on_paper_rank_by_row() -> None:
    """The same numbers in another order: sums differ in their last bits, and mean nothing by it."""
    generator = torch.Generator().manual_seed(3)
    numbers = torch.randn(DIMENSION, generator=generator)
    vectors = torch.stack([numbers[torch.randperm(DIMENSION, generator=generator)] for _ in range(200)])
    for kind in ("dot", "cosine", "euclidean"):
        _, rows = scan(LinearScorer(Space(kind, DIMENSION), torch.ones(1, DIMENSION)), [VectorPoints(vectors)], k=30)
        assert rows[0].tolist() == list(range(30)), kind


def test_unit_vectors_are_scanned_as_they_are_stored_only_where_their_norms_are_even() -> None:
    """Products with float16's norms, a thousandth off, rank otherwise than cosines."""
    space, (vectors, queries) = Space("cosine", DIMENSION), near("cosine", 1e-3, 0)
    half = vectors.half().float()
    assert uneven_norms(space, vectors) < 1e-6 < 1e-4 < uneven_norms(space, half) < 2e-3
    assert uneven_norms(Space("dot", DIMENSION), vectors) == math.inf
    for stored in (vectors, half, vectors * (1 + 1e-6 * torch.arange(COUNT)[:, None] / COUNT)):
        scorer, uneven = LinearScorer(space, queries), uneven_norms(space, stored)
        _, rows = whole_scan(scorer, VectorPoints(stored), k=10, longest=0.0, chunk_rows=97, uneven=uneven)
        _, wanted = scan(scorer, [VectorPoints(stored)], k=10)
        assert rows.tolist() == wanted.tolist()
