"""A program that builds an index slowly, and says on standard output what it has stored: to be killed."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from index_fakes import FakeRetriever

from hyperseek.index._build import build_index
from hyperseek.scoring import Points
from hyperseek.types import Document

COUNT, SHARD = 120, 5


def corpus() -> list[Document]:
    return [Document(f"d{number}", f"river stone {number} road {number % 7}") for number in range(COUNT)]


class SlowRetriever(FakeRetriever):
    """Takes its time, and writes down what it was asked to encode."""

    def __init__(self, log: Path) -> None:
        super().__init__()
        self._log = log

    def encode_documents(self, texts: Sequence[str], *, dtype: str = "auto") -> Points:
        with self._log.open("a") as file:
            file.writelines(f"{text}\n" for text in texts)
        time.sleep(0.03)
        return super().encode_documents(texts, dtype=dtype)


def main(folder: Path, log: Path) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    build_index(
        folder,
        corpus(),
        SlowRetriever(log),  # type: ignore[arg-type]
        storage="float32",
        dtype="float32",
        name=None,
        total=COUNT,
        resume=True,
        overwrite=False,
        shard=SHARD,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
