"""Qdrant: what is sent to a server; the client's own search takes the server's place."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import hyperseek
from hyperseek.engines import Engine, QdrantConfig, _qdrant, build_engine, estimate_engine, open_engine, use_qdrant
from hyperseek.engines._qdrant import Qdrant, QdrantEngine
from hyperseek.engines.structure import parse_structure
from hyperseek.errors import ConfigError, InputError, StoreError, WriteError
from hyperseek.scoring import Space
from hyperseek.store import attachments

Build = Callable[..., Engine]
Oracle = Callable[..., tuple[Tensor, Tensor]]
SERVER = {"server": True, "collection": "nouns"}


@pytest.fixture
def vectors() -> Tensor:
    return torch.randn(200, 6, generator=torch.Generator().manual_seed(0))


def test_a_server_holds_the_vectors_and_the_folder_the_name(
    server: Any, vectors: Tensor, tmp_path: Path, build: Build, oracle: Oracle
) -> None:
    first = build(tmp_path / "a", vectors, "qdrant", "inner_product", m=20, effort=33, **SERVER)
    build(tmp_path / "b", vectors, "qdrant", "l2", **SERVER)
    assert len(server.names) == 2
    assert all(name.startswith("nouns-") for name in server.names)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["engine.json"]
    created = server.created[first.info.details["collection"]]
    assert (created["vectors_config"].size, created["vectors_config"].distance) == (6, "Dot")
    assert (created["hnsw_config"].m, created["hnsw_config"].ef_construct) == (20, 200)

    scores, positions = open_engine(tmp_path / "a").search(vectors[:70], k=5)
    expected = oracle(vectors[:70], vectors, 5, "inner_product")
    assert torch.equal(positions, expected[1])
    assert torch.allclose(scores, expected[0], rtol=1e-5)
    assert {request.params.hnsw_ef for request in server.searches} == {33}
    first.search(vectors[:1], k=50, effort=40)
    assert server.searches[-1].params.hnsw_ef == 50

    first.discard()
    assert len(server.names) == 1
    with pytest.raises(StoreError, match="holds 0 vectors, not the 200"):
        open_engine(tmp_path / "a")


def test_masks_become_conditions_on_ids_the_short_way(
    server: Any, vectors: Tensor, tmp_path: Path, build: Build
) -> None:
    engine = build(tmp_path / "a", vectors, "qdrant", "l2", **SERVER)
    allowed = np.zeros(200, bool)
    allowed[[4, 9]] = True
    assert set(engine.search(vectors[:1], k=3, allowed=allowed)[1][0].tolist()) == {4, 9, -1}
    assert server.searches[-1].filter.must[0].has_id == [4, 9]
    assert 0 not in engine.search(vectors[:1], k=198, allowed=~allowed)[1][0, [4, 9]].tolist()
    assert server.searches[-1].filter.must_not[0].has_id == [4, 9]
    engine.search(vectors[:1], k=3, allowed=np.ones(200, bool))
    assert server.searches[-1].filter is None


def test_a_failed_build_leaves_no_collection(server: Any, vectors: Tensor, tmp_path: Path, build: Build) -> None:
    vectors[150] = torch.nan
    with pytest.raises(InputError, match="vector 150"):
        build(tmp_path / "a", vectors, "qdrant", "l2", **SERVER)
    assert server.names == []


def test_the_collection_of_a_killed_build_is_found_and_deleted(
    server: Any, vectors: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors[150] = torch.nan
    place = tmp_path / "chart-0"
    with monkeypatch.context() as killed:
        killed.setattr(server.client, "delete_collection", lambda collection: None)
        with pytest.raises(InputError, match="vector 150"):
            QdrantEngine.build(place, vectors.split(50), QdrantConfig(**SERVER), metric="l2", count=200, dimension=6)
    assert len(server.names) == 1
    with pytest.raises(StoreError, match="holds 150 vectors, not the 200"):
        open_engine(place)
    Qdrant.discard(tmp_path)
    assert server.names == []


@pytest.mark.parametrize("kind", ["qdrant", "qdrant-tokens"])
def test_what_fails_after_the_last_vector_leaves_no_collection(
    kind: str, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = Space("tokens" if kind == "qdrant-tokens" else "cosine", 6)
    items = [(hyperseek.Document(id=str(place), text=""), torch.randn(2, 6)) for place in range(5)]
    if not space.ragged:
        items = [(document, tokens[0]) for document, tokens in items]
    index = hyperseek.Index.from_vectors(tmp_path / "a.index", items, space)

    def full(*arguments: object) -> None:
        assert len(server.names) == 1
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(attachments, "atomic_write", full)
    with pytest.raises(WriteError):
        index.build_engine({"kind": kind, **SERVER})
    assert server.names == []


def test_a_named_server_is_what_is_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERSEEK_QDRANT_URL", "http://localhost:1")
    here, there = (estimate_engine(QdrantConfig(server=s), count=10**6, dimension=64) for s in (False, True))
    assert estimate_engine(QdrantConfig(), count=10**6, dimension=64) == there
    assert there.building_bytes < here.building_bytes


def test_a_server_that_does_not_answer_is_named(
    vectors: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERSEEK_QDRANT_URL", "http://localhost:1")
    with pytest.raises(StoreError, match="Qdrant at http://localhost:1 did not do what was asked"):
        build_engine(tmp_path / "a", [vectors], QdrantConfig(), metric="l2", count=200, dimension=6)
    assert not (tmp_path / "a").exists()


def test_server_and_key_come_from_the_caller_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    config = QdrantConfig(server=True)
    monkeypatch.delenv("HYPERSEEK_QDRANT_URL", raising=False)
    with pytest.raises(StoreError, match=r"set HYPERSEEK_QDRANT_URL .* or call hyperseek.engines.use_qdrant"):
        _qdrant.connect(config)
    monkeypatch.setenv("HYPERSEEK_QDRANT_URL", "https://qdrant.example")
    monkeypatch.setenv("HYPERSEEK_QDRANT_API_KEY", "a-secret")
    assert _qdrant.connect(config).init_options["api_key"] == "a-secret"
    monkeypatch.setattr(_qdrant, "_named", None)
    use_qdrant("https://other.example", api_key="another")
    assert _qdrant.connect(config).init_options["url"] == "https://other.example"
    assert _qdrant.connect(config).init_options["api_key"] == "another"
    use_qdrant("https://other.example")
    assert _qdrant.connect(config).init_options["api_key"] is None  # no server gets the key of another
    use_qdrant(None)
    assert _qdrant.connect(config).init_options["url"] == "https://qdrant.example"


@pytest.mark.parametrize("values", [{"url": "http://evil.example"}, {"api_key_variable": "AWS_SECRET_ACCESS_KEY"}])
def test_a_folder_names_neither_servers_nor_secrets(
    values: dict[str, str], vectors: Tensor, tmp_path: Path, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="not part of an engine"):
        parse_structure({"kind": "qdrant", **values})
    build(tmp_path / "a", vectors, "qdrant", "l2")
    description = json.loads((tmp_path / "a" / "engine.json").read_text())
    del description["checksum"]
    description["config"] |= values
    (tmp_path / "a" / "engine.json").write_text(json.dumps(description))
    monkeypatch.setattr(_qdrant, "connect", lambda config: pytest.fail("a server was asked"))
    with pytest.raises(StoreError, match="not part of an engine"):
        open_engine(tmp_path / "a")


def test_a_folder_names_only_collections_that_engines_make(
    server: Any, vectors: Tensor, tmp_path: Path, build: Build
) -> None:
    build(tmp_path / "a", vectors, "qdrant", "l2", **SERVER)
    server.client.create_collection("payroll", vectors_config={})
    description = json.loads((tmp_path / "a" / "engine.json").read_text())
    del description["checksum"]
    description["details"]["collection"] = "payroll"
    (tmp_path / "a" / "engine.json").write_text(json.dumps(description))
    with pytest.raises(StoreError, match="'payroll', which is not a collection of an engine"):
        open_engine(tmp_path / "a")
    assert "payroll" in server.names


def test_without_a_server_vectors_lie_in_a_plain_file(vectors: Tensor, tmp_path: Path, build: Build) -> None:
    build(tmp_path / "a", vectors, "qdrant", "l2")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["engine.json", "vectors.npy"]
    # Two that are open at once, which the client's own files would not allow.
    engines = [open_engine(tmp_path / "a") for _ in range(2)]
    assert all(engine.search(vectors[7:8], k=1)[1].item() == 7 for engine in engines)
