"""MaxSim backward, matches and XTR beside the plain formulas in float64 and PyLate's recorded scores."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hyperseek.errors import InputError
from hyperseek.geometry import maxsim
from hyperseek.scoring import MaxSimScorer, Space, TokenPoints, XTRScorer, load_scorer, xtr_scores


def plain(
    tokens: Tensor, weights: Tensor, counts: list[int], vectors: Tensor, lengths: list[int], floor: float | None
) -> Tensor:
    columns = []
    for own in vectors.split(lengths):
        similar = tokens @ own.T
        best = similar.max(1).values if len(own) else similar.sum(1)
        best = best if floor is None else best.clamp_min(floor)
        columns.append(torch.stack([part.sum() for part in (best * weights).split(counts)]))
    return torch.stack(columns, 1)


def offsets(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 7), min_size=1, max_size=5),
    st.lists(st.integers(0, 3), min_size=1, max_size=3),
    st.sampled_from([None, 0.0]),
    st.integers(1, 5),
    st.booleans(),
)
def test_scores_and_gradients_are_the_plain_formulas(
    lengths: list[int], counts: list[int], floor: float | None, size: int, padded: bool
) -> None:
    torch.manual_seed(sum(lengths) + size)
    shapes = ((sum(counts), 3), (sum(counts),), (sum(lengths), 3))
    given_ = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    tokens, weights, vectors = given_
    expected = plain(tokens, weights, counts, vectors, lengths, floor)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maxsim, "_DOCUMENT_TOKENS", (size, size))
        patch.setattr(maxsim, "_QUERY_TOKENS", size)
        patch.setattr(maxsim, "_PADDED_ELEMENTS", 2 * size)
        patch.setattr(maxsim, "_PAIRS", 2 * size)
        if padded:
            patch.setattr(maxsim, "_find_on_cores", maxsim._find_padded)
        scores, _ = maxsim.maxsim(tokens, weights, offsets(counts), vectors, offsets(lengths), floor=floor)
        upstream = torch.randn_like(scores)
        found = torch.autograd.grad(scores, given_, upstream)
    torch.testing.assert_close(scores, expected)
    wanted = torch.autograd.grad((expected * upstream).sum() + sum(0 * x.sum() for x in given_), given_)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_are_the_slopes_and_are_taken_once() -> None:
    torch.manual_seed(0)
    sizes = ((5, 3), (5,), (9, 3))
    inputs = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in sizes]

    def score(tokens: Tensor, weights: Tensor, vectors: Tensor) -> Tensor:
        return maxsim.maxsim(tokens, weights, offsets([2, 3]), vectors, offsets([4, 0, 5]))[0]

    assert torch.autograd.gradcheck(score, inputs)
    (slope,) = torch.autograd.grad(score(*inputs).sum(), inputs[0], create_graph=True)
    with pytest.raises(InputError, match="only once"):
        slope.sum().backward()


def test_of_equal_tokens_the_first_is_found_and_shares_sum_to_the_score() -> None:
    space = Space("tokens", 2)
    points = TokenPoints.from_documents([torch.tensor([[0.0, 1], [1, 0], [1, 0]]), torch.zeros(0, 2)])
    queries = torch.tensor([[[1.0, 0], [0, -1], [9, 9]]])
    scorer = MaxSimScorer(space, queries, torch.tensor([[2.0, 1, 0]]))
    rows, similar, shares = scorer.matches(points[:1])
    assert rows.tolist() == [[1, 1, -1]]
    assert similar.tolist() == [[1, 0, 0]]
    assert shares.tolist() == [[2, 0, 0]]
    torch.testing.assert_close(shares.sum(1), scorer.score(points)[:, 0])
    assert scorer.matches(points[1:])[0].tolist() == [[-1, -1, -1]]


@pytest.mark.parametrize("place", [0, 3, 7])
def test_undefined_numbers_anywhere_in_a_long_document_are_found(place: int) -> None:
    vectors = torch.randn(9, 3)
    vectors[place, 1] = torch.nan
    points = TokenPoints(vectors, torch.tensor([0, 8, 9]))
    tokens = torch.randn(4, 3)
    scorer = MaxSimScorer(Space("tokens", 3), tokens[None], torch.ones(1, 4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maxsim, "_DOCUMENT_TOKENS", (3, 3))
        values, places = maxsim.find_tokens(tokens, vectors, points.offsets)
        maxima = maxsim.token_maxima(vectors, points.offsets, tokens)
        with pytest.raises(InputError, match=f"token of documents {place} has"):
            scorer.score(points)
    assert values.isnan().tolist() == maxima.T.isnan().tolist() == [[True, False]] * 4
    assert (places[:, 0] == place).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_documents_get_gradients_in_their_format(dtype: torch.dtype) -> None:
    vectors = torch.randn(6, 4).to(dtype).requires_grad_()
    scorer = MaxSimScorer(Space("tokens", 4), torch.randn(2, 3, 4), torch.ones(2, 3))
    scores = scorer.score(TokenPoints(vectors, torch.tensor([0, 2, 6])))
    scores.sum().backward()
    assert scores.dtype == torch.float32
    assert vectors.grad is not None
    assert vectors.grad.dtype == dtype


def pylates_xtr(similar: Tensor, k: int) -> Tensor:
    """Return every `(N,)` that PyLate's formula allows for the `(t, N, s)` similarities of one query.

    It takes the best `k` of all documents' tokens, padding with similarity 0 among them; of equal ones, either may be
    the last that is taken.
    """
    flat = similar.flatten(1)
    cuts = []
    for line in flat:
        order = line.argsort(descending=True)
        free = line[order[k - 1]] - line[order[k]] < 1e-5
        cuts.append([order[:k], torch.cat([order[: k - 1], order[k : k + 1]])] if free else [order[:k]])
    rows = []
    for cut in itertools.product(*cuts):
        places = torch.stack(cut)
        kept = torch.zeros_like(flat).scatter(1, places, flat.gather(1, places))
        best = kept.view_as(similar).amax(2)
        rows.append(best.sum(0) / (best > 0).sum(0).clamp_min(1))
    return torch.stack(rows)


def test_xtr_gives_pylates_scores(golden: Path, tmp_path: Path) -> None:
    with np.load(golden / "colbert" / "golden.npz") as arrays:
        names = ("queries", "documents", "documents_mask", "scores_k8", "kd_scores_k8", "colbert_scores")
        queries, documents, mask, expected, own, full = (torch.from_numpy(arrays[f"xtr/{name}"]) for name in names)
    scorer = XTRScorer(Space("tokens", 16), queries, torch.ones(queries.shape[:2]), masking="pylate", top_k=8)
    points = TokenPoints.from_padded(documents.flatten(0, 1), mask.flatten(0, 1))
    scores = scorer.score(points)
    # Two documents come twice, so that equal similarities are cut at the eighth place: there torch chooses freely.
    similar = torch.einsum("qtd,nsd->qtns", queries, documents.flatten(0, 1)) * mask.flatten(0, 1)
    for row, allowed in enumerate(pylates_xtr(part, 8) for part in similar):
        for found in (scores[row], expected[row]):
            assert (allowed - found).abs().amax(1).min() <= 1e-5
    assert ((scores - expected).abs() > 1e-5).sum() <= 2
    columns = torch.arange(6).view(3, 2)
    torch.testing.assert_close(own, expected.gather(1, columns))
    torch.testing.assert_close(scorer.score_own(documents, mask=mask), scores.gather(1, columns))
    plain = MaxSimScorer(scorer.space, queries, scorer.mask).score(points)
    torch.testing.assert_close(plain, full, atol=1e-5, rtol=0)
    scorer.save(tmp_path / "xtr.safetensors")
    assert torch.equal(load_scorer(tmp_path / "xtr.safetensors").score(points), scorer.score(points))
    example = json.loads((golden / "colbert" / "golden.json").read_text())["losses"]["score_xtr"]
    found = xtr_scores(example["input"]["query_doc_ids"], example["input"]["query_scores"])
    assert [name for name, _ in found] == [hit["id"] for hit in example["output"]]
    assert [score for _, score in found] == pytest.approx([hit["score"] for hit in example["output"]])
