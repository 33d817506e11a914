"""`hyperseek pretrain` on a tiny model, and the guide's commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hyperseek import HyperseekError
from hyperseek.cli import app
from hyperseek.models import load
from hyperseek.training import RunRecord, read_record

GUIDE = Path(__file__).parents[2] / "docs" / "pretraining.md"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe file over a few lines of text."""
    (tmp_path / "texts.txt").write_text("\n".join(f"the number {place} follows {place - 1}" for place in range(200)))
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "model:\n"
        "  architecture: bert\n"
        "  config: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}\n"
        "  tokenizer: train\n"
        "  vocabulary: {size: 300}\n"
        "data:\n"
        f"  sources: {{toy: {{source: '{tmp_path / 'texts.txt'}', divide: line}}}}\n"
        "  sequence_length: 16\n"
        "  validation_share: 0.2\n"
        f"train: {{max_steps: 2, batch_size: 3, device: cpu, cache: {tmp_path / 'cache'}}}\n"
        "output: {report_to: [tensorboard]}\n"
    )
    return path


def test_pretrain_saves_an_encoder_and_shows_what_changed(recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    result = CliRunner().invoke(
        app,
        ["pretrain", str(recipe), "train.max_steps=3", "--output", str(tmp_path / "encoder")],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    assert "steps" not in result.stdout
    assert "3 steps" in result.stderr
    assert re.search(r"validation loss: [\d.]+ before, [\d.]+ after", result.stdout)
    record = read_record(tmp_path / "encoder")
    assert record is not None
    assert record.recipe["train"]["max_steps"] == 3
    assert list((tmp_path / "encoder" / "logs").glob("events*"))
    assert load(tmp_path / "encoder", device="cpu").encode_documents(["the number 3"]).vectors.shape == (1, 16)


def test_pretrain_names_the_closest_key(recipe: Path) -> None:
    with pytest.raises(HyperseekError, match="did you mean 'masking'"):
        CliRunner().invoke(app, ["pretrain", str(recipe), "maskin.train=0.2"], catch_exceptions=False)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_guide_runs(tmp_path: Path) -> None:
    [commands] = re.findall(r"```shell\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HYPERSEEK_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "30 steps" in result.stderr
    assert (tmp_path / "encoder" / "run.json").is_file()


@pytest.mark.parametrize("verb", ["pretrain", "train"])
def test_help_shows_examples_as_lines_and_the_default_folder(verb: str) -> None:
    result = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "100", "TERM": "dumb"})
    assert "runs/RECIPE" in result.stdout
    assert "\\b" not in result.stdout
    assert re.search(rf"^ +hyperseek {verb} [a-z-]+ --output \w+ *$", result.stdout, re.MULTILINE)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_only_the_first_process_reports(rank: str, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = RunRecord(status="finished", recipe={}, seed=0)
    monkeypatch.setattr("hyperseek.pretraining.pretrain", lambda *_, **__: record)
    monkeypatch.setenv("RANK", rank)
    result = CliRunner().invoke(app, ["pretrain", str(recipe)], catch_exceptions=False)
    assert ("0 steps" in result.stderr) == (rank == "0")
