"""Indexes of points with levels: options of searches, engines and graphs of each level, updates, broad to narrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hyperseek import Document, HyperseekError, Index
from hyperseek.errors import InputError
from hyperseek.plan import Exhaustive, Nearest, Plan, Rescore, broad_to_narrow
from hyperseek.scoring import LevelScorer, Space, VectorPoints
from hyperseek.store.attachments import Attachments
from hyperseek.types import Hit, QueryOptions

LEVELS, WIDTH, COUNT = 3, 6, 300


def tangents(count: int = COUNT, seed: int = 0) -> torch.Tensor:
    """A tree of points: the vector of each level is near that of the level before, and a little farther out."""
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(12, WIDTH, generator=generator)[torch.arange(count) % 12]]
    for _ in range(LEVELS - 1):
        parts.append(parts[-1] + 0.15 * torch.randn(count, WIDTH, generator=generator))
    rising = torch.rand(count, 1, generator=generator)
    return torch.cat(
        [torch.nn.functional.normalize(part, dim=1) * (1 + level + rising) for level, part in enumerate(parts)], dim=1
    )


@pytest.fixture(params=["float32", "float16"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Index:
    documents = [Document(f"d{row}", f"text {row}", metadata={"part": row % 2}) for row in range(COUNT)]
    space = Space("levels", WIDTH, levels=LEVELS, radius_squared=0.5)
    return Index.from_vectors(tmp_path / "index", zip(documents, tangents(), strict=True), space, storage=request.param)


def ids(hits: list[Any]) -> list[list[str]]:
    return [[hit.id for hit in found] for found in hits]


def stored(index: Index) -> VectorPoints:
    return VectorPoints(torch.cat([points.rows for _, points in index.points()]).float())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"level": 1},
        {"level": 3, "document_level": 1},
        {"broaden": 0.3},
        {"relation": "is_a", "radius_weight": 0.5},
        {"relation": "cone", "level": 2},
    ],
)
def test_searches_at_any_level_are_those_of_the_scorer(index: Index, options: dict[str, Any]) -> None:
    given = tangents()[:4]
    scorer = LevelScorer(index.space, index.space.canonical(given), **options)
    expected = scorer.score(stored(index)).topk(10, dim=1)
    hits = index.search(given, k=10, **options)  # type: ignore[call-overload]
    assert [[hit.score for hit in found] for found in hits] == [
        pytest.approx(line, abs=1e-4) for line in expected.values.tolist()
    ]
    assert ids(index.search(given, k=10, options=options)) == ids(hits)
    assert ids(index.search(LevelScorer(index.space, scorer.queries), k=10, options=options)) == ids(hits)
    told = index.explain(given, k=10, recall=True, **options)  # type: ignore[arg-type]
    assert ids(told.hits) == ids(hits)
    scores = index.score(given, ids(hits), **options)  # type: ignore[arg-type]
    assert scores == [pytest.approx([hit.score for hit in found], abs=1e-5) for found in hits]
    run = index.run(
        {f"q{row}": "" for row in range(4)}, scorer=LevelScorer(index.space, scorer.queries), k=10, **options
    )  # type: ignore[arg-type]
    assert [list(line) for line in run.values()] == ids(hits)
    some = index.search(given, k=5, where="part = 1", **options)  # type: ignore[call-overload]
    assert all(int(name[1:]) % 2 for found in ids(some) for name in found)


def test_options_that_do_not_fit_are_refused_in_words(index: Index) -> None:
    given = tangents()[:2]
    with pytest.raises(InputError, match="level must be a whole number from 1, the broadest, to 3; given 4"):
        index.search(given, level=4)
    with pytest.raises(InputError, match="give either"):
        index.search(given, level=1, broaden=0.5)
    with pytest.raises(InputError, match="already compiled"):
        index.search(given, options={"card": "any"})
    with pytest.raises(HyperseekError, match="levle"):
        index.search(given, levle=1)  # type: ignore[call-overload]


@pytest.mark.parametrize("kind", ["hnsw", "ivf", "flat"])
def test_engines_of_several_levels_live_on_one_index(index: Index, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyperseek.plan.stages._FEW", 10)
    given = tangents()[:20]
    exact = {level: ids(index.search(given, k=5, engine="exact", level=level)) for level in (1, 2, 3)}
    index.build_engine(kind, level=1)
    index.build_engine(
        kind, charts=[{"name": index.space.graph_charts[0] if kind == "hnsw" else "inner_product", "level": 3}]
    )
    assert index.engines.names == [f"{kind}-level-1", kind]
    for level, name in ((1, f"{kind}-level-1"), (3, kind)):
        told = index.explain(given, k=5, level=level, recall=True)
        assert f"candidates from {name!r}" in told.reason
        assert told.stages[-1].recall is not None
        assert told.stages[-1].recall > 0.95
    told = index.explain(given, k=5, level=2)
    assert "no engine can search" in told.reason
    assert ids(told.hits) == exact[2]
    across = index.explain(given, k=5, level=3, document_level=1, recall=True)
    assert f"candidates from '{kind}-level-1'" in across.reason
    assert (across.stages[-1].recall or 0) > 0.9
    # New, replaced and deleted documents, with engines that do not know them.
    index.add([Document("new", "text")], vectors=tangents()[:1])
    index.delete(["d0"])
    for level in (1, 2, 3):
        found = index.search(given[:1], k=5, level=level)
        assert "new" in ids(found)[0]
        assert "d0" not in ids(found)[0]
    index.compact()
    assert ids(index.search(given[:1], k=1, level=3)) == [["new"]]
    reopened = Index.open(index.path)
    assert reopened.engines.names == [f"{kind}-level-1", kind]
    queries = LevelScorer(index.space, index.space.canonical(given[:5]))  # each is timed by itself with each plan
    tuning = reopened.engines.tune(queries, k=5, level=1)
    assert list(reopened.engines.plans) == ["level (level=1)"]
    assert tuning.chosen.recall >= 0.99


def test_levels_of_engines_are_checked(index: Index) -> None:
    with pytest.raises(InputError, match="level of a chart must be a whole number from 1"):
        index.build_engine("flat", level=4)
    with pytest.raises(InputError, match="cannot be built on a level"):
        index.build_engine("centroids", level=1)
    assert index.engines.estimate("hnsw", level=1) == index.engines.estimate("hnsw")
    assert not index.engines.names


def test_a_graph_of_one_level_is_walked_by_queries_of_any(index: Index) -> None:
    given = tangents()[:10]
    index.build_graph(degree=12)
    index.build_engine("graph", level=1)
    assert index.engines.names == ["graph", "graph-level-1"]
    for name, level in (("graph", 3), ("graph-level-1", 1)):
        told = index.explain(given, k=5, engine=name, level=level, recall=True)
        assert (told.stages[-1].recall or 0) > 0.9


def test_broad_to_narrow_finds_a_neighbourhood_and_decides_within_it(index: Index) -> None:
    given = tangents()[:20]
    plan = broad_to_narrow(180, through=[1, 2])
    assert plan == Plan(
        stages=[Nearest(n=180, options=QueryOptions(level=1)), Rescore(n=60, options=QueryOptions(level=2)), Rescore()]
    )
    exact = index.search(given, k=5)
    for engine in (False, True):
        if engine:
            index.build_engine("hnsw", level=1)
        told = index.explain(given, k=5, plan=plan, recall=True)
        assert [stage.title for stage in told.stages] == ["nearest (level=1)", "rescore (level=2)", "rescore"]
        first, last = told.stages[0].recall or 0, told.stages[-1].recall or 0
        assert first >= last > 0.9
        scores = {hit.id: hit.score for hit in exact[0]}
        assert all(scores[hit.id] == pytest.approx(hit.score, abs=1e-5) for hit in told.hits[0] if hit.id in scores)
    wide = index.search(given, k=5, plan=broad_to_narrow(COUNT))
    assert ids(wide) == ids(exact)
    named = index.search(given, k=5, plan="broad_to_narrow")  # type: ignore[call-overload]
    assert ids(named) == ids(exact)
    coarse = Exhaustive(n=5, options=QueryOptions(level=1)) >> Rescore()
    neighbours = ids(index.search(given, k=5, level=1))
    assert [set(line) for line in ids(index.search(given, k=5, plan=coarse))] == [set(line) for line in neighbours]
    with pytest.raises(HyperseekError, match="at least one level"):
        broad_to_narrow(through=[])


def test_hits_carry_their_documents(index: Index) -> None:
    hit = index.search(tangents()[0], k=1, level=2)[0]
    assert isinstance(hit, Hit)
    assert hit.document is not None
    assert hit.document.text == "text 0"


@pytest.mark.parametrize(("levels", "width"), [(4, 4), (2, WIDTH), (3, 5)])  # the first has rows of the same width
def test_queries_of_other_levels_are_refused(index: Index, levels: int, width: int) -> None:
    space = Space("levels", width, levels=levels)
    scorer = LevelScorer(space, space.canonical(torch.randn(1, levels * width)))
    said = f"points of {width} dimensions at each of {levels} levels, but the index has 6 at each of 3 levels"
    with pytest.raises(InputError, match=said):
        index.search(scorer)


@pytest.mark.parametrize("through", [(3, 2), (1, 1)])
def test_levels_on_the_way_from_broad_to_narrow_rise(through: tuple[int, ...]) -> None:
    with pytest.raises(HyperseekError, match="from level to level"):
        broad_to_narrow(through=through)


def test_tuning_tries_engines_of_broader_levels(index: Index) -> None:
    index.build_engine("flat", level=1)
    scorer = LevelScorer(index.space, index.space.canonical(tangents()[:20]))
    tuning = index.engines.tune(scorer, k=5, recall=0.9)
    broad = [one for one in tuning.measured if one.plan.stages[0].kind == "nearest"]
    assert [one.plan.stages[0].n for one in broad] == [5, 15, 50, 150]  # type: ignore[attr-defined]
    assert all(one.plan.stages[0].options == QueryOptions(level=1) for one in broad)  # type: ignore[attr-defined]
    assert broad[0].recall < 0.9 < broad[-1].recall
    with_options = index.engines.tune(scorer.at(level=3, relation="is_a"), k=5, recall=0.9)
    assert with_options.queries == 20


def test_an_engine_that_finds_too_little_is_used_only_by_name(index: Index) -> None:
    index.build_engine("flat", level=1)
    scorer = LevelScorer(index.space, index.space.canonical(tangents()[:4]), level=1)

    def used(plan: Nearest) -> bool:
        return any("unknown to" in name for name in index.explain(scorer, k=5, plan=plan).stages[0].notes)

    index.add([Document("new", "text new")], vectors=tangents()[:1])  # engines note what they do not know
    assert used(Nearest(n=20))
    record = index.engines["flat-level-1"]
    assert record.recall is not None
    poor = record.model_copy(update={"recall": record.recall.model_copy(update={"share": 0.5})})
    Attachments.read(index.path).with_changed(poor).write(index.path)
    index.refresh()
    assert not used(Nearest(n=20))
    assert used(Nearest(n=20, engine="flat-level-1"))
