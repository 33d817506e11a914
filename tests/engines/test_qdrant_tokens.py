"""Token vectors as multivectors of Qdrant, beside exact MaxSim; the client's own search takes the server's place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from token_documents import Collection, request

import hyperseek
from hyperseek._files import read_json
from hyperseek._folders import write_sealed
from hyperseek.engines import QdrantTokensConfig, _qdrant
from hyperseek.engines._qdrant_tokens import QdrantTokens
from hyperseek.engines.structure import parse_structure
from hyperseek.errors import ConfigError, InputError, StoreError
from hyperseek.plan import Engine as Source
from hyperseek.plan import Rescore
from hyperseek.scoring import LinearScorer, MaxSimScorer, Space, TokenPoints

DIMENSION = 8
SPACE = Space("tokens", DIMENSION)


def drawn(count: int, *, longest: int = 9, seed: int = 0) -> TokenPoints:
    """Return documents of 0 to `longest` tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, longest + 1, (count,), generator=generator)
    return TokenPoints.from_tensors(torch.randn(int(lengths.sum()), DIMENSION, generator=generator), lengths)


def queries(count: int = 5, tokens: int = 4) -> MaxSimScorer:
    vectors = torch.randn(count, tokens, DIMENSION, generator=torch.Generator().manual_seed(5))
    mask = torch.ones(count, tokens)
    mask[:, 1], mask[:, -1] = 0.3, 0
    vectors[:, -1] = torch.nan  # what the mask leaves out is never read
    return MaxSimScorer(SPACE, vectors, mask)


def built(folder: Path, points: TokenPoints, **settings: Any) -> QdrantTokens:
    folder.mkdir(exist_ok=True)
    config, documents = QdrantTokensConfig(**settings), Collection(points)
    details = QdrantTokens.build(folder, documents, config)
    assert details == {"documents": int((points.lengths > 0).sum()), "tokens": len(points.vectors)}
    QdrantTokens.verify(folder, details)
    return QdrantTokens.open(folder, documents, config, details)


@pytest.mark.parametrize("remote", [False, True])
def test_it_ranks_by_weighted_maxsim(remote: bool, server: Any, tmp_path: Path) -> None:
    points, scorer = drawn(120), queries()
    index = built(tmp_path, points, server=remote)
    [(scores, places)] = index.search(request(scorer, points, 40))
    expected = scorer.score(points).sort(dim=1, descending=True, stable=True)
    assert torch.equal(places, expected.indices[:, :40])
    torch.testing.assert_close(scores, expected.values[:, :40], rtol=1e-5, atol=1e-5)

    [(_, places)] = index.search(request(scorer, points, 120))
    empty = set((points.lengths == 0).nonzero()[:, 0].tolist())
    assert empty
    for row in places.tolist():
        assert set(row) == set(range(120)) - empty | {-1}


def test_filters_come_before_the_search(server: Any, tmp_path: Path) -> None:
    points, scorer = drawn(90), queries()
    index = built(tmp_path, points, server=True)
    scores = scorer.score(points)
    generator = np.random.default_rng(0)
    for share, key in ((0.2, "must"), (0.8, "must_not")):
        allowed = generator.random(90) < share
        [(_, places)] = index.search(request(scorer, points, 5, allowed))
        best = scores.masked_fill(~torch.from_numpy(allowed), -torch.inf).topk(5, dim=1).indices
        assert torch.equal(places, best)
        listed = np.flatnonzero(allowed if key == "must" else ~allowed).tolist()
        assert getattr(server.searches[-1].filter, key)[0].has_id == listed
    index.search(request(scorer, points, 5, np.ones(90, bool)))
    assert server.searches[-1].filter is None
    [(_, places)] = index.search(request(scorer, points, 5, np.zeros(90, bool)))
    assert places.shape == (5, 0)


def test_a_server_is_sent_bounded_batches(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_qdrant, "_NUMBERS", 20 * DIMENSION)
    points = TokenPoints.from_tensors(torch.randn(79, DIMENSION), torch.tensor([0, 9, 9, 9, 45, 0, 7]))
    index = built(tmp_path, points, server=True, collection="papers", m=0, effort=33)
    assert [[len(tokens) for tokens in batch] for batch in server.sent] == [[9, 9], [9], [45], [7]]
    [collection] = server.names
    assert collection.startswith("papers-")
    made = server.created[collection]
    assert (made["vectors_config"].size, made["vectors_config"].distance) == (DIMENSION, "Dot")
    assert made["vectors_config"].multivector_config.comparator == "max_sim"
    assert (made["hnsw_config"].m, made["hnsw_config"].ef_construct) == (0, 200)
    assert [path.name for path in tmp_path.iterdir()] == ["collection.json"]

    [(_, places)] = index.search(request(queries(20), points, 3), effort=50)
    assert torch.equal(places, queries(20).score(points).topk(3, dim=1).indices)
    assert server.asked == [6, 6, 6, 2]
    assert server.searches[0].params.hnsw_ef == 50
    index.search(request(queries(1), points, 3))
    assert server.searches[-1].params.hnsw_ef == 33


def test_queries_that_it_cannot_search_by(tmp_path: Path) -> None:
    points = drawn(20)
    index = built(tmp_path, points, server=False)
    negative = MaxSimScorer(SPACE, torch.randn(1, 2, DIMENSION), torch.tensor([[1.0, -1.0]]))
    linear = LinearScorer(Space("cosine", DIMENSION), torch.randn(1, DIMENSION))
    for scorer in (negative, linear):
        assert not index.can_search(scorer)
        with pytest.raises(InputError, match="weights of at least 0"):
            index.search(request(scorer, points, 3))
    nothing = MaxSimScorer(SPACE, torch.randn(1, 2, DIMENSION), torch.zeros(1, 2))
    [(scores, _)] = index.search(request(nothing, points, 3))
    assert scores.tolist() == [[0.0, 0.0, 0.0]]


def test_a_failed_build_leaves_no_collection(server: Any, tmp_path: Path) -> None:
    points = drawn(60)
    row = int((points.lengths > 0).nonzero()[40])
    points.vectors[points.offsets[row]] = torch.nan
    with pytest.raises(InputError, match=rf"document 'd{row}' has a token vector that cannot be compared"):
        built(tmp_path, points, server=True)
    assert server.names == []
    with pytest.raises(InputError, match="not for points of"):
        QdrantTokens.build(tmp_path, Collection(points, Space("cosine", DIMENSION)), QdrantTokensConfig())


def test_the_collection_of_a_killed_build_is_found_and_deleted(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(server.client, "delete_collection", lambda collection: None)
        points = drawn(60)
        points.vectors[-1] = torch.nan
        with pytest.raises(InputError):
            built(tmp_path, points, server=True)
    assert len(server.names) == 1
    QdrantTokens.discard(tmp_path)
    assert server.names == []


def test_a_folder_names_neither_servers_nor_foreign_collections(server: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not part of an engine"):
        parse_structure({"kind": "qdrant-tokens", "url": "http://evil.example"})
    points = drawn(20)
    built(tmp_path, points, server=True)
    server.client.create_collection("payroll", vectors_config={})
    values = read_json(tmp_path / "collection.json")
    values.pop("checksum")
    write_sealed(tmp_path / "collection.json", values | {"collection": "payroll"})
    for act in (
        lambda: QdrantTokens.open(tmp_path, Collection(points), QdrantTokensConfig(), {}),
        lambda: QdrantTokens.discard(tmp_path),
    ):
        with pytest.raises(StoreError, match="'payroll', which is not a collection of an engine"):
            act()
    assert "payroll" in server.names


def test_another_number_of_documents_or_a_changed_file_is_noticed(server: Any, tmp_path: Path) -> None:
    points = drawn(20)
    index = built(tmp_path / "there", points, server=True)
    server.client.delete(index.collection, points_selector=[int((points.lengths > 0).nonzero()[0])])
    with pytest.raises(StoreError, match="build it again"):
        QdrantTokens.open(tmp_path / "there", Collection(points), QdrantTokensConfig(), {})
    built(tmp_path / "here", points, server=False)
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == [
        "collection.json",
        "tokens-0.safetensors",
        "tokens-1.safetensors",
    ]
    damaged = tmp_path / "here" / "tokens-1.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x01")
    with pytest.raises(StoreError, match=r"tokens-1\.safetensors"):
        QdrantTokens.open(tmp_path / "here", Collection(points), QdrantTokensConfig(), {})


def test_in_an_index_it_finds_what_a_scan_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HYPERSEEK_QDRANT_URL", raising=False)
    points = drawn(70, seed=3)
    ids = [f"d{place}" for place in range(70)]
    items = [(hyperseek.Document(id=name, text=name), points[place : place + 1].rows) for place, name in enumerate(ids)]
    index = hyperseek.Index.from_vectors(tmp_path / "a.index", items, SPACE)
    index.build_engine("qdrant-tokens")
    index.delete(ids[5:15])
    scorer = queries()
    plan = Source(n=4, name="qdrant-tokens") >> Rescore()  # no more candidates than are wanted
    found, expected = index.search(scorer, k=4, plan=plan), index.search(scorer, k=4, engine="exact")
    assert [[hit.id for hit in hits] for hits in found] == [[hit.id for hit in hits] for hits in expected]
    assert not {hit.id for hits in found for hit in hits} & set(ids[5:15])
    assert index.engines["qdrant-tokens"].details == {
        "documents": int((points.lengths > 0).sum()),
        "tokens": len(points.rows),
    }
    again = hyperseek.Index.open(tmp_path / "a.index", verify=True).search(scorer, k=4, plan=plan)
    assert [[hit.id for hit in hits] for hits in again] == [[hit.id for hit in hits] for hits in found]
