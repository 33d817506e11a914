"""What people give as points: of all sizes and dtypes, of other spaces, broken, and of float64."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

from hyperseek import HyperseekError
from hyperseek.errors import InputError
from hyperseek.geometry.polar import split_polar
from hyperseek.index import Index
from hyperseek.scoring import (
    EMPTY_SCORE,
    FunctionScorer,
    LinearScorer,
    MaxSimScorer,
    Points,
    Space,
    TokenPoints,
    VectorPoints,
    load_scorer,
)
from hyperseek.types import Document

KINDS = ("dot", "cosine", "euclidean", "lorentz", "poincare")


def hyperbolic(rho: Tensor, directions: Tensor, kind: str, r2: float) -> Tensor:
    """Return float64 coordinates of points at distances `(n,)`, in units of R, in directions `(n, d)`."""
    unit = directions / directions.norm(dim=1, keepdim=True)
    radius = math.sqrt(r2)
    if kind == "poincare":
        return radius * torch.tanh(rho[:, None] / 2) * unit
    return radius * torch.cat([torch.cosh(rho)[:, None], torch.sinh(rho)[:, None] * unit], dim=1)


def true_distance(x: list[float], y: list[float], kind: str, r2: float) -> float:
    """Return the distance of two points of given coordinates, with 60 digits."""
    with mpmath.workdps(60):
        radius = mpmath.sqrt(mpmath.mpf(r2))
        a, b = ([mpmath.mpf(number) / radius for number in point] for point in (x, y))
        if kind == "poincare":
            apart = mpmath.fsum((p - q) ** 2 for p, q in zip(a, b, strict=True))
            gaps = [1 - mpmath.fsum(p**2 for p in point) for point in (a, b)]
            return float(radius * 2 * mpmath.asinh(mpmath.sqrt(apart / (gaps[0] * gaps[1]))))
        inner = mpmath.fsum(p * q for p, q in zip(a[1:], b[1:], strict=True))
        times = [mpmath.sqrt(1 + mpmath.fsum(p**2 for p in point[1:])) for point in (a, b)]
        return float(radius * mpmath.acosh(times[0] * times[1] - inner))


@pytest.mark.parametrize("kind", ["lorentz", "poincare"])
@pytest.mark.parametrize("r2", [1e-4, 1.0, 2.5, 1e4])
def test_float64_coordinates_are_as_far_apart_in_an_index_as_they_are(kind: str, r2: float, tmp_path: Path) -> None:
    """They were rounded to float32 first, where points of the ball 10 to 20 R out were up to 4.4 R wrong."""
    rho = torch.tensor([0.001, 0.1, 1, 5, 10, 12, 15, 17, 20, 25, 30], dtype=torch.float64)
    directions = torch.randn(len(rho), 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    coordinates = hyperbolic(rho, directions, kind, r2)
    space = Space(kind, 4, r2)
    items = [(Document(str(row), ""), point) for row, point in enumerate(coordinates.numpy())]
    index = Index.from_vectors(tmp_path / "index", items, space)
    queries = space.canonical(coordinates)
    found = index.search(LinearScorer(space, queries), k=len(rho), engine="exact")
    for row, hits in enumerate(found):
        for hit in hits:
            other = int(hit.id)
            if other == row:
                continue
            wanted = true_distance(coordinates[row].tolist(), coordinates[other].tolist(), kind, r2)
            # A float64 coordinate of the ball holds a distance from the origin to its last digit times exp of it.
            crowded = 2e-15 * math.exp(float(max(rho[row], rho[other]))) if kind == "poincare" else 0
            assert -hit.score == pytest.approx(wanted, rel=1e-4, abs=crowded * math.sqrt(r2)), (row, other)


@pytest.mark.parametrize("r2", [1e-4, 1.0, 2.5, 1e4])
def test_points_off_the_hyperboloid_are_refused(r2: float) -> None:
    space = Space("lorentz", 3, r2)
    rho = torch.linspace(0, 6, 20, dtype=torch.float64)
    good = hyperbolic(
        rho, torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64), "lorentz", r2
    )
    for stored in (good, good.float(), good.half().float(), good.bfloat16().float(), good.float().double()):
        if stored.isfinite().all():
            space.canonical(stored)
    if r2 < 1e3:
        space.canonical(good.half())
    space.canonical(good[:0])
    for place, number in (
        (0, math.nan),
        (0, -float(good[7, 0])),
        (0, 0.0),
        (0, float(good[7, 0]) * 1.05),
        (2, math.inf),
    ):
        bad = good.clone()
        bad[7, place] = number
        with pytest.raises(InputError, match=r"^point 7 has (the time|infinite)"):
            space.canonical(bad)
    for factor in (0.25, 0.8, 1.3, 4.0):
        other = hyperbolic(rho, torch.ones(20, 3, dtype=torch.float64), "lorentz", r2 * factor)
        both = rf"R² = {re.escape(f'{r2 * factor:.6g}')}; with the space's R² = {re.escape(f'{r2:.6g}')}"
        for given in (other, other.float()):
            with pytest.raises(InputError, match=both):
                space.canonical(given)
        with pytest.raises(InputError, match="the space's R²"):  # far out all together are what tells them apart
            space.canonical(hyperbolic(rho[12:] / 1.5, torch.ones(8, 3, dtype=torch.float64), "lorentz", r2 * factor))
    # What an optimiser's steps and a transformer's layers do to the constraint is no fault.
    space.canonical(good.float() * (1 + 1e-6 * torch.randn(20, 1, generator=torch.Generator().manual_seed(3))))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_points_on_the_border_of_a_ball_are_refused_with_their_norm(dtype: torch.dtype) -> None:
    for r2 in (1.0, 4.0):
        space = Space("poincare", 2, r2)
        border = math.sqrt(r2)
        bad = torch.tensor([[0.1, 0.2], [border, 0.0]], dtype=dtype)
        with pytest.raises(
            InputError, match=rf"^point 1 has the norm {border:g}, .*R² = {r2:g} have norms below R = {border:g}"
        ):
            space.canonical(bad)
        with pytest.raises(InputError, match=r"point 0 has the norm 30"):
            space.canonical(torch.tensor([[30.0, 0.0]], dtype=dtype))
    last = torch.tensor([[math.nextafter(1, 0), 0.0]], dtype=torch.float64)
    assert Space("poincare", 2).canonical(last).isfinite().all()
    # Its norm is 1 in float32, but not as a number.
    close = torch.tensor([[0.6, 0.8]]) * (1 - 2**-24)
    assert close.double().norm() < 1
    assert Space("poincare", 2).canonical(close).isfinite().all()


def test_cosines_of_vectors_of_any_size() -> None:
    """A vector of norm 1e-40 was at cosine 2e-31 to itself."""
    space = Space("cosine", 2)
    for size in (1e-45, 1e-40, 1e-30, 1e-20, 1e-12, 1.0, 1e20, 1e38):
        stored = space.canonical(torch.tensor([[size, 0.0], [0.0, size], [size, size]]))
        scores = space.score(stored, VectorPoints(stored))
        wanted = torch.tensor([[1, 0, 0.5**0.5], [0, 1, 0.5**0.5], [0.5**0.5, 0.5**0.5, 1]])
        torch.testing.assert_close(scores, wanted)
    zero = space.canonical(torch.zeros(1, 2))
    assert torch.equal(space.score(zero, VectorPoints(torch.eye(2))), torch.zeros(1, 2))


def cloud(kind: str, dimension: int, count: int, size: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randn(count, dimension, generator=generator, dtype=torch.float64)
    if count > 3:
        flat[1], flat[2] = flat[0], -flat[0]
    if kind in ("lorentz", "poincare"):
        rho = flat.norm(dim=1).clamp(max=1) * min(size, 30.0)
        return hyperbolic(rho, flat, kind, 1.0)
    return flat * size


@pytest.mark.parametrize("kind", KINDS)
def test_spaces_and_scorers_of_all_sizes(kind: str, tmp_path: Path) -> None:
    for seed, (dimension, count, size) in enumerate(
        (d, n, s) for d in (1, 2, 17) for n in (0, 1, 40) for s in (1e-30, 1e-3, 1.0, 10.0, 1e10, 1e30)
    ):
        case = (dimension, count, size)
        space = Space(kind, dimension)
        documents = VectorPoints(space.canonical(cloud(kind, dimension, count, size, seed)).float())
        scorer = LinearScorer(space, space.canonical(cloud(kind, dimension, 5, size, seed + 1000)).float())
        scores = scorer.score(documents)
        assert scores.shape == (5, count), case
        assert scores.dtype == torch.float32, case
        assert scores.isfinite().all(), case
        # The order is that of float64, but for what float32 rounds: of the score, or of the products in it.
        exact = space.score(scorer.queries.double(), VectorPoints(documents.vectors.double()))
        if size <= 1e10 and count:
            slack = 4e-6 * (1 + exact.abs().amax(1, keepdim=True)) if kind != "euclidean" else 4e-6 * exact.abs()
            slack = slack * (1 if kind != "dot" else dimension)
            if kind == "dot":
                slack = 1e-5 * scorer.queries.norm(dim=1)[:, None] * documents.vectors.norm(dim=1)
            assert ((scores - exact).abs() <= slack + 1e-37).all(), case
        # Near the origin a hyperboloid's time is 1 to float32, so that engines find candidates there and no order.
        if count == 40 and (size == 1.0 or (size == 1e-3 and kind not in ("lorentz", "poincare"))):
            for name in {space.flat_chart, "inner_product", "balanced", *space.graph_charts}:
                chart = space.fit_chart(name, [documents])
                lifted = chart.lift_documents(documents).double()
                asked = chart.lift_queries(scorer.queries).double()
                ranked = asked @ lifted.T if chart.metric == "inner_product" else -torch.cdist(asked, lifted)
                if name != "poincare":  # which bends distances, see `lift_within`
                    best = scores.gather(1, ranked.argmax(dim=1, keepdim=True))[:, 0]
                    span = scores.amax(1) - scores.amin(1)
                    assert (best >= scores.amax(1) - 1e-3 * span - 1e-6).all(), (case, name)
        joined = LinearScorer.concatenate([scorer[:2], scorer[2:]])
        # Products that nearly cancel are rounded by the size of their terms, otherwise in each shape.
        terms = scorer.queries.norm(dim=1)[:, None] * documents.vectors.norm(dim=1) if kind == "dot" else scores.abs()
        slack = 1e-5 * (1 + terms)
        assert ((joined.score(documents) - scores).abs() <= slack).all(), case
        part = scorer[torch.tensor([4, 0])].to("cpu").score(documents[1:])
        assert ((part - scores[[4, 0], 1:]).abs() <= slack[[4, 0], 1:]).all(), case
        if seed % 9 == 0:
            scorer.save(tmp_path / "scorer.safetensors")
            assert torch.equal(load_scorer(tmp_path / "scorer.safetensors").score(documents), scores), case


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_tensors_are_refused_by_name(kind: str) -> None:
    space = Space(kind, 3)
    good = space.canonical(cloud(kind, 3, 4, 1.0, 0))
    scorer = LinearScorer(space, good.float())
    broken = good.float().clone()
    broken[2, 0] = math.nan
    with pytest.raises(InputError, match="document 2 has infinite or undefined numbers: nan at place 0"):
        scorer.score(VectorPoints(broken))
    with pytest.raises(InputError, match="query 2 has infinite or undefined numbers: nan"):
        LinearScorer(space, broken).score(VectorPoints(good.float()))
    with pytest.raises(InputError, match="point 1 has infinite or undefined numbers: inf"):
        space.canonical(torch.tensor([[0.1] * space.coordinates, [math.inf] * space.coordinates]))
    wrong: list[Any] = [
        torch.zeros(space.width),
        torch.zeros(2, space.width + 1),
        torch.zeros(2, space.width, dtype=torch.int64),
        torch.zeros(2, space.width, dtype=torch.complex64),
        torch.zeros(1, 2, space.width),
        np.zeros((2, space.width)),
        [[0.0] * space.width],
        None,
        torch.tensor(0.0),
    ]
    for value in wrong:
        with pytest.raises(InputError):
            LinearScorer(space, value)
        with pytest.raises(InputError):
            scorer.score(VectorPoints(value))
        with pytest.raises(InputError):
            scorer.score_own(value)
        with pytest.raises(InputError):
            space.score(value, VectorPoints(good))
    with pytest.raises(InputError, match="4 queries and 2 sets"):
        scorer.score_own(good.float().expand(2, 4, -1))
    for dtype in (torch.float16, torch.bfloat16, torch.float64):  # what is no float32 is widened, or rounded at the end
        assert LinearScorer(space, good.to(dtype)).score(VectorPoints(good.float())).dtype == torch.float32
        assert scorer.score(VectorPoints(good.to(dtype))).dtype == torch.float32
    other = VectorPoints(torch.zeros(2, space.width, device="meta"))
    with pytest.raises(InputError, match="on cpu and the documents on meta"):
        scorer.score(other)


def test_documents_without_tokens_have_a_score_of_their_own() -> None:
    space = Space("tokens", 2)
    documents = TokenPoints.from_documents([torch.eye(2), torch.zeros(0, 2), -torch.ones(1, 2) * 1e6])
    scores = MaxSimScorer(space, torch.ones(1, 3, 2), torch.ones(1, 3)).score(documents)
    assert scores[0, 1] == EMPTY_SCORE
    assert scores[0, 2] > EMPTY_SCORE
    broken = TokenPoints.from_documents([torch.eye(2), torch.full((1, 2), math.nan)])
    with pytest.raises(InputError, match="token of documents 2 has"):
        MaxSimScorer(space, torch.ones(1, 3, 2), torch.ones(1, 3)).score(broken)


def test_a_function_that_returns_nan_is_named() -> None:
    space = Space("dot", 2)

    def score(queries: dict[str, Tensor], documents: Points) -> Tensor:
        scores = queries["q"] @ documents.vectors.T
        scores[0, 1] = math.nan
        return scores

    with pytest.raises(HyperseekError, match="NaN for query 0 and document 1"):
        FunctionScorer(space, score, {"q": torch.ones(2, 2)}).score(VectorPoints(torch.ones(3, 2)))


def test_vectors_of_documents_that_are_no_points_name_the_document(tmp_path: Path) -> None:
    ball = Space("poincare", 2)
    for number, (vector, message) in enumerate(
        [
            ([1.0, 0.0], "document 'b' has the norm 1"),
            ([math.nan, 0.0], "document 'b' has infinite or undefined numbers: nan"),
            (["x", "y"], "document 'b'"),
            (None, "document 'b'"),
            ([0.1, 0.2, 0.3], r"document 'b' has the shape \(3,\)"),
            ([[0.1], [0.2, 0.3]], "document 'b'"),
            (np.array([1j, 0]), "document 'b'"),
            (torch.tensor([1j, 0]), "document 'b'"),
        ]
    ):
        items = [(Document("a", ""), [0, 0]), (Document("b", ""), vector)]
        with pytest.raises(InputError, match=message):
            Index.from_vectors(tmp_path / str(number), items, ball)
    mixed = [(Document("a", ""), np.array([0.5, 0.0])), (Document("b", ""), np.array([0.25, 0], np.float16))]
    index = Index.from_vectors(tmp_path / "mixed", mixed, ball)
    assert split_polar(next(index.points())[1].vectors)[1].flatten().tolist() == pytest.approx(
        [2 * math.atanh(0.5), 2 * math.atanh(0.25)]
    )
