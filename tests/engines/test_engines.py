"""Every engine beside the ten-line oracle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hyperseek.engines import Engine, build_engine, open_engine
from hyperseek.engines.structure import parse_structure
from hyperseek.errors import ConfigError, InputError, StoreError, UnknownNameError

Oracle = Callable[..., tuple[Tensor, Tensor]]
Build = Callable[..., Engine]

# Small graphs and cells.
EXHAUSTIVE: dict[str, dict[str, Any]] = {
    "flat": {},
    "hnsw": {"m": 4, "ef_construction": 20},
    "ivf": {"lists": None},
    "lance": {},
    "qdrant": {},
}


@st.composite
def cases(draw: Any) -> tuple[Tensor, Tensor, Any]:
    """Small whole numbers, so that ties abound and every engine's arithmetic is exact."""
    count, queries = draw(st.integers(0, 40)), draw(st.integers(1, 5))
    dimension, span = draw(st.integers(1, 6)), draw(st.sampled_from([1, 3, 50]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    vectors = torch.randint(-span, span + 1, (count + queries, dimension), generator=generator).float()
    share = draw(st.sampled_from([None, 0.0, 0.1, 0.5, 0.9, 1.0]))
    allowed = None if share is None else (torch.rand(count, generator=generator) < share).numpy()
    return vectors[:count], vectors[count:], allowed


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
@pytest.mark.parametrize("kind", list(EXHAUSTIVE))
def test_engine_equals_the_oracle(kind: str, metric: Any, oracle: Oracle, build: Build) -> None:
    @settings(deadline=None, max_examples=12 if kind == "lance" else 25, database=None)
    @given(case=cases(), k=st.sampled_from([1, 3, 10, 60]))
    def check(case: tuple[Tensor, Tensor, Any], k: int) -> None:
        vectors, queries, allowed = case
        expected = oracle(queries, vectors, k, metric, allowed)
        with TemporaryDirectory() as folder:
            built = build(Path(folder) / "engine", vectors, kind, metric, **EXHAUSTIVE[kind])
            for engine in (built, open_engine(Path(folder) / "engine")):
                scores, positions = engine.search(queries, k=k, effort=max(1, len(vectors)), allowed=allowed)
                assert scores.dtype == torch.float32
                assert positions.dtype == torch.int64
                # sqrt is the only step that rounds.
                assert torch.allclose(scores, expected[0], rtol=1e-6, atol=0)
                if engine.config.exact or k >= len(vectors):
                    assert torch.equal(positions, expected[1])
                else:
                    check_positions(queries, vectors, scores, positions, metric, allowed, oracle)

    check()


def check_positions(
    queries: Tensor, vectors: Tensor, scores: Tensor, positions: Tensor, metric: str, allowed: Any, oracle: Oracle
) -> None:
    """Each position has the score that is claimed, none comes twice; of equal scores any may be cut off."""
    for query, own_scores, own in zip(queries, scores, positions, strict=True):
        found = own[own >= 0]
        assert len(found.unique()) == len(found)
        assert allowed is None or allowed[found.numpy()].all()
        for position, score in zip(found, own_scores, strict=False):
            truth, _ = oracle(query[None], vectors[position][None], 1, metric)
            assert torch.allclose(truth[0, 0], score, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", list(EXHAUSTIVE))
def test_not_finite_and_not_as_announced_is_refused_and_leaves_nothing(kind: str, tmp_path: Path) -> None:
    config = parse_structure(kind)
    for value, message in [
        (float("nan"), "vector 7 .* infinite or undefined"),
        (float("inf"), "vector 7 .* infinite or undefined"),
        (1e30, "vector 7 .* too long"),
    ]:
        vectors = torch.ones(10, 4)
        vectors[7, 2] = value
        with pytest.raises(InputError, match=message):
            build_engine(tmp_path / "a", vectors.split(4), config, metric="l2", count=10, dimension=4)
        assert not (tmp_path / "a").exists()
    for count in (9, 11):
        with pytest.raises(InputError, match="announced"):
            build_engine(tmp_path / "a", [torch.ones(10, 4)], config, metric="l2", count=count, dimension=4)
    with pytest.raises(InputError, match=r"shape \(n, 5\)"):
        build_engine(tmp_path / "a", [torch.ones(10, 4)], config, metric="l2", count=10, dimension=5)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("kind", list(EXHAUSTIVE))
def test_searches_say_what_is_wrong(kind: str, tmp_path: Path, build: Build) -> None:
    engine = build(tmp_path / "a", torch.eye(6), kind, "l2")
    queries = torch.eye(6)[:2]
    with pytest.raises(InputError, match="k must be at least 1"):
        engine.search(queries, k=0)
    with pytest.raises(InputError, match="effort must be at least 1"):
        engine.search(queries, k=1, effort=0)
    with pytest.raises(InputError, match=r"shape \(Q, 6\), not \(2, 5\)"):
        engine.search(queries[:, :5], k=1)
    with pytest.raises(InputError, match=r"query 1 .* infinite or undefined"):
        engine.search(queries * torch.tensor([[1.0], [torch.nan]]), k=1)
    for wrong in (np.ones(5, bool), np.ones(6, int)):
        with pytest.raises(InputError, match=r"booleans of shape \(6,\)"):
            engine.search(queries, k=1, allowed=wrong)
    none = engine.search(torch.empty(0, 6), k=3)
    assert none[0].shape == none[1].shape == (0, 3)
    assert engine.dimension == 6
    assert engine.metric == "l2"
    assert len(engine) == 6
    assert kind in repr(engine).lower()


def test_a_folder_must_be_empty_and_complete(tmp_path: Path, build: Build) -> None:
    build(tmp_path / "a", torch.eye(3), "flat", "l2")
    with pytest.raises(StoreError, match="not empty"):
        build(tmp_path / "a", torch.eye(3), "flat", "l2")
    (tmp_path / "a" / "engine.json").unlink()
    with pytest.raises(StoreError, match="no complete engine"):
        open_engine(tmp_path / "a")


@pytest.mark.parametrize(("kind", "file"), [("flat", "vectors.npy"), ("hnsw", "hnsw.faiss"), ("ivf", "ivf.faiss")])
def test_a_damaged_file_is_named(kind: str, file: str, tmp_path: Path, build: Build) -> None:
    build(tmp_path / "a", torch.eye(3), kind, "l2")
    (tmp_path / "a" / file).write_bytes(b"nothing")
    with pytest.raises(StoreError, match="cannot be read"):
        open_engine(tmp_path / "a")


def test_an_engine_opens_only_its_own_kind(tmp_path: Path, build: Build) -> None:
    build(tmp_path / "a", torch.eye(3), "flat", "l2")
    from hyperseek.engines._faiss import HnswEngine

    with pytest.raises(StoreError, match="kind 'flat', not 'hnsw'"):
        HnswEngine.open(tmp_path / "a")


def test_configurations_from_what_is_easy_to_write() -> None:
    assert (
        parse_structure("hnsw")
        == parse_structure({"kind": "hnsw", "m": 32})
        == parse_structure(parse_structure("hnsw"))
    )
    assert parse_structure("hnsw").graph
    assert not parse_structure("ivf").graph
    assert parse_structure({"kind": "lance", "index": "IVF_HNSW_SQ"}).graph
    with pytest.raises(UnknownNameError, match="unknown kind of engine 'hsnw'; did you mean 'hnsw'"):
        parse_structure("hsnw")
    with pytest.raises(UnknownNameError):
        parse_structure({"m": 3})
    with pytest.raises(ConfigError, match="effort"):
        parse_structure({"kind": "ivf", "efort": 3})
