from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyperseek.evaluation import Evaluation, Protocol, aggregate
from hyperseek.types import Qrels, Run


@pytest.fixture(scope="session")
def retrieval_golden(golden: Path) -> dict[str, Any]:
    """The original's recorded ranking, as a run, with its queries and texts."""
    recorded = json.loads((golden / "hypencoder/retrieval/golden.json").read_text())
    recorded["run"] = {query: dict(pairs) for query, pairs in recorded["exhaustive_top20"].items()}
    return recorded


@pytest.fixture(scope="session")
def metrics_golden(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "hypencoder/retrieval/metrics_golden.json").read_text())


@pytest.fixture
def small_qrels() -> Qrels:
    return {"q1": {"d1": 1, "d2": 0}, "q2": {"d1": 2, "d3": 1}, "q3": {"d4": 1}}


@pytest.fixture
def small_run() -> Run:
    return {"q1": {"d2": 2.0, "d1": 1.0}, "q2": {"d1": 3.0, "d3": 2.0, "d2": 1.0}}


@pytest.fixture
def make_evaluation():
    """Make an evaluation of random or given values."""

    def make(name: str, values: Any = None, *, seed: int = 0, queries: int = 30, **protocol: Any) -> Evaluation:
        if values is None:
            values = np.random.default_rng(seed).random(queries).tolist()
        per_query = {"nDCG@10": {f"q{place}": value for place, value in enumerate(values)}}
        return Evaluation(
            name=name,
            per_query=per_query,
            aggregate=aggregate(per_query),
            protocol=Protocol(**{"qrels": "x", "k": 100, "data": "y", **protocol}),
        )

    return make
