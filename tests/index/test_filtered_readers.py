"""Searches with filters beside a writer: none hangs, and none is answered wrongly."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import hyperseek
from programs import Programs


def run(programs: Programs, folder: Path, seconds: float) -> None:
    program = Path(__file__).with_name("filtered_readers.py")
    done = programs.run([str(program), str(folder / "index"), str(seconds)], timeout=seconds + 90)
    assert done.returncode == 0, done.stdout + done.stderr


def test_filtered_readers_a_writer_and_a_compactor_neither_hang_nor_err(tmp_path: Path, programs: Programs) -> None:
    run(programs, tmp_path, 3)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_filtered_readers_beside_a_writer_for_minutes(tmp_path: Path, programs: Programs) -> None:
    run(programs, tmp_path, float(os.environ.get("HYPERSEEK_READERS_SECONDS", "180")))


def test_no_fragment_is_asked_to_count_by_a_condition() -> None:
    # Lance's call holds the interpreter's lock while it waits for threads that may be waiting for that lock.
    for file in Path(hyperseek.__file__).parent.rglob("*.py"):
        assert not re.search(r"\.count_rows\(\s*[^)\s]", file.read_text()), file
