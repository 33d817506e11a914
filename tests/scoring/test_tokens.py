"""Token points: ragged sets of vectors, sliced, gathered, joined and padded like lists of them."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hyperseek.errors import InputError
from hyperseek.scoring import TokenPoints

LENGTHS = st.lists(st.integers(0, 5), min_size=1, max_size=7)


def make_documents(lengths: list[int], dimension: int = 3, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, dimension, generator=generator) for length in lengths]


def as_list(points: TokenPoints) -> list[list[list[float]]]:
    bounds = points.offsets.tolist()
    return [points.vectors[start:stop].tolist() for start, stop in itertools.pairwise(bounds)]


@settings(deadline=None, max_examples=30)
@given(LENGTHS, st.data())
def test_indexing_equals_a_list_of_documents(lengths: list[int], data: st.DataObject) -> None:
    documents = make_documents(lengths)
    points = TokenPoints.from_documents(documents)
    expected = [document.tolist() for document in documents]
    assert (len(points), points.dimension, as_list(points)) == (len(lengths), 3, expected)
    part = data.draw(st.slices(len(lengths)))
    assert as_list(points[part]) == expected[part]
    rows = data.draw(st.lists(st.integers(-len(lengths), len(lengths) - 1), max_size=9))
    assert as_list(points[torch.tensor(rows, dtype=torch.int64)]) == [expected[row] for row in rows]
    mask = data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)))
    kept = [document for document, wanted in zip(expected, mask, strict=True) if wanted]
    assert as_list(points[torch.tensor(mask)]) == kept


@settings(deadline=None, max_examples=20)
@given(LENGTHS, LENGTHS)
def test_joining_and_padding_keep_every_token(first: list[int], second: list[int]) -> None:
    documents = make_documents(first + second)
    one, two = (TokenPoints.from_documents(part) for part in (documents[: len(first)], documents[len(first) :]))
    both = TokenPoints.concatenate([one, two])
    assert as_list(both) == [document.tolist() for document in documents]
    vectors, mask = both.padded()
    assert vectors.shape == (len(documents), max(first + second), 3)
    assert not vectors[~mask].any()
    assert as_list(TokenPoints.from_padded(vectors, mask)) == as_list(both)
    assert as_list(both.to("cpu")) == as_list(both)


def test_padding_may_lie_between_tokens_and_passes_gradients() -> None:
    vectors = torch.randn(2, 3, 4, requires_grad=True)
    points = TokenPoints.from_padded(vectors, torch.tensor([[1, 0, 1], [0, 0, 0]]))
    assert points.lengths.tolist() == [2, 0]
    points.padded()[0].sum().backward()
    assert vectors.grad is not None
    assert vectors.grad[..., 0].tolist() == [[1, 0, 1], [0, 0, 0]]


def test_no_documents() -> None:
    points = TokenPoints(torch.zeros(0, 3), torch.zeros(1, dtype=torch.int64))
    assert len(points) == len(points[:5]) == len(points[torch.zeros(0, dtype=torch.int64)]) == 0
    assert points.padded()[0].shape == (0, 0, 3)
    with pytest.raises(InputError, match="at least one"):
        TokenPoints.from_documents([])


@pytest.mark.parametrize(
    ("vectors", "offsets", "message"),
    [
        (torch.zeros(3), [0, 3], "floating tensor of shape"),
        (torch.zeros(3, 2), [1, 3], "lead from 1 to 3"),
        (torch.zeros(3, 2), [0, 2], "number of tokens, 3"),
        (torch.zeros(3, 2), [0, 3, 2, 3], "fall between"),
        (torch.zeros(3, 2), [], "documents \\+ 1"),
    ],
)
def test_offsets_that_do_not_fit_are_refused(vectors: Tensor, offsets: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TokenPoints(vectors, torch.tensor(offsets, dtype=torch.int64))


def test_other_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="int64"):
        TokenPoints(torch.zeros(3, 2), torch.tensor([0.0, 3.0]))
    with pytest.raises(InputError, match=r"not \(2, 3, 4\) and \(2, 2\)"):
        TokenPoints.from_padded(torch.zeros(2, 3, 4), torch.ones(2, 2))
    with pytest.raises(InputError, match="dimensions \\[2, 3\\]"):
        TokenPoints.concatenate([TokenPoints.from_documents([torch.zeros(1, width)]) for width in (2, 3)])
