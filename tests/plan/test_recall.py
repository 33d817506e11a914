"""What an engine finds is measured when it is built, and decides whether it is searched without being asked for."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import pytest
import torch
from typer.testing import CliRunner

from hyperseek._long_work import Interrupted
from hyperseek.cli import app
from hyperseek.engines import STRUCTURES, CandidateRequest, Structure, StructureConfig, StructureEstimate
from hyperseek.errors import StoreError
from hyperseek.index import Index, engines
from hyperseek.plan import stages
from hyperseek.scoring import LinearScorer, MaxSimScorer, Scorer, Space
from hyperseek.store.attachments import Attachments
from hyperseek.types import Document

COUNT = 80
DENSE, TOKENS = Space("dot", 6), Space("tokens", 8)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class SomeConfig(StructureConfig):
    kind: Literal["some"] = "some"
    every: int = 1
    broken: bool = False


class Some(Structure):
    """The best of every n-th document: one in n of the others are found."""

    config_type = SomeConfig

    def __init__(self, config: SomeConfig) -> None:
        self.config = config

    @classmethod
    def build(cls, folder: Path, documents: Any, config: Any) -> Mapping[str, Any]:
        return {}

    @classmethod
    def open(cls, folder: Path, documents: Any, config: Any, details: Mapping[str, Any]) -> Self:
        return cls(config)

    def search(self, request: CandidateRequest, *, effort: int | None = None) -> Sequence[Any]:
        if self.config.broken:
            raise StoreError("the server is gone")
        places = torch.arange(0, COUNT, self.config.every).expand(len(request.scorer), -1)
        return [(request.exact(places), places)]

    @classmethod
    def estimate(cls, space: Any, config: Any, *, count: int) -> StructureEstimate:
        return StructureEstimate(0, 0, 0, None)

    @classmethod
    def verify(cls, folder: Path, details: Mapping[str, Any]) -> None:
        pass


@pytest.fixture(autouse=True)
def some(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(stages, "_FEW", 10)
    STRUCTURES.register("some", Some)
    yield
    STRUCTURES.unregister("some")


@pytest.fixture
def dense(tmp_path: Path) -> Index:
    items = zip([Document(f"d{number}", "") for number in range(COUNT)], normal(COUNT, 6), strict=True)
    return Index.from_vectors(tmp_path / "dense", items, DENSE)


@pytest.fixture
def late(tmp_path: Path) -> Index:
    tokens = [normal(1 + number % 7, 8, seed=number) for number in range(900)]
    tokens[3] = torch.zeros(0, 8)
    items = zip([Document(f"d{number}", "") for number in range(900)], tokens, strict=True)
    return Index.from_vectors(tmp_path / "late", items, TOKENS)


def linear() -> Scorer:
    return LinearScorer(DENSE, normal(3, 6, seed=1))


def maxsim() -> Scorer:
    return MaxSimScorer(TOKENS, normal(3, 5, 8, seed=1), torch.ones(3, 5))


def shown(index: Index) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["inspect", "index", str(index.path), "--json"], catch_exceptions=False)
    engines: dict[str, Any] = json.loads(done.stdout)["engines"]
    return engines


def test_an_engine_that_finds_enough_is_searched_and_says_how_much(dense: Index) -> None:
    recall = dense.build_engine("some").recall
    assert recall is not None
    assert (recall.share, recall.k, recall.queries, recall.documents) == (1.0, 10, 16, COUNT)
    assert dense.explain(linear()).reason == (
        "candidates from 'some', which can search by this scorer; scored exactly; recall@10 1.0000 for 16 documents as "
        "queries when it was built"
    )
    assert shown(dense)["some"]["recall"] == 1.0
    assert Index.open(dense.path).engines["some"].recall == recall


def test_an_engine_that_finds_too_little_is_left_to_those_who_ask_for_it(dense: Index) -> None:
    recall = dense.build_engine({"kind": "some", "every": 2}).recall
    assert recall is not None
    # Half of the others; with itself, every query would find up to a tenth more.
    assert 0.35 < recall.share < 0.65
    reason = dense.explain(linear()).reason
    assert reason.startswith(f"every document is scored, since 'some' found only {recall.share:.3f} of the best when")
    assert reason.endswith("tune it: index.engines.tune(queries)")
    assert dense.explain(linear(), engine="some").reason.startswith("candidates from 'some'")
    assert dense.explain(linear(), engine="some", recall=True).stages[-1].recall < 0.9  # type: ignore[operator]


def test_an_older_engine_that_finds_enough_comes_before_a_newer_one_that_does_not(dense: Index) -> None:
    dense.build_engine("hnsw")
    dense.build_engine({"kind": "some", "every": 3})
    assert dense.explain(linear()).reason.startswith("candidates from 'hnsw'")


def test_what_was_not_measured_is_not_trusted(dense: Index, caplog: pytest.LogCaptureFixture) -> None:
    assert dense.build_engine({"kind": "some", "broken": True}).recall is None
    assert "what the engine 'some' finds could not be measured: the server is gone" in caplog.text
    assert "recall" not in shown(dense)["some"]
    assert dense.explain(linear()).reason == (
        "every document is scored, since what 'some' finds of the best was not measured when it was built; tune it: "
        "index.engines.tune(queries)"
    )


def test_ctrl_c_while_an_engine_is_measured_leaves_it_built(dense: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = engines.recall_queries

    def stopped(count: int) -> torch.Tensor:
        signal.raise_signal(signal.SIGINT)
        return chosen(count)

    monkeypatch.setattr(engines, "recall_queries", stopped)
    with pytest.raises(Interrupted, match="the engine 'some' is built; what it finds was not measured"):
        dense.build_engine("some")
    assert Index.open(dense.path).engines["some"].recall is None


def test_an_engine_that_has_grown_much_since_is_not_trusted(dense: Index) -> None:
    dense.build_engine("some")
    listed = Attachments.read(dense.path)
    grown = listed.items[0].model_copy(update={"count": 2 * COUNT + 1})
    assert stages._doubt(listed.items[0]) is None
    assert stages._doubt(grown) == (
        "what 'some' finds of the best was measured when it had 80 documents, and now it has 161"
    )


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_engines_of_single_vectors_are_measured(dense: Index, kind: str) -> None:
    recall = dense.build_engine(kind).recall
    assert recall is not None
    assert recall.share == 1.0  # 300 candidates are all there are
    assert dense.explain(linear()).reason.startswith(f"candidates from {kind!r}")


@pytest.mark.parametrize(
    "config",
    [
        {"kind": "flat", "charts": [{"name": "muvera", "parameters": {"repetitions": 1, "bits": 1}}]},
        {"kind": "flat", "charts": ["learned"]},
        {"kind": "centroids", "probes": 1},
        "centroids",
    ],
)
def test_recall_of_engines_of_token_sets_is_what_their_plans_find(late: Index, config: Any) -> None:
    built = late.build_engine(config, name="engine")
    assert built.recall is not None
    assert built.recall.documents == 900
    assert shown(late)["engine"]["recall"] == round(built.recall.share, 4)
    # These documents are random: what is measured with them as queries holds for other random queries, too.
    told = late.explain(maxsim(), k=10, engine="engine", recall=True)
    assert told.stages[-1].recall == pytest.approx(built.recall.share, abs=0.2)
    chosen = late.explain(maxsim()).reason.startswith("candidates from 'engine'")
    assert chosen == (built.recall.share >= 0.95)


def test_an_index_that_is_too_small_to_measure_is_built(tmp_path: Path) -> None:
    index = Index.from_vectors(tmp_path / "one", [(Document("a", ""), normal(3, 8))], TOKENS)
    for kind in ("flat", "centroids"):
        assert index.build_engine(kind).recall is None
