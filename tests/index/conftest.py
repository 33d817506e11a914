"""Fixtures of the index tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hyperseek.types import Document

sys.path.append(str(Path(__file__).parent))  # for `index_fakes`, which a subprocess imports too

WORDS = ("river", "stone", "city", "road", "house", "door", "window", "music", "function", "string", "list")


@pytest.fixture
def documents() -> list[Document]:
    """Forty documents, some with a title, some with metadata, some without text."""
    return [
        Document(
            f"d{number}",
            " ".join(WORDS[(number * step) % len(WORDS)] for step in range(number % 7)),
            title=WORDS[number % len(WORDS)] if number % 2 else "",
            metadata={"module": "os.path", "line": number} if number % 3 == 0 else {},
        )
        for number in range(40)
    ]
