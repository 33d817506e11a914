"""What an engine of an index costs is known before it is built, and a cap of memory is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hyperseek import HyperseekError
from hyperseek.engines import estimate_engine, open_engine
from hyperseek.engines.charts import chart_width
from hyperseek.engines.structure import parse_structure
from hyperseek.index import ChartRecord, Index
from hyperseek.scoring import Space
from hyperseek.store import attachments
from hyperseek.types import Document

COUNT = 30
SPACES = [
    Space("dot", 4),
    Space("cosine", 4),
    Space("euclidean", 4),
    Space("lorentz", 4),
    Space("poincare", 4),
    Space("tokens", 4),
]


def make(path: Path, space: Space, count: int = COUNT) -> Index:
    vectors: Any = 0.1 * torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    if space.kind == "lorentz":
        vectors = torch.cat([(1 + vectors.square().sum(dim=1, keepdim=True)).sqrt(), vectors], dim=1)
    elif space.kind == "tokens":
        vectors = vectors[:, None]
    documents = [Document(f"d{number}", "") for number in range(count)]
    return Index.from_vectors(path, zip(documents, vectors, strict=True), space)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.kind)
@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_estimates_are_of_the_vectors_that_are_built(tmp_path: Path, space: Space, kind: str) -> None:
    index = make(tmp_path / "index", space)
    cost, config = index.engines.estimate(kind), parse_structure(kind)
    built = index.build_engine(kind)
    engines = [
        open_engine(index.path / built.folder / f"chart-{number}") for number in range(len(built.details["charts"]))
    ]
    widths = [chart_width(space, chart) for chart in config.charts_in(space)]
    assert [engine.dimension for engine in engines] == widths
    parts = [estimate_engine(config, count=COUNT, dimension=width) for width in widths]
    assert cost.memory_bytes == sum(part.memory_bytes for part in parts)
    assert cost.disk_bytes == sum(part.disk_bytes for part in parts)
    assert cost.building_bytes == max(part.building_bytes for part in parts)
    assert cost.seconds == sum(part.seconds or 0 for part in parts)
    assert len(parts) == (2 if kind == "hnsw" and space.kind in ("lorentz", "poincare") else 1)
    if kind == "flat":
        written = sum(path.stat().st_size for path in (index.path / built.folder).glob("chart-*/*.npy"))
        assert cost.disk_bytes == pytest.approx(written, rel=0.05)


def test_estimates_follow_the_charts_that_are_named(tmp_path: Path) -> None:
    index = make(tmp_path / "index", Space("tokens", 4))
    small = [ChartRecord(name="inner_product", parameters={"repetitions": 1, "bits": 1, "projected": None})]
    vectors = index.engines.estimate("flat", charts=small).disk_bytes - 128
    assert vectors == COUNT * 1 * 2 * 4 * 4  # repetitions, partitions, dimensions, bytes
    assert index.engines.estimate("flat").disk_bytes - 128 == COUNT * 20 * 8 * 16 * 4
    assert index.engines.estimate("flat", charts=small * 3).disk_bytes == 3 * (vectors + 128)
    with pytest.raises(HyperseekError, match="unknown chart 'ball'"):
        index.engines.estimate("flat", charts=[ChartRecord(name="ball")])


def test_a_build_beyond_the_cap_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make(tmp_path / "index", Space("lorentz", 4))
    cost = index.engines.estimate("hnsw")
    with monkeypatch.context() as patched:
        patched.setattr(attachments.Snapshot, "chunks", lambda *_: pytest.fail("documents were read"))
        with pytest.raises(HyperseekError) as caught:
            index.build_engine("hnsw", max_bytes=cost.building_bytes - 1)
    message = str(caught.value)
    assert "building 'hnsw' for 30 documents of 4 dimensions (poincare) and 6 dimensions (balanced)" in message
    assert f"takes about {cost.building_bytes:,} bytes of memory, more than the {cost.building_bytes - 1:,}" in message
    assert "with their defaults these would fit: 'flat'" in message
    with pytest.raises(HyperseekError, match="none fits; the smallest, 'flat', takes"):
        index.build_engine("flat", max_bytes=1000)
    with pytest.raises(HyperseekError, match="no engine for 30 vectors of 6 dimensions can be built in 1,000 bytes"):
        index.build_engine("auto", max_bytes=1000)
    assert index.attachments == ()
    assert not any((index.path / "engines").glob("*"))
    assert index.build_engine("hnsw", max_bytes=cost.building_bytes).count == COUNT


def test_auto_says_what_it_chose_and_looks_at_the_lifted_vectors(tmp_path: Path) -> None:
    index = make(tmp_path / "index", Space("tokens", 4))
    config, reason = index.engines.choose()
    assert config.kind == "flat"
    assert "30 vectors of 2561 dimensions" in reason
    assert index.engines.estimate() == index.engines.estimate("flat")
    assert index.build_engine().config == config


def test_a_document_that_no_engine_can_compare_is_named(tmp_path: Path) -> None:
    index = Index.from_vectors(
        tmp_path / "index", [(Document("short", ""), [1.0, 2.0]), (Document("long", ""), [1e30, 2.0])], Space("dot", 2)
    )
    for kind in ("flat", "hnsw"):
        with pytest.raises(HyperseekError, match="vector of document 'long' is too long for engines on the chart"):
            index.build_engine(kind)
    assert index.attachments == ()
    index.delete(["long"])
    assert index.build_engine("flat").count == 1
