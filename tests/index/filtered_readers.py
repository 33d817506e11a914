"""A program in which eight threads search with filters, while one changes the index and one compacts it.

Every answer must be that of a state which the index was in during the search. A hang is for the caller to notice.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from pathlib import Path

from index_fakes import FakeRetriever

from hyperseek.index import Index
from hyperseek.plan import FullText, Rescore
from hyperseek.types import Document

READERS, COUNT = 8, 120

State = dict[str, int]
"""The number that each stored document has in its metadata."""


def document(name: str, number: int) -> Document:
    return Document(name, f"river {name}", metadata={"n": number, "even": number % 2 == 0})


class Trial:
    """One index, and all states that it is or was in: those up to `done` are, later ones may be."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder = folder
        self.seconds = seconds
        self.end = 0.0
        self.states: list[State] = [{f"it's {n}": n for n in range(COUNT)}]
        self.done = 0
        self.searches = [0] * READERS
        self.compacted = 0
        self.wrong: list[str] = []
        self.lock = threading.Lock()
        documents = [document(name, n) for name, n in self.states[0].items()]
        Index.build(folder, documents, FakeRetriever())  # type: ignore[arg-type]

    def open(self) -> Index:
        return Index.open(self.folder, model=FakeRetriever())  # type: ignore[arg-type]

    def going(self) -> bool:
        return time.monotonic() < self.end and not self.wrong

    def read(self, place: int) -> None:
        index, draw = self.open(), random.Random(place)
        while self.going():
            low, even = draw.randrange(COUNT), draw.random() < 0.5
            first = self.done
            index.refresh()
            plan = FullText(n=2 * COUNT) >> Rescore(n=2 * COUNT) if place % 4 == 3 else None
            where = f"n >= {low} AND (even OR NOT {even})"
            hits = index.search("river", k=2 * COUNT, where=where, plan=plan)
            found = {hit.id: hit.document.metadata["n"] for hit in hits if hit.document}
            last = len(self.states)
            if all(found != meeting(state, low, even) for state in self.states[first:last]):
                self.wrong.append(f"{where}: {found} is of none of the states {first} to {last - 1}")
            self.searches[place] += 1

    def write(self) -> None:
        index, draw = self.open(), random.Random(99)
        while self.going():
            state = dict(self.states[-1])
            names = [f"it's {n}" for n in draw.sample(range(COUNT), 3)]
            if draw.random() < 0.6:
                new = {name: draw.randrange(COUNT) for name in names}
                self.states.append(state | new)
                with self.lock:
                    index.add([document(name, n) for name, n in new.items()], replace=True)
            else:
                self.states.append({name: n for name, n in state.items() if name not in names})
                with self.lock:
                    index.delete(names)
            self.done += 1

    def compact(self) -> None:
        index = self.open()
        while self.going():
            time.sleep(0.3)
            with self.lock:
                index.compact()
            self.compacted += 1

    def run(self) -> None:
        self.end = time.monotonic() + self.seconds
        readers = [threading.Thread(target=self.read, args=(place,)) for place in range(READERS)]
        threads = [*readers, threading.Thread(target=self.write), threading.Thread(target=self.compact)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def meeting(state: State, low: int, even: bool) -> State:
    return {name: n for name, n in state.items() if n >= low and (n % 2 == 0 or not even)}


def main(folder: Path, seconds: float) -> None:
    failures: list[str] = []
    # A thread that dies must not pass for one that was content.
    threading.excepthook = lambda given: failures.append(f"{given.exc_type.__name__}: {given.exc_value}")
    trial = Trial(folder, seconds)
    trial.run()
    print(f"{trial.searches} searches, {trial.done} changes, {trial.compacted} compactions")
    for failure in [*trial.wrong, *failures]:
        print(failure[:2000])
    sys.exit(bool(trial.wrong or failures or not all(trial.searches) or not trial.done or not trial.compacted))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
