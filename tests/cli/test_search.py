from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hyperseek import HyperseekError
from hyperseek.cli import app
from hyperseek.index import Index
from hyperseek.models import ModelConfig, build, load
from hyperseek.types import Document

TEXTS = ["the cat and the dog", "music and song", "road of the city", "star and moon"]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: str) -> Path:
    path = tmp_path_factory.mktemp("search") / "index"
    documents = [Document(f"d{i}", text, metadata={"n": i}) for i, text in enumerate(TEXTS)]
    Index.build(path, documents, load(tiny_encoder, device="cpu"))
    return path


def search(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["search", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_a_table_to_read(index: Path) -> None:
    output = search(index, TEXTS[2], "-k", 2)
    lines = output.splitlines()
    assert lines[0].strip() == TEXTS[2]
    assert "d2" in lines[2]
    assert len([line for line in lines if line.strip()]) == 4


def test_a_trec_run_of_a_file_of_queries(index: Path, tmp_path: Path) -> None:
    queries = tmp_path / "queries.tsv"
    queries.write_text(f"d1\t{TEXTS[1]}\nd3\t{TEXTS[3]}\n")
    rows = [line.split() for line in search(index, "--queries", queries, "-f", "trec", "--tag", "t").splitlines()]
    assert [row[0] for row in rows] == ["d1"] * 4 + ["d3"] * 4
    assert rows[0][2] == "d1"
    assert rows[0][1:2] + rows[0][3:4] + rows[0][5:] == ["Q0", "1", "t"]
    others = [line.split() for line in search(index, "-Q", queries, "-f", "trec", "--exclude-same-id").splitlines()]
    assert all(row[0] != row[2] for row in others)
    assert len(others) == 6


def test_documents_that_a_query_of_a_file_excludes_are_left_out(index: Path, tmp_path: Path) -> None:
    queries = tmp_path / "queries.jsonl"
    records = [
        {"_id": "a", "text": TEXTS[1], "excluded_ids": ["d1", "x"]},
        {"_id": "b", "text": TEXTS[1]},
    ]
    queries.write_text("".join(json.dumps(record) + "\n" for record in records))
    rows = [json.loads(line) for line in search(index, "-Q", queries, "-f", "jsonl", "-k", 3).splitlines()]
    first, second = ([hit["id"] for hit in row["hits"]] for row in rows)
    assert second[0] == "d1"
    assert (len(first), len(second), "d1" in first) == (3, 3, False)


def test_jsonl(index: Path) -> None:
    [line] = search(index, TEXTS[0], "-f", "jsonl", "-k", 1).splitlines()
    row = json.loads(line)
    assert row["query"]["text"] == TEXTS[0]
    [hit] = row["hits"]
    assert (hit["id"], hit["text"], hit["metadata"], hit["rank"]) == ("d0", TEXTS[0], {"n": 0}, 1)
    bare = json.loads(search(index, TEXTS[0], "-f", "jsonl", "-k", 1, "--no-texts"))
    assert "text" not in bare["hits"][0]


def test_json_is_one_list_of_the_rows_of_jsonl(index: Path, tmp_path: Path) -> None:
    queries = tmp_path / "queries.tsv"
    queries.write_text(f"d1\t{TEXTS[1]}\nd3\t{TEXTS[3]}\n")
    for options in (["-k", 2], ["--top-k", 2, "--no-texts"]):
        lines = search(index, "-Q", queries, *options, "-f", "jsonl").splitlines()
        rows = json.loads(search(index, "-Q", queries, *options, "--format", "json"))
        assert rows == [json.loads(line) for line in lines]
        assert [len(row["hits"]) for row in rows] == [2, 2]


def test_another_model_of_the_same_document_side(index: Path, tiny_encoder: str, tmp_path: Path) -> None:
    qnet = ModelConfig(trunk=tiny_encoder, family="qnet", qnet={"depth": 1})
    build(qnet, device="cpu").save(tmp_path / "qnet")
    assert "d2" in search(index, TEXTS[2], "-k", 1, "--model", tmp_path / "qnet")
    build(qnet.model_copy(update={"pooling": "cls"}), device="cpu").save(tmp_path / "other")
    with pytest.raises(HyperseekError, match="fingerprint"):
        search(index, TEXTS[2], "--model", tmp_path / "other")


def test_a_query_or_a_file_is_needed(index: Path) -> None:
    for arguments in ([str(index)], [str(index), "text", "--queries", "file"]):
        with pytest.raises(HyperseekError, match="one query as TEXT"):
            CliRunner().invoke(app, ["search", *arguments], catch_exceptions=False)


def test_a_blank_query_is_refused(index: Path, tmp_path: Path) -> None:
    for blank in ("", "  ", "\t"):
        with pytest.raises(HyperseekError, match="blank"):
            search(index, blank)
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "a"}\n{"_id": "q2", "text": " "}\n')
    with pytest.raises(HyperseekError, match=r"queries\.jsonl:2|q2"):
        search(index, "--queries", tmp_path / "queries.jsonl")


def test_a_hybrid_search(engines: Path) -> None:
    fused = names(engines, "city road", "--hybrid")
    assert fused[0] == "d2"  # first for the words, and among the first for the model
    assert set(fused) == {"d0", "d1", "d2", "d3"}
    assert names(engines, "city road", "--hybrid", "--engine", "near", "--where", "n = 2") == ["d2"]
    told = CliRunner().invoke(
        app, ["search", str(engines), "city road", "--hybrid", "--explain"], catch_exceptions=False
    )
    assert "fusion: " in told.stderr
    with pytest.raises(HyperseekError, match="--broad-to-narrow and --plan exclude each other"):
        search(engines, "city", "--hybrid", "--plan", "x.yaml")


@pytest.fixture(scope="module")
def engines(index: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = Path(shutil.copytree(index, tmp_path_factory.mktemp("engines") / "index"))
    Index.open(path).build_engine("hnsw", name="near")
    return path


def names(*arguments: object) -> list[str]:
    rows = [json.loads(line) for line in search(*arguments, "-f", "jsonl", "--no-texts").splitlines()]
    return [hit["id"] for row in rows for hit in row["hits"]]


def test_only_documents_that_meet_a_condition(index: Path) -> None:
    assert sorted(names(index, TEXTS[0], "--where", "n >= 2")) == ["d2", "d3"]
    assert names(index, TEXTS[0], "--where", "n = 1 AND text LIKE '%song%'") == ["d1"]
    assert "no documents" in search(index, TEXTS[0], "--where", "n > 9")
    with pytest.raises(HyperseekError, match=r"there is no field m.*Fields: id, title, text, n \(number\)"):
        search(index, TEXTS[0], "--where", "m > 2")


def test_through_an_engine(engines: Path) -> None:
    exact = names(engines, TEXTS[1], "--engine", "exact")
    assert exact[0] == "d1"
    assert names(engines, TEXTS[1], "--engine", "near") == names(engines, TEXTS[1]) == exact
    assert names(engines, TEXTS[1], "--engine", "near", "--where", "n <> 1") == exact[1:]
    with pytest.raises(HyperseekError, match="unknown engine of this index 'naer'; did you mean 'near'"):
        search(engines, TEXTS[1], "--engine", "naer")


def test_by_a_plan_of_a_file(engines: Path, tmp_path: Path) -> None:
    plan = tmp_path / "cascade.yaml"
    plan.write_text(
        "stages:\n- kind: union\n  sources: [{kind: bm25, n: 1}, {kind: engine, n: 4, name: near}]\n- kind: rescore\n"
    )
    assert names(engines, TEXTS[2], "--plan", plan) == names(engines, TEXTS[2], "--engine", "exact")
    plan.write_text("stages: [{kind: bm25, n: 5}]")
    assert names(engines, "city road", "--plan", plan) == ["d2"]
    plan.write_text("stages: [{kind: rescore}]")
    with pytest.raises(HyperseekError, match="begins with a source"):
        search(engines, TEXTS[2], "--plan", plan)
    with pytest.raises(HyperseekError, match=r"none\.yaml"):
        search(engines, TEXTS[2], "--plan", tmp_path / "none.yaml")


def test_an_explanation_goes_to_standard_error(engines: Path) -> None:
    arguments = ["search", str(engines), TEXTS[2], "-k", "2", "-f", "trec", "--explain"]
    result = CliRunner().invoke(app, [*arguments, "--engine", "near"], catch_exceptions=False)
    first, engine, rescore = [line for line in result.stderr.splitlines() if line.strip()][-3:]
    assert first == (
        "4 documents; candidates from 'near', which can search by this scorer; scored exactly; recall@3 1.0000 for 4 "
        "documents as queries when it was built"
    )
    assert engine.startswith("engine: ")
    assert "4 candidates, recall 1.0000" in engine
    assert rescore.startswith("rescore: ")
    assert result.stdout.splitlines()[0].split()[2] == "d2"
    auto = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "every document is scored, which is fast for fewer than 20,000" in auto.stderr
    assert auto.stdout == result.stdout


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: str) -> Path:
    folder = tmp_path_factory.mktemp("late")
    build(ModelConfig(trunk=tiny_encoder, family="late", late={"dimension": 8}), device="cpu").save(folder / "model")
    documents = [
        Document("long", "the cat " + "and the dog " * 5 + "\x1b[31m " + "star " * 60),
        Document("short", "moon"),
    ]
    Index.build(folder / "index", documents, load(folder / "model", device="cpu"))
    return folder / "index"


def test_an_explanation_shows_what_matched(late: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = search(late, "the cat", "--explain")
    assert "the cat → long" in output
    assert "share" in output
    assert "[CLS] (special)" in output
    assert "\x1b" not in output  # neither a style, since this is no terminal, nor one of the document
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[1;7m" in search(late, "the cat", "--explain")
    assert "share" not in search(late, "the cat")


def test_matches_as_json(late: Path) -> None:
    [row] = json.loads(search(late, "the cat", "--explain", "-f", "json"))
    for hit in row["hits"]:
        assert sum(match["share"] for match in hit["matches"]) == pytest.approx(hit["score"], abs=1e-5)
        assert [match["query"][0]["text"] for match in hit["matches"]] == ["[CLS]", "the", "cat", "[SEP]"]
    [row] = json.loads(search(late, "the cat", "-f", "json"))
    assert all("matches" not in hit for hit in row["hits"])
