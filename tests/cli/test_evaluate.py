from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from hyperseek._errors import InputError, UnknownNameError
from hyperseek.cli import app
from hyperseek.data import write_qrels, write_run


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


def test_runs_are_compared_on_standard_error_and_as_json(files):
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


def test_without_json_standard_output_stays_empty(files):
    good, _, qrels = files
    result = run("--runs", good, "--qrels", qrels, "-m", "RR@2", "-m", "P@1", "--test", "t")
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert "1.0000" in result.stderr


def test_files_are_written(files, tmp_path):
    good, bad, qrels = files
    run("--runs", good, "--runs", bad, "--qrels", qrels, "-m", "RR@2", "--output", tmp_path / "out")
    assert json.loads((tmp_path / "out/bad.trec/evaluation.json").read_text())["aggregate"] == {"RR@2": 0.5}
    assert (tmp_path / "out/good.trec/run.trec").read_text().splitlines()[0].split()[2] == "d0"
    run("--runs", good, "--qrels", qrels, "-m", "RR@2", "--run-out", tmp_path / "copy.trec")
    assert (tmp_path / "copy.trec").read_text() == good.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give INDEX and DATASET, or"),
        (["--qrels", "{qrels}"], "nothing to measure"),
        (["index", "--qrels", "{qrels}"], "give INDEX and DATASET, or"),
        (["--runs", "{good}", "--runs", "{bad}", "--qrels", "{qrels}", "--run-out", "x"], "there are 2 systems"),
        (["--runs", "{good}", "--qrels", "{qrels}", "--hypencoder-files", "x"], "needs the texts"),
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
    assert "a name of its own" in str(run("--runs", good, "--runs", good, "--qrels", qrels).exception)
