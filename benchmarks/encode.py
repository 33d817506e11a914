"""Encoding: this library's `encode_documents` beside sentence-transformers' own `encode`, same model, same texts.

    python benchmarks/encode.py [--texts 400] [--repeats 3]

Texts are SciFact's abstracts and MedQuAD's answers from HYPERSEEK_DATA (default ../shared/data) where it exists, else
docstrings of the standard library. The systems take turns, so that other work on the machine hits all alike.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from torch import Tensor

from _hardware import describe_hardware
from hyperseek.data import open_dataset
from hyperseek.models import load
from hyperseek.scoring import vectors_of


def texts(count: int) -> tuple[str, list[str]]:
    folder = Path(os.environ.get("HYPERSEEK_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))
    if not folder.is_dir():
        return "pydocs", [document.full_text for document in islice(open_dataset("pydocs").documents(), count)]
    # Every n-th document, so that the lengths are those of the whole collection.
    chosen: list[str] = []
    for name in ("scifact", "medquad"):
        documents = [document.full_text for document in open_dataset(folder / name).documents()]
        chosen += documents[:: max(1, len(documents) // (count // 2))][: count // 2]
    return "scifact + medquad", chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print(describe_hardware())
    name, documents = texts(arguments.texts)
    retriever = load("minilm", device="cpu")
    systems: dict[str, Callable[[], Tensor]] = {
        "sentence-transformers encode, float32": lambda: torch.from_numpy(retriever.model.encode(documents)),
        "hyperseek, float32": lambda: vectors_of(retriever.encode_documents(documents, dtype="float32")),
        "hyperseek, auto": lambda: vectors_of(retriever.encode_documents(documents, dtype="auto")),
    }
    seconds: dict[str, list[float]] = {system: [] for system in systems}
    vectors: dict[str, Tensor] = {}
    for system, encode in systems.items():  # warm up
        vectors[system] = encode()
    for _ in range(arguments.repeats):
        for system, encode in systems.items():
            start = time.perf_counter()
            encode()
            seconds[system].append(time.perf_counter() - start)
    reference = next(iter(systems))
    print(f"\n{len(documents)} texts of {name}, all-MiniLM-L6-v2, at most 256 tokens; median of {arguments.repeats}\n")
    print("| system | texts/s | ratio | least cosine to the reference |")
    print("|---|---|---|---|")
    for system, times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(seconds[reference], times, strict=True))
        cosine = (vectors[system] * vectors[reference]).sum(1).min()
        rate = len(documents) / statistics.median(times)
        print(f"| {system} | {rate:.1f} | {ratio:.2f} | {cosine:.5f} |")


if __name__ == "__main__":
    main()
