"""Switching tasks over one index, against encoding its documents again.

    python benchmarks/cards.py                       # 200,000 documents of 384 numbers, MiniLM
    python benchmarks/cards.py --documents 20000

Vectors of documents are random: how long a search takes does not depend on them. Each row is a median of runs that take
turns, in processor time of all cores together, which other work on the machine changes little. A card has 20 queries
and 10 documents; it is compiled from memory, from the folder of the index, and, once per card, by encoding its texts.
The time to encode the documents again is extrapolated from the rate at which MiniLM encodes 256 texts of 100 words.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from _hardware import describe_hardware, take_turns
from hyperseek import Document, Index, Space
from hyperseek.cards import Card
from hyperseek.models import ModelConfig, build

WORDS = ["the", "of", "sea", "to", "night", "a", "river", "that", "for", "stone", "house", "with"]
RUNS = 9


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=200_000)
    count = parser.parse_args().documents
    drawn = random.Random(0)
    model = build(ModelConfig.from_mapping({"trunk": "minilm", "family": "card"}), device="cpu")
    head: Any = model.route("query")[-1]
    cards = [card(drawn, f"task {number}") for number in range(RUNS + 5)]
    print(describe_hardware())
    with tempfile.TemporaryDirectory() as folder:
        index = Index.open(made(Path(folder) / "index", count), model=model)
        query = ["what is a sea"]
        for known in cards[:4]:  # vectors are in memory afterwards, and four cards in the folder
            index.search(query, card=known)
        others, stored, new = itertools.cycle(cards[:2]), itertools.cycle(cards[2:4]), iter(cards[4:])

        def from_folder() -> None:
            known = next(stored)
            head._compiled.forget(lambda key: key[0] == head._reader.name(known))
            model.compile(query, {"card": known})

        seconds = take_turns(
            {
                "compile a query without a card": lambda: model.compile(query),
                "compile it with another card each time, from memory": lambda: model.compile(
                    query, {"card": next(others)}
                ),
                "the same, from the folder of the index": from_folder,
                "the same, with a card that is new": lambda: model.compile(query, {"card": next(new)}),
                "search without a card": lambda: index.search(query),
                "search with another card each time": lambda: index.search(query, card=next(others)),
            },
            RUNS,
            clock=time.process_time,
        )
    texts = [words(drawn, 100) for _ in range(256)]
    start = time.process_time()
    model.encode_documents(texts)
    rate = len(texts) / (time.process_time() - start)
    for name, times in seconds.items():
        print(f"{1000 * statistics.median(times):12.1f} ms  {name}")
    print(f"{count / rate:12.0f} s   encode {count:,} documents again, extrapolated from {rate:.0f} a second and core")


def card(drawn: random.Random, name: str) -> Card:
    """Make a card of 20 queries and 10 documents."""
    return Card(
        name=name,
        description=words(drawn, 20),
        query_examples=tuple(words(drawn, 8) for _ in range(20)),
        doc_examples=tuple(words(drawn, 100) for _ in range(10)),
    )


def words(drawn: random.Random, count: int) -> str:
    """Draw a text."""
    return " ".join(drawn.choices(WORDS, k=count))


def made(path: Path, count: int) -> Path:
    """Make an index of random unit vectors."""

    def documents() -> Iterator[tuple[Document, torch.Tensor]]:
        generator = torch.Generator().manual_seed(0)
        for start in range(0, count, 10_000):
            size = min(10_000, count - start)
            rows = torch.nn.functional.normalize(torch.randn(size, 384, generator=generator), dim=1)
            for place, row in enumerate(rows):
                yield Document(str(start + place), "text"), row

    Index.from_vectors(path, documents(), Space("cosine", 384), total=count)
    return path


if __name__ == "__main__":
    main()
