"""What a model makes of a card: distances, confidence, the change of queries, gains and losses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from hyperseek.analysis import CardReport, inspect_card
from hyperseek.cards import Card
from hyperseek.cli import app
from hyperseek.data import Dataset, write_beir
from hyperseek.errors import InputError
from hyperseek.evaluation import calculate
from hyperseek.index import Index
from hyperseek.models import ModelConfig, Retriever, build, load
from hyperseek.types import Document, Query

WORDS = ["cat", "dog", "bird", "fish", "sea", "sun", "moon", "star", "tree", "leaf"]
CARDS = [
    Card(name="nature", description="documents about the sea", query_examples=("what is the sea", "who is the cat")),
    Card(name="code", description="python functions that match a question"),
    Card(name="town", description="house and door and window"),
]


@pytest.fixture(scope="module")
def model(tiny_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    values = {"trunk": tiny_encoder, "family": "card", "pooling": "mean", "normalize": True,
              "card": {"width": 16, "rank": 4}}  # fmt: skip
    made = build(ModelConfig.from_mapping(values), device="cpu")
    head: Any = made.route("query")[-1]
    torch.manual_seed(2)
    with torch.no_grad():
        for weight in head.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    head.fit_cards(CARDS)
    made.save(tmp_path_factory.mktemp("card-model"))
    return made


@pytest.fixture(scope="module")
def index(model: Retriever, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return Index.build(tmp_path_factory.mktemp("inspected") / "index", dataset.documents(), model)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    documents = [Document(f"d{n}", f"the {word} and the {WORDS[n - 1]}") for n, word in enumerate(WORDS)]
    queries = [Query(f"q{n}", f"what is {word}") for n, word in enumerate(WORDS)]
    return Dataset.from_records(
        "seen", documents, queries=queries, qrels={"test": {f"q{n}": {f"d{n}": 1} for n in range(10)}}
    )


def test_a_card_of_the_training(model: Retriever) -> None:
    report = inspect_card(CARDS[0], model)
    name, distance = report.nearest[0]
    assert name == "nature"
    assert distance == pytest.approx(0, abs=1e-4)
    assert {name for name, _ in report.nearest} == {"nature", "code", "town"}
    assert report.confidence == pytest.approx(1, abs=1e-5)  # in a card of the training
    assert not report.is_unlike
    head: Any = model.route("query")[-1]
    others = [min(far for name, far in head.nearest_tasks(card) if name != card.name) for card in CARDS]
    assert report.farthest == pytest.approx(max(others), abs=1e-5)
    assert report.change is not None
    assert report.change.texts == 2
    assert 0 < report.change.angle <= report.change.largest_angle
    assert report.change.length > 0
    assert 0 < report.change.common <= 1
    assert report.queries == ()


def test_cards_of_the_training_are_not_encoded_again(model: Retriever, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(str(model.source), device="cpu")
    head: Any = loaded.route("query")[-1]
    asked, read = [], head.card_features
    monkeypatch.setattr(head, "card_features", lambda card: asked.append(card.name) or read(card))
    inspect_card(CARDS[0].model_copy(update={"description": "documents about the moon"}), loaded)
    assert set(asked) == {"nature"}


def test_a_fresh_head_is_the_identity(tiny_encoder: str) -> None:
    values = {"trunk": tiny_encoder, "family": "card", "pooling": "mean", "normalize": True, "card": {"width": 16}}
    report = inspect_card(CARDS[1], build(ModelConfig.from_mapping(values), device="cpu"))
    assert report.nearest == []
    assert report.farthest is None
    assert report.change is not None
    assert (report.change.length, report.change.common) == (0, 0)


def test_gains_and_losses_are_those_of_the_rankings(model: Retriever, index: Index, dataset: Dataset) -> None:
    report = inspect_card(CARDS[1], model, index=index, dataset=dataset, k=5)
    queries, qrels = dataset.queries("test"), dataset.qrels("test")
    runs = [index.run(queries, k=5), index.run(queries, k=5, options={"card": CARDS[1]})]
    before, after = (calculate(run, qrels, "nDCG@5")["nDCG@5"] for run in runs)
    assert {query.id: query.gain for query in report.queries} == pytest.approx({q: after[q] - before[q] for q in after})
    assert report.difference == pytest.approx(sum(after[q] - before[q] for q in after) / 10)
    assert report.interval is not None
    assert report.difference is not None
    assert report.interval[0] <= report.difference <= report.interval[1]
    assert len(report.gained) + len(report.lost) > 0
    assert [query.gain for query in report.queries] == sorted((query.gain for query in report.queries), reverse=True)
    for query in report.queries:
        shared = runs[0][query.id].keys() & runs[1][query.id].keys()
        assert query.overlap == len(shared) / 5


def test_without_judgements_the_rankings_that_move(model: Retriever, index: Index) -> None:
    report = inspect_card(CARDS[0], model, index=index, k=3)
    assert [query.text for query in report.queries] != []
    assert {query.text for query in report.queries} == set(CARDS[0].query_examples)
    assert report.difference is None
    overlaps = [query.overlap for query in report.queries]
    assert overlaps == sorted(overlaps)
    with pytest.raises(InputError, match="'code' has no example queries"):
        inspect_card(CARDS[1], model, index=index)


def test_a_model_without_cards(tiny_encoder: str) -> None:
    plain = build(ModelConfig.from_mapping({"trunk": tiny_encoder, "family": "dense", "pooling": "mean"}), device="cpu")
    with pytest.raises(InputError, match="has no task cards"):
        inspect_card(CARDS[0], plain)


def test_the_command(model: Retriever, index: Index, dataset: Dataset, tmp_path: Path) -> None:
    CARDS[0].write(tmp_path / "card.yaml")
    write_beir(dataset, tmp_path / "data")
    asked = ["inspect", "card", str(tmp_path / "card.yaml"), "--model", str(model.source)]
    where = ["--index", str(index.path), "--dataset", str(tmp_path / "data")]
    shown = CliRunner().invoke(app, [*asked, *where])
    assert shown.exit_code == 0, shown.output
    for part in ("nature: confidence", "0.000 from nature", "the head moves 10 queries", "nDCG@10:", "queries gain"):
        assert part in shown.stdout
    values = json.loads(CliRunner().invoke(app, [*asked, *where, "--json"]).stdout)
    expected = inspect_card(CARDS[0], model, index=index, dataset=dataset)
    assert isinstance(expected, CardReport)
    assert values["difference"] == pytest.approx(expected.difference, abs=1e-6)
    assert len(values["queries"]) == 10
    CARDS[1].write(tmp_path / "words.yaml")
    one = CliRunner().invoke(app, ["inspect", "card", str(tmp_path / "words.yaml"), "--model", str(model.source)])
    assert "the head moves 1 query by" in one.stdout
    assert "their" not in one.stdout
    moved = CliRunner().invoke(app, [*asked, "--index", str(index.path)])
    assert "stay: what is the sea" in moved.stdout
    wrong = CliRunner().invoke(app, [*asked, "--dataset", str(tmp_path / "data")])
    assert isinstance(wrong.exception, InputError)
