"""The token index beside exact MaxSim: candidates, codes, filters, weights, damage, threads, and builds that stop."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from token_documents import Collection, request

from hyperseek._folders import checksum_folder
from hyperseek.engines import CentroidsConfig
from hyperseek.engines import _centroids as module
from hyperseek.engines import _token_parts as parts_module
from hyperseek.engines._centroids import Centroids
from hyperseek.engines._token_codes import Codebook, Reservoir
from hyperseek.engines._token_parts import Walk
from hyperseek.errors import InputError, StoreError
from hyperseek.scoring import LinearScorer, MaxSimScorer, Space, TokenPoints

DIMENSION = 12
SPACE = Space("tokens", DIMENSION)


def drawn(count: int, seed: int) -> TokenPoints:
    """Return documents of 0 to 12 tokens around twenty centres."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(20, DIMENSION, generator=torch.Generator().manual_seed(99))
    lengths = torch.randint(0, 13, (count,), generator=generator)
    total = int(lengths.sum())
    near = centres[torch.randint(0, 20, (total,), generator=generator)]
    return TokenPoints.from_tensors(near + 0.5 * torch.randn(total, DIMENSION, generator=generator), lengths)


def queries(count: int = 6, tokens: int = 5) -> MaxSimScorer:
    points = drawn(40 * count, seed=7).vectors[: count * tokens]
    mask = torch.ones(count, tokens)
    mask[:, -1], mask[:, -2] = 0, 0.5
    vectors = points.view(count, tokens, DIMENSION).clone()
    vectors[:, -1] = torch.nan  # what the mask leaves out is never read
    return MaxSimScorer(SPACE, vectors, mask)


def built(folder: Path, documents: Collection, **settings: Any) -> Centroids:
    folder.mkdir(exist_ok=True)
    config = CentroidsConfig(**settings)
    details = Centroids.build(folder, documents, config)
    Centroids.verify(folder, details)
    return Centroids.open(folder, documents, config, details)


def best(scores: torch.Tensor, n: int, allowed: Any = None) -> list[set[int]]:
    if allowed is not None:
        scores = scores.masked_fill(~torch.from_numpy(allowed), -torch.inf)
    return [set(row) for row in scores.topk(n, dim=1).indices.tolist()]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("bits", [2, 4, 16])
def test_with_all_probes_every_document_is_a_candidate(seed: int, bits: int, tmp_path: Path) -> None:
    points = drawn(60, seed)
    index = built(tmp_path, Collection(points), bits=bits, centroids=8 + seed, seed=seed)
    scorer = queries()
    [(scores, places)] = index.search(request(scorer, points, 60), effort=1000)
    assert [set(row) for row in places.tolist()] == [set(range(60))] * len(scorer)
    codes = scorer.score(index.parts[0].points(np.arange(60)))
    torch.testing.assert_close(scores, codes.gather(1, places))
    assert bool((scores.diff(dim=1) <= 0).all())
    if bits == 16:
        torch.testing.assert_close(codes, scorer.score(points), atol=0.02, rtol=1e-3)


@pytest.mark.parametrize("masking", ["exact", "pylate"])
def test_a_search_finds_what_exact_scores_put_first(masking: Any, tmp_path: Path) -> None:
    points = drawn(400, seed=3)
    index = built(tmp_path, Collection(points), bits=4)
    scorer = queries(20)
    scorer = MaxSimScorer(SPACE, scorer.queries, scorer.mask, masking=masking)
    truth = best(scorer.score(points), 10)
    recalls = []
    for effort in (1, 8, 1000):
        [(_, places)] = index.search(request(scorer, points, 30), effort=effort)
        recalls.append(np.mean([len(own & set(row)) / 10 for own, row in zip(truth, places.tolist(), strict=True)]))
    assert recalls == sorted(recalls)
    assert recalls[0] < recalls[-1] >= 0.99


def test_recall_is_measured_as_a_search_finds_it(tmp_path: Path) -> None:
    documents = Collection(drawn(600, seed=11))
    little = built(tmp_path / "little", documents, probes=1)
    much = built(tmp_path / "much", documents, probes=10_000)
    chosen = built(tmp_path / "chosen", documents)
    assert (little.recall or 1) < 0.9 < (much.recall or 0)
    assert (chosen.recall or 0) >= 0.98 or chosen.probes == 32
    assert (little.probes, much.probes) == (1, 10_000)
    assert not (tmp_path / "little" / "queries.safetensors").exists()


def test_a_filter_comes_before_scores(tmp_path: Path) -> None:
    points, scorer = drawn(200, seed=5), queries()
    index = built(tmp_path, Collection(points))
    generator = np.random.default_rng(0)
    for share in (0.02, 0.3, 0.9):
        allowed = generator.random(200) < share
        n = min(10, int(allowed.sum()))
        [(_, places)] = index.search(request(scorer, points, 10, allowed), effort=2)
        assert places.shape == (len(scorer), n)
        assert allowed[places.numpy()].all()
    [(scores, places)] = index.search(request(scorer, points, 10, np.zeros(200, np.bool_)))
    assert scores.shape == places.shape == (len(scorer), 0)


def test_steps_bound_scores_with_their_weights(tmp_path: Path) -> None:
    points, scorer = drawn(100, seed=2), queries()
    index = built(tmp_path, Collection(points))
    quantised = TokenPoints(index.book.centroids[index.book.assign(points.vectors)], points.offsets)
    expected = scorer.score(quantised)
    walk = Walk(index.book, index.parts, None, 5)
    for query in range(len(scorer)):
        kept = scorer.mask[query] != 0
        weights = scorer.mask[query][kept]
        similar = scorer.queries[query][kept] @ index.book.centroids.T
        rows, scores = walk._reach(similar, weights.numpy(), len(index.book))
        assert rows.tolist() == (points.lengths > 0).nonzero()[:, 0].tolist()
        own = expected[query][torch.from_numpy(rows)].numpy()
        np.testing.assert_allclose(scores, own, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(walk._by_centroids(rows, similar, weights), own, rtol=1e-4, atol=1e-4)
        for probes in (1, 3):
            some, bounds = walk._reach(similar, weights.numpy(), probes)
            assert (bounds >= expected[query][torch.from_numpy(some)].numpy() - 1e-4).all()


def test_codes_come_closer_with_bits() -> None:
    vectors = drawn(800, seed=1).vectors
    errors = []
    for bits in (2, 4):
        book = Codebook.learn(vectors, centroids=16, bits=bits, seed=0)
        assigned = book.assign(vectors)
        nearest = torch.cdist(vectors.double(), book.centroids.double()).argmin(dim=1)
        assert torch.equal(assigned, nearest)
        codes = book.encode(vectors, assigned).numpy()
        assert codes.shape == (len(vectors), DIMENSION * bits // 8)
        errors.append(float((book.decode(codes, assigned) - vectors).square().mean()))
        plain = float((book.centroids[assigned] - vectors).square().mean())
    # A Gaussian in 4 equal parts keeps 0.14 of its variance, in 16 parts 0.03.
    assert plain > 5 * errors[0] > 15 * errors[1]


def test_many_centroids_in_cells_are_nearly_as_near_as_the_nearest() -> None:
    vectors = torch.randn(6000, DIMENSION, generator=torch.Generator().manual_seed(0))
    book = Codebook.learn(vectors, centroids=2000, bits=2, seed=0)
    assert len(book) == 2000
    assert len(book.cells) > 50
    distances = torch.cdist(vectors, book.centroids)
    found = distances.gather(1, book.assign(vectors)[:, None])[:, 0]
    assert float(found.square().mean() / distances.amin(dim=1).square().mean()) < 1.1


def test_a_reservoir_is_a_uniform_sample() -> None:
    counts = torch.zeros(100)
    for seed in range(300):
        reservoir = Reservoir(20, seed=seed)
        for chunk in torch.arange(100.0)[:, None].split(7):
            reservoir.add(chunk)
        assert reservoir.seen == 100
        counts[reservoir.sample[:, 0].long()] += 1
    assert counts.sum() == 300 * 20
    assert 30 < counts.min() <= counts.max() < 92  # 60 each, and 6.9 of deviation


def test_a_reservoir_larger_than_the_stream_takes_no_more_memory_than_it() -> None:
    reservoir, vectors = Reservoir(10**12, seed=0), torch.arange(100.0)[:, None]
    for chunk in vectors.split(7):
        reservoir.add(chunk)
    assert torch.equal(reservoir.sample, vectors)


def test_small_runs_make_the_same_inverted_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = Collection(drawn(120, seed=4))
    whole = built(tmp_path / "whole", documents)
    monkeypatch.setattr(parts_module, "_SORTED", 50)
    runs = built(tmp_path / "runs", documents)
    assert whole.parts[0].notes.tokens > 500
    for centroid in range(len(whole.book)):
        own = whole.parts[0].documents_of(centroid)
        assert own.tolist() == runs.parts[0].documents_of(centroid).tolist()
        assert own.tolist() == sorted(set(own.tolist()))
    assert checksum_folder(tmp_path / "whole") == checksum_folder(tmp_path / "runs")


@pytest.mark.parametrize("stop_after", [0, 1, 4, 6])
def test_an_interrupted_build_goes_on(stop_after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COMMIT_EVERY", -1.0)
    documents = Collection(drawn(100, seed=6))
    whole = built(tmp_path / "whole", documents)
    folder = tmp_path / "stopped"
    folder.mkdir()
    config = CentroidsConfig()
    learned: list[int] = []
    learn = Codebook.learn

    def counted(*arguments: Any, **settings: Any) -> Codebook:
        learned.append(1)
        return learn(*arguments, **settings)

    monkeypatch.setattr(Codebook, "learn", counted)
    # The first pass has seven chunks; the second one is stopped.
    chunks = iter([None, stop_after])
    stopped = Collection(documents.points)
    monkeypatch.setattr(
        stopped, "chunks", lambda rows: Collection(documents.points, stop_after=next(chunks)).chunks(rows)
    )
    with pytest.raises(KeyboardInterrupt):
        Centroids.build(folder, stopped, config)
    with (folder / "part-0" / "codes.bin").open("ab") as file:
        file.write(b"what a killed writer did not note")
    resumed = built(folder, documents)
    assert learned == [1]
    assert checksum_folder(folder) == checksum_folder(tmp_path / "whole")
    assert resumed.parts[0].notes.documents == 100
    assert whole.parts[0].notes.centroid_error == pytest.approx(resumed.parts[0].notes.centroid_error)


def test_damage_is_named(tmp_path: Path) -> None:
    documents, config = Collection(drawn(50, seed=8)), CentroidsConfig()
    details = Centroids.build(tmp_path, documents, config)
    names = sorted(checksum_folder(tmp_path))
    assert names == [
        "codebook.safetensors",
        *(f"part-0/{name}.bin" for name in ("centroids", "codes", "documents", "offsets", "starts")),
    ]
    for name in names:
        path = tmp_path / name
        content = path.read_bytes()
        for broken in (content[:-1], content[:-1] + bytes([content[-1] ^ 1])):
            path.write_bytes(broken)
            with pytest.raises(StoreError, match=path.name):
                Centroids.verify(tmp_path, details)
            with pytest.raises(StoreError, match="build the engine again"):
                Centroids.open(tmp_path, documents, config, details)
        path.write_bytes(content)
    Centroids.verify(tmp_path, details)
    climbing = {**details, "parts": [{**details["parts"][0], "folder": "../part-0"}]}
    with pytest.raises(StoreError, match="folder"):
        Centroids.open(tmp_path, documents, config, climbing)


def test_an_update_keeps_the_checksums_of_what_was_there(tmp_path: Path) -> None:
    documents, config = Collection(drawn(50, seed=8)), CentroidsConfig()
    details = Centroids.build(tmp_path, documents, config)
    grown = Centroids.extend(tmp_path, Collection(drawn(20, seed=9)), config, details)
    Centroids.verify(tmp_path, grown)
    path = tmp_path / "part-0" / "codes.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    grown = Centroids.extend(tmp_path, Collection(drawn(20, seed=10)), config, grown)
    with pytest.raises(StoreError, match=r"codes\.bin"):
        Centroids.verify(tmp_path, grown)
    kept = np.arange(90) > 0
    with pytest.raises(StoreError, match=r"codes\.bin"):  # would be copied, and noted as what was written
        Centroids.compact(tmp_path, kept, config, grown)


def test_threads_find_the_same(tmp_path: Path) -> None:
    points, scorer = drawn(150, seed=9), queries(12)
    index = built(tmp_path, Collection(points))
    [(_, alone)] = index.search(request(scorer, points, 10))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: index.search(request(scorer, points, 10))[0][1], range(8)))
    assert all(torch.equal(places, alone) for places in found)


def test_what_it_cannot_hold_or_search_is_said(tmp_path: Path) -> None:
    points = drawn(30, seed=1)
    index = built(tmp_path / "whole", Collection(points))
    vectors = LinearScorer(Space("dot", DIMENSION), torch.ones(1, DIMENSION))
    assert not index.can_search(vectors)
    with pytest.raises(InputError, match="no sets of token vectors"):
        index.search(request(vectors, points, 5))
    with pytest.raises(InputError, match="many token vectors"):
        Centroids.build(tmp_path, Collection(points, space=Space("dot", DIMENSION)), CentroidsConfig())
    broken = points.vectors.clone()
    broken[int(points.offsets[20])] = torch.inf
    row = int(torch.searchsorted(points.offsets[1:], points.offsets[20], right=True))
    (tmp_path / "broken").mkdir()
    with pytest.raises(InputError, match=rf"document {row} \(from 0\) has a token vector"):
        Centroids.build(tmp_path / "broken", Collection(TokenPoints(broken, points.offsets)), CentroidsConfig())


def test_documents_without_tokens(tmp_path: Path) -> None:
    points = TokenPoints(torch.zeros(0, DIMENSION), torch.zeros(4, dtype=torch.int64))
    index = built(tmp_path, Collection(points))
    [(_, places)] = index.search(request(queries(), points, 5))
    assert [set(row) for row in places.tolist()] == [{0, 1, 2}] * 6
