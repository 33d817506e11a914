"""Late interaction: exact and blocked MaxSim beside a plain loop, and the encodings that stand for it in engines."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hyperseek.errors import InputError, UnknownNameError
from hyperseek.geometry import maxsim
from hyperseek.geometry.tokens import TokenEncoding
from hyperseek.scoring import (
    FunctionScorer,
    Landmarks,
    LinearScorer,
    MaxSimScorer,
    Points,
    Space,
    TokenPoints,
    VectorPoints,
    load_scorer,
    surrogate,
)
from hyperseek.scoring._maxsim import EMPTY_SCORE, Masking

DIMENSION = 4
SPACE = Space("tokens", DIMENSION)


def make_points(lengths: list[int], seed: int = 0, dimension: int = DIMENSION) -> TokenPoints:
    generator = torch.Generator().manual_seed(seed)
    return TokenPoints.from_documents([torch.randn(length, dimension, generator=generator) for length in lengths])


def make_scorer(mask: list[list[float]], seed: int = 1, masking: Masking = "exact") -> MaxSimScorer:
    weights = torch.tensor(mask)
    queries = torch.randn(*weights.shape, DIMENSION, generator=torch.Generator().manual_seed(seed))
    return MaxSimScorer(SPACE, queries.masked_fill(weights[..., None] == 0, torch.nan), weights, masking=masking)


def oracle(scorer: MaxSimScorer, points: TokenPoints) -> Tensor:
    scores = torch.zeros(len(scorer), len(points))
    for q in range(len(scorer)):
        for d in range(len(points)):
            document = points[d : d + 1].vectors
            for token, weight in zip(scorer.queries[q], scorer.mask[q], strict=True):
                if weight:
                    best = (document @ token).max() if len(document) else torch.tensor(0.0)
                    scores[q, d] += weight * (best.clamp_min(0) if scorer.masking == "pylate" else best)
            if not len(document) and scorer.masking == "exact":
                scores[q, d] = EMPTY_SCORE
    return scores


MASKS = st.integers(1, 4).flatmap(
    lambda width: st.lists(
        st.lists(st.sampled_from([0.0, 1.0, 0.5]), min_size=width, max_size=width), min_size=1, max_size=3
    )
)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 6), max_size=8), MASKS, st.sampled_from(["exact", "pylate"]), st.integers(1, 9))
def test_blocked_scores_equal_the_plain_loop(
    lengths: list[int], mask: list[list[float]], masking: Masking, size: int
) -> None:
    scorer, points = make_scorer(mask, masking=masking), make_points([*lengths, 1])[: len(lengths)]
    expected = oracle(scorer, points)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maxsim, "_DOCUMENT_TOKENS", (size, size))
        patch.setattr(maxsim, "_QUERY_TOKENS", size)
        patch.setattr(maxsim, "_PADDED_ELEMENTS", 8 * size)
        scanned = scorer.score(points)
        tracked = TokenPoints(points.vectors.clone().requires_grad_(), points.offsets)
        padded = scorer.score(tracked)
    torch.testing.assert_close(scanned, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(padded, expected, atol=1e-5, rtol=1e-5)
    assert scanned.dtype == padded.dtype == torch.float32


def test_gradients_reach_the_best_tokens_of_both_sides() -> None:
    points = make_points([3, 2])
    vectors = points.vectors.clone().requires_grad_()
    queries = torch.randn(1, 2, DIMENSION, requires_grad=True)
    scorer = MaxSimScorer(SPACE, queries, torch.tensor([[1, 1]]))
    scorer.score(TokenPoints(vectors, points.offsets)).sum().backward()
    assert queries.grad is not None
    best = [(document @ queries.detach()[0].T).argmax(0) for document in (points.vectors[:3], points.vectors[3:])]
    expected = points.vectors[:3][best[0]] + points.vectors[3:][best[1]]
    torch.testing.assert_close(queries.grad[0], expected)
    assert vectors.grad is not None
    assert vectors.grad.abs().sum(1).gt(0).sum() == len(set(best[0].tolist())) + len(set(best[1].tolist()))


def test_own_documents_come_ragged_or_padded() -> None:
    scorer, points = make_scorer([[1, 1, 0], [1, 0, 0]]), make_points([3, 1, 2, 4, 2, 2])
    expected = torch.stack([scorer[:1].score(points[:3])[0], scorer[1:].score(points[3:])[0]])
    torch.testing.assert_close(scorer.score_own(points), expected)
    vectors, mask = points.padded()
    own = scorer.score_own(vectors.view(2, 3, 4, DIMENSION), mask=mask.view(2, 3, 4))
    torch.testing.assert_close(own, expected)
    with pytest.raises(InputError, match="5 documents cannot be divided among 2"):
        scorer.score_own(points[:5])


def test_half_precision_tokens_are_scored_in_float32() -> None:
    scorer, points = make_scorer([[1, 1]]), make_points([3, 2])
    half = TokenPoints(points.vectors.half(), points.offsets)
    exact = scorer.score(TokenPoints(half.vectors.float(), points.offsets))
    assert torch.equal(scorer.score(half), exact)


def test_scorers_of_different_lengths_join_slice_and_come_back_from_a_file(tmp_path: Path) -> None:
    parts = [make_scorer([[1, 1, 1]], masking="pylate"), make_scorer([[1], [1]], seed=5, masking="pylate")]
    points = make_points([4, 2, 3])
    joined = MaxSimScorer.concatenate(parts)
    expected = torch.cat([part.score(points) for part in parts])
    torch.testing.assert_close(joined.score(points), expected)
    torch.testing.assert_close(joined[1:].score(points), expected[1:])
    joined.save(tmp_path / "scorer.safetensors")
    again = load_scorer(tmp_path / "scorer.safetensors")
    assert isinstance(again, MaxSimScorer)
    assert again.masking == "pylate"
    torch.testing.assert_close(again.score(points), expected)
    with pytest.raises(InputError, match="scorers that differ"):
        MaxSimScorer.concatenate([parts[0], make_scorer([[1]])])


def test_what_does_not_fit_is_refused() -> None:
    queries, mask = torch.zeros(2, 3, DIMENSION), torch.ones(2, 3)
    with pytest.raises(InputError, match="not 'dot'"):
        MaxSimScorer(Space("dot", DIMENSION), queries, mask)
    with pytest.raises(InputError, match=r"not \(2, 3, 4\) and \(2, 2\)"):
        MaxSimScorer(SPACE, queries, mask[:, :2])
    with pytest.raises(InputError, match="4 dimensions"):
        MaxSimScorer(SPACE, queries[..., :3], mask)
    with pytest.raises(UnknownNameError, match="did you mean 'pylate'"):
        MaxSimScorer(SPACE, queries, mask, masking="pylat")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="needs TokenPoints"):
        MaxSimScorer(SPACE, queries, mask).score(VectorPoints(torch.zeros(3, DIMENSION)))
    with pytest.raises(InputError, match="4 dimensions"):
        MaxSimScorer(SPACE, queries, mask).matches(TokenPoints(torch.zeros(1, 3), torch.tensor([0, 1])))
    with pytest.raises(InputError, match="MaxSimScorer"):
        LinearScorer(SPACE, torch.zeros(1, DIMENSION)).score(VectorPoints(torch.zeros(1, DIMENSION)))


def muvera(encoding: TokenEncoding, tokens: Tensor, *, query: bool) -> Tensor:
    """Encode one set of tokens as the paper says, partition by partition."""
    from hyperseek.geometry.tokens import _draws

    planes, projections, place, sign = _draws(encoding)
    p = encoding.projected or encoding.dimension
    blocks = []
    for repetition in range(encoding.repetitions):
        hyperplanes = planes[:, repetition * encoding.bits : (repetition + 1) * encoding.bits]
        codes = [sum(2**bit for bit, side in enumerate(token @ hyperplanes) if side > 0) for token in tokens]
        projection = projections[:, repetition * p : (repetition + 1) * p] if encoding.projected else torch.eye(p)
        for partition in range(2**encoding.bits):
            inside = [token for token, code in zip(tokens, codes, strict=True) if code == partition]
            if not inside and not query and codes:
                nearest = min(sorted(set(codes)), key=lambda code: (code ^ partition).bit_count())
                inside = [token for token, code in zip(tokens, codes, strict=True) if code == nearest]
            total = torch.stack(inside).sum(0) if inside else torch.zeros(encoding.dimension)
            blocks.append((total if query else total / max(1, len(inside))) @ projection)
    joined = torch.cat(blocks) / encoding.repetitions**0.5
    if encoding.sketched is None:
        return joined
    folded = torch.zeros(encoding.sketched)
    for value, column, direction in zip(joined, place.tolist(), sign, strict=True):
        folded[column] += direction * value
    return folded


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=4),
    st.integers(0, 3),
    st.sampled_from([None, 1, 3]),
    st.sampled_from([None, 1, 7]),
    st.integers(1, 6),
)
def test_encodings_equal_the_paper_partition_by_partition(
    lengths: list[int], bits: int, projected: int | None, sketched: int | None, chunk: int
) -> None:
    encoding = TokenEncoding(DIMENSION, repetitions=2, bits=bits, projected=projected, sketched=sketched, seed=7)
    points = make_points(lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hyperseek.geometry.tokens._TOKENS", chunk)
        documents = encoding.encode_documents(points.vectors, points.offsets)
    queries = encoding.encode_queries(points.padded()[0])
    assert documents.shape == queries.shape == (len(points), encoding.width)
    for row, (document, query) in enumerate(zip(documents, queries, strict=True)):
        tokens = points[row : row + 1].vectors
        torch.testing.assert_close(document, muvera(encoding, tokens, query=False), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(query, muvera(encoding, tokens, query=True), atol=1e-5, rtol=1e-5)


def test_encodings_never_change() -> None:
    """An index keeps the settings only: what they give today they must give for good."""
    encoding = TokenEncoding(2, repetitions=3, bits=2, projected=2, sketched=4, seed=3)
    vectors = torch.tensor([[1.0, 0.0], [0.5, -2.0], [0.0, 1.0]])
    expected = torch.tensor([[1.2247, -0.1021, -1.633, -0.1021], [0.4082, -0.4082, 0.4082, 0.4082]])
    torch.testing.assert_close(encoding.encode_documents(vectors, torch.tensor([0, 2, 3])), expected, atol=1e-4, rtol=0)


def test_charts_find_what_late_interaction_ranks_first() -> None:
    generator = torch.Generator().manual_seed(3)
    space = Space("tokens", 16)
    centres = torch.randn(60, 16, generator=generator)
    tokens = [centres[row] + 0.3 * torch.randn(8, 16, generator=generator) for row in range(60)]
    points = TokenPoints.from_documents([torch.nn.functional.normalize(document, dim=1) for document in tokens])
    scorer = MaxSimScorer(space, points.padded()[0][:10, :5], torch.ones(10, 5))
    best = scorer.score(points).argmax(1)
    assert scorer.linear() is None
    flat = space.chart(space.flat_chart, repetitions=10, bits=3)
    found = (scorer.lift(flat) @ flat.lift_documents(points).T).argmax(1)
    assert torch.equal(found, best)
    (name,) = space.graph_charts
    chart = space.fit_chart(name, [points[:30], points[30:]], repetitions=10, bits=3)
    again = space.chart(name, **chart.parameters)
    assert torch.equal(again.lift_documents(points), chart.lift_documents(points))
    assert torch.equal(torch.cdist(scorer.lift(chart), chart.lift_documents(points)).argmin(1), best)


def test_charts_keep_all_their_settings_and_refuse_others() -> None:
    assert SPACE.chart("inner_product", bits=2).parameters == {
        "repetitions": 20,
        "bits": 2,
        "projected": 16,
        "sketched": None,
        "seed": 0,
    }
    with pytest.raises(UnknownNameError, match="did you mean 'repetitions'"):
        SPACE.chart("inner_product", repetition=3)
    with pytest.raises(InputError, match="bits 0 to 10"):
        SPACE.chart("inner_product", bits=11)
    with pytest.raises(UnknownNameError, match="muvera"):
        SPACE.chart("inner_product", encoding=["muvera"])
    for parameters in ({"bits": "3"}, {"repetitions": 2.5}, {"encoding": "learned", "width": None}):
        with pytest.raises(InputError, match="must be a whole number"):
            SPACE.chart("inner_product", **parameters)
    with pytest.raises(InputError, match="take no 'bits'"):
        Space("dot", 3).chart("inner_product", bits=2)
    with pytest.raises(InputError, match="needs TokenPoints"):
        SPACE.chart("inner_product").lift_documents(VectorPoints(torch.zeros(3, DIMENSION)))


def test_functions_over_tokens_score_and_get_surrogates() -> None:
    points = make_points([3, 1, 4, 2, 5, 3])

    def longest_first(queries: dict[str, Tensor], documents: Points) -> Tensor:
        assert isinstance(documents, TokenPoints)
        return queries["scale"] * documents.lengths

    scorer = FunctionScorer(SPACE, longest_first, {"scale": torch.tensor([[1.0], [-1.0]])})
    assert scorer.score_own(points).tolist() == [[3, 1, 4], [-2, -5, -3]]
    linear = surrogate(scorer, Landmarks(SPACE, points, parameters={"repetitions": 3, "bits": 1}))
    expected = scorer.score(points)
    torch.testing.assert_close(linear.score(points), expected, atol=0.1, rtol=0)
    torch.testing.assert_close(
        linear.score_own(points), torch.stack([linear.score(points)[0, :3], linear.score(points)[1, 3:]])
    )
    chart = SPACE.chart("inner_product", repetitions=3, bits=1)
    lifted = linear.lift(chart)
    assert lifted is not None
    assert (lifted @ chart.lift_documents(points).T).argmax(1).tolist() == [4, 1]
