"""What an epoch draws, and what a batch of it holds."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from hyperseek import HyperseekError
from hyperseek.models import Retriever
from hyperseek.training._cache import FeatureCache, SideFeatures
from hyperseek.training._epoch_batches import EpochBatches
from hyperseek.training._recipe import DataConfig, SourceConfig
from hyperseek.training._training_data import Trained, read_sources, write_training_data
from hyperseek.training._training_set import Collator, Example, TrainingSet
from hyperseek.training.losses import NO_DOCUMENT

MakeRetriever = Callable[..., Retriever]


def test_equal_texts_are_one_document_and_share_their_positives() -> None:
    training_set = TrainingSet()
    source = training_set.add_source("a")
    first, second = training_set.number("cat"), training_set.number("dog")
    assert training_set.number("cat") == first
    training_set.add(Example("animal", (first,), (), {}, source))
    training_set.add(Example("animal", (second,), (), {}, source))
    assert training_set.known("animal") == {first, second}
    assert training_set.known("plant") == set()


def test_draws_depend_on_seed_epoch_and_example_alone(toy_set: TrainingSet) -> None:
    assert toy_set[0, 5] == toy_set[0, 5]
    draws = {(toy_set[epoch, 5].items, toy_set[epoch, 5].draw) for epoch in range(10)}
    assert len(draws) == 10
    assert len({items for items, _ in draws}) == 2


# Lance may have been imported by other tests; nothing forked here uses it.
@pytest.mark.filterwarnings("ignore:lance is not fork-safe")
def test_batches_do_not_depend_on_workers(toy_set: TrainingSet, make_retriever: MakeRetriever) -> None:
    retriever = make_retriever()
    sides = [SideFeatures(retriever, side) for side in ("query", "document")]

    def numbers(workers: int) -> list[list[int]]:
        batches = EpochBatches(toy_set, 8, seed=1)
        batches.set_epoch(3)
        loader = DataLoader(
            toy_set, batch_sampler=batches, collate_fn=Collator(toy_set, *sides), num_workers=workers, in_order=True
        )
        return [batch["numbers"].tolist() for batch in loader]

    assert numbers(0) == numbers(2)


def test_an_epoch_sees_every_example_once_and_epochs_differ(toy_set: TrainingSet) -> None:
    batches = EpochBatches(toy_set, 8, seed=1)
    orders = []
    for epoch in range(2):
        batches.set_epoch(epoch)
        orders.append([index for batch in batches for index in batch])
        assert sorted(orders[-1]) == [(epoch, position) for position in range(32)]
    assert [position for _, position in orders[0]] != [position for _, position in orders[1]]
    assert len(batches) == 4


def test_one_source_a_batch_and_repeats() -> None:
    training_set = TrainingSet()
    for name, count in (("a", 5), ("b", 3)):
        source = training_set.add_source(name)
        for position in range(count):
            training_set.add(Example(f"{name}{position}", (training_set.number(f"{name}{position}"),), (), {}, source))
    batches = EpochBatches(training_set, 2, composition="one_source", repeat=[1, 2])
    sources = [{training_set.examples[position].source for _, position in batch} for batch in batches]
    assert len(sources) == len(batches) == 3 + 3
    assert all(len(found) == 1 for found in sources)
    assert len(EpochBatches(training_set, 2, composition="mixed", repeat=[1, 2])) == 6
    with pytest.raises(HyperseekError, match="a has 5, b has 3"):
        EpochBatches(training_set, 100)


def test_a_batch_holds_each_document_once(toy_set: TrainingSet, make_retriever: MakeRetriever) -> None:
    retriever = make_retriever()
    collator = Collator(toy_set, SideFeatures(retriever, "query"), SideFeatures(retriever, "document"))
    drawn = [toy_set[0, position] for position in range(6)]
    batch = collator(drawn)
    numbers = batch["numbers"].tolist()
    assert len(set(numbers)) == len(numbers) == batch["document"]["input_ids"].shape[0]
    assert [[numbers[place] for place in items] for items in batch["items"].tolist()] == [list(d.items) for d in drawn]
    assert batch["scores"].tolist() == [list(d.labels) for d in drawn]
    assert batch["known"].tolist() == [[position] for position in range(6)]
    assert batch["base_query"] is None


def test_queries_without_positives_and_extra_documents(toy_set: TrainingSet, make_retriever: MakeRetriever) -> None:
    toy_set.add(Example("only a query", (), (), {}, 0))
    retriever = make_retriever()
    collator = Collator(
        toy_set, SideFeatures(retriever, "query"), SideFeatures(retriever, "document"), extra_documents=9
    )
    batch = collator([toy_set[0, 32], toy_set[0, 0]])
    assert batch["items"][0].tolist() == [NO_DOCUMENT, NO_DOCUMENT]
    assert batch["known"].tolist() == [[NO_DOCUMENT], [0]]
    assert len(batch["numbers"]) > 2
    alone = Collator(toy_set, SideFeatures(retriever, "query"), SideFeatures(retriever, "document"))([toy_set[0, 32]])
    assert alone["numbers"].tolist() == [0]


def test_cached_features_and_base_vectors(toy_set: TrainingSet, make_retriever: MakeRetriever, tmp_path: Path) -> None:
    retriever = make_retriever()
    query = SideFeatures(
        retriever,
        "query",
        FeatureCache(tmp_path, retriever, "query", stop=3, tokens=True),
        FeatureCache(tmp_path, retriever, "query", stop=3, tokens=False),
    )
    vectors = FeatureCache(tmp_path, retriever, "document", stop=3, tokens=False, dtype="float32")
    document = SideFeatures(retriever, "document", vectors, vectors)
    query.ensure(toy_set.queries)
    document.ensure(toy_set.documents)
    batch = Collator(toy_set, query, document)([toy_set[0, position] for position in range(4)])
    texts = [toy_set.examples[position].query for position in range(4)]
    with torch.inference_mode():
        wanted = retriever.forward(retriever.preprocess(texts, "query"), "query", stop=3)["sentence_embedding"]
    assert batch["base_query"] is not None
    torch.testing.assert_close(batch["base_query"]["sentence_embedding"], wanted, rtol=0, atol=1e-5)
    assert batch["base_document"] is not None
    assert torch.equal(batch["base_document"]["sentence_embedding"], batch["document"]["sentence_embedding"])


def test_known_positives_of_the_batch_are_enough_for_one_process(make_retriever: MakeRetriever) -> None:
    training_set = TrainingSet(negatives=0)
    source = training_set.add_source("a")
    numbers = [training_set.number(f"cat {place}") for place in range(50)]
    training_set.add(Example("cat", tuple(numbers), (), {}, source))
    retriever = make_retriever()
    collator = Collator(training_set, SideFeatures(retriever, "query"), SideFeatures(retriever, "document"))
    batch = collator([training_set[0, 0], training_set[1, 0]])
    assert set(itertools.chain(*batch["known"].tolist())) == set(batch["numbers"].tolist())


def test_only_the_first_of_several_processes_writes_the_lists_of_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = {"toy": Trained({"train"}, "f", {"d1": 0}, [0])}
    monkeypatch.setenv("RANK", "1")
    entries = write_training_data(tmp_path, trained)
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("RANK", "0")
    assert write_training_data(tmp_path, trained) == entries
    assert (tmp_path / entries["toy"]["relevant_documents_file"]).read_text() == "d1\n"


def test_batches_of_similar_length(toy_set: TrainingSet) -> None:
    """Every example still comes once an epoch, in another order each time."""
    lengths = toy_set.lengths()
    epochs = []
    for buckets in (0, 4):
        batches = EpochBatches(toy_set, 8, length_buckets=buckets, seed=1)
        drawn = [[position for _, position in batch] for batch in batches]
        assert sorted(position for batch in drawn for position in batch) == list(range(32))
        epochs.append(sum(max(lengths[position] for position in batch) for batch in drawn))
        batches.set_epoch(1)
        assert [[position for _, position in batch] for batch in batches] != drawn
    assert epochs[1] < epochs[0]


def coarse_set() -> TrainingSet:
    training_set = TrainingSet(seed=3)
    source = training_set.add_source("a")
    near, mid, far, title, other = (training_set.number(text) for text in ("near", "mid", "far", "title", "other"))
    training_set.add(Example("q", (near, mid, far), (title,), {}, source, coarse=(far, mid)))
    training_set.add(Example("r", (other,), (), {}, source, coarse=(title,)))
    training_set.add(Example("s", (other,), (), {}, source))
    return training_set


def test_a_coarse_positive_is_coarser_than_the_positive_drawn() -> None:
    training_set = coarse_set()
    near, mid, far, title, other = range(5)
    drawn = {(one.items[0], one.coarse) for one in (training_set[epoch, 0] for epoch in range(200))}
    assert drawn == {(near, far), (near, mid), (mid, far), (far, NO_DOCUMENT)}
    assert (training_set[0, 1].coarse, training_set[0, 2].coarse) == (title, NO_DOCUMENT)
    assert training_set.can_ask_for(1, coarse=True) == (other, title)
    assert training_set.can_ask_for(1, coarse=False) == (other,)
    one = training_set[7, 0]
    assert training_set.asks_for((7, 0), coarse=True) == (one.items[0], one.coarse)


def test_coarse_positives_are_never_negatives_and_no_targets(make_retriever: MakeRetriever) -> None:
    training_set = coarse_set()
    title = training_set.number("title")
    assert title in training_set.spared("r")
    assert title not in training_set.known("r")
    retriever = make_retriever()
    sides = [SideFeatures(retriever, side) for side in ("query", "document")]
    drawn = [training_set[0, position] for position in range(3)]
    without = Collator(training_set, *sides)(drawn)
    assert without["coarse"] is None
    assert title not in without["numbers"].tolist()
    batch = Collator(training_set, *sides, coarse=True)(drawn)
    numbers = batch["numbers"].tolist()
    assert batch["coarse"] is not None
    assert numbers[int(batch["coarse"][1])] == title
    assert int(batch["coarse"][2]) == NO_DOCUMENT


def test_ranges_of_hops_are_drawn_alike_or_by_weight() -> None:
    def shares(hops: dict[str, float] | None) -> list[float]:
        training_set = TrainingSet(hops=hops)
        source = training_set.add_source("a")
        numbers = [training_set.number(f"{hop} above") for hop in range(1, 13)]
        above = {number: hop for hop, number in enumerate(numbers, start=1)}
        training_set.add(Example("q", tuple(numbers), (), {}, source, hops=above))
        drawn = [above[training_set[epoch, 0].items[0]] for epoch in range(2000)]
        ranges = ((1, 1), (2, 2), (3, 4), (5, 8), (9, 12))
        return [sum(first <= hop <= last for hop in drawn) / len(drawn) for first, last in ranges]

    # Of 2000 draws a share of 1/5 has a standard deviation of 0.009.
    balanced = DataConfig(sources={"a": SourceConfig(source="a")}, hops="balanced")
    assert shares(balanced.hop_weights) == pytest.approx([0.2] * 5, abs=0.04)
    assert shares(None) == pytest.approx([1 / 12, 1 / 12, 2 / 12, 4 / 12, 4 / 12], abs=0.04)
    weighted = DataConfig(sources={"a": SourceConfig(source="a")}, hops={"1": 0, "2": 0, "9+": 3})
    assert shares(weighted.hop_weights) == pytest.approx([0, 0, 0.2, 0.2, 0.6], abs=0.04)
    assert shares(dict.fromkeys(balanced.hop_weights or (), 0.0)) == pytest.approx(shares(None))
    with pytest.raises(HyperseekError, match=r"5-8"):
        DataConfig.from_mapping({"sources": {"a": {"source": "a"}}, "hops": {"7": 1}}, source="here")
    with pytest.raises(HyperseekError, match="positives: random"):
        DataConfig.from_mapping(
            {"sources": {"a": {"source": "a"}}, "hops": "balanced", "positives": "first"}, source="here"
        )


def test_hops_of_judged_ancestors_are_read_from_edges_beside_them(write_lines: Callable[..., Path]) -> None:
    texts = [{"_id": name, "text": f"text of {name}"} for name in ("root", "mid", "low", "x")]
    folder = write_lines("tree/corpus.jsonl", texts).parent
    write_lines("tree/queries.jsonl", [{"_id": "q-leaf", "text": "which"}])
    (folder / "qrels").mkdir()
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq-leaf\tlow\t2\nq-leaf\troot\t1\n")
    (folder / "edges.tsv").write_text("child\tparent\nlow\tmid\nmid\troot\n")
    source: dict[str, object] = {"source": f"{folder}:train"}
    with pytest.raises(HyperseekError, match="no positive has any"):
        read_sources(DataConfig.from_mapping({"sources": {"a": source}, "hops": "balanced"}, source="here"), seed=0)
    source["options"] = {"qrels": {"hierarchy": f"{folder}/edges.tsv"}, "coarse": {"rules": ["far"]}}
    config = DataConfig.from_mapping({"sources": {"a": source}, "hops": "balanced"}, source="here")
    read = read_sources(config, seed=0).training_set
    (example,) = read.examples
    assert {read.documents[number]: hops for number, hops in example.hops.items()} == {
        "text of low": 1,
        "text of root": 3,
    }
    assert [read.documents[number] for number in example.coarse] == ["text of root"]
