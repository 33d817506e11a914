"""Engines that look at some of the vectors: recall, masks, effort, and when they look at all."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hyperseek.engines import Engine, _faiss, _lance, open_engine
from hyperseek.errors import InputError, MissingExtraError

Oracle = Callable[..., tuple[Tensor, Tensor]]
Build = Callable[..., Engine]

COUNT, DIMENSION = 1500, 8
ENGINES: list[dict[str, Any]] = [
    {"kind": "hnsw", "m": 12, "ef_construction": 60, "effort": 40},
    {"kind": "ivf", "effort": 25},
    {"kind": "lance", "effort": 3},
    {"kind": "lance", "index": "IVF_HNSW_FLAT", "partitions": 2, "effort": 40},
]


@pytest.fixture(scope="module")
def vectors() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.nn.functional.normalize(torch.randn(COUNT, DIMENSION, generator=generator), dim=1)


@pytest.fixture(scope="module")
def queries() -> Tensor:
    return torch.randn(30, DIMENSION, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def exact_searches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of allowed vectors that were all compared."""
    searches: list[int] = []
    for module in (_faiss, _lance):
        search = module.exact_search

        def counted(*arguments: Any, search: Any = search, **settings: Any) -> Any:
            allowed = settings["allowed"]
            searches.append(settings["count"] if allowed is None else int(allowed.sum()))
            return search(*arguments, **settings)

        monkeypatch.setattr(module, "exact_search", counted)
    return searches


def recall(found: Tensor, truth: Tensor) -> float:
    return float((found[:, :, None] == truth[:, None, :]).any(dim=2).float().mean())


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
@pytest.mark.parametrize("settings", ENGINES, ids=lambda settings: settings.get("index", settings["kind"]))
def test_recall_under_masks_and_from_disk(
    settings: dict[str, Any],
    metric: Any,
    vectors: Tensor,
    queries: Tensor,
    tmp_path: Path,
    oracle: Oracle,
    build: Build,
    exact_searches: list[int],
) -> None:
    engine = build(tmp_path / "a", vectors, metric=metric, **settings)
    generator = np.random.default_rng(0)
    for share in (1.0, 0.7):
        allowed = generator.random(COUNT) < share
        scores, positions = engine.search(queries, k=10, allowed=allowed)
        expected = oracle(queries, vectors, 10, metric, allowed)
        assert allowed[positions.numpy()].all()
        assert recall(positions, expected[1]) >= 0.93
        right = positions == expected[1]
        assert torch.allclose(scores[right], expected[0][right], rtol=1e-4, atol=1e-6)
        assert (scores.diff(dim=1) <= 0).all()
        # The engine is opened anew, and finds the very same.
        again = open_engine(tmp_path / "a").search(queries, k=10, allowed=allowed)
        assert torch.equal(again[0], scores)
        assert torch.equal(again[1], positions)
    assert exact_searches == []
    least = engine.search(queries, k=10, effort=1)[1]
    whole = oracle(queries, vectors, 10, metric)[1]
    assert recall(least, whole) < recall(engine.search(queries, k=10)[1], whole)


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
@pytest.mark.parametrize("settings", ENGINES, ids=lambda settings: settings.get("index", settings["kind"]))
def test_a_selective_mask_is_searched_exactly(
    settings: dict[str, Any],
    metric: Any,
    vectors: Tensor,
    queries: Tensor,
    tmp_path: Path,
    oracle: Oracle,
    build: Build,
) -> None:
    engine = build(tmp_path / "a", vectors, metric=metric, **settings)
    allowed = np.zeros(COUNT, bool)
    allowed[::150] = True
    positions = engine.search(queries, k=12, allowed=allowed)[1]
    assert torch.equal(positions, oracle(queries, vectors, 12, metric, allowed)[1])
    assert (positions[:, 10:] == -1).all()


def test_a_graph_gives_way_to_a_scan_where_that_is_cheaper(
    vectors: Tensor, queries: Tensor, tmp_path: Path, build: Build, exact_searches: list[int]
) -> None:
    engine = build(tmp_path / "a", vectors, "hnsw", "l2", m=12, effort=20)
    engine.search(queries, k=10)
    engine.search(queries, k=10, allowed=np.arange(COUNT) % 2 == 0)
    assert exact_searches == []
    engine.search(queries, k=10, allowed=np.arange(COUNT) % 10 == 0)
    engine.search(queries, k=10, effort=COUNT)
    assert exact_searches == [COUNT // 10, COUNT]


def test_all_cells_are_exact(vectors: Tensor, queries: Tensor, tmp_path: Path, oracle: Oracle, build: Build) -> None:
    for kind, settings in (("ivf", {"lists": 40}), ("lance", {"partitions": 5})):
        engine = build(tmp_path / kind, vectors, kind, "l2", **settings)
        assert torch.equal(engine.search(queries, k=20, effort=40)[1], oracle(queries, vectors, 20, "l2")[1])


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "ivf", "pq": 8, "effort": 60},
        {"kind": "lance", "index": "IVF_PQ", "pq": 8, "refine": 5},
        {"kind": "lance", "index": "IVF_SQ", "refine": 2},
        {"kind": "lance", "index": "IVF_HNSW_SQ", "partitions": 2, "refine": 2},
    ],
    ids=lambda settings: settings.get("index", settings["kind"]),
)
def test_shortened_vectors_find_most(
    settings: dict[str, Any], vectors: Tensor, queries: Tensor, tmp_path: Path, oracle: Oracle, build: Build
) -> None:
    engine = build(tmp_path / "a", vectors, metric="l2", **settings)
    scores, positions = engine.search(queries, k=10)
    expected = oracle(queries, vectors, 10, "l2")
    assert recall(positions, expected[1]) >= 0.75
    assert torch.allclose(scores, expected[0], rtol=0.1)


def test_settings_that_cannot_be(vectors: Tensor, tmp_path: Path, build: Build) -> None:
    for settings, message in [
        ({"kind": "ivf", "lists": 2000}, "2000 lists are too many for 1500 vectors"),
        ({"kind": "ivf", "pq": 3}, "pq must divide the dimension, 8; 3 does not"),
        (
            {"kind": "lance", "partitions": 2000},
            "2000 partitions are too many for 1500 vectors, of which Lance wants 256",
        ),
        ({"kind": "lance", "index": "IVF_PQ", "pq": 3}, "pq must divide the dimension, 8; 3 does not"),
        ({"kind": "lance", "pq": 4}, "pq is for the index IVF_PQ, not for IVF_FLAT"),
    ]:
        with pytest.raises(InputError, match=message):
            build(tmp_path / "a", vectors, metric="l2", **settings)
    with pytest.raises(InputError, match="pq needs at least 256 vectors, there are 100"):
        build(tmp_path / "a", vectors[:100], "ivf", "l2", pq=4)


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf", "lance"])
def test_threads_may_search_together(kind: str, vectors: Tensor, queries: Tensor, tmp_path: Path, build: Build) -> None:
    engine = build(tmp_path / "a", vectors, kind, "l2")
    expected = engine.search(queries, k=5)[1]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda query: engine.search(query[None], k=5)[1][0], queries))
    assert torch.equal(torch.stack(found), expected)


@pytest.mark.parametrize(("kind", "module"), [("hnsw", "faiss"), ("ivf", "faiss"), ("qdrant", "qdrant_client")])
def test_a_missing_package_is_named_with_its_extra(
    kind: str, module: str, vectors: Tensor, tmp_path: Path, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    extra = module.partition("_")[0]
    with pytest.raises(MissingExtraError, match=rf"pip install 'hyperseek\[{extra}\]'"):
        build(tmp_path / "a", vectors, kind, "l2")
