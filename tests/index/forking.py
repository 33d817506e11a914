"""A program that computes, forks, opens an index, and forks again: no child may hang or crash."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from index_fakes import FakeRetriever

from hyperseek import HyperseekError
from hyperseek.index import Index
from hyperseek.scoring import LinearScorer, Space, VectorPoints
from hyperseek.types import Document

SPACE = Space("dot", 8)
DOCUMENTS = [Document(f"d{n}", f"river stone n{n}", metadata={"n": n}) for n in range(300)]
VECTORS = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))


def compute() -> None:
    """Let torch start its threads."""
    torch.set_num_threads(2)
    torch.randn(500, 500) @ torch.randn(500, 500)
    LinearScorer(SPACE, VECTORS[:64]).score(VectorPoints(VECTORS)).exp().sum()


def build_and_search(folder: Path) -> bool:
    torch.randn(500, 500).exp() @ torch.randn(500, 500)
    index = Index.build(folder, DOCUMENTS, FakeRetriever(), dtype="float32")  # type: ignore[arg-type]
    index.build_engine("hnsw")
    found = [index.search(LinearScorer(SPACE, VECTORS[:64]), engine=engine) for engine in ("exact", "hnsw")]
    assert all(len(hits) == 10 for part in found for hits in part)
    assert len(index.search("river", where="n < 5")) == 5
    return torch.get_num_threads() == 1


def refuses(*attempts: Callable[[], object]) -> bool:
    for attempt in attempts:
        try:
            attempt()
        except HyperseekError as error:
            if "'spawn'" in str(error):
                continue
        return False
    return True


def run(task: Callable[[], bool]) -> None:
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # ends a child that hangs
        try:
            right = task()
        finally:
            os._exit(0 if right else 1)
    status = os.waitpid(child, 0)[1]
    assert status == 0, f"a child ended with {status}"


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")  # Lance warns of every fork
    compute()
    for number in range(2):
        run(lambda: build_and_search(folder / str(number)))  # noqa: B023 (called before the next one)
    model = FakeRetriever()
    index = Index.open(folder / "0", model=model)  # type: ignore[arg-type]
    index.search("river")
    for _ in range(2):
        run(
            lambda: refuses(
                lambda: index.search("river", where="n > 2"),
                lambda: index.score(["river"], [["d1"]]),
                lambda: next(iter(index.documents())),
                lambda: index.get(["d1"]),
                lambda: index.add([Document("new", "stone")]),
                lambda: index.delete(["d1"]),
                lambda: index.compact(),
                lambda: index.build_engine("flat"),
                lambda: index.refresh(),
                lambda: Index.open(folder / "1"),
                lambda: Index.build(folder / "2", DOCUMENTS, model, dtype="float32"),  # type: ignore[arg-type]
            )
        )
    assert len(index.search("river")) == 10
    print("done")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
