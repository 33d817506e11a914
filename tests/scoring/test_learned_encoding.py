"""Learned encodings of tokens: what they estimate, what they need, and engines on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from hyperseek.cli import app
from hyperseek.errors import InputError, StoreError, UnknownNameError
from hyperseek.geometry.maxsim import token_maxima
from hyperseek.index import Index
from hyperseek.scoring import MaxSimScorer, Space, TokenPoints
from hyperseek.types import Document

DIMENSION = 24
SPACE = Space("tokens", DIMENSION)
SETTINGS: dict[str, Any] = {"encoding": "learned", "width": 96, "sample": 768, "documents": 200, "epochs": 5}


def clustered(documents: int, seed: int, *, tokens: int = 12) -> TokenPoints:
    """Draw documents whose tokens lie around a few of 64 centres, which are the same for every seed."""
    centres = torch.randn(64, DIMENSION, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(documents):
        own = torch.randint(64, (tokens,), generator=generator)
        drawn = centres[own] + 0.5 * torch.randn(tokens, DIMENSION, generator=generator)
        made.append(torch.nn.functional.normalize(drawn, dim=1))
    return TokenPoints.from_documents(made)


def asked(queries: int = 40) -> MaxSimScorer:
    return MaxSimScorer(SPACE, clustered(queries, 9, tokens=6).padded()[0], torch.ones(queries, 6))


def recall(scores: Tensor, exact: Tensor) -> float:
    """Return the share of the exact top 10 among 30 candidates."""
    found, best = scores.topk(30, dim=1).indices, exact.topk(10, dim=1).indices
    return float((found[:, :, None] == best[:, None]).any(dim=1).float().mean())


def test_it_estimates_late_interaction_better_than_muvera_at_equal_width() -> None:
    points, scorer = clustered(400, 1), asked()
    fitted = SPACE.fit_features([points[:150], points[150:]], **SETTINGS)
    chart = SPACE.chart("inner_product", fitted=fitted, **SETTINGS)
    unseen = clustered(400, 2)  # as documents that are added later
    muvera = SPACE.chart("inner_product", repetitions=3, bits=2, projected=8)
    for documents in (points, unseen):
        exact = scorer.score(documents)
        learned, drawn = (scorer.lift(one) @ one.lift_documents(documents).T for one in (chart, muvera))
        assert learned.shape == drawn.shape
        assert chart.lift_documents(documents).shape[1] == muvera.lift_documents(documents).shape[1] == 96
        assert recall(learned, exact) > recall(drawn, exact) + 0.1
        assert recall(learned, exact) > 0.6


def test_what_is_learned_depends_on_the_documents_and_the_seed_alone() -> None:
    points = clustered(60, 1)
    settings = {**SETTINGS, "documents": 40, "sample": 200, "width": 16}
    whole = SPACE.fit_features([points], **settings)
    parts = SPACE.fit_features([points[:7], points[7:31], points[31:]], **settings)
    other = SPACE.fit_features([points], **{**settings, "seed": 1})
    assert whole is not None
    assert parts is not None
    assert other is not None
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert not torch.equal(whole["tokens"], other["tokens"])
    assert whole["tokens"].shape == (200, DIMENSION)
    chart = SPACE.chart("inner_product", fitted=whole, **settings)
    torch.testing.assert_close(chart.lift_documents(points)[9:11], chart.lift_documents(points[9:11]))


def test_weights_scale_a_token_and_absent_tokens_add_nothing() -> None:
    settings = {**SETTINGS, "documents": 20, "sample": 50, "width": 8}
    chart = SPACE.chart("inner_product", fitted=SPACE.fit_features([clustered(20, 1)], **settings), **settings)
    tokens = clustered(1, 3, tokens=4).padded()[0]
    weighted = MaxSimScorer(SPACE, tokens, torch.tensor([[2.0, 0.5, 1.0, 0.0]])).lift(chart)
    alone = [MaxSimScorer(SPACE, tokens[:, [place]], torch.ones(1, 1)).lift(chart) for place in range(3)]
    torch.testing.assert_close(weighted, 2 * alone[0] + 0.5 * alone[1] + alone[2])


def test_maxima_are_those_of_each_document_and_zero_without_tokens() -> None:
    points = TokenPoints.from_documents([clustered(1, 1).vectors, torch.zeros(0, DIMENSION), clustered(1, 2).vectors])
    tokens = clustered(1, 3, tokens=700).vectors
    expected = [points[:1].vectors @ tokens.T, torch.zeros(1, 700), points[2:].vectors @ tokens.T]
    torch.testing.assert_close(
        token_maxima(points.vectors, points.offsets, tokens), torch.stack([part.amax(0) for part in expected])
    )


@pytest.mark.parametrize("documents", [clustered(1, 1)[:0], clustered(1, 1)])
def test_next_to_no_documents_are_enough(documents: TokenPoints) -> None:
    settings = {**SETTINGS, "width": 4}
    with torch.inference_mode():
        fitted = SPACE.fit_features([documents], **settings)
    chart = SPACE.chart("inner_product", fitted=fitted, **settings)
    assert chart.lift_documents(clustered(3, 2)).isfinite().all()


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_an_engine_is_built_on_it_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    points, scorer = clustered(300, 1), asked()
    pairs = [
        (Document(f"d{row}", "", metadata={"even": row % 2 == 0}), points[row : row + 1].vectors) for row in range(300)
    ]
    index = Index.from_vectors(tmp_path / "index", pairs, SPACE)
    settings = {name: value for name, value in SETTINGS.items() if name != "encoding"}
    record = index.build_engine({"kind": kind, "charts": [{"name": "learned", "parameters": settings}]})
    hits = index.search(scorer, k=10, engine=kind)
    exact = index.search(scorer, k=10, engine="exact")
    shared = [len({hit.id for hit in one} & {hit.id for hit in other}) for one, other in zip(hits, exact, strict=True)]
    assert sum(shared) > 0.9 * 10 * len(shared)
    again = Index.open(tmp_path / "index")
    assert [[hit.id for hit in one] for one in again.search(scorer, k=10, engine=kind)] == [
        [hit.id for hit in one] for one in hits
    ]
    even = again.search(scorer, k=10, engine=kind, where="even = true")
    assert all(int(hit.id[1:]) % 2 == 0 for one in even for hit in one)
    again.add([Document("new", "")], vectors=[points[:1].vectors])
    [found] = again.search(MaxSimScorer(SPACE, points[:1].vectors[None], torch.ones(1, 12)), k=2, engine=kind)
    assert {hit.id for hit in found} == {"d0", "new"}
    file = index.path / record.folder / "fitted-0.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(StoreError, match=r"fitted-0\.safetensors is damaged"):
        Index.open(tmp_path / "index").search(scorer, k=10, engine=kind)


def test_the_command_line_builds_engines_on_it(tmp_path: Path) -> None:
    points = clustered(30, 1)
    pairs = [(Document(f"d{row}", ""), points[row : row + 1].vectors) for row in range(30)]
    index = Index.from_vectors(tmp_path / "index", pairs, SPACE)
    result = CliRunner().invoke(app, ["update", str(index.path), "--engine", "flat", "--chart", "learned"])
    assert result.exit_code == 0, result.stderr
    [record] = Index.open(index.path).attachments
    [chart] = record.details["charts"]
    assert (chart["name"], chart["parameters"]["encoding"], chart["parameters"]["width"]) == (
        "inner_product",
        "learned",
        1280,
    )
    with pytest.raises(InputError, match="also give --engine"):
        CliRunner().invoke(app, ["update", str(index.path), "--compact", "--chart", "learned"], catch_exceptions=False)


def test_faults_are_named() -> None:
    with pytest.raises(UnknownNameError, match="'learned'"):
        SPACE.chart("inner_product", encoding="lerned")
    with pytest.raises(UnknownNameError, match="did you mean 'width'"):
        SPACE.chart("inner_product", encoding="learned", widht=3)
    with pytest.raises(InputError, match="sizes must be at least 1"):
        SPACE.chart("inner_product", encoding="learned", width=0)
    with pytest.raises(InputError, match="at most 16,384"):
        SPACE.chart("inner_product", encoding="learned", width=10**9)
    with pytest.raises(InputError, match="at most 268,435,456"):
        SPACE.chart("inner_product", encoding="learned", sample=10**9)
    for sizes in ({"repetitions": 10**9}, {"projected": 10**9}, {"sketched": 10**9}):
        with pytest.raises(InputError, match="at most 16,777,216 numbers"):
            SPACE.chart("inner_product", **sizes)
    with pytest.raises(InputError, match="has to be fitted"):
        SPACE.chart("inner_product", encoding="learned").lift_documents(clustered(2, 1))
    settings = {**SETTINGS, "documents": 5, "sample": 9, "width": 8}
    fitted = SPACE.fit_features([clustered(5, 1)], **settings)
    with pytest.raises(InputError, match="'weight' of the shape"):
        SPACE.chart("inner_product", fitted=fitted, **{**settings, "width": 9}).lift_documents(clustered(2, 1))
