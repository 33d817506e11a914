from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from hyperseek import HyperseekError
from hyperseek.scoring import (
    LinearScorer,
    Points,
    QNetScorer,
    Scorer,
    Space,
    VectorPoints,
    build_converter,
    load_scorer,
    register_qnet_converter,
)


def qnet(sizes: list[int], *, queries: int = 3, base: bool = False, seed: int = 0) -> QNetScorer:
    generator = torch.Generator().manual_seed(seed)
    kwargs = {"vector_dimensions": sizes, "do_residual": len(set(sizes[:-1])) == 1}
    converter = build_converter("repeated_dense_block", kwargs)

    def draw(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(queries, *shape, generator=generator)

    return QNetScorer(
        Space("dot", sizes[0]),
        [draw(shape) for shape in converter.weight_shapes],
        [draw(shape) for shape in converter.bias_shapes],
        converter_kwargs=kwargs,
        base=draw((sizes[0],)) if base else None,
    )


SCORERS = {
    "linear": lambda: LinearScorer(Space("cosine", 8), torch.randn(3, 8, generator=torch.Generator().manual_seed(0))),
    "depth 0": lambda: qnet([8, 1]),
    "depth 2": lambda: qnet([8, 8, 8, 1]),
    "warm depth 1": lambda: qnet([8, 8, 1], base=True),
}


@pytest.fixture(params=SCORERS)
def scorer(request: pytest.FixtureRequest) -> Scorer:
    return SCORERS[request.param]()


@pytest.fixture
def points() -> Points:
    return VectorPoints(torch.randn(20, 8, generator=torch.Generator().manual_seed(9)))


def test_slices_join_to_the_whole(scorer: Scorer, points: Points) -> None:
    joined = type(scorer).concatenate([scorer[:1], scorer[1:]])
    assert len(scorer) == len(joined) == 3
    torch.testing.assert_close(joined.score(points), scorer.score(points))


def test_scorers_are_saved_and_loaded(scorer: Scorer, points: Points, tmp_path: Path) -> None:
    scorer.save(tmp_path / "scorer.safetensors")
    loaded = load_scorer(tmp_path / "scorer.safetensors")
    assert type(loaded) is type(scorer)
    assert torch.equal(loaded.score(points), scorer.score(points))


def test_a_linear_scorer_says_so(scorer: Scorer, points: Points) -> None:
    vectors = scorer.linear()
    if vectors is None:
        assert isinstance(scorer, QNetScorer)
        assert len(scorer.matrices) > 1
        return
    chart = scorer.space.chart("inner_product")
    queries = scorer.lift(chart)
    assert queries is not None
    lifted = queries @ chart.lift_documents(points).T
    torch.testing.assert_close(lifted, scorer.score(points))


def test_own_scores_agree_with_all_scores(scorer: Scorer, points: Points) -> None:
    own = points.vectors[:6].reshape(3, 2, 8)
    everything = scorer.score(points[:6]).reshape(3, 3, 2)
    torch.testing.assert_close(scorer.score_own(own), everything[torch.arange(3), torch.arange(3)])


def test_no_documents_give_no_scores(scorer: Scorer) -> None:
    with torch.no_grad():
        assert scorer.score(VectorPoints(torch.zeros(0, 8))).shape == (3, 0)


def test_a_foreign_file_is_no_scorer(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(HyperseekError, match="holds no scorer"):
        load_scorer(tmp_path / "x.safetensors")


def test_unlike_scorers_do_not_join() -> None:
    with pytest.raises(HyperseekError, match="that differ"):
        Scorer.concatenate([qnet([8, 8, 1]), qnet([8, 1])])
    with pytest.raises(HyperseekError, match="at least one"):
        Scorer.concatenate([])


def test_a_qnet_refuses_wrong_shapes_and_spaces() -> None:
    good = qnet([8, 8, 1])
    with pytest.raises(HyperseekError, match="asks for shapes"):
        QNetScorer(good.space, good.matrices[::-1], good.vectors, converter_kwargs=good.converter_kwargs)
    with pytest.raises(HyperseekError, match="'dot' space"):
        QNetScorer(Space("cosine", 8), good.matrices, good.vectors, converter_kwargs=good.converter_kwargs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vector_dimensions": [8]}, "must be \\[d, hidden"),
        ({"vector_dimensions": [8, 2]}, "must be \\[d, hidden"),
        ({"vector_dimensions": [8, 4, 8, 1]}, "do_residual=False"),
        ({"vector_dimensions": [8, 8, 1], "activation_type": "rellu"}, "did you mean 'relu'"),
        ({"vector_dimensions": [8, 8, 1], "dropout_prob": 1.0}, "dropout_prob"),
        ({"vector_dimensions": [8, 8, 1], "do_residual": False, "do_residual_on_last": True}, "needs do_residual"),
        ({"vector_dimensions": [8, 8, 1], "unknown": 1}, "does not take these arguments"),
    ],
)
def test_bad_architectures_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(HyperseekError, match=message):
        build_converter("repeated_dense_block", arguments)


def test_residual_on_last_can_follow_residual() -> None:
    converter = build_converter("repeated_dense_block", {"vector_dimensions": [8, 8, 1], "do_residual_on_last": None})
    assert converter.residuals == [True]  # type: ignore[attr-defined]


def test_dropout_applies_in_training_only(points: Points) -> None:
    plain = qnet([8, 8, 1])
    kwargs = {**plain.converter_kwargs, "do_dropout": True, "dropout_prob": 0.5}
    train, test = (
        QNetScorer(plain.space, plain.matrices, plain.vectors, converter_kwargs=kwargs, is_training=training)
        for training in (True, False)
    )
    torch.manual_seed(0)
    assert not torch.equal(train.score(points), plain.score(points))
    assert torch.equal(test.score(points), plain.score(points))


class Bilinear:
    """A q-net that no dense block can express: the generated matrix in a quadratic form."""

    def __init__(self, size: int) -> None:
        self.weight_shapes = [(size, size)]
        self.bias_shapes: list[tuple[int, int]] = []

    def __call__(self, matrices: list[Tensor], vectors: list[Tensor], is_training: bool):  # type: ignore[no-untyped-def]
        return lambda documents: ((documents @ matrices[0]) * documents).sum(-1, keepdim=True)


def test_a_custom_converter_is_chosen_by_name(points: Points, tmp_path: Path) -> None:
    register_qnet_converter("bilinear-test")(Bilinear)
    matrix = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0))
    scorer = QNetScorer(Space("dot", 8), [matrix], [], converter="bilinear-test", converter_kwargs={"size": 8})
    expected = torch.einsum("nd,qde,ne->qn", points.vectors, matrix, points.vectors)
    with torch.no_grad():
        torch.testing.assert_close(scorer.score(points), expected)
    assert scorer.linear() is None
    scorer.save(tmp_path / "s.safetensors")
    assert torch.equal(load_scorer(tmp_path / "s.safetensors").score(points), scorer.score(points))
    with pytest.raises(HyperseekError, match="is taken"):
        register_qnet_converter("bilinear-test")(type("Other", (), {}))
    with pytest.raises(HyperseekError, match="did you mean 'bilinear-test'"):
        build_converter("bilinear-tset", {})
