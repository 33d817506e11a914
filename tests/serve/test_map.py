"""The map of an index: places that mean what they say, for every form of points, and for indexes that change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from hyperseek import Document, Index
from hyperseek.analysis.disk import best_scale, project, to_disk
from hyperseek.errors import InputError
from hyperseek.scoring import Space, vectors_of

from .conftest import running

_map = pytest.importorskip("hyperseek.serve._map", reason="needs the extra serve")


def documents(count: int) -> list[Document]:
    return [Document(f"d{number}", "text", f"title {number}") for number in range(count)]


def clusters(count: int, width: int = 16) -> torch.Tensor:
    """Points of four clusters, far apart; each fourth one is of the same."""
    generator = torch.Generator().manual_seed(0)
    middles = 6 * torch.randn(4, width, generator=generator)
    return middles[torch.arange(count) % 4] + torch.randn(count, width, generator=generator)


@pytest.mark.parametrize("shown", [1_000, 60])
def test_documents_that_are_alike_are_near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: int) -> None:
    monkeypatch.setattr(_map, "_SHOWN", shown)
    index = Index.from_vectors(tmp_path / "index", zip(documents(120), clusters(120), strict=True), Space("dot", 16))
    found = _map.map_corpus(index)
    assert found.kind == "plane"
    assert len(found.to_json()["shown"]) == min(shown, 120)
    assert np.abs(found.places).max() <= 1
    apart = np.linalg.norm(found.places[:, None] - found.places, axis=2) + 9 * np.eye(120)
    nearest = apart.argmin(axis=1)
    # Those that are not of the sample stand between the nearest of it.
    assert np.mean(nearest % 4 == np.arange(120) % 4) > 0.97
    assert found.find(["d7", "none"]) == {"d7": found.places[7].round(4).tolist()}
    assert (_map.map_corpus(index).places == found.places).all()


@pytest.mark.parametrize("level", [None, 1])
def test_the_disk_is_that_of_the_analysis(tmp_path: Path, level: int | None) -> None:
    space = Space("levels", 8, levels=2)
    index = Index.from_vectors(tmp_path / "index", zip(documents(40), clusters(40), strict=True), space)
    found = _map.map_corpus(index, level=level)
    points = torch.cat([vectors_of(part) for _, part in index.points()])
    angles, rho, _ = project(space.one_level, space.at_level(points, level))
    expected = to_disk(angles, rho, best_scale(rho))
    assert found.kind == "disk"
    assert np.allclose(found.places, np.stack([expected.real, expected.imag], axis=1), atol=1e-3)
    assert np.linalg.norm(found.places, axis=1).max() < 1
    with pytest.raises(InputError, match="level"):
        _map.map_corpus(index, level=3)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 13])
@pytest.mark.parametrize("kind", ["cosine", "poincare", "tokens"])
def test_few_documents_have_places(tmp_path: Path, kind: str, count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (3, 2) if kind == "tokens" else (2,)
    points = [0.3 * torch.rand(*shape, generator=generator) + 0.1 for _ in range(count)]
    index = Index.from_vectors(tmp_path / "index", zip(documents(count), points, strict=True), Space(kind, 2))
    found = _map.map_corpus(index)
    assert found.places.shape == (count, 2)
    assert np.isfinite(found.places).all()
    assert len(found.to_json()["shown"]) == count


def test_documents_of_passages_have_one_place(make_index: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index.open(make_index("parts", passages={"tokens": 16}))
    assert (index.passages or 0) > len(index)
    whole = _map.map_corpus(index)
    assert whole.ids == index.ids
    assert len(whole.places) == len(index)
    monkeypatch.setattr(_map, "_CHUNK", 7)  # documents go on in the next chunk
    assert np.allclose(_map.map_corpus(index).places, whole.places)


def test_the_map_follows_the_index(make_index: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from hyperseek.serve import ServeSettings, create_app

    made = []
    draw = _map.map_corpus
    monkeypatch.setattr(_map, "map_corpus", lambda *given, **options: (made.append(1), draw(*given, **options))[1])
    app = create_app({"notes": str(make_index("mapped"))}, settings=ServeSettings(writable=True), keys=())
    with running(app) as url, httpx.Client(base_url=url) as client:

        async def ask() -> list[int]:
            async with httpx.AsyncClient(base_url=url) as several:
                answers = await asyncio.gather(*(several.get("/map") for _ in range(5)))
            return [answer.json()["documents"] for answer in answers]

        assert asyncio.run(ask()) == [60] * 5
        assert len(made) == 1  # for all of them
        client.post("/documents", json={"documents": [{"id": "new/one", "text": "cat and dog"}]}).raise_for_status()
        assert client.get("/map").json()["documents"] == 61
        places = client.post("/map", json={"ids": ["new/one", "gone"]}).json()["places"]
        assert list(places) == ["new/one"]
        assert client.get("/map", params={"level": "x"}).status_code == 422
        assert client.get("/map", params={"level": 2}).status_code == 400  # this index has one
        assert client.get("/map", params={"index": "other"}).status_code == 404
