"""The real collections, frozen: number of records, first and last record, judgements, content."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from hyperseek._fingerprint import fingerprint_json
from hyperseek.data import open_dataset, read_corpus

FROZEN = json.loads(Path(__file__).with_name("frozen_collections.json").read_text())
QUICK = ("cosqa-dev", "cranfield", "scifact", "theoremqa-theorems")


def _check(folder: Path, name: str) -> None:
    dataset = open_dataset(folder / name)
    first = last = next(dataset.documents())
    count = 0
    for count, last in enumerate(dataset.documents(), start=1):  # noqa: B007
        pass
    assert {
        "documents": count,
        "first": fingerprint_json(dataclasses.asdict(first)),
        "last": fingerprint_json(dataclasses.asdict(last)),
        "queries": len(dataset.queries()),
        "judgements": {split: sum(map(len, dataset.qrels(split).values())) for split in dataset.splits},
        "fingerprint": dataset.fingerprint(),
    } == FROZEN[name]
    assert not dataset.report


@pytest.mark.parametrize("name", QUICK)
def test_small_collections(collections, name):
    _check(collections, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(FROZEN) - set(QUICK)))
def test_large_collections(collections, name):
    _check(collections, name)


def test_every_collection_is_frozen(collections):
    assert {path.parent.name for path in collections.glob("*/qrels")} == set(FROZEN)


def test_counts_are_those_of_the_index(collections):
    index = (collections / "INDEX.md").read_text()
    for name, facts in FROZEN.items():
        assert f"| {name} | {facts['documents']} |" in index


@pytest.mark.parametrize(
    ("file", "count"), [("arxiv-taxonomy/nodes.jsonl", 166), ("google-product-taxonomy/nodes.jsonl.gz", 5595)]
)
def test_hierarchies_are_corpora(collections, file, count):
    assert sum(1 for _ in read_corpus(collections / file)) == count
    assert open_dataset(collections / file).count() == count
