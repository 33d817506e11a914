"""The exact scan where float32 is not enough: near ties, far centres, many copies, unlike norms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hyperseek.engines import Engine, _flat, open_engine
from hyperseek.engines._flat import Source, exact_search
from hyperseek.errors import InputError

Oracle = Callable[..., tuple[Tensor, Tensor]]
Build = Callable[..., Engine]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 3 vectors and groups of 2 queries."""
    monkeypatch.setattr(_flat, "_ROWS", (3, 3))
    monkeypatch.setattr(_flat, "_QUERIES", 2)
    monkeypatch.setattr(_flat, "_RESCORED_BYTES", 64)


@pytest.fixture
def second_looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of queries of which a search was not sure."""
    looks: list[int] = []
    look = _flat._look_again

    def counted(comparison: Any, *arguments: Any) -> Any:
        looks.append(len(comparison.queries))
        return look(comparison, *arguments)

    monkeypatch.setattr(_flat, "_look_again", counted)
    return looks


@pytest.fixture
def cores() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@st.composite
def hard_cases(draw: Any) -> tuple[Tensor, Tensor, Any]:
    """Copies, neighbouring floats, vectors far from the origin, and norms from 1e-27 to 1e13, and queries from afar."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    count, dimension = draw(st.integers(1, 60)), draw(st.sampled_from([1, 2, 5, 17]))
    vectors = torch.randn(count, dimension, generator=generator)
    vectors = vectors[torch.randint(0, count, (count,), generator=generator)]  # copies
    vectors += draw(st.sampled_from([0.0, 1.0, 1000.0]))
    vectors *= draw(st.sampled_from([1.0, 1e-21, 1e4]))
    if draw(st.booleans()):
        vectors *= torch.logspace(-6, 6, count)[torch.randperm(count, generator=generator), None]
    nearly = torch.rand(count, generator=generator) < 0.3
    vectors[nearly] = torch.nextafter(vectors[nearly], torch.full((dimension,), torch.inf))
    queries = vectors[torch.randint(0, count, (4,), generator=generator)]
    queries *= draw(st.sampled_from([1.0, 0.999, -1.0, 3000.0]))
    allowed = (torch.rand(count, generator=generator) < 0.5).numpy() if draw(st.booleans()) else None
    return vectors, queries, allowed


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("spare", [0, 3])
def test_scan_is_exact_where_float32_products_are_not(
    metric: Any, spare: int, oracle: Oracle, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_flat, "_SPARE", spare)

    @settings(deadline=None, max_examples=40, database=None)
    @given(case=hard_cases(), k=st.sampled_from([1, 4, 20]))
    def check(case: tuple[Tensor, Tensor, Any], k: int) -> None:
        vectors, queries, allowed = case
        with TemporaryDirectory() as folder:
            engine = build(Path(folder) / "engine", vectors, "flat", metric)
            scores, positions = engine.search(queries, k=k, allowed=allowed)
        expected = oracle(queries, vectors, k, metric, allowed)
        assert torch.equal(scores, expected[0])
        assert torch.equal(positions, expected[1])

    check()


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
def test_bounds_are_above_what_they_bound(metric: Any) -> None:
    @settings(deadline=None, max_examples=60, database=None)
    @given(case=hard_cases())
    def check(case: tuple[Tensor, Tensor, Any]) -> None:
        vectors, queries, _ = case
        source = Source(lambda rows: vectors[rows], vectors.shape[1], torch.device("cpu"))
        comparison = _flat._Comparison.prepare(queries, source, range(len(vectors)), metric)
        wide, given_ = vectors.double() - comparison.centre.double(), queries.double() - comparison.centre.double()
        truth = given_ @ wide.T - (wide.square().sum(dim=1) / 2 if metric == "l2" else 0)
        bounds = torch.cat([part for _, part in comparison.bounds(vectors)]).double()
        room = 1e-12 * truth.abs()  # float64 errs as well
        assert (bounds >= truth - room).all()
        # Where a score is as good as another in float32, its bound reaches the threshold of the other.
        scores = comparison.score(queries[:, None], vectors)
        for column in range(len(vectors)):
            threshold = comparison.threshold(scores[:, column])[:, None]
            assert ((bounds >= threshold) | (scores < scores[:, column, None])).all()

    check()


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
def test_products_of_low_precision_change_nothing(
    metric: Any, tmp_path: Path, oracle: Oracle, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_flat, "_SPARE", 0)
    torch.manual_seed(0)
    vectors, queries = torch.randn(24) + 0.02 * torch.randn(800, 24), torch.randn(60, 24)
    engine = build(tmp_path / "a", vectors, "flat", metric)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        # What a device may do then, whatever this one does.
        products = torch.addmm
        monkeypatch.setattr(torch, "addmm", lambda a, b, c: products(a, b.bfloat16().float(), c.bfloat16().float()))
        scores, positions = engine.search(queries, k=20)
    finally:
        torch.set_float32_matmul_precision(before)
    expected = oracle(queries, vectors, 20, metric)
    assert torch.equal(positions, expected[1])
    assert torch.equal(scores, expected[0])


def test_second_looks_are_rare_and_find_copies(
    tmp_path: Path, oracle: Oracle, build: Build, second_looks: list[int]
) -> None:
    torch.manual_seed(0)
    vectors, queries = torch.randn(3000, 32), torch.randn(20, 32)
    for metric in ("inner_product", "l2"):
        engine = build(tmp_path / metric, vectors, "flat", metric)
        assert torch.equal(engine.search(queries, k=10)[1], oracle(queries, vectors, 10, metric)[1])
    assert second_looks == []
    copies = vectors[:30].repeat(100, 1)
    engine = build(tmp_path / "copies", copies, "flat", "l2")
    assert torch.equal(engine.search(queries, k=10)[1], oracle(queries, copies, 10, "l2")[1])
    assert second_looks == [20]


@pytest.mark.usefixtures("small_blocks")
def test_any_number_of_cores_finds_the_same(
    tmp_path: Path, oracle: Oracle, build: Build, cores: Callable[[int], None]
) -> None:
    vectors = torch.randint(-2, 3, (100, 3), generator=torch.Generator().manual_seed(1)).float()
    engine = build(tmp_path / "a", vectors, "flat", "inner_product")
    expected = oracle(vectors[:9], vectors, 12, "inner_product")
    for number in (1, 2, 4):
        cores(number)
        scores, positions = engine.search(vectors[:9], k=12)
        assert torch.equal(scores, expected[0])
        assert torch.equal(positions, expected[1])


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
def test_half_size_storage_is_searched_without_further_loss(
    metric: Any, tmp_path: Path, oracle: Oracle, build: Build
) -> None:
    torch.manual_seed(2)
    vectors, queries = torch.randn(300, 8), torch.randn(6, 8)
    build(tmp_path / "a", vectors, "flat", metric, storage="float16")
    engine = open_engine(tmp_path / "a")
    found = engine.search(queries, k=9)
    expected = oracle(queries, vectors.half().float(), 9, metric)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert (tmp_path / "a" / "vectors.npy").stat().st_size == 300 * 8 * 2 + 128


def test_numbers_too_large_for_half_size_are_refused(tmp_path: Path, build: Build) -> None:
    vectors = torch.ones(20, 2)
    vectors[13, 1] = 70_000
    with pytest.raises(InputError, match=r"vector 13 .* too large for float16; choose float32"):
        build(tmp_path / "a", vectors, "flat", "l2", storage="float16")
    assert not (tmp_path / "a").exists()


def test_only_allowed_vectors_are_read() -> None:
    vectors = torch.randn(200, 4, generator=torch.Generator().manual_seed(3))
    seen: set[int] = set()

    def read(rows: Any) -> Tensor:
        seen.update(range(rows.start, rows.stop) if isinstance(rows, slice) else rows.tolist())
        return vectors[rows]

    allowed = np.zeros(200, bool)
    allowed[[3, 50, 51, 199]] = True
    source = Source(read, 4, torch.device("cpu"))
    _, positions = exact_search(vectors[:2], source, count=200, k=4, metric="l2", allowed=allowed)
    assert seen == {3, 50, 51, 199}
    assert all(set(row) == seen for row in positions.tolist())


def test_a_device_that_is_not_there_is_an_error(tmp_path: Path, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="for a CUDA device, but there is none"):
        build(tmp_path / "a", torch.eye(3), "flat", "l2", device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("metric", ["inner_product", "l2"])
def test_a_cuda_device_finds_the_same(metric: Any, tmp_path: Path, oracle: Oracle, build: Build) -> None:
    torch.manual_seed(4)
    vectors, queries = torch.randn(5000, 48), torch.randn(40, 48)
    allowed = (torch.rand(5000) < 0.5).numpy()
    engine = build(tmp_path / "a", vectors, "flat", metric, device="cuda")
    for mask in (None, allowed):
        scores, positions = engine.search(queries, k=20, allowed=mask)
        expected = oracle(queries, vectors, 20, metric, mask)
        assert torch.equal(positions, expected[1])
        assert torch.equal(scores, expected[0])
