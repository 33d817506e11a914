from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from hyperseek.cli import app
from hyperseek.data import Dataset, open_dataset, write_beir, write_qrels, write_run
from hyperseek.errors import InputError, UnknownNameError
from hyperseek.index import Index
from hyperseek.models import load
from hyperseek.types import Document, Query

DOCS = Path(__file__).parents[2] / "docs"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    qrels = {f"q{place}": {f"d{place}": 1} for place in range(12)}
    good = {query: {f"d{query[1:]}": 2.0, "x": 1.0} for query in qrels}
    bad = {query: {f"d{query[1:]}": 1.0, "x": 2.0} for query in qrels}
    write_qrels(qrels, tmp_path / "qrels.tsv")
    write_run(good, tmp_path / "good.trec")
    write_run(bad, tmp_path / "bad.trec")
    return tmp_path / "good.trec", tmp_path / "bad.trec", tmp_path / "qrels.tsv"


def test_runs_are_compared_for_people_and_as_json(files):
    good, bad, qrels = files
    result = run("--runs", good, "--runs", bad, "--qrels", qrels, "-m", "RR@2 P@1", "--baseline", "bad.trec", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [evaluation["aggregate"]["RR@2"] for evaluation in found["evaluations"]] == [1.0, 0.5]
    row = found["comparison"]["sections"][0]["rows"][1]
    assert (row["system"], row["difference"], row["wins"]) == ("good.trec", 0.5, 12)
    assert row["p_values"]["permutation"] == pytest.approx(2 / 2**12)
    assert "all queries: 12 queries" in result.stderr
    assert "+0.5000" in result.stderr


def test_the_table_is_the_result_and_goes_to_standard_output(files):
    good, _, qrels = files
    result = run("--runs", good, "--qrels", qrels, "-m", "RR@2", "-m", "P@1", "--test", "t")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert "1.0000" in result.stdout


def test_files_are_written(files, tmp_path):
    good, bad, qrels = files
    run("--runs", good, "--runs", bad, "--qrels", qrels, "-m", "RR@2", "--output", tmp_path / "out")
    assert json.loads((tmp_path / "out/bad.trec/evaluation.json").read_text())["aggregate"] == {"RR@2": 0.5}
    assert (tmp_path / "out/good.trec/run.trec").read_text().splitlines()[0].split()[2] == "d0"
    run("--runs", good, "--qrels", qrels, "-m", "RR@2", "--run-out", tmp_path / "copy.trec")
    assert (tmp_path / "copy.trec").read_text() == good.read_text()


@pytest.fixture(scope="module")
def collection(tiny_encoder, tmp_path_factory) -> tuple[Path, Path]:
    """A BEIR folder and an index of it."""
    folder = tmp_path_factory.mktemp("toys")
    texts = ["the cat and the dog", "a bird by the sea", "the moon and the sun", "a river in the city"]
    dataset = Dataset.from_records(
        "toys",
        [Document(f"d{place}", text) for place, text in enumerate(texts)],
        queries=[Query("q1", "cat dog"), Query("q2", "sea bird"), Query("d2", "moon sun")],
        qrels={"test": {"q1": {"d0": 1}, "q2": {"d1": 2}, "d2": {"d2": 1, "d3": 1}}},
    )
    write_beir(dataset, folder / "toys")
    Index.build(folder / "index", dataset.documents(), load(tiny_encoder))
    return folder / "index", folder / "toys"


def test_an_index_beside_bm25(collection, tiny_encoder, tmp_path):
    index, dataset = collection
    result = run(
        index, dataset, "-m", "nDCG@10 RR@10", "--bm25", "--baseline", "BM25", "--output", tmp_path, "--json", "--bm25q"
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    name = Path(tiny_encoder).name
    assert found["comparison"]["systems"] == ["BM25", name, "BM25Q"]
    weights = found["comparison"]["recorded"]["system.settings.query_weights"]
    assert weights == {"BM25": "count", "BM25Q": "bm25"}
    protocols = [evaluation["protocol"] for evaluation in found["evaluations"]]
    assert [protocol["system"]["kind"] for protocol in protocols] == ["index", "bm25", "bm25"]
    assert protocols[0]["system"]["model"]["max_length"]["document"] == 64
    assert {(p["k"], p["split"], p["dataset"], p["exclude_same_id"]) for p in protocols} == {
        (10, "test", "toys", False)
    }
    assert (tmp_path / "BM25/run.trec").read_text().startswith("q1 Q0 d0 1 ")
    assert len((tmp_path / name / "run.trec").read_text().splitlines()) == 3 * 4


def test_plans_are_systems_of_their_own(collection, tiny_encoder, tmp_path):
    index, dataset = collection
    (tmp_path / "words.yaml").write_text("stages: [{kind: bm25, n: 3}]")
    (tmp_path / "cascade.yaml").write_text("stages: [{kind: bm25, n: 3}, {kind: rescore}]")
    plans = ["--plan", tmp_path / "words.yaml", "--plan", tmp_path / "cascade.yaml"]
    result = run(index, dataset, "-m", "RR@3", *plans, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["comparison"]["systems"] == [Path(tiny_encoder).name, "words", "cascade"]
    searches = [evaluation["protocol"]["system"]["search"] for evaluation in found["evaluations"]]
    assert searches[0] == "exact"
    assert [len(search["stages"]) for search in searches[1:]] == [1, 2]
    assert found["evaluations"][1]["aggregate"]["RR@3"] == 1.0
    wrong = run(index, dataset, "-m", "RR@3", "--engine", "hnsw")
    assert "unknown engine 'hnsw'; this index has none yet" in str(wrong.exception)


def test_models_over_one_index_and_their_training_record(collection, tiny_encoder, tmp_path):
    index, dataset = collection
    trained = tmp_path / "trained"
    shutil.copytree(tiny_encoder, trained)
    (trained / "toys.txt").write_text("d0\n")
    (trained / "run.json").write_text('{"training_data": {"toys": {"relevant_documents_file": "toys.txt"}}}')
    result = run(index, dataset, "-m", "RR@3", "--model", tiny_encoder, "--model", trained, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["comparison"]
    assert [section["title"].split()[0] for section in found["sections"]] == ["all", "all", "none"]
    assert [section["queries"] for section in found["sections"]] == [3, 1, 2]
    assert all(row["difference"] in (None, 0) for section in found["sections"] for row in section["rows"])
    assert found["notes"] == ["trained: no query has some of its relevant documents relevant in training"]
    assert "none of the relevant documents were relevant in training (trained): 2 queries" in result.stderr


def test_own_documents_are_left_out_and_the_original_files_written(collection, tmp_path):
    index, dataset = collection
    result = run(index, dataset, "-m", "hypencoder", "--exclude-same-id", "--hypencoder-files", tmp_path)
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in (tmp_path / "retrieved_items.jsonl").read_text().splitlines()]
    assert [len(line["items"]) for line in lines] == [4, 4, 3]
    assert {item["content"] for item in lines[0]["items"]} >= {"the cat and the dog"}
    assert (tmp_path / "metrics/aggregated_metrics.txt").read_text().startswith("nDCG@10,nDCG@5,P@10,P@5,R@10,RR,")


def test_mistakes_are_found_before_the_search(collection, monkeypatch):
    index, dataset = collection
    monkeypatch.setattr(Index, "run", lambda *_, **__: pytest.fail("searched"))
    for arguments, message in (
        (["--split", "tset"], "did you mean 'test'"),
        (["-k", "5", "-m", "R@10"], "k=5"),
        (["--baseline", "bm25"], "unknown system 'bm25'"),
        (["--bm25", "--run-out", "x"], "there are 2 systems"),
    ):
        assert message in str(run(index, dataset, *arguments).exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give INDEX and DATASET, or"),
        (["--qrels", "{qrels}"], "nothing to measure"),
        (["index", "--qrels", "{qrels}"], "give INDEX and DATASET, or"),
        (["--runs", "{good}", "--runs", "{bad}", "--qrels", "{qrels}", "--run-out", "x"], "there are 2 systems"),
        (["--runs", "{good}", "--qrels", "{qrels}", "--hypencoder-files", "x"], "needs the texts"),
        (
            ["--runs", "{good}", "--qrels", "{qrels}", "--option", "level=2", "--bm25"],
            "--bm25, --option: only for searches",
        ),
    ],
)
def test_forms_that_make_no_sense(files, arguments, message):
    good, bad, qrels = files
    result = run(*(argument.format(good=good, bad=bad, qrels=qrels) for argument in arguments))
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)


def test_unknown_names(files):
    good, bad, qrels = files
    result = run("--runs", good, "--qrels", qrels, "-m", "ndgc@10")
    assert isinstance(result.exception, UnknownNameError)
    assert "did you mean" in str(result.exception)
    result = run("--runs", good, "--runs", bad, "--qrels", qrels, "--baseline", "goot.trec")
    assert "did you mean 'good.trec'" in str(result.exception)
    result = run("--runs", good, "--runs", bad, "--qrels", qrels, "--test", "z")
    assert "'permutation', 't' or 'wilcoxon'" in str(result.exception)


def test_runs_of_one_file_name_are_called_by_their_paths(files, tmp_path):
    good, _, qrels = files
    (tmp_path / "other").mkdir()
    other = tmp_path / "other/good.trec"
    other.write_text(good.read_text())
    result = run("--runs", good, "--runs", other, "--qrels", qrels, "-m", "RR@2", "--json")
    assert json.loads(result.stdout)["comparison"]["systems"] == [str(good), str(other)]
    assert "a unique name" in str(run("--runs", good, "--runs", good, "--qrels", qrels).exception)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_scifact_with_frozen_minilm_and_bm25(collections, tmp_path):
    dataset = collections / "scifact"
    Index.build(tmp_path / "index", open_dataset(dataset).documents(), load("minilm"))
    result = run(tmp_path / "index", dataset, "-m", "nDCG@10 R@100", "--bm25", "--json")
    assert result.exit_code == 0, result.output
    minilm, bm25 = (evaluation["aggregate"] for evaluation in json.loads(result.stdout)["evaluations"])
    assert minilm == {"nDCG@10": pytest.approx(0.645, abs=0.003), "R@100": pytest.approx(0.925, abs=0.003)}
    assert bm25 == {"nDCG@10": pytest.approx(0.676, abs=5e-4), "R@100": pytest.approx(0.913, abs=5e-4)}


@pytest.fixture
def sets(tiny_encoder, tmp_path) -> Path:
    """Three sets of BRIGHT's form, each with an index."""
    model = load(str(tiny_encoder))
    for place, name in enumerate(("pony", "aops", "own")):
        rows = [
            {"id": f"{name}{n}", "content": text} for n, text in enumerate(("the cat", "the dog", "a bird by the sea"))
        ]
        example = {"id": "q", "query": "a cat", "excluded_ids": [f"{name}1"], "gold_ids": [f"{name}{2 * (place % 2)}"]}
        for configuration, lines in (("documents", rows), ("examples", [example])):
            (tmp_path / "data" / configuration).mkdir(parents=True, exist_ok=True)
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (tmp_path / "data" / configuration / f"{name}.jsonl").write_text(text)
        dataset = open_dataset(f"bright:{tmp_path}/data#{name}")
        Index.build(tmp_path / f"{name}.index", dataset.documents(), model)
    return tmp_path


def test_sets_of_a_benchmark_are_measured_in_one_run(sets, tiny_encoder):
    given = [sets / "{set}.index", f"bright:{sets}/data#{{set}}", "--sets", "theorems=aops", "--sets", "pony,own"]
    plan = re.search(r"```yaml\n(stages:\n.*?fusion.*?)```", (DOCS / "evaluation.md").read_text(), re.DOTALL)[1]
    (sets / "fused.yaml").write_text(plan)
    systems = ["--bm25", "--bm25q", "--plan", sets / "fused.yaml"]
    result = run(*given, "-m", "RR@2 nDCG@10", *systems, "--output", sets / "out", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    name = Path(tiny_encoder).name
    assert list(found["sets"]) == ["aops", "pony", "own"]
    assert found["systems"] == [name, "fused", "BM25", "BM25Q"]
    by_set = {subset: found["values"]["RR@2"][subset]["BM25"] for subset in found["sets"]}
    assert by_set == {"aops": 0, "pony": 1, "own": 1}  # the gold document of aops shares no word with the query
    assert found["means"]["RR@2"]["theorems"]["BM25"] == 0
    assert found["means"]["RR@2"]["all sets"]["BM25"] == pytest.approx(2 / 3)
    assert json.loads((sets / "out/sets.json").read_text())["means"] == found["means"]
    assert "| **all sets** |" in (sets / "out/sets.md").read_text()
    run_lines = (sets / f"out/own/{name}/run.trec").read_text().splitlines()
    assert sorted(line.split()[2] for line in run_lines) == ["own0", "own2"]

    runs = ["--runs", f"{sets}/out/{{set}}/BM25/run.trec", "--qrels", f"{sets}/{{set}}.tsv", "--sets", "pony,own"]
    for subset in ("pony", "own"):
        write_qrels(open_dataset(f"bright:{sets}/data#{subset}").qrels("test"), sets / f"{subset}.tsv")
    again = run(*runs, "-m", "RR@1")
    assert again.exit_code == 0, again.output
    assert again.stdout.split()[-3:] == ["all", "sets", "1.0000"]


@pytest.mark.parametrize("model", [[], ["--model", "{model}"]])
def test_queries_are_as_long_as_each_set_wants_them(sets, tiny_encoder, model):
    given = [sets / "{set}.index", f"bright:{sets}/data#{{set}}", "--sets", "pony,own,aops", "-m", "RR@2", "--json"]
    model = [part.format(model=tiny_encoder) for part in model]
    result = run(*given, *model, "--query-length", "7", "--query-length", "own=3")
    assert result.exit_code == 0, result.output
    lengths = {
        subset: measured["evaluations"][0]["protocol"]["system"]["model"]["max_length"]["query"]
        for subset, measured in json.loads(result.stdout)["sets"].items()
    }
    assert lengths == {"pony": 7, "own": 3, "aops": 7}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sets", "a", "--query-length", "b=3", "{set}.index", "x{set}"], "unknown set of --sets 'b'"),
        (["--query-length", "0", "x", "y"], "--query-length takes N"),
        (["--sets", "a=", "x"], "--sets takes a benchmark"),
        (["--sets", "../a", "x"], "--sets takes a benchmark"),
        (["--sets", "a", "x.index", "bright:{set}"], "x.index has none"),
        (["--sets", "a", "{set}.index", "bright:{set}", "--run-out", "x"], "hold one set"),
        (["--sets", "bright", "{set}.index", "nowhere/{set}"], "nowhere/biology"),
    ],
)
def test_sets_that_cannot_be_measured(options, message):
    result = run(*options)
    assert result.exit_code != 0
    assert message in str(result.exception)


def test_slices_and_perturbed_queries(collection, tmp_path):
    index, dataset = collection
    slices = ("--slice", "length", "--slice", "hardness:BM25")
    result = run(index, dataset, "-m", "RR@10", "--bm25", *slices, "--perturb", "order", "--output", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    titles = [section["title"] for section in found["comparison"]["sections"]]
    assert titles[0] == "all queries"
    assert any(
        note.startswith("every query is in the slice length: 2 (words)") for note in found["comparison"]["notes"]
    )
    drops = found["robustness"]["drops"]
    assert [drop["system"] for drop in drops] == [Path(found["comparison"]["systems"][0]).name, "BM25"]
    assert drops[1]["drop"] == 0
    assert "order: 3 of 3 queries changed" in result.stderr
    assert json.loads((tmp_path / "robustness.json").read_text()) == found["robustness"]


def test_sets_have_slices_and_perturbed_queries_of_their_own(sets, tmp_path):
    given = [sets / "{set}.index", f"bright:{sets}/data#{{set}}", "--sets", "pony,own", "-m", "RR@2", "--bm25"]
    result = run(*given, "--slice", "relevant", "--perturb", "order", "--output", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    for subset, found in json.loads(result.stdout)["sets"].items():
        assert "slice relevant: " in json.dumps(found["comparison"])
        drops = json.loads((tmp_path / "out" / subset / "robustness.json").read_text())["drops"]
        assert [drop["system"] for drop in drops][1:] == ["BM25"]
        assert found["robustness"]["drops"] == drops
    result = run(*given, "--slice", "field:year")
    assert "unknown field of the queries' metadata 'year'" in str(result.exception)


def test_slices_and_perturbations_are_checked_before_the_search(collection, files, monkeypatch):
    index, dataset = collection
    monkeypatch.setattr(Index, "run", lambda *_, **__: pytest.fail("searched before the options were checked"))
    for option, kind, message in (
        ("--slice", "file:none.txt", "none.txt"),
        ("--slice", "field:year", "unknown field of the queries' metadata 'year'"),
        ("--slice", "lenght", "did you mean 'length'"),
        ("--slice", "hardness:BM25Q", "unknown ranking to slice hardness by 'BM25Q'"),
        ("--perturb", "typo", "did you mean 'typos'"),
        ("--perturb", "synonyms:none.tsv", "none.tsv"),
    ):
        assert message in str(run(index, dataset, option, kind).exception)
    good, _, qrels = files
    assert "--perturb: a file of rankings cannot" in str(
        run("--runs", good, "--qrels", qrels, "--perturb", "order").exception
    )
    assert "give INDEX and DATASET" in str(run("--runs", good, "--qrels", qrels, "--slice", "length").exception)
