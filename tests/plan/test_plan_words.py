"""Plans of whatever a plan can begin with; what is wrong with one is said in the words of plans."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hyperseek.errors import ConfigError, HyperseekError
from hyperseek.graph import GraphSearchConfig
from hyperseek.index import Index
from hyperseek.plan import (
    Auto,
    Dense,
    Engine,
    Exhaustive,
    FullText,
    Fusion,
    Graph,
    Plan,
    Rescore,
    Surrogate,
    Union,
    as_plan,
    hybrid,
)
from hyperseek.scoring import FunctionScorer, LinearScorer
from hyperseek.types import Document

sys.path.append(str(Path(__file__).parents[1] / "index"))
from index_fakes import FakeRetriever


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    documents = [Document(f"d{n}", f"river stone n{n} n{n % 7}") for n in range(60)]
    folder = tmp_path_factory.mktemp("words") / "index"
    index = Index.build(folder, documents, FakeRetriever(), dtype="float32")  # type: ignore[arg-type]
    index.build_engine("flat")
    return index


def found(index: Index, plan: Any) -> list[str]:
    return [hit.id for hit in index.search("stone n3", k=7, plan=plan)]


def test_whatever_a_plan_can_begin_with_is_a_plan(index: Index) -> None:
    same: list[list[Any]] = [
        [
            FullText(n=10),
            Plan(stages=(FullText(n=10),)),
            [FullText(n=10)],
            {"kind": "bm25", "n": 10},
            [{"kind": "bm25", "n": 10}],
        ],
        [
            FullText,
            FullText(),
            "bm25",
            ["bm25"],
            {"stages": ["bm25"]},
            {"stages": "bm25"},
            {"stages": {"kind": "bm25"}},
            (FullText,),
        ],
        [Exhaustive, Exhaustive(), "scan"],
        [
            Fusion(sources=(FullText(), Engine(n=50))),
            Fusion(sources=["bm25", {"kind": "engine", "n": 50}]),  # type: ignore[arg-type]
            {"kind": "fusion", "sources": [FullText, Engine(n=50)]},
        ],
        [
            (FullText(n=9) | Dense(n=9)) >> Rescore(),
            [FullText(n=9) | Dense(n=9), Rescore],
            [{"kind": "union", "sources": [FullText(n=9), {"kind": "dense", "n": 9}]}, "rescore"],
            FullText(n=9) | {"kind": "dense", "n": 9},
        ],
        [Engine() >> Rescore(), Engine() >> "rescore", ["engine", "rescore"], Engine() >> [Rescore]],
        [hybrid(), Fusion(sources=(FullText(), Auto()))],
    ]
    for plans in same[:-1]:
        assert len({tuple(found(index, plan)) for plan in plans if not isinstance(plan, Union)}) == 1
        assert len({repr(as_plan(plan)) for plan in plans if not isinstance(plan, Union)}) == 1
    assert as_plan(same[-1][0]) == as_plan(same[-1][1]) == as_plan("hybrid")
    assert Surrogate(n=5) >> Rescore() >> Rescore(n=2) == as_plan([Surrogate(n=5), Rescore(), Rescore(n=2)])
    assert index.run({"q": "stone"}, plan=FullText(n=3))["q"]
    assert index.explain(["stone"], plan=Fusion(sources=(FullText(), Exhaustive()))).plan.stages[0].title == "fusion"


WRONG: list[tuple[Callable[[], object], str]] = [
    (lambda: FullText(nn=10), "full_text has no option 'nn'; did you mean 'n'?; options: n"),  # type: ignore[call-arg]
    (lambda: FullText(n=0), "full_text: n must be a whole number of at least 1, not 0"),
    (lambda: FullText(n="many"), "full_text: n must be a whole number of at least 1, not 'many'"),  # type: ignore[arg-type]
    (lambda: FullText(n=2.5), "full_text: n must be a whole number of at least 1, not 2.5"),  # type: ignore[arg-type]
    (lambda: FullText(n=True), "full_text: n must be a whole number of at least 1, not True"),
    (lambda: FullText(10), "the options of full_text are given by name, as in FullText(n=...)"),  # type: ignore[call-arg,misc]
    (lambda: Exhaustive(n=-1), "exhaustive: n must be a whole number of at least 1, or nothing, not -1"),
    (lambda: Surrogate(weight=0), "surrogate: weight must be a number above 0, not 0"),
    (lambda: Surrogate(choice="all"), "surrogate: choice must be one of 'random', 'kmeans', 'farthest', not 'all'"),  # type: ignore[arg-type]
    (lambda: Engine(name=3), "engine: name must be a text, or nothing, not 3"),  # type: ignore[arg-type]
    (lambda: Fusion(), "fusion lacks sources: a list of stages"),  # type: ignore[call-arg]
    (lambda: Fusion(sources=()), "there is no source; give at least 1"),
    (
        lambda: Fusion(sources=[FullText(), "dnse"]),
        "source 2: there is no stage of the kind 'dnse'; did you mean 'dense'?",
    ),  # type: ignore[arg-type]
    (lambda: Fusion(sources=[FullText(), Rescore()]), "source 2: rescore is a step, which follows sources"),  # type: ignore[arg-type]
    (lambda: Fusion(sources=[Exhaustive() >> Rescore()]), "a plan cannot stand here"),  # type: ignore[list-item]
    (lambda: Fusion(sources=[FullText()], weights=[1, 2]), "2 weights were given for 1 sources"),  # type: ignore[arg-type]
    (lambda: Fusion(sources=[FullText()], weights=["x"]), "fusion: weights must be a list of numbers, or nothing, not"),  # type: ignore[arg-type]
    (lambda: Fusion(sources=[FullText()], weights=[float("nan")]), "weights must be finite"),  # type: ignore[arg-type]
    (lambda: Fusion(sources=[FullText()], method="rfr"), "one of 'rrf', 'weighted', 'minmax', not 'rfr'"),  # type: ignore[arg-type]
    (lambda: Graph(walk={"ncandidates": 0}), "graph.walk: ncandidates must be a whole number of at least 1, not 0"),  # type: ignore[arg-type]
    (lambda: Graph(walk={"ncandidats": 3}), "graph.walk has no option 'ncandidats'; did you mean 'ncandidates'?"),  # type: ignore[arg-type]
    (lambda: Graph(walk=3), "graph: walk must be a mapping of num_entry_points"),  # type: ignore[arg-type]
    (lambda: as_plan([]), "there is no stage; give at least 1"),
    (lambda: as_plan(Plan), "there is no stage"),
    (lambda: as_plan(Rescore()), "a plan begins with a source of candidates, and rescore is a step"),
    (
        lambda: as_plan([Exhaustive(), FullText()]),
        "only the first stage may be a source, and full_text came later; unite",
    ),
    (lambda: as_plan("hnsw"), "there is no stage of the kind 'hnsw'; stages: auto, dense"),
    (lambda: as_plan("cascade.yaml"), "names a file; give Plan.load('cascade.yaml')"),
    (lambda: as_plan(3), "3 cannot stand here; give a stage, as Engine(n=100)"),
    (lambda: as_plan({"stagse": []}), "a plan has no 'stagse'; did you mean 'stages'?"),
    (lambda: as_plan({"n": 3}), "a plan has no 'n'"),
    (lambda: as_plan({"stages": [{"n": 3}]}), "says no kind; write {kind: engine, ...}; stages: auto, dense"),
    (lambda: as_plan({"stages": ["scan", {"kind": "rescore", "k": 3}]}), "stage 2: rescore has no option 'k'"),
    (lambda: as_plan({"stages": [{"kind": "bm25", 3: 3}]}), "full_text has no option 3"),
    (lambda: (Exhaustive() >> Rescore()) | FullText(), "sources are united, and Exhaustive() >> Rescore() is a plan"),
    (lambda: Exhaustive() >> FullText(), "only the first stage may be a source"),
    (lambda: FullText() | Rescore(), "source 2: rescore is a step"),
    (lambda: hybrid(0), "full_text: n must be a whole number of at least 1, not 0"),
]


FOREIGN = ("pydantic", "validat", "Input should", "Value error", "discriminator", "Extra inputs")


def test_a_mistake_is_said_in_the_words_of_plans() -> None:
    for wrong, words in WRONG:
        with pytest.raises(ConfigError) as caught:
            wrong()
        message = str(caught.value)
        assert words in message
        assert not any(foreign in message for foreign in FOREIGN), message


def test_an_engine_that_is_not_there(index: Index) -> None:
    for plan in (Engine(name="hnsw"), Dense(engine="hnsw"), Surrogate(engine="hnsw"), Auto(engine="hnsw")):
        with pytest.raises(HyperseekError, match=r"hnsw.*flat"):
            index.search("stone", plan=plan)


def test_a_file_of_a_plan(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    plan = (FullText(n=3) | Dense()) >> Rescore(n=2)
    values = plan.model_dump(mode="json")
    for text in (yaml.safe_dump(values), json.dumps(values), yaml.safe_dump(values["stages"])):
        path.write_text(text)
        assert Plan.load(path) == plan
    for text in ("bm25", "kind: bm25", "- bm25"):
        path.write_text(text)
        assert Plan.load(path) == as_plan(FullText())
    for text in ("", "3", "[]", "stages:", "stages: 3", "kind: [", "[[[[bm25]]]]", "- bm25\n- n: 3", "a: &a [*a]"):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"plan\.yaml"):
            Plan.load(path)
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        Plan.load(tmp_path / "none.yaml")
    assert eval(repr(plan), {name: globals()[name] for name in ("FullText", "Dense", "Rescore")}) == plan  # noqa: S307
    assert repr(as_plan(Graph(n=3, walk=GraphSearchConfig(ncandidates=7)))).startswith("Plan(stages=[Graph(n=3, walk=")


def test_mangled_plans_are_refused_in_words(index: Index) -> None:
    values = (Fusion(sources=(FullText(n=5), Graph(n=4)), weights=(1, 2)) >> Rescore(n=3)).model_dump(mode="json")
    draw, odd = (
        random.Random(0),
        [None, True, -1, 0, 2.5, 10**30, "x", "", [], {}, float("nan"), [[]], {"kind": "bm25"}],
    )
    refusals = 0

    def mangle(value: Any) -> Any:
        if isinstance(value, dict):
            name = draw.choice(list(value)) if value else "x"
            if draw.random() < 0.3:
                return {**value, draw.choice(["kind", "n", "stages", "zz", name]): draw.choice(odd)}
            if draw.random() < 0.2:
                return {key: part for key, part in value.items() if key != name}
            return {**value, name: mangle(value.get(name))}
        if isinstance(value, list) and value and draw.random() < 0.8:
            place = draw.randrange(len(value))
            return [*value[:place], mangle(value[place]), *value[place + 1 :]]
        return draw.choice(odd)

    for _ in range(400):
        plan = mangle(values)
        try:
            as_plan(plan)
        except ConfigError as error:
            refusals += 1
            message = str(error)
            assert len(message) < 1200
            assert not any(foreign in message for foreign in FOREIGN), message
    assert refusals > 150


def test_a_hybrid_search_fuses_the_words_with_the_models_own_search(index: Index) -> None:
    vectors = torch.randn(1, 8, generator=torch.Generator().manual_seed(5))

    def manhattan(queries: dict[str, torch.Tensor], documents: Any) -> torch.Tensor:
        return -(queries["vector"][:, None] - documents.vectors).abs().sum(-1)

    own: list[Any] = [LinearScorer(index.space, vectors), FunctionScorer(index.space, manhattan, {"vector": vectors})]
    words = [hit.id for hit in index.search("stone n3", plan=FullText(n=20), k=20)]
    for scorer in own:  # run reads the texts and searches with the scorer
        for engine in ("auto", "flat", "exact"):
            dense = list(index.run({"q": "stone n3"}, scorer=scorer, k=20, engine=engine)["q"])
            expected = {
                name: sum(1 / (61 + ranking.index(name)) for ranking in (words, dense) if name in ranking)
                for name in {*words, *dense}
            }
            got = index.run({"q": "stone n3"}, scorer=scorer, k=40, plan=hybrid(20, engine=engine))["q"]
            assert got == pytest.approx(expected)
    with pytest.raises(HyperseekError, match="reads the queries' texts"):
        index.search(own[0], plan=hybrid())
