from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from hyperseek.cli import app
from hyperseek.data import open_dataset, read_examples
from hyperseek.errors import ConfigError, DataError, InputError


@pytest.fixture
def collection(tmp_path):
    folder = tmp_path / "fruit"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text('{"_id": "d1", "text": "apple"}\n{"_id": "d2", "text": "stone"}\n')
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "a fruit"}\n')
    (folder / "qrels/train.tsv").write_text("q1\td1\t1\nq1\td2\t0\n")
    return folder


def run(*arguments):
    return CliRunner().invoke(app, ["prepare", *map(str, arguments)], catch_exceptions=False)


def test_training_data(collection, tmp_path):
    result = run(tmp_path / "out", collection)
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "out: 1 examples, 2 documents, 1 positives, 1 negatives, 0 teacher scores; fingerprint" in result.stderr
    assert f"  fruit: 1 examples of {collection}" in result.stderr
    assert [example.query.text for example in read_examples(tmp_path / "out")] == ["a fruit"]


def test_json_report(collection, tmp_path):
    (collection / "queries.jsonl").write_text('{"_id": "q1", "text": "a fruit"}\nnot json\n')
    with pytest.raises(DataError, match=r"queries.jsonl:2: not valid JSON"):
        run(tmp_path / "out", collection)
    result = run(tmp_path / "out", f"{collection}:train", "--on-error", "skip", "--json")
    report = json.loads(result.stdout)
    assert (report["examples"], report["sources"][0]["dropped"]["counts"]) == (1, {"bad_json": 1})
    assert "left out 1:" in result.stderr
    assert "queries.jsonl:2" in result.stderr


def test_options(collection, tmp_path):
    listed = tmp_path / "ids.txt"
    listed.write_text("fruit/d2\n")
    items = [{"content": "a", "type": "x"}, {"content": "b", "type": "y"}]
    lines = tmp_path / "lines.jsonl"
    lines.write_text(json.dumps({"query": {"content": "q"}, "items": items}) + "\n")
    table = tmp_path / "table.jsonl"
    table.write_text('{"q": "q", "p": "p", "n": "n", "m": "m", "s": [3, 2, 1]}\n')
    result = run(
        tmp_path / "out", collection, f"hypencoder:{lines}", f"t=columns:{table}",
        "--drop-documents", listed, "--maximum-positives", 3, "--minimum-grade", 1, "--task", "find",
        "--positive-filter", "type", "--positive-type", "y", "--score-key", "",
        "--query-column", "q", "--positive-column", "p", "--negative-column", "n", "--negative-column", "m",
        "--score-column", "s",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    first, second, third = read_examples(tmp_path / "out")
    assert (first.negatives, first.task) == ((), "find")
    assert second.positives[0].text == "b"
    assert [item.score for item in (*third.positives, *third.negatives)] == [3, 2, 1]


def test_judged_negatives_can_be_left_out(collection, tmp_path):
    run(tmp_path / "out", collection, "--no-judged-negatives")
    (example,) = read_examples(tmp_path / "out")
    assert example.negatives == ()


def test_overwrite(collection, tmp_path):
    run(tmp_path / "out", collection)
    with pytest.raises(InputError, match=r"exists; .*--overwrite"):
        run(tmp_path / "out", collection)
    assert run(tmp_path / "out", collection, "--overwrite").exit_code == 0


def test_options_that_do_not_fit(collection, tmp_path):
    with pytest.raises(ConfigError, match="positive_filter 'type' needs positive_type"):
        run(tmp_path / "out", collection, "--positive-filter", "type")


def test_beir_folder(collection, tmp_path):
    result = run("--beir", tmp_path / "copy", collection, "--json")
    report = json.loads(result.stdout)
    assert (
        report["fingerprint"] == open_dataset(tmp_path / "copy").fingerprint() == open_dataset(collection).fingerprint()
    )
    assert (report["documents"], report["queries"]) == (2, {"train": 1})
    assert "copy: 2 documents, 1 queries in train; fingerprint" in result.stderr
    with pytest.raises(InputError, match="--beir writes one collection, got 2"):
        run("--beir", tmp_path / "other", collection, collection)


@pytest.fixture
def mined(tmp_path, tiny_encoder):
    """A collection of four documents about two queries, its index by a tiny encoder, and prepared examples."""
    from hyperseek.index import Index
    from hyperseek.models import load

    folder = tmp_path / "words"
    (folder / "qrels").mkdir(parents=True)
    texts = {"d1": "cat dog bird", "d2": "cat dog fish", "d3": "sea sun", "d4": "moon star sun"}
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"_id": k, "text": v}) + "\n" for k, v in texts.items()))
    queries = {"q1": "what is a dog", "q2": "what is the sun"}
    (folder / "queries.jsonl").write_text("".join(json.dumps({"_id": k, "text": v}) + "\n" for k, v in queries.items()))
    (folder / "qrels/train.tsv").write_text("q1\td1\t1\nq2\td3\t1\n")
    model = load(tiny_encoder, device="cpu")
    Index.build(tmp_path / "index", open_dataset(folder).documents(), model, dtype="float32", name="words")
    run(tmp_path / "plain", folder)
    return folder


def test_mining(mined, tmp_path):
    result = run(tmp_path / "out", mined, "--mine", tmp_path / "index", "--negatives", 2, "--margin", 0, "--json")
    assert result.exit_code == 0, result.stderr
    assert "  searched 4 documents of words" in result.stderr
    assert "  4 negatives mined; 0 examples got fewer" in result.stderr
    assert "2 relevant_document" in result.stderr
    report = json.loads(result.stdout)
    assert report["refined"][0]["options"]["mining"]["margin"] is None
    first, second = read_examples(tmp_path / "out")
    assert all(len(one.negatives) == 2 for one in (first, second))
    again = run(tmp_path / "again", tmp_path / "plain", "--mine", f"words={tmp_path / 'index'}", "--negatives", 2,
                "--margin", 0, "--json")  # fmt: skip
    assert json.loads(again.stdout)["fingerprint"] == report["fingerprint"]


def test_mining_with_words_a_teacher_and_further_judgements(mined, tmp_path, tiny_encoder):
    plan = tmp_path / "words.yaml"
    plan.write_text("stages: [{kind: bm25, n: 10}]\n")
    more = tmp_path / "more.tsv"
    more.write_text("q2\td4\t1\n")
    result = run(
        tmp_path / "out", mined, "--mine", tmp_path / "index", "--plan", plan, "--margin", 0,
        "--exclude-relevant", f"words={more}", "--teacher", tiny_encoder, "--teacher-margin", 0, "--device", "cpu",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    first, second = read_examples(tmp_path / "out")
    assert [item.id for item in first.negatives] == ["words/d2"]
    assert second.negatives == ()
    assert all(item.score is not None for item in (*first.positives, *first.negatives))


def test_filtering_alone(mined, tmp_path, tiny_encoder):
    result = run(tmp_path / "out", tmp_path / "plain", "--mine", tiny_encoder, "--negatives", 0, "--device", "cpu",
                 "--consistent-top", 4, "--consistent-pool", 3)  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert len(list(read_examples(tmp_path / "out"))) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--depth", 5], "--depth is about mining; say where to mine with --mine"),
        (["--negatives", 0], "--negatives is about mining"),
        (["--mine", "index", "--negatives", 0], "--negatives 0 mines nothing"),
        (["--consistent-top", 2], "give an index or a model"),
        (["--mine", "index", "--consistent-pool", 2], "--consistent-pool goes with --consistent-top"),
        (["--teacher-max-score", 2], "go with --teacher"),
        (["--beir", "--mine", "index"], "--beir copies a collection as it is"),
        (["--mine", "index", "--exclude-relevant", "more.tsv"], "must name its collection"),
    ],
)
def test_options_that_nothing_would_read(mined, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        run(tmp_path / "out", mined, *arguments)
    assert not (tmp_path / "out").exists()
