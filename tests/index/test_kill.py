"""A writer that is killed at random moments loses nothing that it reported, and its successor repeats nothing."""

from __future__ import annotations

import os
import random
import re
import time
from collections import Counter
from pathlib import Path
from typing import TextIO

import pytest
import torch
from slow_build import COUNT, SHARD, corpus, main

from hyperseek.errors import StoreError
from hyperseek.index import Index, stored_documents
from programs import Program, Programs

KILLS = 3


def start(programs: Programs, folder: Path, log: Path) -> tuple[Program, TextIO]:
    """Start a writer; return it with what it reports."""
    reading, writing = os.pipe()
    program = programs.start([str(Path(__file__).with_name("slow_build.py")), str(folder), str(log)], stdout=writing)
    os.close(writing)
    return program, os.fdopen(reading)


def killed_after(programs: Programs, folder: Path, log: Path, wait: float) -> int:
    """Kill a writer some time after its first report; return how many documents it had reported."""
    reported = stored_documents(folder)
    process, reports = start(programs, folder, log)
    with reports:
        line = reports.readline()
        with pytest.raises(StoreError, match="in use by another writer"):
            main(folder, log)
        time.sleep(wait)
        process.kill()
        process.wait()
        for text in [line, *reports]:
            if match := re.match(r"stored (\d+) documents", text):
                reported = int(match[1])
    return reported


def test_killed_at_random_moments(tmp_path: Path, programs: Programs) -> None:
    folder, log = tmp_path / "index", tmp_path / "encoded.txt"
    generator = random.Random(0)
    for _ in range(KILLS):
        reported = killed_after(programs, folder, log, generator.uniform(0, 0.3))
        stored = stored_documents(folder)
        assert reported <= stored <= reported + SHARD
        assert stored % SHARD == 0
        with pytest.raises(StoreError, match=f"unfinished, with {stored} documents"):
            Index.open(folder)
    assert 0 < stored < COUNT

    main(folder, log)
    main(tmp_path / "whole", tmp_path / "whole.txt")
    index, whole = Index.open(folder), Index.open(tmp_path / "whole")
    assert list(index.documents()) == list(whole.documents()) == corpus()
    assert index.info.data == whole.info.data
    ours, theirs = (torch.cat([points.vectors for _, points in one.points()]) for one in (index, whole))
    assert torch.equal(ours, theirs)
    # What was stored was never encoded again: only shards that were under way when a writer was killed were.
    times = Counter(log.read_text().splitlines())
    assert set(times) == {document.text for document in corpus()}
    assert sum(times.values()) <= COUNT + KILLS * SHARD
    data = folder / "documents.lance" / "data"
    assert len(list(data.iterdir())) == COUNT // SHARD  # no leftovers of killed writers
