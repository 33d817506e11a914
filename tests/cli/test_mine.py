from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from hyperseek.cli import app
from hyperseek.data import open_dataset, prepare, read_examples
from hyperseek.errors import InputError


def run(*arguments):
    return CliRunner().invoke(app, ["mine", *map(str, arguments)], catch_exceptions=False)


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
    prepare(tmp_path / "plain", [folder])
    return tmp_path / "plain"


def test_mining(mined, tmp_path):
    result = run(mined, tmp_path / "out", tmp_path / "index", "mining.negatives=2", "mining.margin=null", "--json")
    assert result.exit_code == 0, result.stderr
    assert "  searched 4 documents of words" in result.stderr
    assert "  4 negatives mined; 0 examples have fewer than requested" in result.stderr
    assert "2 relevant_document" in result.stderr
    report = json.loads(result.stdout)
    assert report["refined"][0]["options"]["mining"]["margin"] is None
    first, second = read_examples(tmp_path / "out")
    assert all(len(one.negatives) == 2 for one in (first, second))
    recipe = tmp_path / "mining.yaml"
    recipe.write_text("mining: {negatives: 3, margin: null}")
    again = run(mined, tmp_path / "again", f"words={tmp_path / 'index'}", "--recipe", recipe, "mining.negatives=2",
                "--json")  # fmt: skip
    assert json.loads(again.stdout)["fingerprint"] == report["fingerprint"]


def test_mining_with_words_a_teacher_and_further_judgements(mined, tmp_path, tiny_encoder):
    plan = tmp_path / "words.yaml"
    plan.write_text("stages: [{kind: full_text, n: 10}]\n")
    more = tmp_path / "more.tsv"
    more.write_text("q2\td4\t1\n")
    result = run(
        mined, tmp_path / "out", tmp_path / "index", f"mining.plan={plan}", "mining.margin=null",
        "--exclude-relevant", f"words={more}", "--teacher", tiny_encoder, "teacher.margin=null", "--device", "cpu",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    first, second = read_examples(tmp_path / "out")
    assert [item.id for item in first.negatives] == ["words/d2"]
    assert second.negatives == ()
    assert all(item.score is not None for item in (*first.positives, *first.negatives))


def test_filtering_alone(mined, tmp_path, tiny_encoder):
    result = run(mined, tmp_path / "out", tiny_encoder, "--device", "cpu", "consistency.top=4", "consistency.pool=3")
    assert result.exit_code == 0, result.stderr
    assert len(list(read_examples(tmp_path / "out"))) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mining.depth=5"], "give an index or a model"),
        (["consistency.top=2"], "give an index or a model"),
        (["index", "mining.negatives=0"], "mining.negatives: .*greater than or equal to 1"),
        (["index", "mining.negative=2"], "mining.negative: unknown key; did you mean 'negatives'"),
        (["index", "mining.plan=nowhere.yaml"], "mining.plan: .*nowhere.yaml: no such file"),
        (["index", "options.level=2"], "understands? no option.*level"),
        (["index", "--card", "claims.yaml"], "understands? no option.*card"),
        (
            ["index", "--card", "claims.yaml", "options.card=other.yaml"],
            r"give --card or options\.card=\.\.\., not both",
        ),
        (["--card", "claims.yaml", "--teacher", "cohere:any"], "options are for the model that searches"),
        (["index", "teacher.max_score=2"], "filtering by a teacher needs one"),
        (["index", "--exclude-relevant", "more.tsv"], "must name its collection"),
        ([], "there is nothing to do"),
    ],
)
def test_what_cannot_be_mined(mined, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYPERSEEK_TEACHER_URL", "http://localhost:1")  # never asked
    with pytest.raises(InputError, match=message):
        run(mined, tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()
