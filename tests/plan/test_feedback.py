"""Feedback in every space, against the same done by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hyperseek import HyperseekError
from hyperseek.geometry.polar import polar_between, polar_distance_own, tangent_to_polar
from hyperseek.index import Index
from hyperseek.plan import Auto, Engine, Exhaustive, Feedback, Fusion, Plan, Rescore, Surrogate
from hyperseek.scoring import (
    FunctionScorer,
    LevelScorer,
    LinearScorer,
    MaxSimScorer,
    QNetScorer,
    Scorer,
    Space,
    TokenPoints,
    VectorPoints,
)
from hyperseek.types import Document

COUNT, QUERIES, D = 60, 3, 4
SPACES = {
    "dot": Space("dot", D),
    "cosine": Space("cosine", D),
    "euclidean": Space("euclidean", D),
    "lorentz": Space("lorentz", D, radius_squared=2.0),
    "poincare": Space("poincare", D),
    "levels": Space("levels", D, levels=3),
    "tokens": Space("tokens", D),
}


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def coordinates(space: Space, count: int, seed: int) -> Tensor:
    made = numbers(count, D, seed=seed)
    if space.kind == "lorentz":
        return torch.cat([(made.square().sum(1, keepdim=True) + space.radius_squared).sqrt(), made], dim=1)
    if space.kind == "poincare":
        return 0.9 * torch.tanh(made.norm(dim=1, keepdim=True)) * torch.nn.functional.normalize(made, dim=1)
    scale = 0.3 if space.levels > 1 else 1.0  # far from the origin, the geodesic first leads towards it
    return scale * numbers(count, space.coordinates, seed=seed)


def bent(queries: dict[str, Tensor], documents: Any) -> Tensor:
    return torch.tanh(queries["vector"] @ documents.vectors.T)


def queries_of(space: Space) -> Scorer:
    if space.ragged:
        return MaxSimScorer(space, numbers(QUERIES, 2, D, seed=1), torch.ones(QUERIES, 2))
    points = space.canonical(coordinates(space, QUERIES, seed=1))
    if space.levels > 1:
        return LevelScorer(space, points, level=1)
    return LinearScorer(space, points)


@pytest.fixture(scope="module")
def index_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Space], Index]:
    made: dict[str, Index] = {}

    def index_of(space: Space) -> Index:
        if space.kind not in made:
            points = [numbers(3, D, seed=place) for place in range(COUNT)] if space.ragged else None
            vectors = points if points is not None else coordinates(space, COUNT, seed=0)
            documents = [Document(f"d{place}", f"word{place % 5}") for place in range(COUNT)]
            folder = tmp_path_factory.mktemp(space.kind) / "index"
            made[space.kind] = Index.from_vectors(folder, zip(documents, vectors, strict=True), space)
        return made[space.kind]

    return index_of


def points_of(index: Index, ids: list[str]) -> Any:
    return index._opened.snapshot.points(torch.tensor([int(name[1:]) for name in ids]))


def ids_of(hits: Any) -> list[list[str]]:
    return [[hit.id for hit in own] for own in hits]


@pytest.mark.parametrize("where", [None, "id < 'd3'"])
@pytest.mark.parametrize("kind", SPACES)
def test_feedback_is_an_exact_search_by_moved_queries(
    index_of: Callable[[Space], Index], kind: str, where: str | None
) -> None:
    index, asked = index_of(SPACES[kind]), queries_of(SPACES[kind])
    plan = Exhaustive() >> Feedback(n=2, weight=0.3)
    hits = index.search(asked, k=10, plan=plan, where=where)
    best = [name for own in ids_of(index.search(asked, k=2, where=where)) for name in own]
    moved = asked.moved_towards(points_of(index, best), torch.full((QUERIES, 2), 0.15))
    wanted = index.search(moved, k=10, where=where)
    assert ids_of(hits) == ids_of(wanted)
    assert ids_of(hits) != ids_of(index.search(asked, k=10, where=where))
    for own, true in zip(hits, wanted, strict=True):
        assert [hit.score for hit in own] == pytest.approx([hit.score for hit in true], abs=1e-5)
    told = index.explain(asked, k=10, plan=plan, where=where, recall=True)
    assert [stage.recall for stage in told.stages] == [1.0, 1.0]


@pytest.mark.parametrize("kind", ["lorentz", "poincare"])
def test_a_hyperbolic_query_moves_along_the_geodesic(kind: str) -> None:
    space = SPACES[kind]
    query = space.canonical(coordinates(space, 5, seed=2))
    document = space.canonical(coordinates(space, 5, seed=3))
    moved = space.moved(query, document[:, None], torch.full((5, 1), 0.2))
    whole = space.distances(query, document).diagonal()
    assert space.distances(query, moved).diagonal() == pytest.approx(0.2 * whole, rel=1e-4)
    assert space.distances(moved, document).diagonal() == pytest.approx(0.8 * whole, rel=1e-4)


@given(st.floats(0, 14), st.floats(0, 14), st.floats(-1, 1), st.floats(0, 0.999))
def test_points_between_divide_geodesics(near: float, far: float, cosine: float, share: float) -> None:
    angle = math.acos(cosine)
    first, second = (
        tangent_to_polar(rho / 2 * torch.tensor([[math.cos(turn), math.sin(turn)]], dtype=torch.float64))
        for rho, turn in ((near, 0.0), (far, angle))
    )
    between = polar_between(first, second, torch.tensor([share]))
    whole = polar_distance_own(first, second[:, None]).item()
    for end, part in ((first, share), (second, 1 - share)):
        assert polar_distance_own(end, between[:, None]).item() == pytest.approx(part * whole, rel=1e-5, abs=1e-5)


def test_points_between_far_ones_do_not_overflow() -> None:
    first, second = (tangent_to_polar(torch.tensor([[3e4, 0.0]])), tangent_to_polar(torch.tensor([[0.0, 3e4]])))
    between = polar_between(first, second, torch.tensor([0.25]))
    assert between[0].tolist() == pytest.approx([1.0, 0.0, 3e4, 0.0], abs=16)


def test_a_query_moves_at_the_levels_that_are_asked_with() -> None:
    space = SPACES["levels"]
    points = space.canonical(coordinates(space, 4, seed=4))
    documents = VectorPoints(space.canonical(coordinates(space, 4, seed=5)))
    moved = LevelScorer(space, points, level=1, document_level=3).moved_towards(documents, torch.full((4, 1), 0.5))
    assert isinstance(moved, LevelScorer)
    assert (moved.level, moved.document_level) == (1, 3)
    for level in (2, 3):
        assert torch.equal(space.at_level(moved.queries, level), space.at_level(points, level))
    ball = space.one_level
    before = ball.distances(space.at_level(points, 1), space.at_level(documents.vectors, 3)).diagonal()
    after = ball.distances(space.at_level(moved.queries, 1), space.at_level(documents.vectors, 3)).diagonal()
    assert after == pytest.approx(before / 2, rel=1e-4)


def test_late_interaction_appends_weighted_tokens() -> None:
    asked = queries_of(SPACES["tokens"])
    assert isinstance(asked, MaxSimScorer)
    documents = TokenPoints.from_documents([numbers(n, D, seed=n) for n in (3, 0, 5)])
    moved = asked.moved_towards(documents, torch.full((QUERIES, 1), 0.2))
    others = TokenPoints.from_documents([numbers(4, D, seed=20 + n) for n in range(6)])
    for place in range(QUERIES):
        own, scores = documents[place : place + 1], asked[place : place + 1].score(others)
        if len(own.vectors):
            feedback = MaxSimScorer(asked.space, own.vectors[None], torch.ones(1, len(own.vectors))).score(others)
            scores = 0.8 * scores + 0.2 * 2 / len(own.vectors) * feedback
        assert moved[place : place + 1].score(others)[0].tolist() == pytest.approx(scores[0].tolist(), abs=1e-5)


def q_net(depth: int) -> QNetScorer:
    sizes = [D] * (depth + 1) + [1]
    settings = {"vector_dimensions": sizes}
    matrices = [numbers(QUERIES, *shape, seed=place) for place, shape in enumerate(pairwise(sizes))]
    vectors = [numbers(QUERIES, D, 1, seed=10 + place) for place in range(depth)]
    return QNetScorer(SPACES["dot"], matrices, vectors, converter_kwargs=settings)


def test_a_flat_q_net_moves_as_its_vector_does(index_of: Callable[[Space], Index]) -> None:
    index, asked = index_of(SPACES["dot"]), q_net(0)
    vectors = asked.linear()
    assert vectors is not None
    plan = Exhaustive() >> Feedback()
    linear = LinearScorer(SPACES["dot"], vectors)
    assert ids_of(index.search(asked, k=9, plan=plan)) == ids_of(index.search(linear, k=9, plan=plan))


def test_a_deep_q_net_keeps_its_score_and_adds_the_similarity_to_the_document(
    index_of: Callable[[Space], Index],
) -> None:
    index, asked = index_of(SPACES["dot"]), q_net(2)
    with torch.inference_mode():  # as models compile queries
        asked = asked._map(torch.clone)
    best = points_of(index, [own[0] for own in ids_of(index.search(asked, k=1))])
    moved = asked.moved_towards(best, torch.full((QUERIES, 1), 0.25))
    others = index._opened.snapshot.points(torch.arange(COUNT))
    place = best.vectors.clone().requires_grad_()
    q_net(2).score_own(place[:, None]).sum().backward()
    assert place.grad is not None
    vectors = 0.25 / 0.75 * place.grad.norm(dim=1, keepdim=True) * torch.nn.functional.normalize(best.vectors, dim=1)
    wanted = asked.score(others) + vectors @ others.vectors.T
    assert torch.allclose(moved.score(others), wanted, atol=1e-4)
    plan = Surrogate(n=COUNT, landmarks=40, engine="exhaustive") >> Rescore() >> Feedback(weight=0.25)
    assert ids_of(index.search(asked, k=5, plan=plan)) == ids_of(index.search(moved, k=5))


def test_a_function_is_refused(index_of: Callable[[Space], Index]) -> None:
    asked = FunctionScorer(SPACES["dot"], bent, {"vector": numbers(QUERIES, D, seed=1)})
    with pytest.raises(HyperseekError, match="'function' cannot be moved towards documents"):
        index_of(SPACES["dot"]).search(asked, plan=Exhaustive() >> Feedback())


def test_documents_left_out_are_no_feedback(index_of: Callable[[Space], Index]) -> None:
    index, asked = index_of(SPACES["cosine"]), queries_of(SPACES["cosine"])
    first = [own[:1] for own in ids_of(index.search(asked, k=1))]
    hits = index.search(asked, k=9, plan=Exhaustive() >> Feedback(), exclude=first)
    second = [own[1] for own in ids_of(index.search(asked, k=2))]
    moved = asked.moved_towards(points_of(index, second), torch.full((QUERIES, 1), 0.2))
    assert ids_of(hits) == ids_of(index.search(moved, k=9, exclude=first))


def test_what_an_engine_found_at_first_is_kept(index_of: Callable[[Space], Index], tmp_path: Path) -> None:
    index, asked = index_of(SPACES["cosine"]), queries_of(SPACES["cosine"])
    index.build_engine("flat")
    once = Engine(n=4) >> Rescore() >> Feedback(weight=0.9)
    told = index.explain(asked, k=8, plan=once, recall=True)
    assert [stage.candidates for stage in told.stages] == [12, 12, 12]
    wanted = index.search(asked, k=8, plan=Exhaustive() >> Feedback(weight=0.9))
    kept = [set(own) & {hit.id for hit in true} for own, true in zip(ids_of(told.hits), wanted, strict=True)]
    assert all(len(own) == 4 for own in kept)
    # Without exact scores nothing can be compared, and the stages before decide.
    fused = Fusion(sources=(Auto(), Exhaustive())) >> Feedback()
    assert len(index.search(asked, k=8, plan=fused)[0]) == 8
    path = tmp_path / "plan.yaml"
    path.write_text("stages: [{kind: auto, n: 20}, {kind: feedback, n: 3, weight: 0.4, softmax: 0.1}, rescore]\n")
    plan = Plan.load(path)
    assert plan == Auto(n=20) >> Feedback(n=3, weight=0.4, softmax=0.1) >> Rescore()
    found = index.search(asked, k=8, plan=plan)
    tuning = index.engines.tune(asked, k=8, recall=0.9)
    assert tuning.chosen.recall >= 0.9
    assert ids_of(index.search(asked, k=8, plan=plan)) == ids_of(found)


def test_softmax_weighs_by_score(index_of: Callable[[Space], Index]) -> None:
    index, asked = index_of(SPACES["dot"]), queries_of(SPACES["dot"])
    hits = index.search(asked, k=3)
    weights = 0.4 * torch.tensor([[hit.score for hit in own] for own in hits]).div(0.5).softmax(dim=1)
    moved = asked.moved_towards(points_of(index, [hit.id for own in hits for hit in own]), weights)
    plan = Exhaustive() >> Feedback(n=3, weight=0.4, softmax=0.5)
    assert ids_of(index.search(asked, k=9, plan=plan)) == ids_of(index.search(moved, k=9))


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"kind": "feedback", "weight": 1}, "feedback: weight"),
        ({"kind": "feedback", "n": 0}, "feedback: n"),
        ({"kind": "feedback", "softmax": 0}, "feedback: softmax"),
        ({"kind": "feedback", "wieght": 0.2}, "did you mean 'weight'"),
    ],
)
def test_bad_options_are_named(stage: dict[str, Any], message: str) -> None:
    with pytest.raises(HyperseekError, match=message):
        Plan(stages=("auto", stage))  # type: ignore[arg-type]


def test_an_empty_answer_needs_no_feedback(index_of: Callable[[Space], Index]) -> None:
    hits = index_of(SPACES["dot"]).search(
        queries_of(SPACES["dot"]), plan=Exhaustive() >> Feedback(), where="id = 'none'"
    )
    assert ids_of(hits) == [[]] * QUERIES
