"""Plans: every way to the best documents against sorting everything."""

from __future__ import annotations

import math
import sys
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from hyperseek import HyperseekError
from hyperseek.engines import ChartRecord
from hyperseek.index import Index
from hyperseek.plan import (
    NOTHING,
    Candidates,
    Dense,
    Engine,
    Exhaustive,
    FullText,
    Fusion,
    Graph,
    Plan,
    Rescore,
    Surrogate,
    Union,
)
from hyperseek.plan._open_index import fuse
from hyperseek.scoring import FunctionScorer, LinearScorer, Points, Space
from hyperseek.types import Document

sys.path.append(str(Path(__file__).parents[1] / "index"))
from index_fakes import FakeRetriever

WORDS = ("river", "stone", "city", "road", "house", "door", "window")


def bent(queries: dict[str, Tensor], documents: Points) -> Tensor:
    products = queries["vector"] @ documents.vectors.T
    return products + 0.2 * torch.tanh(products)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    documents = [
        Document(f"d{number}", f"{WORDS[number % 7]} {WORDS[number % 5]} {WORDS[number % 3]} n{number}")
        for number in range(210)
    ]
    index = Index.build(tmp_path_factory.mktemp("plans") / "index", documents, FakeRetriever())  # type: ignore[arg-type]
    index.build_engine("flat")
    index.build_graph(degree=12)
    return index


@pytest.fixture(scope="module")
def nonlinear(index: Index) -> FunctionScorer:
    queries = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    return FunctionScorer(index.space, bent, {"vector": queries})


def names(index: Index, queries: object, plan: Plan, k: int = 10) -> list[list[str]]:
    return [[hit.id for hit in hits] for hits in index.search(queries, k=k, plan=plan)]  # type: ignore[call-overload]


QUERIES = ["river stone", "door", "city road house"]
EVERYTHING = 210


@pytest.mark.parametrize(
    "plan",
    [
        Plan(stages=(Exhaustive(),)),
        Exhaustive(n=50) >> Rescore(),
        Engine(n=40) >> Rescore(),
        Surrogate(n=60, landmarks=100) >> Rescore(),
        Dense(n=30) >> Rescore(),
        (FullText(n=30) | Dense(n=30)) >> Rescore(),
        (FullText(n=30) | Dense(n=30) | Exhaustive()) >> Rescore(),
        Plan(stages=(Graph(walk={"num_entry_points": 100}),)),  # type: ignore[arg-type]
    ],
    ids=lambda plan: " > ".join(stage.title for stage in plan.stages),
)
def test_thorough_plans_find_what_a_scan_finds(index: Index, plan: Plan) -> None:
    exact = index.search(QUERIES, k=10, engine="exact")
    found = index.search(QUERIES, k=10, plan=plan)
    for wanted, hits in zip(exact, found, strict=True):
        assert [hit.id for hit in hits] == [hit.id for hit in wanted]
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in wanted], abs=1e-5)
        assert [hit.rank for hit in hits] == list(range(1, 11))


@pytest.mark.parametrize("choice", ["random", "kmeans", "farthest"])
@pytest.mark.parametrize("engine", ["flat", "scan"])
@pytest.mark.parametrize("refits", [0, 2])
def test_surrogates_find_the_best_of_a_nonlinear_scorer(
    index: Index, nonlinear: FunctionScorer, choice: str, engine: str, refits: int
) -> None:
    plan = Surrogate(n=60, landmarks=40, choice=choice, engine=engine, refits=refits) >> Rescore()  # type: ignore[arg-type]
    assert names(index, nonlinear, plan) == names(index, nonlinear, Plan(stages=(Exhaustive(),)))


def test_an_engine_alone_cannot_search_by_a_nonlinear_scorer(index: Index, nonlinear: FunctionScorer) -> None:
    with pytest.raises(HyperseekError, match=r"by a 'function' scorer on its charts .*; use a surrogate stage"):
        index.search(nonlinear, plan=Engine() >> Rescore())
    told = index.explain(nonlinear, k=5, engine="flat", recall=True)
    assert "linear surrogate" in told.reason
    assert [stage.title for stage in told.stages] == ["surrogate", "rescore"]


def test_an_explanation_counts_candidates_and_recall(index: Index) -> None:
    told = index.explain(QUERIES, k=10, plan=FullText(n=3) >> Rescore(), recall=True)
    words, rescored = told.stages
    assert words.candidates <= 9
    assert words.recall is not None
    assert words.recall <= 0.3
    assert rescored.recall == words.recall
    assert words.queries == 3
    assert told.lines()
    exact = index.explain(QUERIES, k=10, engine="exact", recall=True)
    assert exact.stages[0].recall == 1.0
    assert any("recall 1.0000" in line for line in exact.lines())


def test_texts_are_needed_where_they_are_read(index: Index, nonlinear: FunctionScorer) -> None:
    with pytest.raises(HyperseekError, match="reads the queries' texts"):
        index.search(nonlinear, plan=(FullText() | Exhaustive()) >> Rescore())


def test_missing_engines_and_graphs_are_named(tmp_path: Path, index: Index) -> None:
    bare = Index.build(tmp_path / "bare", [Document("a", "river")], FakeRetriever())  # type: ignore[arg-type]
    with pytest.raises(HyperseekError, match=r"has no engine; build one: index.engines.build\(\)"):
        bare.search("river", plan=Engine() >> Rescore())
    with pytest.raises(HyperseekError, match=r"has no graph; build one: index.engines.build\('graph'\)"):
        bare.search("river", plan=Plan(stages=(Graph(),)))
    with pytest.raises(HyperseekError, match="unknown engine of this index 'flta'; did you mean 'flat'"):
        index.search("river", engine="flta")
    with pytest.raises(HyperseekError, match="'flat' is not a graph"):
        index.search("river", plan=Plan(stages=(Graph(name="flat"),)))
    walked, alone = (index.search("river", engine=engine, k=3) for engine in ("graph", "exact"))
    assert [hit.id for hit in walked] == [hit.id for hit in alone]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages: [{kind: rescore}]", "begins with a source"),
        ("stages: [{kind: scan}, {kind: bm25}]", "only the first stage may be a source"),
        ("stages: []", "at least 1"),
        ("stages: [{kind: scna}]", "scna"),
        ("stages: [{kind: scan, nn: 3}]", "nn"),
        ("stages: [{kind: fusion, sources: [{kind: bm25}], weights: [1, 2]}]", "2 weights were given for 1 sources"),
    ],
)
def test_bad_plans_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(HyperseekError, match=message):
        Plan.load(path)


def test_a_plan_is_one_yaml_file(tmp_path: Path, index: Index) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("stages:\n- kind: union\n  sources: [{kind: bm25, n: 30}, {kind: dense, n: 30}]\n- kind: rescore\n")
    plan = Plan.load(path)
    assert plan == (FullText(n=30) | Dense(n=30)) >> Rescore()
    assert Plan.from_mapping(plan.model_dump(mode="json")) == plan
    assert names(index, QUERIES, plan) == names(index, QUERIES, Plan(stages=(Exhaustive(),)))


rankings = st.lists(
    st.lists(st.tuples(st.integers(0, 8), st.floats(-5, 5, width=32)), max_size=6, unique_by=lambda pair: pair[0]),
    min_size=1,
    max_size=3,
)


def candidates(pairs: list[tuple[int, float]]) -> Candidates:
    rows, scores = torch.tensor([row for row, _ in pairs], dtype=torch.int64), torch.tensor([s for _, s in pairs])
    return Candidates.of_lists([rows], [scores])


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(rankings, st.sampled_from(["rrf", "weighted", "minmax"]))
def test_fusion_equals_the_formula(lists: list[list[tuple[int, float]]], method: str) -> None:
    ordered = [sorted(pairs, key=lambda pair: (-pair[1], pair[0])) for pairs in lists]
    wanted: dict[int, float] = {}
    for row in {row for pairs in lists for row, _ in pairs}:
        for weight, pairs in enumerate(ordered, 1):
            scores = dict(pairs)
            low, high = min(scores.values(), default=0.0), max(scores.values(), default=0.0)
            if method == "rrf":
                value = 1 / (60 + 1 + [r for r, _ in pairs].index(row)) if row in scores else 0.0
            elif method == "weighted":
                value = scores.get(row, low)
            else:
                value = (1.0 if high == low else (scores[row] - low) / (high - low)) if row in scores else 0.0
                value = 0.0 if row not in scores and high != low else value
                value = 0.0 if not scores else value
            wanted[row] = wanted.get(row, 0.0) + weight * value
    weights = list(range(1, len(lists) + 1))
    found = fuse([candidates(pairs) for pairs in lists], method=method, weights=weights)  # type: ignore[arg-type]
    rows = [row for row in found.rows[0].tolist() if row != NOTHING]
    assert set(rows) == wanted.keys()
    assert found.scores[0, : len(rows)].tolist() == pytest.approx([wanted[row] for row in rows], abs=1e-4)
    assert found.scores[0].tolist() == sorted(found.scores[0].tolist(), reverse=True)


def test_fusion_needs_a_weight_for_each_ranking() -> None:
    with pytest.raises(HyperseekError, match="one weight per ranking"):
        fuse([candidates([(1, 1.0)])], weights=[1.0, 2.0])


def test_fusions_are_sources_too(index: Index) -> None:
    plan = Plan(stages=(Fusion(sources=(FullText(n=20), Dense(n=20)), method="rrf", n=15),))
    hits = index.search(QUERIES, k=10, plan=plan)
    assert all(len(found) == 10 for found in hits)
    assert all(found[0].score <= 2 / 61 for found in hits)
    union = Union(sources=(FullText(n=5), FullText(n=5)), n=4)
    assert index.explain(QUERIES, plan=union >> Rescore()).stages[0].candidates <= 12


def test_tuning_keeps_the_cheapest_plan_that_finds_enough(tmp_path: Path) -> None:
    model = FakeRetriever()
    documents = [Document(f"d{number}", f"{WORDS[number % 7]} n{number}") for number in range(120)]
    index = Index.build(tmp_path / "index", documents, model)  # type: ignore[arg-type]
    with pytest.raises(HyperseekError, match="has no engine to tune"):
        index.engines.tune(QUERIES)
    index.build_engine("flat")
    index.build_graph(degree=8)
    tuning = index.engines.tune(QUERIES, k=5, recall=0.9)
    assert tuning.measured[0].recall == 1.0
    assert tuning.chosen.recall >= 0.9
    assert tuning.chosen.milliseconds == min(one.milliseconds for one in tuning.measured if one.recall >= 0.9)
    reopened = Index.open(index.path, model=model)  # type: ignore[arg-type]
    told = reopened.explain(QUERIES, k=5)
    assert told.plan == tuning.chosen.plan
    assert "tuned on this index for linear scorers" in told.reason
    assert "tuned" not in reopened.explain(QUERIES, k=50).reason
    with pytest.raises(HyperseekError, match="recall in"):
        index.engines.tune(QUERIES, recall=2)


def test_engines_without_a_chart_for_surrogates_leave_them_to_a_scan(tmp_path: Path) -> None:
    space, vectors = Space("euclidean", 8), torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    documents = [Document(f"d{number}", "") for number in range(50)]
    index = Index.from_vectors(tmp_path / "index", zip(documents, vectors, strict=True), space)
    index.build_engine("hnsw")
    scorer = FunctionScorer(space, bent, {"vector": vectors[:3]})
    exact = Plan(stages=(Exhaustive(),))
    told = index.explain(scorer, k=5, engine="hnsw")
    assert "candidates from a scan by a linear surrogate, since" in told.reason
    assert "'hnsw' has no chart for those" in told.reason
    for plan in (told.plan, Surrogate(n=50) >> Rescore()):
        assert names(index, scorer, plan, 5) == names(index, scorer, exact, 5)
    with pytest.raises(HyperseekError, match="cannot be searched by a 'surrogate' scorer on its charts"):
        index.search(scorer, plan=Surrogate(engine="hnsw") >> Rescore())
    assert index.engines.tune(scorer, k=5).chosen.recall >= 0.99
    index.build_engine("hnsw", name="balanced", charts=[ChartRecord(name="balanced")])
    assert "candidates from 'balanced'" in index.explain(scorer, k=5, engine="balanced").reason
    assert names(index, scorer, Surrogate(n=50, engine="balanced") >> Rescore(), 5) == names(index, scorer, exact, 5)


def test_tuning_tries_many_candidates_too(tmp_path: Path) -> None:
    space, vectors = Space("dot", 2), torch.randn(2200, 2, generator=torch.Generator().manual_seed(1))
    documents = [Document(f"d{number}", "") for number in range(2200)]
    index = Index.from_vectors(tmp_path / "index", zip(documents, vectors, strict=True), space)
    index.build_engine("ivf")
    tuning = index.engines.tune(LinearScorer(space, vectors[:1]), k=2100, recall=1.0, save=False)
    assert any(stage.n == 2100 for one in tuning.measured for stage in one.plan.stages if isinstance(stage, Engine))


def test_scorers_of_other_spaces_are_refused(index: Index) -> None:
    with pytest.raises(HyperseekError, match="points of 3 dimensions, but the index has 8"):
        index.search(LinearScorer(Space("dot", 3), torch.ones(1, 3)))


def test_equal_sums_of_ranks_are_equal_whatever_the_order_of_the_rankings() -> None:
    """Each of six documents takes each rank once in some order, so that all sums are equal on paper."""
    orders = list(permutations(range(6)))
    shifts = [[(row + shift) % 6 for row in range(6)] for shift in range(6)]
    for method in ("rrf", "minmax", "weighted"):
        for order in orders[::37]:
            parts = [candidates([(row, 1.0 / (3 + place)) for place, row in enumerate(shifts[turn])]) for turn in order]
            found = fuse(parts, method=method)  # type: ignore[arg-type]
            assert found.rows[0].tolist() == list(range(6)), (method, order)
            assert len(set(found.scores[0].tolist())) == 1
    assert found.scores.dtype == torch.float64


def test_small_weights_decide_what_large_ones_leave_equal() -> None:
    first, second = candidates([(0, 1.0), (1, 1.0)]), candidates([(1, 2.0), (0, 1.0)])
    assert fuse([first, second], method="weighted", weights=[1.0, 1e-9]).rows[0].tolist() == [1, 0]


@pytest.mark.parametrize("method", ["minmax", "weighted"])
def test_fillers_and_infinities_do_not_set_the_scale(method: Any) -> None:
    late = [(0, 5.0), (1, 4.0), (2, 3.0)]
    other = candidates([(0, 0.2), (1, 0.5), (2, 0.45), (3, 0.1), (4, 0.1)])
    clean = fuse([candidates(late), other], method=method)
    plain = dict(zip(clean.rows[0].tolist(), clean.scores[0].tolist(), strict=True))
    for extra in (-1e9, -math.inf):
        found = fuse([candidates([*late, (3, extra)]), other], method=method)
        assert dict(zip(found.rows[0].tolist(), found.scores[0].tolist(), strict=True)) == pytest.approx(plain)
    found = fuse([candidates([(4, math.inf), *late]), other], method=method, weights=[0.0, 1.0])
    assert found.rows[0].tolist() == [1, 2, 0, 3, 4]
    best = fuse([candidates([(4, math.inf), *late]), other], method=method)
    scores = dict(zip(best.rows[0].tolist(), best.scores[0].tolist(), strict=True))
    assert all(map(math.isfinite, scores.values()))
    assert {row: scores[row] for row in range(4)} == pytest.approx({row: plain[row] for row in range(4)})
    alone = fuse([candidates([(7, math.inf), (8, -math.inf), (9, -1e9)])], method=method)
    assert alone.rows[0].tolist() == [7, 8, 9]


def test_fusion_refuses_what_is_no_number() -> None:
    part = candidates([(1, 1.0)])
    for options in ({"weights": [math.nan]}, {"weights": [math.inf]}, {"weights": [-1e300]}, {"rrf_k": -1}):
        with pytest.raises(HyperseekError, match="must be"):
            fuse([part], **options)  # type: ignore[arg-type]
    with pytest.raises(HyperseekError, match="not numbers for query 0"):
        fuse([candidates([(1, math.nan)])], method="minmax")
    with pytest.raises(HyperseekError, match="weights must be finite"):
        Plan.from_mapping({"stages": [{"kind": "fusion", "sources": [{"kind": "scan"}], "weights": [math.nan]}]})


@pytest.mark.parametrize("unwanted", [0, 1, 7, 200])
def test_unwanted_rows_are_left_out(unwanted: int) -> None:
    draw = np.random.default_rng(unwanted)
    rows = torch.from_numpy(np.array([draw.permutation(150)[:40] for _ in range(3)]))
    rows[1, 30:] = NOTHING
    scores = torch.arange(40.0).neg().expand(3, -1)
    others = torch.from_numpy(draw.integers(NOTHING, 150, (3, unwanted)))
    found = Candidates(rows, scores).without(others)
    for own, left, kept in zip(rows.tolist(), others.tolist(), found.rows.tolist(), strict=True):
        expected = [row for row in own if row != NOTHING and row not in left]
        assert kept == expected + [NOTHING] * (40 - len(expected))
