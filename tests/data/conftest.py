"""Small files of every kind."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from hyperseek.data import Dataset, open_dataset

sys.path.append(str(Path(__file__).parent))  # for `mining_fakes`

WriteLines = Callable[..., Path]


@pytest.fixture
def write_lines(tmp_path: Path) -> WriteLines:
    """Write a file of lines: texts as they are, mappings as JSON, bytes raw; gzipped if its name ends in .gz."""

    def write(name: str, lines: Iterable[str | bytes | Mapping[str, Any]]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = b"".join(
            line + b"\n"
            if isinstance(line, bytes)
            else (line if isinstance(line, str) else json.dumps(line)).encode() + b"\n"
            for line in lines
        )
        path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
        return path

    return write


@pytest.fixture
def beir(write_lines: WriteLines, tmp_path: Path) -> Path:
    """A BEIR folder: three documents, two queries, train and test."""
    write_lines(
        "fruit/corpus.jsonl.gz",
        [
            {"_id": "d1", "title": "Apple", "text": "grows on trees", "colour": "red"},
            {"_id": "d2", "title": "", "text": "a yellow berry"},
            {"_id": "d3", "text": "no fruit at all"},
        ],
    )
    write_lines("fruit/queries.jsonl", [{"_id": "q1", "text": "what grows"}, {"_id": "q2", "text": "what is yellow"}])
    write_lines("fruit/qrels/test.tsv", ["query-id\tcorpus-id\tscore", "q1\td1\t2", "q1\td3\t0"])
    write_lines("fruit/qrels/train.tsv", ["q2\td2\t1"])
    return tmp_path / "fruit"


@pytest.fixture(scope="session")
def pydocs() -> Dataset:
    """The embedded corpus."""
    return open_dataset("pydocs")
