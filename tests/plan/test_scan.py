from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from hyperseek import HyperseekError
from hyperseek._order import best_columns
from hyperseek.plan import scan
from hyperseek.scoring import LinearScorer, QNetScorer, Scorer, Space, VectorPoints

Ranking = list[tuple[float, int]]


def oracle(scorer: Scorer, vectors: Tensor, k: int, excluded: list[int]) -> list[Ranking]:
    """Sort everything in Python: by score, then by row."""
    with torch.no_grad():
        scores = scorer.score(VectorPoints(vectors)).tolist()
    return [
        sorted(((score, row) for row, score in enumerate(line) if row != out), key=lambda pair: (-pair[0], pair[1]))[:k]
        for line, out in zip(scores, excluded, strict=True)
    ]


def found(
    scorer: Scorer, chunks: list[Tensor], k: int, excluded: list[int] | None = None
) -> list[list[tuple[float, int]]]:
    scores, rows = scan(
        scorer,
        [VectorPoints(chunk) for chunk in chunks],
        k=k,
        excluded=None if excluded is None else torch.tensor(excluded),
    )
    assert scores.dtype == torch.float32
    return [
        [(score, row) for score, row in zip(*line, strict=True) if row >= 0]
        for line in zip(scores.tolist(), rows.tolist(), strict=True)
    ]


# Small integers: many equal vectors, many equal scores, and products without rounding, so order is decided exactly.
numbers = st.integers(-1, 1)


@settings(deadline=None)
@given(st.data(), st.integers(0, 12), st.integers(1, 4), st.integers(1, 15), st.sampled_from(["dot", "euclidean"]))
def test_a_scan_equals_sorting_everything(data: st.DataObject, count: int, queries: int, k: int, kind: str) -> None:
    rows = st.lists(numbers, min_size=2, max_size=2)
    vectors = torch.tensor(data.draw(st.lists(rows, min_size=count, max_size=count)), dtype=torch.float32).view(-1, 2)
    asked = torch.tensor(data.draw(st.lists(rows, min_size=queries, max_size=queries)), dtype=torch.float32)
    size = data.draw(st.integers(1, 13), label="chunk")
    excluded = data.draw(st.lists(st.integers(-1, count), min_size=queries, max_size=queries), label="excluded")
    scorer = LinearScorer(Space(kind, 2), asked)
    chunks = [vectors[start : start + size] for start in range(0, count, size)]
    assert found(scorer, chunks, k, excluded) == oracle(scorer, vectors, k, excluded)
    nobody = [-1] * queries
    assert found(scorer, chunks, k) == oracle(scorer, vectors, k, nobody)


@pytest.fixture
def qnet() -> QNetScorer:
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.randn(300, *shape, generator=generator) for shape in ((4, 4), (4, 1))]
    vectors = [torch.randn(300, 4, 1, generator=generator)]
    return QNetScorer(Space("dot", 4), matrices, vectors, converter_kwargs={"vector_dimensions": [4, 4, 1]})


def test_qnets_and_many_queries(qnet: QNetScorer) -> None:
    vectors = torch.randn(70, 4, generator=torch.Generator().manual_seed(1))
    ours = found(qnet, list(vectors.split(32)), 9)
    truth = oracle(qnet, vectors, 9, [-1] * 300)
    assert [[row for _, row in line] for line in ours] == [[row for _, row in line] for line in truth]
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(truth))


def test_every_core_takes_groups_of_queries() -> None:
    generator = torch.Generator().manual_seed(4)
    # Small integers: products are exact, so the order of equal scores is decided too.
    vectors, queries = (torch.randint(-3, 4, (count, 4), generator=generator).float() for count in (90, 200))
    scorer = LinearScorer(Space("dot", 4), queries)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        ours = found(scorer, list(vectors.split(40)), 7)
    finally:
        torch.set_num_threads(before)
    assert ours == oracle(scorer, vectors, 7, [-1] * 200)


def test_the_cosine_goes_through_its_chart() -> None:
    vectors = torch.randn(50, 4, generator=torch.Generator().manual_seed(1)) * torch.arange(1, 51)[:, None]
    scorer = LinearScorer(Space("cosine", 4), torch.randn(3, 4, generator=torch.Generator().manual_seed(2)))
    scores, rows = scan(scorer, [VectorPoints(part) for part in vectors.split(16)], k=50)
    torch.testing.assert_close(scores, scorer.score(VectorPoints(vectors)).gather(1, rows))
    assert scores.max() <= 1.0001


def test_results_may_be_used_in_training(qnet: QNetScorer) -> None:
    scores, _ = scan(qnet, [VectorPoints(torch.ones(2, 4))], k=1)
    (scores * torch.ones(1, requires_grad=True)).sum().backward()


def test_undefined_scores_are_refused_with_the_query(qnet: QNetScorer) -> None:
    bad = torch.ones(200, 4)
    bad[150, 2] = torch.nan
    with pytest.raises(HyperseekError, match="query 150"):
        scan(LinearScorer(Space("dot", 4), bad), [VectorPoints(torch.ones(30, 4))], k=3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 40, 3000])
def test_the_best_of_many_scores_are_those_of_a_stable_sort(count: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(count)
    odd = torch.tensor([torch.inf, -torch.inf, 0.0, -0.0])
    for most in (3, 60, 10_000):  # of many equal scores and of few
        scores = torch.randint(0, most, (6, count), generator=generator).to(dtype)
        scores[3:, : len(odd)] = odd[:count].to(dtype)
        for k in (1, 7, count, count + 5):
            top, columns = best_columns(scores, k)
            wanted = scores.sort(dim=1, descending=True, stable=True)
            assert torch.equal(columns, wanted.indices[:, :k])
            assert torch.equal(top, wanted.values[:, :k])
        scores[:, count // 2] = torch.nan  # which must not escape
        assert best_columns(scores, 1)[1].eq(count // 2).all()


def test_k_is_checked() -> None:
    with pytest.raises(HyperseekError, match="k must be at least 1, not 0"):
        scan(LinearScorer(Space("dot", 2), torch.ones(1, 2)), [], k=0)
