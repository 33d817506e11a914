"""A program that changes an index without end, and writes down what it begins and what is done: to be killed."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

from index_fakes import FakeRetriever

from hyperseek.index import Index
from hyperseek.types import Document

NAMES = [f"d{number}" for number in range(60)]


def main(folder: Path, journal: Path, seed: int) -> None:
    index = Index.open(folder, model=FakeRetriever())  # type: ignore[arg-type]
    draw = random.Random(seed)
    with journal.open("a") as file:

        def note(line: str) -> None:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())

        for step in range(10**9):
            names = draw.sample(NAMES, draw.randint(1, 4))
            action = draw.choices(["put", "delete", "compact", "engine"], [10, 6, 1, 1])[0]
            version = f"{seed}.{step}"
            if action in ("put", "delete"):
                note(f"begin {action} {version} {' '.join(names)}")
            if action == "put":
                index.add([Document(name, f"river {name} v{version}") for name in names], replace=True)
            elif action == "delete":
                index.delete(names)
            elif action == "compact":
                index.compact()
            else:
                index.build_engine("flat")
            if action in ("put", "delete"):
                note(f"done {action} {version} {' '.join(names)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
