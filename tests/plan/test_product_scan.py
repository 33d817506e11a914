"""Products rule out documents of curved spaces; what is found is what scoring every document finds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from hyperseek import Document
from hyperseek.geometry.polar import half_chord
from hyperseek.index import Index
from hyperseek.plan import _open_index, _rounding
from hyperseek.scoring import LevelScorer, LinearScorer, Scorer, Space
from hyperseek.store.info import Storage

COUNT, DIMENSION, QUERIES = 3000, 16, 40


def made(folder: Path, space: Space, points: Tensor, storage: Storage = "float32", **options: int) -> Index:
    documents = [Document(f"d{row}", f"text {row}") for row in range(len(points))]
    Index.from_vectors(folder / "index", zip(documents, points, strict=True), space, storage=storage)
    return Index.open(folder / "index", **options)


def tangents(width: int, radius: float) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    points = torch.randn(COUNT, width, generator=generator) * radius / width**0.5
    points[COUNT // 2 : COUNT // 2 + 50] = points[:50]  # twice
    return points


def compared(
    index: Index, scorer: Scorer, monkeypatch: pytest.MonkeyPatch, k: int = 10
) -> tuple[list[list[str]], int | None]:
    """Search both ways, compare, and return the ids, and how many queries were scored with every document."""
    done: list[int] = []

    def noting(snapshot, scorer, *, k, exact, otherwise):  # type: ignore[no-untyped-def]
        found = _rounding.product_scan(
            snapshot, scorer, k=k, exact=exact, otherwise=lambda some: done.append(len(some)) or otherwise(some)
        )
        if found is None:
            done.append(-1)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(_open_index, "product_scan", noting)
        found = index.search(scorer, k=k, engine="exact", texts=False)
        patched.setattr(_open_index, "product_scan", lambda *_, **__: None)
        wanted = index.search(scorer, k=k, engine="exact", texts=False)
    assert [[hit.id for hit in hits] for hits in found] == [[hit.id for hit in hits] for hits in wanted]
    for some, others in zip(found, wanted, strict=True):
        assert [hit.score for hit in some] == pytest.approx([hit.score for hit in others], rel=1e-5, abs=1e-6)
    return [[hit.id for hit in hits] for hits in found], None if -1 in done else sum(done)


@pytest.mark.parametrize("similarity", ["geodesic", "squared", "inner"])
@pytest.mark.parametrize("radius_squared", [1e-3, 1.0, 50.0])
def test_it_finds_what_a_whole_scan_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, similarity: str, radius_squared: float
) -> None:
    space = Space("poincare", DIMENSION, radius_squared=radius_squared, similarity=similarity)
    points = tangents(DIMENSION, 2.0)
    points = points.div(1 + points.norm(dim=1, keepdim=True)) * radius_squared**0.5
    index = made(tmp_path, space, points)
    queries = space.canonical(points[:QUERIES] * 0.9 + points[60 : 60 + QUERIES] * 0.1)
    _, whole = compared(index, LinearScorer(space, queries), monkeypatch)
    assert whole == 0


def test_it_scans_any_level_of_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = Space("levels", DIMENSION, levels=3)
    points = tangents(3 * DIMENSION, 5.0)
    index = made(tmp_path, space, points)
    scorer = LevelScorer(space, space.canonical(points[:QUERIES] + points[60 : 60 + QUERIES] * 0.1))
    found = [
        compared(index, scorer.at(level=level, document_level=document_level), monkeypatch)
        for level, document_level in ((1, 1), (3, 3), (3, 1))
    ]
    assert all(whole == 0 for _, whole in found)
    assert found[0][0] != found[1][0]
    for asked in (scorer.at(relation="is_a"), scorer.at(broaden=0.4)):
        assert compared(index, asked, monkeypatch)[1] is None


def test_rounded_directions_are_compared_as_they_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half precision leaves directions of norms other than 1, far more than the products' rounding."""
    space = Space("levels", DIMENSION, levels=2)
    points = tangents(2 * DIMENSION, 4.0)
    points[:300, DIMENSION:] = (
        points[0, DIMENSION:] + 0.02 * points[:300, :DIMENSION]
    )  # near each other, in all directions
    index = made(tmp_path, space, points, storage="float16")
    asked = torch.cat([points.rows for _, points in index.points()])[:QUERIES].float()  # rounded as well
    for queries in (space.canonical(points[:QUERIES]), asked):
        assert compared(index, LevelScorer(space, queries), monkeypatch)[1] == 0


@pytest.mark.parametrize("storage", ["float32", "float16"])
@pytest.mark.parametrize("radius", [1e-3, 1.0, 8.0, 16.0])  # of tangents: half the distance from the origin
def test_bounds_hold_at_any_radius(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, radius: float, storage: Storage
) -> None:
    """Of all pairs, near ones included; farther out than this, products are not used."""
    space = Space("levels", DIMENSION, levels=1)
    points = torch.nn.functional.normalize(tangents(DIMENSION, 1.0), dim=1) * torch.linspace(0, radius, COUNT)[:, None]
    points[-100:] = points[-1] * (1 + 1e-4 * tangents(DIMENSION, 1.0)[-100:])
    index = made(tmp_path, space, points, storage=storage)
    stored = torch.cat([part.rows for _, part in index.points()]).float()
    bounds: list[Tensor] = []
    highest = _rounding._highest

    def noting(queries: Tensor, features: Tensor, kept: int) -> tuple[Tensor, Tensor]:
        bounds.append(queries @ features.T)
        return highest(queries, features, kept)

    monkeypatch.setattr(_rounding, "_highest", noting)
    chosen = torch.arange(0, COUNT, 50)
    index.search(LevelScorer(space, stored[chosen]), k=10, engine="exact", texts=False)
    cosines = 1 + 2 * half_chord(stored[chosen].double(), stored.double()).square()
    assert (bounds[0].double() >= -cosines).all()


def test_where_bounds_do_not_tell_documents_apart_every_document_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred documents within a rounding error of products, far out, and other queries that have clear answers."""
    space = Space("levels", DIMENSION, levels=1)
    points = tangents(DIMENSION, 4.0)
    generator = torch.Generator().manual_seed(3)
    points[100:200] = points[100] + 1e-5 * torch.randn(100, DIMENSION, generator=generator)
    points[100:200] *= 8 / points[100].norm()
    index = made(tmp_path, space, points)
    queries = torch.cat([points[100:103], points[300:310]])
    _, whole = compared(index, LevelScorer(space, space.canonical(queries)), monkeypatch)
    assert whole == 3


def test_points_too_far_out_for_products_are_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = Space("levels", DIMENSION, levels=2)
    points = tangents(2 * DIMENSION, 4.0)
    points[7, DIMENSION:] *= 100
    index = made(tmp_path, space, points)
    scorer = LevelScorer(space, space.canonical(points[:QUERIES]))
    assert compared(index, scorer, monkeypatch)[1] is None
    assert compared(index, scorer.at(level=1), monkeypatch)[1] == 0


def test_features_take_no_more_memory_than_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = Space("levels", DIMENSION, levels=2)
    points = tangents(2 * DIMENSION, 4.0)
    stored, features = 4 * COUNT * space.width, 4 * COUNT * (DIMENSION + 4)
    index = made(tmp_path, space, points, cache_bytes=stored + features)
    scorer = LevelScorer(space, space.canonical(points[:QUERIES]))
    assert compared(index, scorer, monkeypatch)[1] == 0
    assert compared(index, scorer.at(level=1), monkeypatch)[1] is None  # level 2 has taken what there was
    assert compared(index, scorer, monkeypatch)[1] == 0
