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
        f"qrels.drop_documents={listed}", "qrels.maximum_positives=3", "qrels.minimum_grade=1", "task=find",
        "hypencoder.positive_filter=type", "hypencoder.positive_type=y", "hypencoder.score_key=null",
        "columns.query=q", "columns.positive=p", "columns.negatives=[n, m]", "columns.score=s",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    first, second, third = read_examples(tmp_path / "out")
    assert (first.negatives, first.task) == ((), "find")
    assert second.positives[0].text == "b"
    assert [item.score for item in (*third.positives, *third.negatives)] == [3, 2, 1]


def test_judged_negatives_can_be_left_out(collection, tmp_path):
    run(tmp_path / "out", collection, "qrels.judged_negatives=false")
    (example,) = read_examples(tmp_path / "out")
    assert example.negatives == ()


def test_overwrite(collection, tmp_path):
    run(tmp_path / "out", collection)
    with pytest.raises(InputError, match=r"exists; .*--overwrite"):
        run(tmp_path / "out", collection)
    assert run(tmp_path / "out", collection, "--overwrite").exit_code == 0


def test_options_that_do_not_fit(collection, tmp_path):
    with pytest.raises(ConfigError, match="positive_filter 'type' needs positive_type"):
        run(tmp_path / "out", collection, "hypencoder.positive_filter=type")


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


def test_a_recipe_holds_sources_and_settings(collection, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("sources: [fruit:train]\ntask: find\nqrels: {judged_negatives: false}\n")
    run("out", "--recipe", recipe, "task=answer")
    (example,) = read_examples("out")
    assert (example.task, example.negatives) == ("answer", ())
    (tmp_path / "task=x").symlink_to(collection)
    run("strange", "task=x", "my.name=fruit")  # a folder of that name, and a name with a dot
    assert {example.source for example in read_examples("strange")} == {"fruit", "my.name"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["qrels.minimum_grad=1"], "qrels.minimum_grad: unknown key; did you mean 'minimum_grade'"),
        (["qrel.minimum_grade=1"], "qrel: unknown key; did you mean 'qrels'"),
        (["qrels.drop_documents=nowhere.txt"], "qrels.drop_documents: .*nowhere.txt: cannot be read: no such file"),
        (["--minimum-grade", 2], "--minimum-grade is no longer an option .*; use qrels.minimum_grade=VALUE"),
        (["--drop-documents=x"], "use qrels.drop_documents=FILE"),
        (["--mine", "index"], "use hyperseek mine PREPARED FOLDER INDEX"),
        (["--skip-top", 5], "use hyperseek mine PREPARED FOLDER INDEX mining.skip_top=VALUE"),
        (["--beir", "task=find"], "--beir copies a collection as it is; leave out task=find"),
    ],
)
def test_settings_that_cannot_be_used(collection, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        run(tmp_path / "out", collection, *arguments)
    assert not (tmp_path / "out").exists()
