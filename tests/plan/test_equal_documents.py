"""Equal documents tie, whatever the scorer, the chunks and the way to them: their scores differ by no last bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hyperseek import Document
from hyperseek.index import Index
from hyperseek.plan import Exhaustive, Graph, Plan, Rescore, Surrogate, scan
from hyperseek.plan._rounding import level, marks_of
from hyperseek.scoring import (
    FunctionScorer,
    LinearScorer,
    MaxSimScorer,
    Points,
    QNetScorer,
    Scorer,
    Space,
    TokenPoints,
    VectorPoints,
)

QUERIES = 4


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def qnet(width: int) -> Scorer:
    matrices = [
        torch.randn(QUERIES, width, width, generator=draw(1)),
        torch.randn(QUERIES, width, 1, generator=draw(2)),
    ]
    vectors = [torch.randn(QUERIES, width, 1, generator=draw(3))]
    return QNetScorer(Space("dot", width), matrices, vectors, converter_kwargs={"vector_dimensions": [width, width, 1]})


def bent(width: int) -> Scorer:
    def function(given: dict[str, torch.Tensor], points: Points) -> torch.Tensor:
        return torch.tanh(given["vector"] @ points.vectors.T)

    return FunctionScorer(Space("dot", width), function, {"vector": torch.randn(QUERIES, width, generator=draw(4))})


def flat(kind: str) -> Callable[[int], Scorer]:
    return lambda width: LinearScorer(Space(kind, width), torch.randn(QUERIES, width, generator=draw(5)))


def hyperbolic(width: int) -> Scorer:
    space = Space("poincare", width)
    return LinearScorer(space, space.canonical(torch.randn(QUERIES, width, generator=draw(6)) / (3 * math.sqrt(width))))


SCORERS = {"qnet": qnet, "bent": bent, "dot": flat("dot"), "euclidean": flat("euclidean"), "hyperbolic": hyperbolic}


def check_order(rows: list[int], group: list[int], k: int) -> None:
    """Equal documents stand together, by row; whatever stands before the last group is there with all its equals."""
    order = list(dict.fromkeys(group[row] for row in rows))
    wanted = [row for own in order for row, name in enumerate(group) if name == own]
    assert rows == wanted[: min(k, len(group))]


@pytest.mark.parametrize("name", SCORERS)
def test_equal_documents_tie_in_a_scan(name: str) -> None:
    for width in (7, 16):
        scorer = SCORERS[name](width)
        base = torch.randn(40, width, generator=draw(7)) / (3 * math.sqrt(width))
        points = scorer.space.canonical(base) if name == "hyperbolic" else base
        for count in (3, 61, 301):
            group = torch.randint(0, max(1, min(40, count // 3)), (count,), generator=draw(count)).tolist()
            documents = points[group]
            for size in (count, 16, 37):
                for k in (1, 10, count):
                    _, rows = scan(scorer, map(VectorPoints, documents.split(size)), k=k)
                    for line in rows.tolist():
                        check_order(line, group, k)


def test_thousands_of_equal_documents_rank_by_row() -> None:
    for name in ("qnet", "bent"):
        scorer = SCORERS[name](13)
        documents = torch.randn(3, 13, generator=draw(8)).repeat_interleave(3001, dim=0)
        for size in (9003, 2000):
            scores, rows = scan(scorer, map(VectorPoints, documents.split(size)), k=3010)
            for line, values in zip(rows.tolist(), scores.tolist(), strict=True):
                check_order(line, [row // 3001 for row in range(9003)], 3010)
                assert len(set(values)) == 2


def test_equal_token_sets_tie() -> None:
    space = Space("tokens", 5)
    base = [torch.randn(length, 5, generator=draw(length)) for length in (1, 3, 4, 9)] + [torch.zeros(0, 5)]
    group = torch.randint(0, 5, (83,), generator=draw(9)).tolist()
    lengths = torch.tensor([0, *(len(base[own]) for own in group)])
    points = TokenPoints(torch.cat([base[own] for own in group]), lengths.cumsum(0))
    scorer = MaxSimScorer(space, torch.randn(QUERIES, 6, 5, generator=draw(10)), torch.ones(QUERIES, 6))
    for size in (83, 16):
        _, rows = scan(scorer, [points[start : start + size] for start in range(0, 83, size)], k=60)
        for line in rows.tolist():
            check_order(line, group, 60)


def test_equal_documents_tie_on_every_way_through_an_index(tmp_path: Path) -> None:
    group = torch.randint(0, 30, (150,), generator=draw(11)).tolist()
    vectors = torch.randn(30, 9, generator=draw(12))[group]
    documents = [(Document(f"d{row}", f"text {group[row]}"), vector) for row, vector in enumerate(vectors)]
    index = Index.from_vectors(tmp_path, documents, Space("dot", 9))
    index.build_engine("flat")
    index.build_graph(degree=8)
    ways = {
        "scan": Plan(stages=(Exhaustive(),)),
        "rescored": Exhaustive(n=150) >> Rescore(),
        "surrogate": Surrogate(n=150, landmarks=20) >> Rescore(),
        "graph": Plan(stages=(Graph(n=150, walk={"num_entry_points": 150}),)),  # type: ignore[arg-type]
    }
    for name in ("qnet", "bent", "dot"):
        for way, plan in ways.items():
            for hits in index.search(SCORERS[name](9), k=40, plan=plan, texts=False):
                try:
                    check_order([int(hit.id[1:]) for hit in hits], group, 40)
                except AssertionError as error:
                    raise AssertionError(f"{name}, {way}: {error}") from error


def test_marks_tell_documents_apart() -> None:
    for dtype in (torch.float16, torch.float32, torch.float64):
        eye, few = torch.eye(512, dtype=dtype), torch.cartesian_prod(*[torch.tensor([-1, 0, 1], dtype=dtype)] * 7)
        assert len(marks_of(VectorPoints(torch.cat([eye, 2 * eye, eye]))).unique()) == 1024
        assert len(marks_of(VectorPoints(few)).unique()) == 3**7
    one = torch.ones(1, 2)
    sets = [(), (one,), (one, one), (one, 2 * one), (2 * one, one), (one, one, one)]
    parts = [torch.cat([torch.zeros(0, 2), *own]) for own in sets]
    lengths = torch.tensor([0, *map(len, parts)])
    assert len(marks_of(TokenPoints(torch.cat(parts), lengths.cumsum(0))).unique()) == len(sets)
    scores = torch.tensor([[1.0, 2.0, -torch.inf], [5.0, 3.0, 4.0]])
    assert level(scores, torch.tensor([7, 8, 7])).tolist() == [[1.0, 2.0, 1.0], [5.0, 3.0, 5.0]]
    own = torch.tensor([[7, 7, 8], [1, 2, 2]])
    assert level(scores, own).tolist() == [[2.0, 2.0, -torch.inf], [5.0, 4.0, 4.0]]
