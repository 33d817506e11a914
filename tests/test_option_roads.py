"""Options of a query on every road from a caller to the model: each changes the scores, and is part of the protocol."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from hyperseek.cli import app
from hyperseek.data import Dataset, examples_from_qrels, read_prepared, write_beir, write_examples
from hyperseek.errors import InputError, ProtocolError, UnknownNameError
from hyperseek.evaluation import MtebEncoder, Protocol, compare, evaluate, rank_bm25, rank_index
from hyperseek.index import Index
from hyperseek.mining import MiningOptions, RefineOptions, refine
from hyperseek.mining._teachers import RetrieverTeacher
from hyperseek.models import FAMILIES, ModelConfig, Retriever, build, load, register_family
from hyperseek.plan import Dense, Exhaustive, Plan, Rescore
from hyperseek.training import Recipe, train
from hyperseek.types import Document, Query, QueryOptions

sys.path.append(str(Path(__file__).parent))  # for `option_family`
from option_family import Levels

WORDS = ("cat", "dog", "bird", "fish", "sea", "sun", "moon", "star", "tree", "leaf", "river", "stone")
QUERIES = ["the cat", "sun and moon", "a river of stone"]
OPTIONS = {"level": 2}


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    register_family("levelled", Levels)
    yield
    FAMILIES.unregister("levelled")


@pytest.fixture(scope="module")
def model(tiny_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    folder = tmp_path_factory.mktemp("levels")
    build(ModelConfig(trunk=tiny_encoder, family="levelled", pooling="mean"), device="cpu").save(folder)
    return load(folder, device="cpu")


@pytest.fixture
def index(model: Retriever, tmp_path: Path) -> Index:
    documents = [Document(f"d{n}", f"{word} and {WORDS[n // 2]} {word}") for n, word in enumerate(WORDS)]
    return Index.build(tmp_path / "index", documents, model, dtype="float32")


def expected(index: Index, queries: list[str], options: dict[str, Any]) -> torch.Tensor:
    """All scores at one level, by a few lines that know nothing of options."""
    scorer = index.model.compile(queries, options)
    assert scorer.options == QueryOptions(**options)
    return torch.cat([scorer.score(points) for _, points in index.points()], dim=1)


def scores_of(hits: Any) -> list[list[float]]:
    return [[hit.score for hit in found] for found in hits]


def near(lines: list[list[float]]) -> list[Any]:
    return [pytest.approx(line, abs=1e-5) for line in lines]


def test_searches_runs_explanations_and_scores(index: Index) -> None:
    best = expected(index, QUERIES, OPTIONS).topk(5).values
    found = index.search(QUERIES, k=5, options=OPTIONS)
    assert scores_of(found) == near(best.tolist())
    assert scores_of(found) != scores_of(index.search(QUERIES, k=5))
    assert index.search(QUERIES, k=5, level=2) == index.search(QUERIES, k=5, level=2, options=OPTIONS) == found
    assert index.explain(QUERIES, k=5, level=2, texts=True).hits == found
    with pytest.raises(InputError, match="level is given as 1 and in options as 2"):
        index.search(QUERIES, level=1, options=OPTIONS)
    assert index.search(QUERIES[0], k=5, options=OPTIONS) == found[0]
    assert index.explain(QUERIES, k=5, options=QueryOptions(level=2), texts=True).hits == found
    ids = [[hit.id for hit in hits] for hits in found]
    assert index.score(QUERIES, ids, options=OPTIONS) == index.score(QUERIES, ids, level=2) == near(scores_of(found))
    assert index.run({"q": QUERIES[0]}, k=5, level=2) == index.run({"q": QUERIES[0]}, k=5, options=OPTIONS)
    run = index.run(dict(enumerate(QUERIES)), k=5, options=OPTIONS)  # type: ignore[arg-type]
    assert [list(line) for line in run.values()] == ids


def test_queries_that_are_compiled_keep_their_own_options(index: Index) -> None:
    scorer = index.model.compile(QUERIES, OPTIONS)
    assert index.search(scorer) == index.search(scorer, options=OPTIONS) == index.search(QUERIES, options=OPTIONS)
    with pytest.raises(InputError, match=r"already compiled, so QueryOptions\(level=1\) comes too late"):
        index.search(scorer, options={"level": 1})
    with pytest.raises(InputError, match="it is called 'card' here"):
        index.search(QUERIES, task="any")  # type: ignore[call-overload]
    with pytest.raises(UnknownNameError, match="known: level, sign"):
        index.search(QUERIES, card="any")
    with pytest.raises(UnknownNameError, match="known: level, sign"):
        index.search(QUERIES, options={"card": "any"})


def test_stages_of_plans_carry_options_of_their_own(index: Index, tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text("stages:\n- {kind: scan, n: 4, options: {level: 0}}\n- kind: rescore\n  options: {level: 2}\n")
    plan = Plan.load(file)
    assert plan == Exhaustive(n=4, options=QueryOptions(level=0)) >> Rescore(options=OPTIONS)  # type: ignore[arg-type]
    assert Plan(**json.loads(plan.model_dump_json())) == plan
    coarse = [[hit.id for hit in hits] for hits in index.search(QUERIES, k=4, options={"level": 0})]
    found = index.search(QUERIES, k=4, plan=plan)
    assert [{hit.id for hit in hits} for hits in found] == list(map(set, coarse))
    exact = index.score(QUERIES, [[hit.id for hit in hits] for hits in found], options=OPTIONS)
    assert scores_of(found) == near(exact)
    by_search = index.search(QUERIES, k=4, plan=[Exhaustive(n=4, options={"level": 0}), Rescore()], options=OPTIONS)  # type: ignore[arg-type]
    assert scores_of(by_search) == scores_of(found)
    dense = index.search(QUERIES, k=4, plan=Dense(n=4, options=OPTIONS))  # type: ignore[arg-type]
    assert [[hit.id for hit in hits] for hits in dense] == [
        [hit.id for hit in hits] for hits in index.search(QUERIES, k=4, options=OPTIONS)
    ]
    with pytest.raises(InputError, match="level=7 does not fit"):
        index.search(QUERIES, plan=Exhaustive(options={"level": 7}))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["auto", "engine", "surrogate", "graph", "scan"])
def test_every_source_that_scores_takes_options(index: Index, kind: str) -> None:
    index.build_engine("scan")
    index.build_graph(degree=4)
    found = index.search(QUERIES, k=3, plan=[{"kind": kind, "n": 12, "options": OPTIONS}, {"kind": "rescore"}])  # type: ignore[list-item]
    assert scores_of(found) == scores_of(index.search(QUERIES, k=3))  # the rescoring is that of the search
    alone = index.search(QUERIES, k=3, plan={"kind": kind, "n": 12, "options": OPTIONS})
    if kind != "surrogate":  # whose scores are estimates
        assert scores_of(alone) == [
            pytest.approx(line, abs=1e-5) for line in scores_of(index.search(QUERIES, k=3, options=OPTIONS))
        ]


def test_a_tuned_plan_is_for_the_options_that_it_was_tuned_with(index: Index) -> None:
    index.build_engine("scan")
    tuning = index.engines.tune(QUERIES, k=3, options=OPTIONS)
    assert tuning.options == QueryOptions(level=2)
    assert list(index.engines.plans) == ["linear (level=2)"]
    reopened = Index.open(index.path, model=index.model)
    assert "tuned on this index for linear (level=2)" in reopened.explain(QUERIES, k=3, options=OPTIONS).reason
    assert "tuned" not in reopened.explain(QUERIES, k=3).reason
    assert "tuned" not in reopened.explain(QUERIES, k=3, options={"level": 1}).reason
    index.engines.tune(index.model.compile(QUERIES, {"level": 1}), k=3)
    assert set(index.engines.plans) == {"linear (level=2)", "linear (level=1)"}


@pytest.fixture
def dataset(index: Index) -> Dataset:
    queries = [Query(f"q{n}", text) for n, text in enumerate(QUERIES)]
    qrels = {"test": {"q0": {"d0": 1}, "q1": {"d5": 1}, "q2": {"d10": 1, "d11": 2}}}
    return Dataset.from_records("words", index, queries=queries, qrels=qrels)


def test_options_are_part_of_a_results_protocol(index: Index, dataset: Dataset) -> None:
    plain, second = (
        evaluate(index, dataset, measures="nDCG@10", name=name, options=given)
        for name, given in (("plain", None), ("second", OPTIONS))
    )
    assert second.protocol.options == QueryOptions(level=2)
    assert second.protocol.model_dump(mode="json")["options"] == {"level": 2}
    assert Protocol(**json.loads(second.protocol.model_dump_json())) == second.protocol
    with pytest.raises(ProtocolError, match="differ in options"):
        compare([plain, second])
    assert compare([plain, second], allow_unlike=True).unlike == ("options",)
    words = rank_bm25(dataset, k=10).evaluate(dataset.qrels("test"), measures="nDCG@10")
    assert compare([second, words]).unlike == ()
    ranked = rank_index(index, dataset, k=10, options=OPTIONS)
    assert ranked.run == index.run(dataset.queries("test"), k=10, engine="exact", options=OPTIONS)


def test_mteb_asks_with_options_and_files_results_by_them(model: Retriever) -> None:
    pytest.importorskip("mteb")
    plain, second = MtebEncoder(model), MtebEncoder(model, options=OPTIONS)
    inputs = [{"text": QUERIES}]
    found = second.encode(inputs, prompt_type="query")
    assert found.tolist() == model.compile(QUERIES, OPTIONS).linear().tolist()  # type: ignore[union-attr]
    assert found.tolist() != plain.encode(inputs, prompt_type="query").tolist()
    assert (found != 0).sum(axis=1).tolist() == [4] * len(QUERIES)
    assert second.mteb_model_meta != plain.mteb_model_meta
    assert second.mteb_model_meta.experiment_name == "level_2"
    with pytest.raises(UnknownNameError, match="known: level, sign"):
        MtebEncoder(model, options={"card": "any"})


def test_teachers_score_with_options(model: Retriever) -> None:
    pairs = [(query, word) for query in QUERIES for word in WORDS[:2]]
    plain, second = RetrieverTeacher(model), RetrieverTeacher(model, options=OPTIONS)
    exact = model.compile(QUERIES, OPTIONS).score(model.encode_documents(WORDS[:2])).flatten().tolist()
    assert second.score_pairs(pairs) == pytest.approx(exact, abs=1e-6)
    assert second.fingerprint != plain.fingerprint


def test_negatives_are_mined_with_options(index: Index, dataset: Dataset, tmp_path: Path) -> None:
    write_examples(examples_from_qrels(dataset, "test"), tmp_path / "plain")
    mining, mined = MiningOptions(negatives=3, margin=None, depth=12), []
    for name, options in (("all", QueryOptions()), ("second", QueryOptions(level=2))):
        refining = RefineOptions(mining=mining, options=options)
        refine(tmp_path / "plain", tmp_path / name, mine=index.path, options=refining, device="cpu")
        for example in read_prepared(tmp_path / name).examples():
            relevant = {item.text for item in example.positives}
            ranked = [hit.text for hit in index.search(example.query.text, k=12, options=options)]
            mined.append([item.text for item in example.negatives])
            assert mined[-1] == [text for text in ranked if text not in relevant][:3]
    assert len(mined) == 6
    assert mined[:3] != mined[3:]


def hyperseek(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["-q", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_the_command_line_searches_with_options(index: Index, tmp_path: Path) -> None:
    arguments = ("search", index.path, QUERIES[0], "-k", 3, "-f", "json", "--device", "cpu")
    [found] = json.loads(hyperseek(*arguments, "--option", "level=2", "--option", "sign=plus"))
    wanted = index.search(QUERIES[0], k=3, options=OPTIONS)
    assert [(hit["id"], hit["score"]) for hit in found["hits"]] == [(hit.id, hit.score) for hit in wanted]
    plan = tmp_path / "plan.yaml"
    plan.write_text("kind: scan\noptions: {level: 2}\n")
    assert json.loads(hyperseek(*arguments, "--plan", plan))[0]["hits"] == found["hits"]
    for option, message in (
        ("level=9", "level=9 does not fit"),
        ("card=any", "known: level, sign"),
        ("level", "NAME=VALUE, as in level=2, not 'level'"),
        ("a.b=1", "NAME=VALUE"),
    ):
        with pytest.raises(InputError, match=message):
            hyperseek(*arguments, "--option", option)


def test_the_command_line_tunes_and_evaluates_with_options(index: Index, dataset: Dataset, tmp_path: Path) -> None:
    index.build_engine("scan")
    queries = tmp_path / "queries.tsv"
    queries.write_text("".join(f"q{n}\t{text}\n" for n, text in enumerate(QUERIES)))
    recall = ("inspect", "recall", index.path, "-Q", queries, "-k", 3, "--device", "cpu", "--json")
    assert json.loads(hyperseek(*recall, "--option", "level=2"))["options"] == {"level": 2}
    assert list(Index.open(index.path).engines.plans) == ["linear (level=2)"]
    write_beir(dataset, tmp_path / "data")
    asked = ("evaluate", index.path, tmp_path / "data", "-m", "nDCG@10", "--bm25", "--json")
    result = json.loads(hyperseek(*asked, "--option", "level=2"))
    own = evaluate(index, dataset, measures="nDCG@10", options=OPTIONS)
    [first, second] = result["evaluations"]
    assert (first["protocol"]["options"], second["protocol"]["options"]) == ({"level": 2}, None)
    assert first["per_query"] == own.per_query


def test_a_recipe_validates_with_options(index: Index, dataset: Dataset, tiny_encoder: str, tmp_path: Path) -> None:
    write_beir(dataset, tmp_path / "data")
    source = f"{tmp_path / 'data'}:test"
    values: dict[str, Any] = {
        "model": {"trunk": tiny_encoder, "family": "levelled", "pooling": "mean"},
        "data": {"sources": {"words": {"source": source}}},
        "losses": {"contrastive": {}},
        "train": {
            "max_steps": 1,
            "batch_size": 2,
            "device": "cpu",
            "cache": {"storage": "float32", "dtype": "float32"},
        },
        "validation": {"sets": {"all": {"source": source}, "second": {"source": source, "options": OPTIONS}}},
        "output": {"report_to": []},
    }
    record = train(Recipe.from_mapping(values), output=tmp_path / "run")
    before = record.validation[0].scores
    for name, options in (("all", None), ("second", OPTIONS)):
        own = evaluate(index, dataset, measures="nDCG@10", options=options)
        assert before[name] == pytest.approx(own.aggregate["nDCG@10"], abs=1e-6)
    assert before["all"] != before["second"]
    written = json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]["validation"]["sets"]
    assert (written["all"]["options"], written["second"]["options"]) == ({}, OPTIONS)
    values["validation"]["sets"]["second"]["options"] = {"card": "any"}
    with pytest.raises(UnknownNameError, match="known: level, sign"):
        train(Recipe.from_mapping(values), output=tmp_path / "other")
