"""Vectors of the caller's as queries: an index of plain vectors needs no model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hyperseek.errors import InputError
from hyperseek.index import Index
from hyperseek.scoring import LinearScorer, Space
from hyperseek.types import Document


def coordinates(kind: str) -> torch.Tensor:
    flat = torch.randn(30, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if kind == "lorentz":
        return torch.cat([(1 + flat.square().sum(1, keepdim=True)).sqrt(), flat], dim=1)
    return torch.tanh(flat.norm(dim=1, keepdim=True)) * flat / flat.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("kind", ["dot", "cosine", "euclidean", "lorentz", "poincare"])
def test_every_form_of_a_vector_finds_what_the_compiled_one_does(kind: str, tmp_path: Path) -> None:
    points = coordinates(kind)
    space = Space(kind, 3)
    items = [(Document(f"d{row}", "text"), point) for row, point in enumerate(points)]
    index = Index.from_vectors(tmp_path / "index", items, space)
    wanted = index.search(LinearScorer(space, space.canonical(points[:4]).float()), k=5)
    many: list[Any] = [
        points[:4], points[:4].float(), points[:4].numpy(), points[:4].numpy().astype(np.float32),
        points[:4].tolist(), list(points[:4]), list(points[:4].numpy()), tuple(map(tuple, points[:4].tolist())),
    ]  # fmt: skip
    for form in many:
        found = index.search(form, k=5)
        assert [[hit.id for hit in hits] for hits in found] == [[hit.id for hit in hits] for hits in wanted]
    one: list[Any] = [
        points[1],
        points[1].numpy(),
        points[1].tolist(),
        tuple(points[1].tolist()),
        list(points[1].numpy()),
    ]
    for form in one:
        assert [hit.id for hit in index.search(form, k=5)] == [hit.id for hit in wanted[1]]
    if kind != "dot":
        assert index.search(points[7].numpy(), k=1)[0].id == "d7"
    assert index.explain(points[:2].numpy(), k=2).documents == 30
    assert len(index.score(points[:2].numpy(), [["d1"], ["d2", "d3"]])[1]) == 2
    assert index.search(points[:0].numpy()) == []


def test_wrong_vectors_are_refused_with_both_numbers(tmp_path: Path) -> None:
    items = [(Document(f"d{row}", "text"), point) for row, point in enumerate(coordinates("lorentz"))]
    index = Index.from_vectors(tmp_path / "index", items, Space("lorentz", 3))
    good = coordinates("lorentz")[:2].numpy()
    undefined, other = good.copy(), good.copy()
    undefined[1, 2], other[1, 0] = math.nan, 17.0
    cases: list[tuple[Any, str]] = [
        (np.zeros(5), r"shape \(5,\), but the index has points of 4 coordinates .*give \(4,\) for one"),
        (np.zeros((2, 3)), r"shape \(2, 3\), but the index has points of 4 coordinates"),
        (np.zeros((2, 2, 4)), r"shape \(2, 2, 4\)"),
        (good.astype(complex), "must be numbers, not complex128"),
        (torch.from_numpy(good.astype(complex)), "real numbers"),
        ([[1.0, 2.0], [1.0]], "not vectors of one length"),
        ([torch.zeros(4), torch.zeros(3)], "not vectors of one length"),
        ([torch.zeros(4), [0.0] * 4], "not vectors of one length"),
        (undefined, "query 1 has infinite or undefined numbers: nan at place 2"),
        (other, "query 1 has the time 17"),
        (np.array(1.0), "quer"),
        (np.array([b"x", b"y"]), "quer"),
        ([1, 2], "quer"),
    ]
    for queries, message in cases:
        with pytest.raises(InputError, match=message):
            index.search(queries)


def test_a_set_of_token_vectors_is_one_query(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    documents = [torch.randn(4, 2, generator=generator) for _ in range(6)]
    items = [(Document(f"d{row}", "text"), vectors) for row, vectors in enumerate(documents)]
    index = Index.from_vectors(tmp_path / "index", items, Space("tokens", 2))
    queries = torch.randn(3, 5, 2, generator=generator)
    wanted = [[float((query @ document.T).amax(1).sum()) for document in documents] for query in queries]
    found = index.search(queries.numpy(), k=1)
    assert [hits[0].id for hits in found] == [f"d{int(np.argmax(scores))}" for scores in wanted]
    assert index.search(queries[2], k=1)[0].score == pytest.approx(max(wanted[2]), rel=1e-5)
    with pytest.raises(InputError, match=r"give \(tokens, 2\) for one query"):
        index.search(np.zeros(2))
