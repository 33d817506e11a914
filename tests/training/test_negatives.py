"""What trains as a negative of what: nothing that is relevant, in no way in which it comes; and nothing in silence."""

from __future__ import annotations

import logging
import random
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperseek import Document, Query
from hyperseek._relevance import normal_text
from hyperseek.data import Dataset, PrepareOptions, QrelsOptions, prepare, write_beir
from hyperseek.runs.record import SourceUse
from hyperseek.scoring import LinearScorer, Space, VectorPoints
from hyperseek.training import ContrastiveConfig, LossesConfig, Recipe, ScoredBatch, train
from hyperseek.training._epoch_batches import EpochBatches
from hyperseek.training._recipe import DataConfig
from hyperseek.training._training_data import checked, ended, read_sources, used
from hyperseek.training._training_set import Collator, Example, TrainingSet
from hyperseek.training.losses import ContrastiveLoss, Objective


class Texts:
    """Features that are the texts themselves."""

    def features(self, texts: Sequence[str]) -> dict[str, Any]:
        return {"texts": list(texts)}

    def base_features(self, texts: Sequence[str]) -> None:
        return None


def collated(training_set: TrainingSet, positions: Sequence[int], *, epoch: int = 0, extra: int = 0) -> Any:
    collator = Collator(training_set, Texts(), Texts(), extra_documents=extra)  # type: ignore[arg-type]
    return collator([training_set[epoch, position] for position in positions])


def told_from(batch: Any, **options: Any) -> list[tuple[str, set[str]]]:
    """Each query of a batch with the documents that contrastive learning tells its positive from."""
    count = len(batch["numbers"])
    scores = torch.zeros(len(batch["items"]), count, requires_grad=True)
    scored = ScoredBatch(
        scorer=LinearScorer(Space("dot", count), scores),
        points=VectorPoints(torch.eye(count)),
        documents=batch["numbers"],
        items=batch["items"],
        known=batch["known"],
        spared=batch["spared"],
        labels=batch["scores"],
    )
    ContrastiveLoss(ContrastiveConfig(**options))(scored).backward()
    assert scores.grad is not None
    # What is pushed away has a positive gradient.
    texts = batch["document"]["texts"]
    rows = zip(batch["query"]["texts"], (scores.grad > 0).tolist(), strict=True)
    return [(query, {text for text, pushed in zip(texts, row, strict=True) if pushed}) for query, row in rows]


def collection(
    folder: Path, documents: dict[str, str], queries: dict[str, str], qrels: dict[str, dict[str, int]]
) -> str:
    dataset = Dataset.from_records(
        folder.name,
        [Document(name, text) for name, text in documents.items()],
        queries=[Query(name, text) for name, text in queries.items()],
        qrels={"train": qrels},
    )
    write_beir(dataset, folder)
    return f"{folder}:train"


def read(source: str | dict[str, Any], **options: Any) -> TrainingSet:
    sources = source if isinstance(source, dict) else {"c": {"source": source, **options}}
    return read_sources(DataConfig.from_mapping({"sources": sources}), seed=0).training_set


@pytest.fixture
def issue(tmp_path: Path) -> str:
    """Query one has `cat` with grade 2 and `cat dog` with 1, query two has `moon` and `cat dog` with 2."""
    return collection(
        tmp_path / "c",
        {"a": "cat", "b": "cat dog", "c": "moon"},
        {"q1": "one", "q2": "two"},
        {"q1": {"a": 2, "b": 1}, "q2": {"c": 2, "b": 2}},
    )


@pytest.mark.parametrize(
    "qrels", [{"minimum_grade": 2}, {"maximum_positives": 1}, {"minimum_grade": 2, "maximum_positives": 1}]
)
@pytest.mark.parametrize("prepared", [False, True])
def test_what_is_judged_relevant_is_no_negative(
    issue: str, tmp_path: Path, qrels: dict[str, int], prepared: bool
) -> None:
    if prepared:
        prepare(tmp_path / "out", [issue], options=PrepareOptions(qrels=QrelsOptions(**qrels)))
        training_set = read(str(tmp_path / "out"))
    else:
        training_set = read(issue, options={"qrels": qrels})
    for epoch in range(8):  # so that each positive is drawn
        negatives = dict(told_from(collated(training_set, [0, 1], epoch=epoch)))
        assert "cat dog" not in negatives["one"]
        assert negatives["two"] == {"cat"}


def test_it_is_not_asked_for_either(issue: str) -> None:
    training_set = read(issue, options={"qrels": {"minimum_grade": 2}})
    assert [training_set.documents[number] for number in training_set.known("one")] == ["cat"]
    assert {training_set.documents[number] for number in training_set.spared("one")} == {"cat", "cat dog"}


def test_examples_beyond_the_limit_and_without_labels_say_what_is_relevant(tmp_path: Path) -> None:
    documents = {f"d{number}": f"text {number}" for number in range(10)}
    source = collection(
        tmp_path / "c",
        documents,
        {f"q{number}": " One " if number % 2 else "one" for number in range(10)},
        {f"q{number}": {f"d{number}": 1} for number in range(10)},
    )
    other = collection(tmp_path / "d", {"x": "text 7"}, {"q": "else"}, {"q": {"x": 1}})
    for first in ({"source": source, "limit": 1}, {"source": source, "anchor_only": True}):
        training_set = read({"c": first, "d": {"source": other}})
        assert "text 7" in {training_set.documents[number] for number in training_set.spared("ONE")}
    assert len(training_set.known("one")) == 0


def test_relevance_of_queries_without_an_example_reaches_other_sources(issue: str, tmp_path: Path) -> None:
    documents = {"x": "CAT  dog", "y": "tree", "z": "sun"}
    other = collection(tmp_path / "d", documents, {"q": "ONE", "r": "three"}, {"q": {"y": 3}, "r": {"x": 3}})
    for source in (issue, str(tmp_path / "out")):
        if source != issue:
            prepare(
                source,
                [issue, f"d={tmp_path / 'd'}:train"],
                options=PrepareOptions(qrels=QrelsOptions(minimum_grade=3)),
            )
            training_set = read(source)
        else:
            first = {"source": issue, "options": {"qrels": {"minimum_grade": 2, "drop_documents": ["a"]}}}
            training_set = read({"c": first, "d": {"source": other}})
        position = next(place for place, example in enumerate(training_set.examples) if example.query == "ONE")
        third = next(place for place, example in enumerate(training_set.examples) if example.query == "three")
        assert dict(told_from(collated(training_set, [position, third])))["ONE"] == set()


def test_own_negatives_that_turn_out_to_be_relevant_are_not_drawn() -> None:
    training_set = TrainingSet(negatives=9)
    source = training_set.add_source("a")
    cat, dog, loud, moon, itself = map(training_set.number, ("cat", "dog", "DOG ", "moon", "the\u00e9"))
    training_set.add(Example("The\u0301 e", (cat,), (dog, loud, moon), {moon: 1.0}, source))
    training_set.add(Example("THÉ  E", (dog,), (cat, moon), {}, source))
    training_set.add(Example("Thee\u0301", (moon,), (itself, dog), {}, source))
    assert set(training_set[0, 0].items) == {cat, moon}
    assert set(training_set[0, 1].items) == {dog, moon}
    assert set(training_set[0, 2].items) == {moon, dog}
    assert training_set.known("thé e") == {cat, dog}
    assert training_set.spared("thé e") == {cat, dog, loud}
    assert training_set.spared("theé") == {moon, itself}


def written(draw: random.Random, text: str) -> str:
    form = unicodedata.normalize(draw.choice(["NFC", "NFD"]), draw.choice([text, text.upper(), text.title()]))
    return draw.choice(["", "  "]) + form.replace(" ", draw.choice([" ", "\t", "\n "]))


def test_random_sources_never_train_a_relevant_negative_and_spare_nothing_else(tmp_path: Path) -> None:
    draw = random.Random(3)
    for number in range(25):
        folder = tmp_path / str(number)
        sources: dict[str, Any] = {}
        relevant: dict[str, set[str]] = {}
        for name in "cde"[: draw.randint(1, 3)]:
            documents = {f"d{place}": written(draw, f"é {draw.randrange(6)}") for place in range(8)}
            queries = {f"q{place}": written(draw, f"ö {draw.randrange(4)}") for place in range(5)}
            documents |= {name: text for name, text in queries.items() if draw.random() < 0.4}
            qrels = {
                query: {one: draw.choice([-1, 0, 1, 2, 3]) for one in draw.sample(sorted(documents), 5)}
                for query in queries
            }
            qrels["q0"]["d0"] = 3
            for query, judged in qrels.items():
                own = {normal_text(documents[one]) for one, grade in judged.items() if grade > 0}
                relevant.setdefault(normal_text(queries[query]), {normal_text(queries[query])}).update(own)
            place = collection(folder / name, documents, queries, qrels)
            options = {"minimum_grade": draw.choice([1, 2, 3]), "maximum_positives": draw.choice([None, 1])}
            sources[name] = {"source": place, "options": {"qrels": options}, "limit": draw.choice([None, 2])}
            if draw.random() < 0.4:
                prepare(folder / f"{name}-out", [place], options=PrepareOptions(qrels=QrelsOptions(**options)))
                sources[name] = {"source": str(folder / f"{name}-out"), "limit": draw.choice([None, 2])}
        data = {
            "sources": sources,
            "negatives": 3,
            "extra_documents": 4,
            "extra_from": draw.choice(["examples", "corpus"]),
        }
        training_set = read_sources(DataConfig.from_mapping(data), seed=number).training_set
        for epoch in range(2):
            batch = collated(training_set, range(len(training_set)), epoch=epoch, extra=4)
            texts = set(batch["document"]["texts"])
            for query, pushed in told_from(batch, positives=draw.choice(["own", "mean", "log_sum"])):
                known = relevant[normal_text(query)]
                assert not {normal_text(text) for text in pushed} & known
                assert {text for text in texts if normal_text(text) not in known} <= pushed
            for query, items in zip(batch["query"]["texts"], batch["items"].tolist(), strict=True):
                own = {normal_text(batch["document"]["texts"][place]) for place in items[1:] if place >= 0}
                assert not own & relevant[normal_text(query)]


def test_an_original_that_masks_nothing_still_can(make_batch: Callable[..., ScoredBatch]) -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0]])
    items = torch.tensor([[0]])

    def loss(spared: Tensor | None, **options: Any) -> float:
        batch = make_batch(scores, items=items)
        batch.spared = spared
        return ContrastiveLoss(ContrastiveConfig(**options))(batch).item()

    spared = torch.tensor([[102]])
    assert loss(spared) == pytest.approx(float(scores[0, :2].logsumexp(0) - 1))
    assert loss(spared, mask_known=False) == pytest.approx(loss(None)) == pytest.approx(float(scores.logsumexp(1) - 1))


def sets(*counts: int, **options: Any) -> TrainingSet:
    training_set = TrainingSet(**options)
    for source, count in enumerate(counts):
        training_set.add_source(f"s{source}")
        for place in range(count):
            positive, negative = (training_set.number(f"{source} {place} {kind}") for kind in ("yes", "no"))
            training_set.add(Example(f"{source} {place}", (positive,), (negative,), {}, source))
    return training_set


def test_every_example_is_in_one_batch_of_an_epoch_whatever_the_numbers() -> None:
    draw = random.Random(1)
    for _ in range(300):
        counts = [draw.randint(1, 20) for _ in range(draw.randint(1, 4))]
        size, processes = draw.randint(1, 8), draw.randint(1, 3)
        repeat = [draw.randint(1, 2) for _ in counts]
        if sum(count * times for count, times in zip(counts, repeat, strict=True)) < size * processes:
            continue
        training_set = sets(*counts)
        composition = draw.choice(["mixed", "one_source"])
        batches = EpochBatches(
            training_set, size, composition=composition, repeat=repeat, seed=draw.randrange(9), processes=processes
        )
        made = list(batches)
        assert len(made) == len(batches)
        assert len(made) % processes == 0
        assert all(1 <= len(batch) <= size for batch in made)
        seen = Counter(position for batch in made for _, position in batch)
        for position, example in enumerate(training_set.examples):
            assert seen[position] >= repeat[example.source]
        if size > 1 and processes == 1:
            assert seen.total() == sum(count * times for count, times in zip(counts, repeat, strict=True))
        if composition == "one_source":
            assert all(len({training_set.examples[place].source for _, place in batch}) == 1 for batch in made)
        smallest = batches.smallest()
        assert all(len(batch) >= smallest[place] for batch in made for _, place in batch)


def test_what_was_in_a_batch_is_what_the_loader_gave() -> None:
    draw = random.Random(2)
    for _ in range(100):
        training_set = sets(*(draw.randint(3, 9) for _ in range(2)), negatives=1)
        more = [training_set.number(f"further {place}") for place in range(3)]
        training_set.add(Example("several", tuple(more), (), {}, 0))
        training_set.add(Example("none", (), (), {}, 1))
        batches = EpochBatches(training_set, 3, composition=draw.choice(["mixed", "one_source"]))
        epochs, rest = draw.randint(0, 3), draw.randint(0, len(batches))
        examples, positives = set(), set()
        for epoch in range(epochs + 1):
            batches.set_epoch(epoch)
            for batch in list(batches)[: None if epoch < epochs else rest]:
                examples.update(position for _, position in batch)
                positives.update(training_set[index].items[0] for index in batch)
        found = used(training_set, batches, epochs=epochs, more=rest)
        assert found.examples == examples
        assert found.positives == positives - {-1}


def test_examples_that_change_nothing_are_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    def without(training_set: TrainingSet, losses: dict[str, Any], *, size: int = 2, extra: int = 0) -> list[int]:
        caplog.clear()
        uses = {name: SourceUse(examples=len(training_set)) for name in training_set.sources}
        batches = EpochBatches(training_set, size, composition="one_source")
        objective = Objective(LossesConfig.from_mapping(losses))
        found = checked(uses, training_set, batches, objective, extra_documents=extra)
        counts = [use.without_effect for use in found.values()]
        assert sum("have no effect" in one.message for one in caplog.records) == sum(map(bool, counts))
        assert sum("none is drawn" in one.message for one in caplog.records) == sum(
            use.negatives_not_drawn > 0 for use in found.values()
        )
        return counts

    assert without(sets(4, 1), {"contrastive": {}}) == [0, 1]
    assert "the examples of s0 have 4 negatives of their own, but none is drawn" in caplog.text
    assert "1 of 5 examples of s1 have no effect" in caplog.text
    assert without(sets(4, 1), {"contrastive": {}}, extra=1) == [0, 0]
    assert without(sets(4, 1, negatives=1), {"contrastive": {}}) == [0, 0]
    assert without(sets(4, 1, negatives=1), {"contrastive": {"only_first_item": True}}) == [0, 1]
    assert without(sets(4, 1), {"own_cross_entropy": {}}) == [4, 1]
    assert without(sets(4, 1, negatives=1), {"own_cross_entropy": {}}) == [0, 0]
    assert without(sets(4, 1, negatives=1), {"kl": {}}) == [4, 1]
    assert without(sets(4, 1, negatives=1), {"margin_mse": {}}) == [4, 1]
    assert without(sets(4, 1, negatives=1), {"margin_mse": {}, "contrastive": {}}) == [0, 0]
    assert without(sets(4, 1), {"anchor": {}}) == [0, 1]
    taught = TrainingSet(negatives=1)
    taught.add_source("a")
    numbers = [taught.number(text) for text in ("one", "two", "three")]
    taught.add(Example("q", (numbers[0],), (numbers[1],), {numbers[0]: 1.0, numbers[1]: 0.0}, 0))
    taught.add(Example("r", (numbers[0],), (numbers[1],), {numbers[0]: 1.0}, 0))
    taught.add(Example("Q ", (numbers[1],), (numbers[2],), {numbers[1]: 1.0, numbers[2]: 0.5}, 0))
    # The first one's negative is the third one's positive, and the query is the same.
    assert without(taught, {"kl": {}}) == [2]
    assert without(taught, {"margin_mse": {}}) == [2]


def test_what_was_never_reached_is_said_and_not_called_seen(caplog: pytest.LogCaptureFixture) -> None:
    training_set = sets(4, 2)
    uses = {"s0": SourceUse(examples=4), "s1": SourceUse(examples=2)}
    assert [use.unused for use in ended(uses, training_set, {0, 1, 4, 5}).values()] == [2, 0]
    assert "2 of 4 examples of s0 were in no batch" in caplog.text


def test_a_run_records_what_became_of_its_examples(
    make_recipe: Callable[..., Recipe], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    words = ["cat", "dog", "bird", "fish", "sea", "sun", "moon", "tree", "text", "page"]
    large = collection(
        tmp_path / "large",
        {f"d{place}": f"{words[place % 10]} {words[place // 10]}" for place in range(40)},
        {f"q{place}": words[place % 10] + " net " * (1 + place // 10) for place in range(40)},
        {f"q{place}": {f"d{place}": 1} for place in range(40)},
    )
    small = collection(
        tmp_path / "small",
        {"x": "index small", "y": "neural deep", "z": "a vector"},
        {"q": "index", "r": "deep", "s": "vector"},
        {"q": {"x": 1}, "r": {"y": 1}, "s": {"z": 0}},
    )
    sources = {"large": {"source": large, "limit": 30}, "small": {"source": small}}

    def run(name: str, steps: int) -> Any:
        section = {**make_recipe().train.model_dump(), "max_steps": steps, "save_every": None}
        recipe = make_recipe(data={"sources": sources, "batches": "one_source"}, train=section)
        return train(recipe, output=tmp_path / name)

    # 30 examples make 4 batches of at most 8, and the 2 small ones a batch of their own.
    record = run("whole", 5)
    assert record.sources["small"].model_dump() == {
        "examples": 2,
        "over_limit": 0,
        "held_out": 0,
        "left_out": {"no_positive": 1},
        "without_effect": 0,
        "negatives_left_out": 0,
        "negatives_not_drawn": 0,
        "unused": 0,
    }
    assert (record.sources["large"].over_limit, record.sources["large"].unused) == (10, 0)
    assert (tmp_path / "whole" / record.training_data["small"]["relevant_documents_file"]).read_text() == "x\ny\n"
    assert record.training_data["large"]["relevant_documents"] == 30
    record = run("part", 1)
    unused = [use.unused for use in record.sources.values()]
    assert unused in ([22, 2], [30, 0])
    trained = sum(entry["relevant_documents"] for entry in record.training_data.values())
    assert trained == 32 - sum(unused)
    assert "in no batch" in caplog.text
