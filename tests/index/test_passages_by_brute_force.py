"""An index of passages ranks documents by their best passages as an index of the passages ranks those.

The other index holds every passage as a document of its own, so that its rankings owe nothing to the grouping.
"""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from hyperseek import Document, Index
from hyperseek.index import IndexInfo
from hyperseek.models import ModelConfig, build
from hyperseek.plan import Engine, Exhaustive, FullText, Fusion, Rescore, Surrogate, hybrid

pytest.importorskip("semantic_text_splitter", reason="needs semantic-text-splitter")

WORDS = ("river", "stone", "city", "road", "house", "door", "window", "music", "function", "string", "list")
QUERIES = ["river stone", "music", "door of a house", "list function"]
MANY = 1000  # more than there are passages
TRUNKS: dict[str, dict[str, Any]] = {
    "dense": {"family": "dense", "pooling": "mean", "normalize": True},
    "qnet": {"family": "qnet", "qnet": {"depth": 1, "initialisation": "scaled"}},
    "levels": {"family": "levels", "pooling": "mean", "levels": {"d_hrm": 32, "num_segments": 3}},
    "late": {"family": "late", "late": {"dimension": 8}},
}


@dataclass
class Case:
    """An index of passages, and one of the same passages as documents."""

    passages: Index
    rows: Index

    def check(self, *, k: int, where: str | None = None, exclude: list[list[str]] | None = None, **ways: Any) -> None:
        """Compare rankings with `ways`, which both indexes search by unless `truth` says what to compare with."""
        truth = ways.pop("truth", ways)
        left = None if exclude is None else [self._rows_of(ids) for ids in exclude]
        every = self.rows.search(QUERIES, k=MANY, where=where, exclude=left, **truth)
        found = self.passages.search(QUERIES, k=k, where=where, exclude=exclude, **ways)
        for hits, rows in zip(found, every, strict=True):
            best: dict[str, list[float]] = {}
            for row in rows:
                best.setdefault(row.id.rpartition("#")[0], []).append(row.score)
            assert [hit.id for hit in hits] == list(best)[:k]
            for hit in hits:
                shown = [passage.score for passage in hit.passages]
                assert hit.score == shown[0]
                assert shown == pytest.approx(best[hit.id][: len(shown)], abs=1e-5, rel=1e-5)
            assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))

    def _rows_of(self, ids: list[str]) -> list[str]:
        return [row for row in self.rows.ids if row.rpartition("#")[0] in ids]


def some_documents(seed: int) -> list[Document]:
    """Documents of one to many passages; some have the same text, so that scores are equal."""
    draw = random.Random(seed)

    def text(words: int) -> str:
        return "".join(draw.choice(WORDS) + draw.choice([" ", " ", ". ", "\n\n"]) for _ in range(words))

    again = text(40)
    texts = [text(700), again, again, *(text(draw.randrange(120)) for _ in range(15))]
    draw.shuffle(texts)
    return [
        Document(f"d{number}", text, draw.choice(["", "river"]), {"year": 2000 + number})
        for number, text in enumerate(texts)
    ]


@pytest.fixture(scope="module", params=enumerate(TRUNKS), ids=lambda given: given[1])
def case(request: pytest.FixtureRequest, tiny_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Case:
    seed, name = request.param
    folder = tmp_path_factory.mktemp("brute-force")
    torch.manual_seed(seed)
    model = build(ModelConfig.from_mapping({"trunk": tiny_encoder, **TRUNKS[name]}), device="cpu")
    overlap = {"overlap": 6} if seed % 2 else {}
    passages = Index.build(
        folder / "passages", some_documents(seed), model, passages={"tokens": 24, **overlap}, dtype="float32"
    )
    shutil.copytree(folder / "passages", folder / "rows")
    IndexInfo.read(folder / "rows").model_copy(update={"passages": None}).write(folder / "rows")
    return Case(passages, Index.open(folder / "rows", model=model))


@pytest.mark.parametrize("where", [None, "year >= 2009", "year IN (2001, 2016)", "year < 0"])
def test_exhaustive(case: Case, where: str | None) -> None:
    for k in (1, 3, 50):
        case.check(k=k, where=where)
    case.check(k=3, where=where, exclude=[["d2", "d9"], [], ["d0"], [f"d{number}" for number in range(17)]])


@pytest.mark.parametrize("options", [{"level": 1}, {"broaden": 0.4}, {"level": 3, "document_level": 1}], ids=str)
def test_levels(case: Case, options: dict[str, Any]) -> None:
    if case.passages.space.levels == 1:
        pytest.skip("needs points with levels")
    case.check(k=4, **options)
    case.check(k=4, where="year >= 2009", exclude=[["d2", "d9"]] * 4, **options)


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_engines(case: Case, kind: str) -> None:
    pytest.importorskip("faiss", reason="needs faiss")
    if kind not in case.passages.engines:
        case.passages.build_engine({"kind": kind, **({"lists": 4} if kind == "ivf" else {})}, name=kind)
    settings: dict[str, Any] = {"n": MANY, "effort": MANY}
    linear = case.passages.model.compile(QUERIES).kind != "qnet"
    plan = (Engine(name=kind, **settings) if linear else Surrogate(engine=kind, **settings)) >> Rescore()
    for rest in ({}, {"where": "year >= 2009"}, {"exclude": [["d2", "d9"], [], ["d0"], ["d1"]]}):
        case.check(k=4, plan=plan, truth={"engine": "exact"}, **rest)
    case.check(k=12, engine=kind, truth={"engine": "exact"})


@pytest.mark.parametrize(
    "plan",
    [
        hybrid(n=10),
        hybrid(n=MANY),
        FullText(n=MANY),
        Fusion(sources=(Exhaustive(n=MANY), FullText(n=20)), method="minmax"),
        (Exhaustive(n=40) | FullText(n=40)) >> Rescore(),
        Exhaustive(n=30) >> Rescore(n=12),
    ],
    ids=str,
)
def test_plans(case: Case, plan: Any) -> None:
    for k in (3, 50):
        case.check(k=k, plan=plan)
    case.check(k=3, plan=plan, where="year >= 2009", exclude=[["d12", "d9"], [], ["d10"], ["d1"]])
