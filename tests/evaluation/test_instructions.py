"""Both versions of instructed queries, and p-MRR, from one command and from one function."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hyperseek.cli import app
from hyperseek.data import open_dataset
from hyperseek.errors import InputError
from hyperseek.evaluation import measure_instructions, mteb_tasks, p_mrr, p_mrr_per_query, rank_index
from hyperseek.index import Index
from hyperseek.models import ModelConfig, build, load

WORDS = ("cat", "dog", "bird", "fish", "sea", "sun", "moon", "star", "tree", "leaf", "river", "stone")


@pytest.fixture
def place(write_lines: Any, tmp_path: Path) -> Path:
    documents = [
        {"_id": f"d{word}", "title": "", "text": f"the {word} and a {WORDS[number - 1]}"}
        for number, word in enumerate(WORDS)
    ]
    queries = [
        {"_id": word, "text": f"a {word}", "instruction_og": f"with {word}", "instruction_changed": "but not the sea"}
        for word in WORDS[:6]
    ]
    judged = {word: (f"d{word}", f"d{WORDS[place + 1]}") for place, word in enumerate(WORDS[:6])}
    write_lines("clone/core17/corpus.jsonl", documents)
    write_lines("clone/core17/queries.jsonl", queries)
    for version, second in (("og", 1.0), ("changed", 0.0)):
        rows = [
            {"query-id": word, "corpus-id": document, "score": grade}
            for word, pair in judged.items()
            for document, grade in zip(pair, (1.0, second), strict=True)
        ]
        write_lines(f"clone/core17/qrels_{version}/test.jsonl", rows)
    rows = [{"qid": word, "pid": f"d{other}"} for word in judged for other in WORDS[:8]]
    write_lines("clone/core17/top_ranked.jsonl", rows)
    return tmp_path / "clone"


@pytest.fixture
def index(tiny_encoder: str, place: Path, tmp_path: Path) -> Index:
    values = {"trunk": tiny_encoder, "family": "card", "pooling": "mean", "normalize": True, "card": {"width": 16}}
    build(ModelConfig.from_mapping(values), device="cpu").save(tmp_path / "model")
    model = load(tmp_path / "model", device="cpu")
    return Index.build(tmp_path / "index", open_dataset(f"followir:{place}#core17"), model)


def test_the_command_measures_both_versions_and_what_moved(index: Index, place: Path, tmp_path: Path) -> None:
    source = f"followir:{place}#core17"
    arguments = ["evaluate", "--followir", str(index.path), source, "--bm25", "--json", "-m", "RR@10 nDCG@5"]
    result = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path / "out.json")])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert json.loads((tmp_path / "out.json").read_text()) == found
    dataset = open_dataset(source)
    runs, qrels = [], []
    for version in ("og", "changed"):
        ranking = rank_index(index, dataset, split=version, candidates=dataset.candidates())
        own = ranking.evaluate(dataset.qrels(version), measures=["RR@10", "nDCG@5"])
        assert found[0]["original" if version == "og" else "changed"] == pytest.approx(own.aggregate)
        runs.append({name.removesuffix(f"-{version}"): run for name, run in ranking.run.items()})
        qrels.append({name.removesuffix(f"-{version}"): one for name, one in dataset.qrels(version).items()})
    assert found[0]["p_mrr"] == pytest.approx(p_mrr(p_mrr_per_query(*runs, *qrels)))
    assert found[0]["p_mrr_interval"][0] <= found[0]["p_mrr"] <= found[0]["p_mrr_interval"][1]
    assert [one["name"] for one in found] == ["model", "BM25"]
    assert found[0]["protocol"]["candidates"] == found[1]["protocol"]["candidates"] is not None
    assert "p-MRR" in result.stderr


def test_all_documents_may_be_searched_and_instructions_read_as_cards(index: Index, place: Path) -> None:
    source = f"followir:{place}#core17+plain"
    arguments = ["evaluate", "--followir", str(index.path), source, "--json", "--candidates", "all"]
    plain, cards = (
        json.loads(CliRunner().invoke(app, [*arguments, *more]).stdout)[0]
        for more in ([], ["--card-field", "instruction"])
    )
    assert plain["protocol"]["candidates"] is None
    assert plain["p_mrr"] == 0  # without its instruction a query is the same twice
    assert cards["protocol"]["options"] == {"card_field": "instruction"}


def test_other_queries_have_no_versions(index: Index, beir: Path, tiny_encoder: str, tmp_path: Path) -> None:
    dataset = open_dataset(beir)
    ranking = rank_index(Index.build(tmp_path / "fruit.index", dataset, index.model), dataset)
    with pytest.raises(InputError, match="ends in -og or -changed"):
        measure_instructions(ranking, dataset.qrels("test"))


def test_own_candidates_are_asked_for_by_name(index: Index, place: Path, beir: Path, tmp_path: Path) -> None:
    source = f"followir:{place}#core17"
    result = CliRunner().invoke(
        app, ["evaluate", str(index.path), source, "--split", "og", "--candidates", "own", "-m", "RR@10", "--json"]
    )
    assert result.exit_code == 0, result.output
    assert [one["name"] for one in json.loads(result.stdout)["evaluations"]] == ["model", "candidates"]
    other = Index.build(tmp_path / "fruit.index", open_dataset(beir), index.model)
    refused = CliRunner().invoke(app, ["evaluate", str(other.path), str(beir), "--candidates", "own"])
    assert "fruit gives no documents to rerank" in str(refused.exception)


def test_mteb_reranks_what_the_collection_gives(place: Path) -> None:
    pytest.importorskip("mteb")
    (task,) = mteb_tasks([f"local:followir:{place}#core17"], candidates="own")
    assert task.metadata.type == "Reranking"
    assert mteb_tasks([f"followir:{place}#core17"])[0].metadata.type == "Retrieval"


def test_sets_of_a_benchmark_are_named_by_its_source(tiny_encoder: str, write_lines: Any, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from hyperseek.data import NANOBEIR_GROUPS

    model = load(tiny_encoder, device="cpu")
    for number, name in enumerate(NANOBEIR_GROUPS["NanoBEIR"]):
        tables = {
            "corpus": [{"_id": word, "text": f"the {word} {number}"} for word in WORDS[:3]],
            "queries": [{"_id": "q", "text": "a cat"}],
            "qrels": [{"query-id": "q", "corpus-id": "cat"}],
        }
        for table, rows in tables.items():
            (tmp_path / "clones" / name / table).mkdir(parents=True)
            pq.write_table(pa.Table.from_pylist(rows), tmp_path / "clones" / name / table / "train-0.parquet")
        Index.build(tmp_path / f"{name}.index", open_dataset(f"nanobeir:{tmp_path}/clones#{name}"), model)
    places = [f"{tmp_path}/{{set}}.index", f"nanobeir:{tmp_path}/clones#{{set}}"]
    result = CliRunner().invoke(
        app, ["evaluate", *places, "--sets", "nanobeir", "--model", tiny_encoder, "-m", "RR@3", "--json"]
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert list(found["sets"]) == list(NANOBEIR_GROUPS["NanoBEIR"])
    assert set(found["means"]["RR@3"]) == {"NanoBEIR", "all sets"}
