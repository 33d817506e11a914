"""A program that brings an index up to date slowly, and says so on standard output: to be killed."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from index_fakes import FakeRetriever

from hyperseek.data import open_dataset
from hyperseek.index import Index
from hyperseek.index._sync import _Sync
from hyperseek.scoring import Points


class SlowRetriever(FakeRetriever):
    def encode_documents(self, texts: Sequence[str], *, dtype: str = "auto") -> Points:
        print("encoding", flush=True)
        time.sleep(0.03)
        return super().encode_documents(texts, dtype=dtype)


def main(folder: Path, path: Path) -> None:
    index = Index.open(path, model=SlowRetriever())  # type: ignore[arg-type]
    reader = open_dataset(folder).file_reader()
    with reader, index._changing() as store:
        _Sync(index, store, reader, shard=3).run(None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
