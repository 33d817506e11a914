"""Many threads, one index: everything is read once, every answer is that of one version; and forked children."""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from index_fakes import FakeRetriever

import hyperseek.models
from hyperseek import _machine
from hyperseek._machine import Kept
from hyperseek.index import Index
from hyperseek.plan import Dense, Engine, FullText, Rescore, Surrogate, _open_index
from hyperseek.plan._engine_search import landmarks_of
from hyperseek.scoring import FunctionScorer, LinearScorer, Points, Scorer
from hyperseek.store import Store
from hyperseek.types import Document

THREADS = 8


def at_once(*tasks: Callable[[], object], times: int = 1) -> list[object]:
    """Run tasks in threads that begin together; return what they returned, or raise what one raised."""
    barrier, answers = threading.Barrier(len(tasks) * times), []

    def run(task: Callable[[], object]) -> None:
        barrier.wait()
        try:
            answers.append(task())
        except BaseException as error:
            answers.append(error)

    threads = [threading.Thread(target=run, args=(task,), daemon=True) for task in tasks * times]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread hangs"
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a table was read, by what."""
    counted: Counter[str] = Counter()

    def count(name: str) -> None:
        plain = getattr(Store, name)

        def call(*arguments: Any, **options: Any) -> Any:
            counted[name] += 1
            time.sleep(0.02)  # so that the threads meet
            return plain(*arguments, **options)

        monkeypatch.setattr(Store, name, call)

    for name in ("points", "ids", "keys_where"):
        count(name)
    return counted


def make(folder: Path, model: FakeRetriever | None = None, count: int = 60) -> Index:
    documents = [Document(f"d{n}", f"river stone n{n}", metadata={"n": n}) for n in range(count)]
    return Index.build(folder, documents, model or FakeRetriever())  # type: ignore[arg-type]


def test_threads_on_a_fresh_index_read_it_once(tmp_path: Path, counts: Counter[str]) -> None:
    make(tmp_path / "index")
    index = Index.open(tmp_path / "index", model=FakeRetriever())  # type: ignore[arg-type]
    counts.clear()
    answers = at_once(lambda: [hit.id for hit in index.search("river n7", where="n > 2")], times=THREADS)
    assert answers == [answers[0]] * THREADS
    assert counts == {"points": 1, "ids": 1, "keys_where": 1}
    assert len(index._opened.snapshot._masks) == 1


def test_threads_load_a_model_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "index")
    loads = []

    class Loaded(FakeRetriever):
        def __init__(self) -> None:
            super().__init__()
            self.model = torch.nn.Linear(2, 2)

    def load(source: str, *, device: str | None = None, backend: str | None = None) -> Loaded:
        loads.append(source)
        time.sleep(0.02)
        return Loaded()

    monkeypatch.setattr(hyperseek.models, "load", load)
    index = Index.open(tmp_path / "index")
    plan = Dense(n=5, model="other") >> Rescore()
    at_once(lambda: index.search("river"), lambda: index.search("river", plan=plan), times=THREADS // 2)
    index.refresh()
    index.search(["river"], plan=plan)
    assert sorted(loads) == ["fake", "other"]


class Interrupted(FakeRetriever):
    """Compiles queries, and lets something happen between that and the search."""

    def __init__(self) -> None:
        super().__init__()
        self.between: Callable[[], object] = lambda: None

    def compile_batches(self, queries: Sequence[str], options: Any = None) -> Iterator[Scorer]:
        for part in super().compile_batches(queries, options):
            self.between()
            yield part


def test_a_search_is_answered_from_one_version(tmp_path: Path) -> None:
    model = Interrupted()
    index = make(tmp_path / "index", model)
    queries = [f"river n{n}" for n in range(7)]
    before = index.search(queries)
    listed = iter([["d0"], ["d7", "d9"], ["d30"]])
    model.between = lambda: index.delete(next(listed))  # another version after each group of three
    assert index.search(queries) == before
    assert len(index) == 56
    model.between = lambda: None
    assert not {"d0", "d7", "d9", "d30"} & {hit.id for hits in index.search(queries, k=60) for hit in hits}


def test_a_refresh_shows_all_of_a_version_or_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = make(tmp_path / "index")
    other = Index.open(tmp_path / "index", model=FakeRetriever())  # type: ignore[arg-type]
    index.delete(["d1"])
    index.compact()
    old, seen = (other.info, len(other)), []
    open_store = Store.open.__func__  # type: ignore[attr-defined]

    def watched(cls: type[Store], path: Path) -> Store:
        store: Store = open_store(cls, path)
        seen.append((other.info, len(other)))
        return store

    monkeypatch.setattr(Store, "open", classmethod(watched))
    at_once(other.refresh, other.refresh)
    assert seen[0] == old
    assert (other.info, len(other)) == (index.info, 59)
    assert all(pair in (old, (index.info, 59)) for pair in seen)


def bent(queries: dict[str, torch.Tensor], documents: Points) -> torch.Tensor:
    products = queries["vector"] @ documents.vectors.T
    return products + 0.1 * torch.tanh(products)


def searches(index: Index) -> list[Callable[[], object]]:
    """Searches of every kind."""
    vectors = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    function = FunctionScorer(index.space, bent, {"vector": vectors})
    linear = LinearScorer(index.space, vectors)
    plan = (FullText(n=9) | Dense(n=9)) >> Rescore()
    return [
        lambda: index.search("river n7"),
        lambda: index.search(linear, engine="hnsw", k=3),
        lambda: index.search(linear, where="n < 30", engine="hnsw"),
        lambda: index.search(function, engine="hnsw"),
        lambda: index.search(function, plan=Surrogate(n=20, landmarks=40, refits=1) >> Rescore()),
        lambda: index.search(["river", "stone n3", "n9"], plan=plan, where="n >= 8"),
        lambda: index.run({"a": "river n1", "b": "stone"}, k=5),
        lambda: index.score(["river"], [["d1", "d2"]]),
        lambda: index.explain(linear, plan=Engine(n=30) >> Rescore(), recall=True).stages[-1].recall,
    ]


def test_threads_find_what_one_thread_finds(tmp_path: Path) -> None:
    make(tmp_path / "index").build_engine("hnsw")
    expected = [task() for task in searches(Index.open(tmp_path / "index", model=FakeRetriever()))]  # type: ignore[arg-type]
    index = Index.open(tmp_path / "index", model=FakeRetriever())  # type: ignore[arg-type]
    orders = [random.Random(seed).sample(range(len(expected)), len(expected)) for seed in range(THREADS)]

    def answer(order: list[int]) -> list[object]:
        tasks, found = searches(index), {}
        for number in order:
            found[number] = tasks[number]()
            if number == 0:
                index.refresh()
        return [found[number] for number in range(len(tasks))]

    for found in at_once(*(lambda order=order: answer(order) for order in orders)):  # type: ignore[misc]
        assert found == expected


def change_and_search(folder: Path, seconds: float, *, least: int) -> None:
    """Search in threads while one writes, all through one index, for some seconds and some searches at least."""
    model = FakeRetriever()
    index = make(folder, model)
    index.build_engine("flat")
    end, done = time.monotonic() + seconds, []
    query = model.compile(["river n3"])

    def read(seed: int) -> None:
        draw = random.Random(seed)
        while time.monotonic() < end or len(done) <= least:  # searches take their time on a busy machine
            engine, where = draw.choice(["auto", "exact", "flat"]), draw.choice([None, None, "n >= 0"])
            hits = index.search("river n3", k=draw.choice([1, 10, 100]), engine=engine, where=where)
            for hit in hits:
                assert hit.document is not None
                assert hit.document.id == hit.id
            texts = [hit.document.text for hit in hits if hit.document is not None]
            true = query.score(model.encode_documents(texts))[0]
            torch.testing.assert_close(torch.tensor([hit.score for hit in hits]), true)
            assert len({hit.id for hit in hits}) == len(hits)
            told = index.explain(["river"], k=5, recall=True)
            assert told.stages[-1].recall == 1
            found = index.run({"q": "stone"}, k=7)["q"]
            assert len(found) == 7
            index.refresh()
            done.append(seed)

    def write() -> None:
        draw = random.Random(9)
        for step in range(10**9):
            if time.monotonic() > end:
                break
            names = draw.sample(range(60), 5)
            action = draw.choice(["put", "put", "delete", "compact", "engine"])
            if action == "put":
                index.add([Document(f"d{n}", f"river n{n} v{step}", metadata={"n": n}) for n in names], replace=True)
            elif action == "delete":
                index.delete([f"d{n}" for n in names if n > 20])
            elif action == "compact":
                index.compact()
            else:
                index.build_engine("flat")

    at_once(write, *(lambda seed=seed: read(seed) for seed in range(4)))  # type: ignore[misc]


def test_threads_search_while_one_writes(tmp_path: Path) -> None:
    change_and_search(tmp_path / "index", 3, least=10)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_threads_search_for_a_minute_while_one_writes(tmp_path: Path) -> None:
    change_and_search(tmp_path / "index", 55, least=200)


# What is kept.


def test_what_is_kept_has_a_bound() -> None:
    made: list[int] = []

    def make(key: int) -> int:
        made.append(key)
        return key

    kept = Kept(most_bytes=30, least=2)
    for key in (1, 2, 3, 1, 4, 1, 2):  # four of ten bytes are too many: 2 goes first, then 3
        assert kept.get(key, lambda key=key: make(key), size=lambda _: 10) == key  # type: ignore[misc]
    assert made == [1, 2, 3, 4, 2]
    assert len(kept) == 3
    for key in (5, 6):
        kept.get(key, lambda key=key: make(key), size=lambda _: 100)  # type: ignore[misc]
    assert len(kept) == 2  # the last two stay, whatever they take
    kept.forget(lambda key: key == 5)
    assert len(kept) == 1
    with pytest.raises(ZeroDivisionError):
        kept.get(7, lambda: 1 // 0)
    assert kept.get(7, lambda: 8) == 8


def test_landmarks_masks_and_attachments_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_open_index, "KEPT_BYTES", 100_000)
    monkeypatch.setattr("hyperseek.store.snapshot._MASK_BYTES", 600)
    index = make(tmp_path / "index")
    index.build_engine("flat")
    opened = index._opened
    for seed in range(30):
        landmarks_of(opened, 40, "random", seed)
        opened.snapshot.mask(f"n > {seed}")
    each = landmarks_of(opened, 40, "random", 0).nbytes
    assert 1 < len(opened._kept) <= 100_000 // each
    assert len(opened.snapshot._masks) == 10
    first = opened.attached("flat")
    assert opened.attached() is first
    Index.open(tmp_path / "index", model=FakeRetriever()).build_engine("flat")  # type: ignore[arg-type]
    opened.reread()
    assert len(opened._attached) == 0
    assert opened.attached("flat").record.folder != first.record.folder


def test_an_index_that_is_gone_keeps_nothing(tmp_path: Path) -> None:
    index = make(tmp_path / "index")
    index.search("river", where="n > 3", plan=Surrogate(n=20, landmarks=40) >> Rescore())
    before = len(_machine._all_kept)
    del index
    gc.collect()
    assert len(_machine._all_kept) < before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_searches_or_says_why_not(tmp_path: Path) -> None:
    program = Path(__file__).with_name("forking.py")
    command = [sys.executable, str(program), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert result.stdout == "done\n", result.stderr
