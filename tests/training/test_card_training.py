"""Training with cards: which cards batches get, what validation asks with, slices, and whole runs."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from hyperseek._ancestors import Hierarchy
from hyperseek._relevance import text_key
from hyperseek.cards import GENERIC, Card
from hyperseek.data import open_dataset
from hyperseek.errors import ConfigError, InputError, StoreError
from hyperseek.models import load
from hyperseek.runs.loop import ShowProgress
from hyperseek.training import Recipe, dry_run, train
from hyperseek.training._cache import FeatureCache
from hyperseek.training._cards import CardDraws, Task, generic_card, with_examples
from hyperseek.training._epoch_batches import EpochBatches
from hyperseek.training._recipe import CardsConfig, DataConfig
from hyperseek.training._slices import branches_of, cut_slices, repeats
from hyperseek.training._training_set import Drawn, Example, TrainingSet

MakeRecipe = Callable[..., Recipe]
WORDS = {"a": "animals", "b": "stars"}


@pytest.fixture
def two_tasks() -> tuple[TrainingSet, list[Task]]:
    """Two sources of 30 and of 10 examples; every fifth document is relevant to two queries."""
    training_set = TrainingSet(seed=1)
    tasks = []
    for source, (name, count) in enumerate((("a", 30), ("b", 10))):
        assert training_set.add_source(name) == source
        for place in range(count):
            documents = {training_set.number(f"{name} document {place}")}
            if place % 5 == 1:
                documents.add(training_set.number(f"{name} document {place - 1}"))
            training_set.add(Example(f"{name} query {place}", tuple(sorted(documents)), (), {}, source))
        tasks.append(Task(Card(name=name, description=f"About {WORDS[name]}"), source))
    return training_set, tasks


def draws(training_set: TrainingSet, source: int, *, size: int = 4, batches: int = 60) -> list[list[Drawn]]:
    positions = [place for place, example in enumerate(training_set.examples) if example.source == source]
    draw = random.Random(0)
    return [[training_set[epoch, place] for place in draw.sample(positions, size)] for epoch in range(batches)]


def test_a_card_never_holds_a_query_or_a_document_of_its_batch(two_tasks: tuple[TrainingSet, list[Task]]) -> None:
    training_set, tasks = two_tasks
    cards = CardDraws(training_set, tasks, CardsConfig(support=(3, 6), wrong=1.0), wrong=True, views=True)
    seen: Counter[str] = Counter()
    for drawn in draws(training_set, 0):
        queries = {text_key(example.query) for example in drawn}
        known = {number for example in drawn for number in training_set.known(example.query)}
        documents = {text_key(training_set.documents[number]) for number in known}
        made = cards(drawn)
        assert made == cards(drawn)
        assert made["wrong"] is not None
        of_views = [text for views in made["views"] for text in views]
        for text in (made["own"], made["wrong"], *of_views):
            card = Card.from_json_text(text)
            assert queries.isdisjoint(map(text_key, card.query_examples))
            assert documents.isdisjoint(map(text_key, card.doc_examples))
            assert len(card.query_examples) in (0, 3, 4, 5, 6)
            assert len(card.doc_examples) <= len(card.query_examples)
        own, wrong = Card.from_json_text(made["own"]), Card.from_json_text(made["wrong"])
        assert [{Card.from_json_text(text).name for text in views} for views in made["views"]] == [{"a"}, {"b"}]
        assert wrong.name == "b"
        assert all(query.startswith("a ") for query in own.query_examples)
        seen["generic"] += own == generic_card()
        seen["words"] += own.description == "About animals" and not own.query_examples
        seen["examples"] += own.description == GENERIC and bool(own.query_examples)
        seen["both"] += own.description == "About animals" and bool(own.query_examples)
    assert sum(seen.values()) == 60
    assert min(seen.values()) > 0
    assert seen["both"] > 20
    quiet = CardDraws(training_set, tasks, CardsConfig(dropout=0, without_examples=0, without_description=0))
    for drawn in draws(training_set, 1):
        made = quiet(drawn)
        card = Card.from_json_text(made["own"])
        assert card.name == "b"
        assert len(card.query_examples) >= 5
        assert (made["wrong"], made["views"]) == (None, [])


def test_strangers_are_told_of_no_other_task_and_are_none(two_tasks: tuple[TrainingSet, list[Task]]) -> None:
    training_set, (known, other) = two_tasks
    tasks = [known, replace(other, stranger=True)]
    cards = CardDraws(training_set, tasks, CardsConfig(wrong=1.0), wrong=True, views=True)
    for source, stranger in enumerate((False, True)):
        for drawn in draws(training_set, source, batches=5):
            made = cards(drawn)
            assert (made["stranger"], made["wrong"], made["views"]) == (stranger, None, [])


def test_a_batch_has_one_task(two_tasks: tuple[TrainingSet, list[Task]]) -> None:
    training_set, tasks = two_tasks
    mixed = [training_set[0, 0], training_set[0, 35]]
    with pytest.raises(InputError, match=r"several tasks: a, b; set data\.batches"):
        CardDraws(training_set, tasks, CardsConfig())(mixed)


def test_a_written_card_gets_examples_of_the_training_part(two_tasks: tuple[TrainingSet, list[Task]]) -> None:
    training_set, tasks = two_tasks
    own = [example for example in training_set.examples if example.source == 1]
    card = with_examples(tasks[1].card, training_set, own, seed=0)
    assert sorted(card.query_examples) == sorted(example.query for example in own)
    assert len(set(card.doc_examples)) == len(card.doc_examples)
    assert all(text.startswith("b document") for text in card.doc_examples)


def config(**slices: Any) -> DataConfig:
    sources = {name: {"source": f"{name}:train"} for name in ("a", "b")}
    values: dict[str, Any] = {"sources": sources, "batches": "one_source", "balance": 1}
    return DataConfig.from_mapping({**values, "slices": slices} if slices else values)


def test_slices_are_tasks_of_their_own(two_tasks: tuple[TrainingSet, list[Task]]) -> None:
    training_set, tasks = two_tasks

    def encode(texts: Any, side: str) -> Tensor:
        # Queries are alike by the parity of their number, documents by whether it is below 10.
        numbers = torch.tensor([int(text.split()[-1]) for text in texts])
        label = numbers % 2 if side == "query" else (numbers < 10).long()
        return torch.nn.functional.one_hot(label, 2).float()

    found = cut_slices(
        training_set, tasks, config(queries=2, documents=2, difficulty=2, least=8), encode=encode, identities={}
    )
    groups: dict[str, set[int]] = {}
    for position, example in enumerate(training_set.examples):
        if position >= 40:
            original = training_set.copies[position]
            assert replace(example, source=0) == training_set.examples[original]
            groups.setdefault(training_set.sources[example.source], set()).add(original)
    parity = [{place for place in range(30) if place % 2 == rest} for rest in (0, 1)]
    below = [set(range(10)), set(range(10, 30))]
    assert [own for name, own in groups.items() if "query" in name] in (parity, parity[::-1])
    # The two lowest documents of a pair are the first: document 9 belongs to query 9 and to no other.
    of_documents = [own for name, own in groups.items() if "document" in name]
    assert sorted(map(sorted, of_documents))[0][:10] == sorted(below[0])
    assert [len(own) for name, own in groups.items() if "difficulty" in name] == [15, 15]
    assert len(found) == 6  # the source b has fewer than two slices of 8
    assert {task.origin for task in found} == {0}
    assert all(task.card.description == "About animals" for task in found)
    assert all(
        {*task.card.query_examples} <= {training_set.examples[place].query for place in groups[task.card.name]}
        for task in found
    )
    with pytest.raises(ConfigError, match="no slice has 31 examples"):
        cut_slices(*two_tasks, config(queries=2, least=31), encode=None, identities={})
    with pytest.raises(ConfigError, match="no source has one"):
        cut_slices(*two_tasks, config(branches=2), encode=None, identities={})


def test_difficulty_is_a_teachers_lead_where_there_is_one(two_tasks: tuple[TrainingSet, list[Task]]) -> None:
    training_set = TrainingSet()
    training_set.add_source("a")
    for place in range(12):
        own, other = training_set.number(f"own {place}"), training_set.number(f"other {place}")
        scores = {own: float(place), other: float(2 * (place % 3))}
        training_set.add(Example(f"query {place}", (own,), (other,), scores, 0))
    training_set.add_source("b")
    data = DataConfig.from_mapping(
        {
            "sources": {"a": {"source": "a"}, "b": {"source": "b"}},
            "batches": "one_source",
            "slices": {"difficulty": 3, "least": 2},
        }
    )
    cut_slices(training_set, two_tasks[1], data, encode=None, identities={})
    lead = {place: place - 2 * (place % 3) for place in range(12)}
    bands = [
        [lead[training_set.copies[position]] for position in training_set.copies if _in(training_set, position, band)]
        for band in (1, 2, 3)
    ]
    assert list(map(len, bands)) == [4, 4, 4]
    assert min(bands[0]) >= max(bands[1])
    assert min(bands[1]) >= max(bands[2])


def _in(training_set: TrainingSet, position: int, band: int) -> bool:
    return training_set.sources[training_set.examples[position].source].endswith(f"difficulty {band}")


def test_the_largest_branch_is_cut_until_there_are_enough() -> None:
    edges = [("animal", "thing"), ("star", "thing"), ("cat", "animal"), ("dog", "animal"), ("lion", "cat")]
    hierarchy = Hierarchy.from_edges(edges)
    nodes = [["lion", "animal"], ["cat"], ["dog", "thing"], ["star"], ["unknown"], ["animal"]]
    assert branches_of(hierarchy, nodes, 1) == [*["thing"] * 4, None, "thing"]
    assert branches_of(hierarchy, nodes, 2) == ["animal", "animal", "animal", "star", None, "animal"]
    assert branches_of(hierarchy, nodes, 4) == ["cat", "cat", "dog", "star", None, "animal"]
    assert branches_of(hierarchy, nodes, 9) == ["lion", "cat", "dog", "star", None, "animal"]


def test_tasks_are_balanced(two_tasks: tuple[TrainingSet, list[Task]]) -> None:
    training_set, tasks = two_tasks
    assert repeats(training_set, config()) == [1, 3]
    assert repeats(training_set, config().model_copy(update={"balance": 0.5})) == [1, 2]  # the root of 3
    unbalanced = DataConfig.from_mapping({"sources": {"a": {"source": "a", "repeat": 2}, "b": {"source": "b"}}})
    assert repeats(training_set, unbalanced) == [2, 1]
    data = config(queries=3, least=3, share=0.75)
    cut_slices(training_set, tasks, data, encode=None, identities={})
    times = repeats(training_set, data)
    sizes = Counter(example.source for example in training_set.examples)
    totals = [times[place] * sizes[place] for place in range(len(times))]
    assert sum(totals[2:]) / sum(totals) == pytest.approx(0.75, abs=0.05)
    assert max(totals[2:]) <= 1.25 * min(totals[2:])
    batches = EpochBatches(training_set, 5, composition="one_source", repeat=times, seed=0)
    counted: Counter[int] = Counter()
    for batch in batches:
        positions = [position for _, position in batch]
        counted.update(positions)
        assert len({training_set.examples[position].source for position in positions}) == 1
    assert {count for position, count in counted.items() if position < 30} == {times[0]}
    # A source is gone through, and then again: a batch of half of it hardly holds an example twice.
    of_b = [[position for _, position in batch] for batch in batches if 30 <= batch[0][1] < 40]
    assert sum(len(set(batch)) == len(batch) for batch in of_b) > 0.7 * len(of_b)


def card_recipe(make_recipe: MakeRecipe, collection: Path, **changes: dict[str, Any]) -> Recipe:
    """Two sources, which are the even and the odd training queries of the toy collection."""
    model = {**make_recipe().model.model_dump(exclude_unset=True), "family": "card", "card": {"width": 8, "rank": 2}}
    sources = {
        "toy": {"source": f"{collection}:train", "card": {"description": "Find texts with these words"}},
        "again": {"source": f"{collection}:train", "limit": 14},
    }
    data = {"sources": sources, "batches": "one_source", "balance": 1, "slices": {"queries": 2, "least": 4}}
    train = {**make_recipe().train.model_dump(exclude_unset=True), "learning_rate": 1e-2}
    values: dict[str, dict[str, Any]] = {
        "model": model,
        "data": {**data, **changes.pop("data", {})},
        "losses": {"contrastive": {"temperature": 0.1}, "wrong_card": {}, "card_contrast": {"weight": 0.1}},
        "train": {**train, "cards": {"support": [2, 4], "wrong": 0.5}, **changes.pop("train", {})},
    }
    return make_recipe(**{**values, **changes})


def test_a_run_trains_the_head_alone_and_saves_its_cards(
    make_recipe: MakeRecipe, collection: Path, tmp_path: Path, dev: dict[str, Any]
) -> None:
    recipe = card_recipe(make_recipe, collection, validation={**dev, "holdout": 0.2})
    record = train(recipe, output=tmp_path / "run")
    assert record.document_fingerprint["before"] == record.document_fingerprint["after"]
    scores = {name for entry in record.validation for name in entry.scores}
    assert scores == {"toy", "holdout: toy", "holdout: again", "mean"}
    sliced = [name for name in record.sources if ":" in name]
    assert {name.partition(": ")[0] for name in sliced} <= {"toy", "again"}
    assert len(sliced) >= 2
    assert record.training_data["toy"]["examples"] <= 28 + 14
    retriever = load(tmp_path / "run", device="cpu")
    head: Any = retriever.route("query")[-1]
    assert [seen.card.name for seen in head.seen] == ["toy", "again", *sliced]
    toy = head.find("toy")
    assert toy.description == "Find texts with these words"
    train_queries = {query.text for query in open_dataset(collection).queries("train")}
    assert {*toy.query_examples} <= train_queries


def test_a_stranger_teaches_confidence_alone(
    make_recipe: MakeRecipe, collection: Path, tmp_path: Path, dev: dict[str, Any]
) -> None:
    sources = {
        "toy": {"source": f"{collection}:train", "card": {"description": "Find texts with these words"}},
        "far": {"source": f"{collection}:train", "stranger": True},
    }
    data = {"sources": sources, "slices": None}
    train(card_recipe(make_recipe, collection, validation=dev, data=data), output=tmp_path / "run")
    head: Any = load(tmp_path / "run", device="cpu").route("query")[-1]
    assert [seen.card.name for seen in head.seen] == ["toy"]
    assert head.compiler.encoder.confidence.level != 0


def test_the_saved_head_is_the_one_that_was_validated(
    make_recipe: MakeRecipe, collection: Path, tmp_path: Path, dev: dict[str, Any]
) -> None:
    # Queries that are trained on: a random trunk learns nothing that helps with others.
    on_itself = {**dev, "sets": {"toy": {"source": f"{collection}:train"}}}
    record = train(card_recipe(make_recipe, collection, validation=on_itself), output=tmp_path / "run")
    assert record.best_step != 0
    retriever = load(tmp_path / "run", device="cpu")
    documents = list(open_dataset(collection).documents())
    queries = list(open_dataset(collection).queries("train"))
    points = retriever.encode_documents([document.full_text for document in documents], dtype="float32")
    texts = [query.text for query in queries]
    scores = retriever.compile(texts, {"card": "toy"}).score(points)
    assert not torch.equal(scores, retriever.compile(texts).score(points))
    gains = []
    for query, own in zip(queries, scores, strict=True):
        place = [document.id for document in documents].index(f"d{query.id[1:]}")
        rank = int((own > own[place]).sum()) + 1
        gains.append(1 / float(torch.log2(torch.tensor(rank + 1.0))) if rank <= 10 else 0.0)
    assert sum(gains) / len(gains) == pytest.approx(record.final_scores["toy"], abs=1e-5)


def test_a_killed_run_resumes_with_the_same_cards(
    make_recipe: MakeRecipe, collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = card_recipe(make_recipe, collection)
    train(recipe, output=tmp_path / "whole")
    advance = ShowProgress.on_step_end

    def killed(self: ShowProgress, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 5:
            raise SystemExit(9)
        advance(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(ShowProgress, "on_step_end", killed)
        with pytest.raises(SystemExit):
            train(recipe, output=tmp_path / "killed")
    train(recipe, output=tmp_path / "killed")
    left, right = (
        load_file(sorted((tmp_path / name / "checkpoints").glob("checkpoint-*"))[-1] / "trainable.safetensors")
        for name in ("killed", "whole")
    )
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_dry_run_encodes_nothing(make_recipe: MakeRecipe, collection: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FeatureCache, "_compute", None)
    told = dry_run(card_recipe(make_recipe, collection))
    assert told.steps == 6
    assert any(part.trained for part in told.parts)


def test_indexes_that_do_not_fit_are_refused_before_slices_are_encoded(
    make_recipe: MakeRecipe, collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FeatureCache, "_compute", None)
    cache = {**make_recipe().train.cache.model_dump(), "indexes": [str(tmp_path / "nowhere")]}
    with pytest.raises(StoreError, match="holds no index"):
        train(card_recipe(make_recipe, collection, train={"cache": cache}), output=tmp_path / "run")


def test_what_cards_cannot_be_trained_with_is_refused(make_recipe: MakeRecipe, collection: Path) -> None:
    source = {"source": f"{collection}:train"}
    two = {"sources": {"toy": source, "again": source}}
    for changes, word in (
        ({"data": {**two, "batches": "mixed", "balance": 0, "slices": None}}, "mixes the tasks"),
        ({"train": {"trunk": "full"}}, "read by a frozen trunk"),
        ({"data": {"sources": {"toy": {**source, "card": "nowhere.yaml"}}}}, "nowhere"),
        ({"data": {"sources": {"toy": {**source, "stranger": True}}}}, "every source is a stranger"),
    ):
        with pytest.raises(ConfigError, match=word):
            dry_run(card_recipe(make_recipe, collection, **changes))
    for changes, word in (
        ({"data": {"sources": {"toy": {**source, "card": {"description": "x"}}}}}, "for models with cards"),
        ({"data": {"sources": {"toy": {**source, "stranger": True}}}}, "for models with cards"),
        ({"losses": {"wrong_card": {}}}, "for models with cards"),
    ):
        with pytest.raises(ConfigError, match=word):
            dry_run(make_recipe(**changes))
    with pytest.raises(ConfigError, match="descriptoin"):
        make_recipe(data={"sources": {"toy": {**source, "card": {"descriptoin": "x"}}}})
