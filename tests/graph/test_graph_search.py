"""The vectorised search equals the original's loop, document by document."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperseek import HyperseekError
from hyperseek.graph import GRAPH_PRESETS, GraphSearchConfig, NeighbourGraph, _search, graph_search
from hyperseek.scoring import LinearScorer, Points, Scorer, Space, VectorPoints


def name(row: int) -> str:
    return f"{row:06d}"  # sorts as the row does


def by_reference(reference: Any, scorer: Scorer, points: Points, graph: NeighbourGraph, config, entries, k):
    """What the original's loop finds, as lists in the form of `as_lists`."""
    ids = [name(row) for row in range(len(points))]
    lists = {
        name(row): [name(other) for other in own if other >= 0] for row, own in enumerate(graph.neighbours.tolist())
    }
    searcher = reference(points.vectors, ids, lists)
    found = []
    for query in range(len(scorer)):
        single = scorer[query : query + 1]
        results, scored, iterations = searcher.search(
            lambda documents, single=single: single.score(VectorPoints(documents[0])),
            entry_points=[name(row) for row in entries],
            top_k=k,
            ncandidates=config.ncandidates,
            max_iter=config.max_iter,
            early_stop=config.early_stop,
        )
        found.append(([(int(identity), score) for identity, score in results], scored, iterations))
    return found


def as_lists(result):
    return [
        ([(row, score) for row, score in zip(rows, scores, strict=True) if row >= 0], scored, iterations)
        for rows, scores, scored, iterations in zip(
            result.rows.tolist(),
            result.scores.tolist(),
            result.scored.tolist(),
            result.iterations.tolist(),
            strict=True,
        )
    ]


@st.composite
def cases(draw):
    """A random graph with lists of any length, few distinct scores, any parameters."""
    count = draw(st.integers(1, 40))
    row = st.integers(0, count - 1)
    others = [[other for other in range(count) if other != own] for own in range(count)]
    lists = [draw(st.lists(st.sampled_from(rows), max_size=4)) if rows else [] for rows in others]
    queries = draw(st.integers(1, 3))
    scores = draw(st.lists(st.integers(-6, 6), min_size=queries * count, max_size=queries * count))
    entries = draw(st.lists(row, min_size=1, max_size=6, unique=True))
    config = GraphSearchConfig(
        ncandidates=draw(st.integers(1, 6)), max_iter=draw(st.integers(1, 8)), early_stop=draw(st.booleans())
    )
    table = torch.tensor(scores, dtype=torch.float32).view(queries, count)
    return lists, table, entries, config, draw(st.integers(1, 8))


@settings(deadline=None, max_examples=60)
@given(case=cases())
def test_greedy_equals_the_originals_loop(tools, reference, case):
    lists, table, entries, config, k = case
    scorer, points, graph = tools.TableScorer(table), tools.row_points(len(lists)), tools.graph_of(lists)
    result = graph_search(scorer, points, graph, k=k, config=config, entry_points=entries)
    assert as_lists(result) == by_reference(reference, scorer, points, graph, config, entries, k)
    found = result.rows >= 0
    assert (result.scores[~found] == -torch.inf).all()
    assert result.rows.shape == result.scores.shape == (len(scorer), k)


def best_first(scores, lists, config, entries, k, allowed):
    """The best-first walk by a heap of open documents, in plain Python."""
    open_heap, seen, results, scored = [], list(entries), [], 0
    frontier, left, iterations = list(entries), config.max_iter - 1, 0
    while frontier:
        iterations += 1
        for row in frontier:
            heapq.heappush(open_heap, (-scores[row], scored, row))
            scored += 1
        results = [(row, scores[row]) for row in seen if allowed[row]]
        threshold = sorted((score for _, score in results), reverse=True)[k - 1] if len(results) >= k else -np.inf
        frontier = []
        while left and open_heap and not frontier:
            if config.early_stop and -open_heap[0][0] <= threshold:
                break
            left -= 1
            for _ in range(min(config.ncandidates, len(open_heap))):
                for other in lists[heapq.heappop(open_heap)[2]]:
                    if other not in seen:
                        seen.append(other)
                        frontier.append(other)
    return sorted((score for _, score in results), reverse=True)[:k], scored, iterations


@settings(deadline=None, max_examples=60)
@given(case=cases(), data=st.data())
def test_best_first_equals_a_heap(tools, case, data):
    lists, table, entries, config, k = case
    count = len(lists)
    config = config.model_copy(update={"strategy": "best_first"})
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    result = graph_search(
        tools.TableScorer(table),
        tools.row_points(count),
        tools.graph_of(lists),
        k=k,
        config=config,
        entry_points=entries,
        allowed=allowed,
    )
    for query, (found, scored, iterations) in enumerate(as_lists(result)):
        scores = table[query].tolist()
        assert [score for _, score in found] == [scores[row] for row, _ in found]
        assert all(allowed[row] for row, _ in found)
        assert len({row for row, _ in found}) == len(found)
        if allowed.sum() <= len(entries):
            assert [s for _, s in found] == sorted((scores[row] for row in np.flatnonzero(allowed)), reverse=True)[:k]
        else:
            expected = best_first(scores, lists, config, entries, k, allowed)
            assert ([score for _, score in found], scored, iterations) == expected


@settings(deadline=None, max_examples=60)
@given(case=cases(), data=st.data())
def test_filtered_greedy_returns_the_best_allowed_it_scored(tools, case, data):
    lists, table, entries, config, k = case
    count = len(lists)
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    config = config.model_copy(update={"early_stop": False})
    scorer, points, graph = tools.TableScorer(table), tools.row_points(count), tools.graph_of(lists)
    result = graph_search(
        scorer, points, graph, k=k, config=config, entry_points=entries, allowed=torch.tensor(allowed)
    )
    # Without early stop a filter does not change the way, so an unfiltered search keeps all that was scored.
    everything = graph_search(scorer, points, graph, k=count, config=config, entry_points=entries)
    for query, (found, scored, _) in enumerate(as_lists(result)):
        if allowed.sum() <= len(entries):
            expected = sorted((table[query, row].item() for row in np.flatnonzero(allowed)), reverse=True)
        else:
            assert scored == everything.scored[query]
            rows = [row for row in everything.rows[query].tolist() if row >= 0]
            expected = [table[query, row].item() for row in rows if allowed[row]]
        assert [score for _, score in found] == expected[:k]
        assert all(allowed[row] for row, _ in found)


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("strategy", ["greedy", "best_first"])
def test_real_qnets(tools, reference, tmp_path, depth, strategy):
    vectors = torch.randn(500, 16, generator=torch.Generator().manual_seed(1))
    graph = NeighbourGraph.build(tmp_path, vectors, degree=8)
    scorer, points = tools.random_qnets(5, 16, depth), VectorPoints(vectors)
    config = GraphSearchConfig(num_entry_points=20, ncandidates=6, max_iter=8, strategy=strategy)
    result = graph_search(scorer, points, graph, k=10, config=config)
    if strategy == "greedy":
        entries = _search.draw_entry_points(500, config).tolist()
        expected = by_reference(reference, scorer, points, graph, config, entries, 10)
        for (found, scored, iterations), (wanted, *counts) in zip(as_lists(result), expected, strict=True):
            assert [row for row, _ in found] == [row for row, _ in wanted]
            np.testing.assert_allclose([s for _, s in found], [s for _, s in wanted], rtol=1e-4, atol=1e-4)
            assert [scored, iterations] == counts
    one_by_one = [graph_search(scorer[q : q + 1], points, graph, k=10, config=config) for q in range(5)]
    assert torch.equal(torch.cat([single.rows for single in one_by_one]), result.rows)
    torch.testing.assert_close(torch.cat([single.scores for single in one_by_one]), result.scores)
    assert torch.equal(torch.cat([single.scored for single in one_by_one]), result.scored)
    true = scorer.score(points).detach()
    torch.testing.assert_close(true.gather(1, result.rows), result.scores, rtol=1e-4, atol=1e-4)


def test_groups_of_queries_and_padded_scoring_change_nothing(tools, tmp_path, monkeypatch):
    vectors = torch.randn(300, 8, generator=torch.Generator().manual_seed(2))
    graph = NeighbourGraph.build(tmp_path, vectors, degree=6)
    scorer, points = tools.random_qnets(7, 8, 2), VectorPoints(vectors.half())
    config = GraphSearchConfig(num_entry_points=15, ncandidates=4)
    expected = graph_search(scorer, points, graph, k=5, config=config)
    monkeypatch.setattr(_search, "QUERIES_TOGETHER", 3)
    grouped = graph_search(scorer, points, graph, k=5, config=config)
    assert torch.equal(grouped.rows, expected.rows)
    frontiers = [np.arange(query, 3 * query + 2, dtype=np.int32) for query in range(7)]
    singles = [scorer[query : query + 1] for query in range(7)]
    for budget in (1, 200, 1 << 20):
        monkeypatch.setattr(_search, "_PADDED_ELEMENTS", budget)
        with torch.inference_mode():
            padded = _search._score_padded(scorer, points, frontiers)
            plain = _search._score_on_cores(singles, points, frontiers)
        for one, other in zip(padded, plain, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_as_many_entry_points_as_documents_is_exhaustive(tools, tmp_path):
    vectors = torch.randn(50, 4, generator=torch.Generator().manual_seed(3))
    graph = NeighbourGraph.build(tmp_path, vectors, degree=3)
    scorer = LinearScorer(Space("dot", 4), torch.randn(3, 4, generator=torch.Generator().manual_seed(4)))
    for config in GRAPH_PRESETS.values():
        result = graph_search(scorer, VectorPoints(vectors), graph, k=7, config=config)
        expected = scorer.score(VectorPoints(vectors)).topk(7)
        assert torch.equal(result.rows, expected.indices)
        assert result.scored.tolist() == [50] * 3


def test_nothing_to_find(tools, tmp_path):
    scorer = LinearScorer(Space("dot", 4), torch.ones(2, 4))
    empty = NeighbourGraph.build(tmp_path / "empty", torch.empty(0, 4), degree=3)
    result = graph_search(scorer, VectorPoints(torch.empty(0, 4)), empty, k=2)
    assert result.rows.tolist() == [[-1, -1]] * 2
    graph = NeighbourGraph.build(tmp_path / "graph", torch.eye(4), degree=3)
    nobody = graph_search(scorer, VectorPoints(torch.eye(4)), graph, k=2, allowed=np.zeros(4, dtype=bool))
    assert nobody.scores.tolist() == [[-np.inf] * 2] * 2
    assert nobody.scored.tolist() == [0, 0]
    assert graph_search(scorer[:0], VectorPoints(torch.eye(4)), graph, k=2).rows.shape == (0, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k must be at least 1"),
        ({"points": VectorPoints(torch.eye(4)[:3])}, "graph has 4 documents, but 3"),
        ({"entry_points": [0, 4]}, "rows from 0 to 3, not 0 to 4"),
        ({"entry_points": [1, 1]}, "given twice"),
        ({"entry_points": []}, "list of rows"),
        ({"entry_points": [0.5]}, "list of rows, not float64"),
        ({"allowed": np.ones(3, dtype=bool)}, r"\(4,\) booleans"),
        ({"allowed": np.ones(4)}, "not float64"),
        (
            {"scorer": LinearScorer(Space("dot", 4), torch.tensor([[1.0] * 4, [torch.nan] * 4]))},
            "query 1 has infinite or undefined numbers",
        ),
    ],
)
def test_refusals(tools, change, message):
    graph = tools.graph_of([[1], [2], [3], [0]])
    arguments = {
        "scorer": LinearScorer(Space("dot", 4), torch.ones(1, 4)),
        "points": VectorPoints(torch.eye(4)),
        "k": 1,
    }
    arguments |= change
    with pytest.raises(HyperseekError, match=message):
        graph_search(arguments.pop("scorer"), arguments.pop("points"), graph, **arguments)
