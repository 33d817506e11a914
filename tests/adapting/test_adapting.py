"""Adapting: heads that start as the identity, a choice that ships no loss, and models that search the same index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hyperseek import Document, HyperseekError, Index, load
from hyperseek.adapting import Adaptation, AdaptRecord, Gain, adapt, read_judged
from hyperseek.adapting._adaptation import material_of, pseudo_queries
from hyperseek.adapting._choosing import (
    DEFAULT,
    NOTHING,
    Candidate,
    Fits,
    choose,
    expected_gain,
    folds,
    gains,
    lower_bounds,
)
from hyperseek.adapting._fitting import LowRank, Map, Material, Steps, Tuned, best_rows, ridge, targets_of, train
from hyperseek.cards import Card, JudgedPair
from hyperseek.cli import app
from hyperseek.models import ModelConfig, Retriever, build
from hyperseek.models.families.dense import query_map
from hyperseek.plan import Plan
from hyperseek.scoring import LinearScorer, Space, VectorPoints

D, N = 16, 300
WORDS = ("river", "stone", "city", "road", "house", "door", "window", "bridge")


def unit(tensor: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(tensor, dim=-1)


def turned(queries: int, *, noise: float = 0.05, seed: int = 0) -> Material:
    """Queries whose documents are found after a rotation that swaps pairs of dimensions."""
    generator = torch.Generator().manual_seed(seed)
    documents = unit(torch.randn(N, D, generator=generator))
    rows = torch.arange(queries) % N
    rotation = torch.eye(D)[[place ^ 1 for place in range(D)]]
    vectors = unit(
        documents[rows] @ (0.5 * torch.eye(D) + rotation) + noise * torch.randn(queries, D, generator=generator)
    )
    model: Any = None  # nothing is compiled
    grades = [{row: 1.0} for row in rows.tolist()]
    return Material(
        model, Space("cosine", D), VectorPoints(documents), [str(n) for n in range(queries)], vectors, grades
    )


def test_an_unfitted_head_is_the_identity_and_its_first_gradient_is_not_zero() -> None:
    material = turned(20)
    for rank in (None, 4):
        head = LowRank(material, rank=rank)
        assert torch.equal(head.map().matrix, torch.eye(D))
        head.scores(range(20), material.documents)[:, 0].sum().backward()
        assert float(head.parameters()[-1].grad.abs().max()) > 0  # type: ignore[union-attr]


def test_a_ridge_lies_between_the_identity_and_least_squares() -> None:
    material = turned(200, noise=0.0)
    rows = list(range(200))
    targets, weights = targets_of(material, rows), torch.ones(200)
    held = ridge(material.queries, targets, weights=weights, strength=1e9)
    assert torch.allclose(held.matrix, torch.eye(D), atol=1e-5)
    free = ridge(material.queries, targets, weights=weights, strength=1e-9)
    assert torch.allclose(free.matrix, torch.linalg.lstsq(material.queries, targets).solution, atol=1e-3)
    assert torch.allclose(free.partly(0.0).matrix, torch.eye(D))
    assert torch.allclose(free.partly(1.0).matrix, free.matrix)


@pytest.mark.parametrize("rank", [None, 8])
def test_contrastive_fits_find_a_rotation(rank: int | None) -> None:
    material = turned(250)
    rows = list(range(250))
    before = gains(NOTHING.scorer(None, material, rows), material, rows).mean()
    head = LowRank(material, rank=rank)
    train(material, rows, head, Steps(steps=60, rate=1e-2, batch=64))
    fitted = head.map()
    after = gains(Candidate("linear").scorer(fitted, material, rows), material, rows).mean()
    assert after > before + 0.2
    half = gains(Candidate("linear", 0.5).scorer(fitted, material, rows), material, rows).mean()
    assert before < half


def test_a_gain_is_proven_and_kept_and_noise_is_not() -> None:
    choice = choose(turned(260), ("ridge", "linear"), Fits(steps=40), certain=True)
    assert choice.proven
    assert choice.candidate.kind in ("ridge", "linear")
    assert choice.head is not None
    assert choice.fitted == 260
    nothing = turned(60)
    shuffled = np.random.default_rng(0).permutation(60).tolist()
    noise = Material(
        nothing.model,
        nothing.space,
        nothing.documents,
        nothing.texts,
        unit(torch.randn(60, D, generator=torch.Generator().manual_seed(9))),
        [nothing.grades[place] for place in shuffled],
    )
    kept = choose(noise, ("ridge",), Fits(), certain=True)
    assert kept.candidate == NOTHING
    assert not kept.proven
    assert kept.head is None


def test_lower_bounds_hold_for_the_best_of_many() -> None:
    """Of 30 useless candidates, the best one's bound is above 0 in about one run of twenty, not in most."""
    generator = np.random.default_rng(0)
    false = sum(lower_bounds(generator.normal(size=(40, 30)), seed=run).max() > 0 for run in range(60))
    assert false <= 8
    naive = sum(
        (draw.mean(axis=0) - 1.645 * draw.std(axis=0, ddof=1) / 40**0.5).max() > 0
        for draw in (generator.normal(size=(40, 30)) for _ in range(60))
    )
    assert naive >= 35
    assert lower_bounds(np.full((2, 3), 1.0)).tolist() == [-np.inf] * 3


def test_few_queries_change_what_is_expected_little() -> None:
    few = np.array([-0.3, 0.25, -0.1, 0.1])
    many = np.tile(few, 500)
    assert expected_gain(DEFAULT, few) > 0 > expected_gain(DEFAULT, many)
    assert expected_gain(Candidate("linear"), many) == pytest.approx(many.mean(), abs=1e-3)


def test_queries_with_a_common_document_are_held_out_together() -> None:
    material = turned(400)  # more queries than documents: row and row + 300 share one
    for held, fitted in folds(material, seed=0):
        assert not set(held) & set(fitted)
        documents = {row % N for row in held}
        assert not documents & {row % N for row in fitted}
    assert sorted(row for held, _ in folds(material, seed=0) for row in held) == list(range(400))
    [(held, fitted)] = folds(turned(2100), seed=0)
    assert len(held) >= 500
    assert len(held) + len(fitted) == 2100
    pooled = turned(10)
    shared = [{**graded, 7: 1.0} for graded in pooled.grades]  # all share a document: nothing could be held out
    one = Material(pooled.model, pooled.space, pooled.documents, pooled.texts, pooled.queries, shared)
    assert len(list(folds(one, seed=0))) == 5


def test_equal_scores_rank_by_row() -> None:
    vectors = torch.eye(4)[[0, 1, 0, 0]]
    space = Space("dot", 4)
    assert best_rows(LinearScorer(space, torch.eye(4)[:1]), VectorPoints(vectors), 3).tolist() == [[0, 2, 3]]


@pytest.fixture(scope="module")
def model(tiny_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    folder = tmp_path_factory.mktemp("dense") / "model"
    build(ModelConfig(trunk=tiny_encoder, family="dense", pooling="mean", normalize=True)).save(folder)
    return load(str(folder))


@pytest.fixture(scope="module")
def index(model: Retriever, tmp_path_factory: pytest.TempPathFactory) -> Index:
    documents = [
        Document(f"{first}-{second}-{third}", f"{second} {third} {first} {second}", f"{first} {second} {third}")
        for first in WORDS
        for second in WORDS
        for third in WORDS[:2]
        if first != second
    ]
    return Index.build(tmp_path_factory.mktemp("adapting") / "index", documents, model)


def pairs(count: int) -> dict[str, dict[str, float]]:
    """Queries that name a word, where documents about the next word are wanted."""
    asked: dict[str, dict[str, float]] = {}
    for place in range(count):
        first, second, third = WORDS[place % 8], WORDS[(place * 3 + 1) % 8], WORDS[place % 2]
        if first == second:
            continue
        wanted = f"{WORDS[(place + 1) % 8]}-{second}-{third}"
        if WORDS[(place + 1) % 8] != second:
            asked[f"{first} {second} {third} {place}"] = {wanted: 2.0}
    return asked


def test_an_adapted_model_searches_the_same_index(index: Index, model: Retriever, tmp_path: Path) -> None:
    adapted = adapt(index, pairs(60), kinds=["ridge"])
    assert isinstance(adapted, Adaptation)
    adapted.save(tmp_path / "adapted")
    record = AdaptRecord.from_mapping(json.loads((tmp_path / "adapted" / "adapt.json").read_text()))
    assert record == adapted.record
    assert record.chosen in ("ridge", "ridge + feedback")
    assert {gain.name for gain in record.candidates} == {"feedback", "ridge", "ridge + feedback"}
    assert isinstance(record.gain, Gain)
    opened = load(str(tmp_path / "adapted"))
    assert opened.fingerprint == model.fingerprint == record.fingerprint
    again = Index.open(index.path, model=opened)
    plan = Plan.load(tmp_path / "adapted" / "plan.yaml") if record.feedback else None
    hits = again.search(list(pairs(5)), k=3, plan=plan)
    assert [[hit.id for hit in own] for own in hits] != [
        [hit.id for hit in own] for own in index.search(list(pairs(5)), k=3)
    ]
    # What was measured is what the saved model does.
    material, rows = material_of(index, pairs(60), model), list(range(len(pairs(60))))
    direct = ridge(material.queries, targets_of(material, rows), weights=torch.ones(len(rows)), strength=10.0)
    vectors = opened.compile(material.texts).linear()
    assert vectors is not None
    assert torch.allclose(unit(vectors.clone()), unit(direct(material.queries)), atol=1e-4)


@pytest.mark.parametrize("kind", ["q_net", "adapters"])
def test_deep_heads_start_as_the_model_and_learn(index: Index, model: Retriever, kind: str, tmp_path: Path) -> None:
    material = material_of(index, pairs(40), model)
    rows = list(range(len(material)))
    head = Tuned.q_net(material, depth=1, seed=0) if kind == "q_net" else Tuned.adapters(material, rank=4, seed=0)
    plain = material.scorer(material.queries).score(material.documents)
    assert torch.allclose(head.scorer(material, rows, 1.0).score(material.documents), plain, atol=1e-4)
    before = gains(NOTHING.scorer(None, material, rows), material, rows).mean()
    train(material, rows, head, Steps(steps=40, batch=32, rate=3e-3))
    after = gains(Candidate("qnet").scorer(head, material, rows), material, rows).mean()
    assert after > before
    none = head.scorer(material, rows, 0.0)
    assert torch.allclose(none.score(material.documents), plain, atol=1e-4)
    saved = head.model(material, 0.5)
    saved.save(tmp_path / kind)
    opened = load(str(tmp_path / kind))
    assert opened.fingerprint == model.fingerprint
    scored = opened.compile(material.texts[:3]).score(material.documents)
    assert torch.allclose(scored, head.scorer(material, [0, 1, 2], 0.5).score(material.documents), atol=1e-4)


def test_a_compiled_card_is_where_a_fit_begins(index: Index, model: Retriever, tmp_path: Path) -> None:
    config = {"trunk": model.source, "family": "card", "card": {"head": "low_rank", "rank": 4}}
    made = build(ModelConfig.from_mapping(config))
    with torch.no_grad():
        for place, parameter in enumerate(made.route("query")[-1].parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(place))
            parameter += 0.1 * noise
    made.save(tmp_path / "cards")
    opened = Index.open(index.path, model=load(str(tmp_path / "cards")))
    card = Card(name="next", description="What comes next", query_examples=tuple(pairs(9)))
    adapted = adapt(opened, pairs(60), card=card, kinds=["card", "card_ridge"], certain=True)
    assert {"card", "card_ridge", "0.5 of card + feedback"} <= {gain.name for gain in adapted.record.candidates}
    material = material_of(opened, pairs(20), opened.model)
    found = query_map(opened.model, card)
    assert found is not None
    mapped = Map(*found)
    assert not torch.allclose(mapped.matrix, torch.eye(32), atol=1e-3)
    alone = mapped.model(material, 1.0)
    assert alone.fingerprint == model.fingerprint
    wanted = opened.model.compile(material.texts, {"card": card}).linear()
    vectors = alone.compile(material.texts).linear()
    assert wanted is not None
    assert vectors is not None
    assert torch.allclose(unit(vectors.clone()), unit(wanted.clone()), atol=1e-4)


def test_cards_and_documents_alone(index: Index) -> None:
    texts = [document.full_text for document in list(index.documents())[:8]]
    card = Card(name="roads", description="What is beside a road", doc_examples=tuple(texts))
    adapted = adapt(index, card=card)
    assert adapted.record.source == "examples"
    assert any(gain.name.startswith("0.25 of examples") for gain in adapted.record.candidates)
    with pytest.raises(HyperseekError, match="there are 0 queries with a relevant document"):
        adapt(index, card=card.model_copy(update={"judged": (JudgedPair(query="a", document="b"),)}))
    judged = tuple(
        JudgedPair(query=query, document=found.full_text)
        for query, graded in pairs(9).items()
        if (found := index.get(next(iter(graded)))) is not None
    )
    given = adapt(index, card=card.model_copy(update={"judged": judged}))
    assert given.record.source == "judged"
    assert given.record.queries == len(judged) > 3
    alone = adapt(index, certain=True)
    assert alone.record.source == "documents"
    assert alone.record.queries == len(pseudo_queries(index.documents()))


def test_bounds_of_two_queries_are_numbers_that_json_has(index: Index, tmp_path: Path) -> None:
    adapt(index, dict(list(pairs(9).items())[:2])).save(tmp_path / "adapted")
    text = (tmp_path / "adapted" / "adapt.json").read_text()
    assert "Infinity" not in text
    assert {gain["low"] for gain in json.loads(text)["candidates"]} == {-1}


def test_documents_without_titles_stand_for_no_queries(index: Index, tmp_path: Path) -> None:
    short = [Document(str(number), "sea") for number in range(5)]
    with pytest.raises(HyperseekError, match="no judged queries, and 0 documents have a title or a first sentence"):
        adapt(Index.build(tmp_path / "short", short, index.model))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kinds": ["rigde"]}, "did you mean 'ridge'"),
        ({"kinds": ["examples"]}, "give a card that has some"),
        ({"rank": 0}, "rank must be at least 1"),
        (
            {"judged": {"a": {"nothing": 1.0}, "b": {"nothing": 1.0}}},
            "none of the judged documents is relevant and in the index",
        ),
    ],
)
def test_mistakes_are_named(index: Index, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(HyperseekError, match=message):
        adapt(index, **{"judged": pairs(9), **arguments})


def test_other_spaces_are_refused(tmp_path: Path) -> None:
    space = Space("lorentz", 2)
    index = Index.from_vectors(tmp_path / "index", [(Document("a", "b"), torch.tensor([1.0, 0.0, 0.0]))], space)
    with pytest.raises(HyperseekError, match=r"points of a 'lorentz' space; .* Feedback works in every space"):
        material_of(index, {"a": {"a": 1}}, None)  # type: ignore[arg-type]


def test_the_command_line(index: Index, tmp_path: Path) -> None:
    lines = [
        {"query": query, "document": name, "grade": grade}
        for query, graded in pairs(40).items()
        for name, grade in graded.items()
    ]
    first = index.get(lines[0]["document"])
    assert first is not None
    lines[0]["document"] = first.full_text  # a text of the index does, too
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_judged(path, index) == pairs(40)
    folder = str(tmp_path / "adapted")
    given = [
        "adapt",
        str(index.path),
        str(path),
        "--output",
        folder,
        "--kinds",
        "ridge",
        "--beside",
        f"{index.path}={path}",
    ]
    result = CliRunner().invoke(app, given, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "ridge + feedback" in result.stdout
    assert "beside, " in result.stdout
    search = ["search", str(index.path), "river stone", "--model", folder, "-f", "json"]
    if (tmp_path / "adapted" / "plan.yaml").exists():
        search += ["--plan", f"{folder}/plan.yaml"]
    found = CliRunner().invoke(app, search, catch_exceptions=False)
    assert found.exit_code == 0, found.output
    for row in ('{"query": "a"}', '{"query": "a", "document": "b", "grade": [1]}'):
        path.write_text(f"{row}\n")
        with pytest.raises(HyperseekError, match="a judged pair has a text `query`"):
            read_judged(path, index)


def test_the_same_pair_twice_is_not_missing(index: Index, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    name, path = next(iter(index.ids)), tmp_path / "pairs.jsonl"
    twice = [{"query": "a", "document": name}] * 2
    path.write_text("".join(json.dumps(row) + "\n" for row in twice))
    assert read_judged(path, index) == {"a": {name: 1.0}}
    assert not caplog.records
    path.write_text("".join(json.dumps(row) + "\n" for row in [*twice, {"query": "a", "document": "nothing"}]))
    read_judged(path, index)
    assert "1 judged documents are not in the index" in caplog.text
