"""Switching tasks over one index, against encoding its documents again.

    python benchmarks/cards.py                       # 200,000 documents of 384 numbers, MiniLM
    python benchmarks/cards.py --documents 20000

Vectors of documents are random: how long a search takes does not depend on them. The time to encode them again is
extrapolated from the rate at which MiniLM encodes 256 texts of 100 words. A switch is what a search under another card
takes beyond one under the card before: from memory, from the folder of the index, and, once per card, by encoding its
20 queries and 10 documents.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from _hardware import describe_hardware
from hyperseek import Document, Index, Space
from hyperseek.cards import Card
from hyperseek.models import ModelConfig, build

WORDS = ["the", "of", "sea", "to", "night", "a", "river", "that", "for", "stone", "house", "with"]
RUNS = 15


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=200_000)
    count = parser.parse_args().documents
    drawn = random.Random(0)
    model = build(ModelConfig.from_mapping({"trunk": "minilm", "family": "card"}), device="cpu")
    head: Any = model.route("query")[-1]
    cards = [card(drawn, f"task {number}") for number in range(RUNS + 2)]
    print(describe_hardware())
    with tempfile.TemporaryDirectory() as folder:
        index = Index.open(made(Path(folder) / "index", count), model=model)
        query = "what is a sea"
        index.search(query, card=cards[0])  # vectors are in memory now
        index.search(query, card=cards[1])
        rows = {
            "search without a card": median(lambda _: index.search(query)),
            "search, the same card": median(lambda _: index.search(query, card=cards[0])),
            "search, another card each time, from memory": median(lambda run: index.search(query, card=cards[run % 2])),
        }

        def forgotten(run: int) -> None:
            head._forget_compiled()
            index.search(query, card=cards[run % 2])

        rows["search, another card each time, from the index folder"] = median(forgotten)
        rows["search, a card for the first time"] = median(lambda run: index.search(query, card=cards[run + 2]))
    texts = [words(drawn, 100) for _ in range(256)]
    start = time.perf_counter()
    model.encode_documents(texts)
    rate = len(texts) / (time.perf_counter() - start)
    for name, seconds in rows.items():
        print(f"{1000 * seconds:12.1f} ms  {name}")
    same = rows["search, the same card"]
    print(f"{1000 * (rows['search, another card each time, from memory'] - same):12.1f} ms  switching, from memory")
    kept = rows["search, another card each time, from the index folder"]
    print(f"{1000 * (kept - same):12.1f} ms  switching, from the index folder")
    print(f"{count / rate:12.0f} s   encoding {count:,} documents again, extrapolated from {rate:.0f} a second")


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


def median(run: Callable[[int], object]) -> float:
    """Return the median time of a few runs."""
    times = []
    for number in range(RUNS):
        start = time.perf_counter()
        run(number)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    main()
