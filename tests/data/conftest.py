"""The embedded corpus, collected once."""

from __future__ import annotations

import pytest

from hyperseek.data import Dataset, open_dataset


@pytest.fixture(scope="session")
def pydocs() -> Dataset:
    """The embedded corpus."""
    return open_dataset("pydocs")
