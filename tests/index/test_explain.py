"""What a search says of itself, and that it finds the same whatever it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hyperseek import HyperseekError
from hyperseek.index import Index
from hyperseek.plan import Engine, Exhaustive, Plan, Rescore
from hyperseek.scoring import FunctionScorer, LinearScorer, Points, Scorer, Space
from hyperseek.store.attachments import Attachments, TunedPlan
from hyperseek.types import Document

SPACE, COUNT = Space("dot", 4), 60
FEW = "hyperseek.plan.stages._FEW"


def normal(count: int, seed: int) -> Any:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))


def linear(count: int = 2, seed: int = 1) -> Scorer:
    return LinearScorer(SPACE, normal(count, seed))


def bent(queries: Any, documents: Points) -> Any:
    products = queries["vector"] @ documents.vectors.T
    return products + 0.3 * torch.tanh(products)


def nonlinear(count: int = 2, seed: int = 1) -> Scorer:
    return FunctionScorer(SPACE, bent, {"vector": normal(count, seed)})


@pytest.fixture
def index(tmp_path: Path) -> Index:
    items = zip([Document(f"d{number}", "") for number in range(COUNT)], normal(COUNT, 0), strict=True)
    return Index.from_vectors(tmp_path / "index", items, SPACE)


@given(
    built=st.lists(st.sampled_from(["flat", "hnsw", "ivf"]), max_size=2, unique=True),
    kind=st.sampled_from(["linear", "function"]),
    tuned=st.sampled_from([None, "linear", "function"]),
    few=st.booleans(),
    k=st.sampled_from([1, 10, 11, 80]),
    seed=st.integers(0, 9),
)
@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
def test_auto_explains_what_it_does(
    index: Index, built: list[str], kind: str, tuned: str | None, few: bool, k: int, seed: int
) -> None:
    Attachments().write(index.path)
    index.refresh()
    for engine in built:
        index.build_engine(engine)
    queries = {"linear": linear, "function": nonlinear}
    if tuned is not None and built:
        index.engines.tune(queries[tuned](seed=7), k=10, recall=0.5)
    scorer, newest = queries[kind](seed=seed), built[-1] if built else None
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(FEW, 20_000 if few else COUNT)
        told = index.explain(scorer, k=k, recall=True)
        found = index.search(scorer, k=k)
    titles = [stage.title for stage in told.plan.stages]
    if newest is None:
        assert told.reason == "every document is scored, since the index has no engine"
        assert titles == ["exhaustive"]
    elif tuned == kind and k <= 10:
        assert told.reason.startswith(f"the plan tuned on this index for {kind} scorers: recall@10 ")
        assert told.reason.endswith(" on 2 queries")
        assert told.plan == Plan.from_mapping(index.engines.plans[kind]["plan"])
    elif few:
        assert told.reason == "every document is scored, which is fast for fewer than 20,000"
        assert titles == ["exhaustive"]
    elif kind == "linear":
        assert told.reason == (
            f"candidates from {newest!r}, which can search by this scorer; scored exactly; recall@10 1.0000 for 16 "
            f"documents as queries when it was built"
        )
        assert titles == ["engine", "rescore"]
    else:
        assert told.reason == (
            f"candidates from {newest!r} by a linear surrogate, since a 'function' scorer is not linear; scored exactly"
        )
        assert titles == ["surrogate", "rescore"]
    assert told.documents == COUNT
    assert [report.title for report in told.stages] == titles
    assert all(report.queries == 2 for report in told.stages)
    lines = list(told.lines())
    assert lines[0] == f"60 documents; {told.reason}"
    assert len(lines) == 1 + len(titles)
    if "tuned" not in told.reason:  # with 300 candidates nothing is missed here
        exact = index.search(scorer, k=k, engine="exact")
        assert [[hit.id for hit in hits] for hits in found] == [[hit.id for hit in hits] for hits in exact]
        assert told.stages[-1].recall == 1.0


def test_what_was_asked_for_is_said(index: Index) -> None:
    index.build_engine("ivf", name="cells")
    assert index.explain(linear(), engine="exact").reason == "every document is scored, as was asked"
    assert index.explain(linear(), plan=Plan(stages=(Exhaustive(),))).reason == "the plan that was given"
    assert "candidates from 'cells'" in index.explain(linear(), engine="cells").reason
    with pytest.raises(HyperseekError, match="no queries to explain"):
        index.explain(linear(0))


def test_a_dropped_engine_takes_its_tuned_plans_along(index: Index) -> None:
    index.build_engine("flat", name="kept")
    index.build_engine("flat", name="gone")
    plans = {
        "linear": (Engine(name="gone") | Exhaustive()) >> Rescore(),
        "function": Engine(name="kept") >> Rescore(),
        "maxsim": Plan(stages=(Exhaustive(),)),
    }
    kept = {
        kind: TunedPlan(plan=plan.model_dump(mode="json"), k=10, recall=1.0, queries=1) for kind, plan in plans.items()
    }
    Attachments.read(index.path).model_copy(update={"plans": kept}).write(index.path)
    index.refresh()
    assert "tuned" in index.explain(linear()).reason
    index.drop("gone")
    assert set(index.engines.plans) == {"function", "maxsim"}
    assert "tuned" not in index.explain(linear()).reason
    index.build_engine("flat", name="kept")  # replaced, so its plans still hold
    assert set(index.engines.plans) == {"function", "maxsim"}
