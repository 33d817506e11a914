"""A reader beside a writer that is killed at random: what was acknowledged is found, what was deleted is gone."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from changing_writer import NAMES
from index_fakes import FakeRetriever

from hyperseek.index import Index
from hyperseek.types import Document
from programs import Program, Programs

Acknowledged = dict[str, str | None]


def start(programs: Programs, folder: Path, journal: Path, seed: int) -> Program:
    program = Path(__file__).with_name("changing_writer.py")
    return programs.start([str(program), str(folder), str(journal), str(seed)])


def read(journal: Path) -> tuple[Acknowledged, set[str], int]:
    """Return the last acknowledged version of each document, the documents in flight, and the number of lines."""
    done: Acknowledged = {}
    open_: dict[str, set[str]] = {}
    # A line may be half written; it is then not yet said.
    lines = journal.read_text().split("\n")[:-1]
    for line in lines:
        moment, action, version, *names = line.split(" ")
        if moment == "begin":
            open_[version] = set(names)
        else:
            open_.pop(version)
            done |= dict.fromkeys(names, version if action == "put" else None)
    return done, set().union(*open_.values()), len(lines)


def touched_since(journal: Path, count: int) -> set[str]:
    return {name for line in journal.read_text().split("\n")[count:-1] for name in line.split(" ")[3:]}


def check(index: Index, journal: Path) -> int:
    """Look for all documents whose state is settled; return how many were."""
    done, unsettled, count = read(journal)
    index.refresh()
    stored = {document.id: document.text for document in index.documents()}
    engines = ["exact", *(item.name for item in index.attachments)]
    hits = {engine: {hit.id for hit in index.search("river", k=100, engine=engine)} for engine in engines}
    assert len(stored) == len(index)
    # What a killed writer had begun may have happened or not; what began while we looked, too.
    settled = done.keys() - unsettled - touched_since(journal, count)
    for name in settled:
        version = done[name]
        if version is None:
            assert name not in stored
            assert all(name not in found for found in hits.values())
        else:
            assert stored[name].endswith(f" v{version}")
            assert all(name in found for found in hits.values())
    return len(settled)


def run(programs: Programs, tmp_path: Path, seconds: float) -> tuple[int, int]:
    folder, journal = tmp_path / "index", tmp_path / "journal"
    model = FakeRetriever()
    Index.build(folder, [Document(name, f"river {name} v0") for name in NAMES[:20]], model)  # type: ignore[arg-type]
    journal.touch()
    reader = Index.open(folder, model=model)  # type: ignore[arg-type]
    draw = random.Random(0)
    kills = settled = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        writer = start(programs, folder, journal, seed=kills)
        try:
            lines = read(journal)[2]
            while read(journal)[2] == lines and writer.poll() is None:  # it takes its time to import
                time.sleep(0.05)
            kill_at = time.monotonic() + draw.uniform(0.2, 1.5)
            while time.monotonic() < kill_at:
                settled += check(reader, journal)
            assert writer.poll() is None, "the writer ended by itself"
        finally:
            writer.kill()
            writer.wait()
        kills += 1
        settled += check(reader, journal)
    assert read(journal)[2] > 10 * kills
    return kills, settled


def test_nothing_acknowledged_is_lost(tmp_path: Path, programs: Programs) -> None:
    kills, settled = run(programs, tmp_path, 3)
    assert kills >= 1
    assert settled > 20


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_in_a_minute(tmp_path: Path, programs: Programs) -> None:
    kills, settled = run(programs, tmp_path, 60)
    assert kills >= 5
    assert settled > 500
