"""`hyperseek train` on a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from hyperseek import HyperseekError, Query
from hyperseek.cli import app
from hyperseek.data import Dataset, write_beir
from hyperseek.models import load
from hyperseek.training import read_record
from hyperseek.types import Document


@pytest.fixture
def recipe(tiny_encoder: str, tmp_path: Path) -> Path:
    """A recipe file over a collection of eight documents."""
    words = ["cat", "dog", "bird", "fish", "sea", "sun", "moon", "star"]
    dataset = Dataset.from_records(
        "toy",
        [Document(f"d{place}", f"{word} is in the text") for place, word in enumerate(words)],
        queries=[Query(f"q{place}", word) for place, word in enumerate(words)],
        qrels={
            "train": {f"q{place}": {f"d{place}": 1} for place in range(6)},
            "dev": {f"q{place}": {f"d{place}": 1} for place in (6, 7)},
        },
    )
    write_beir(dataset, tmp_path / "toy")
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"model: {{trunk: {tiny_encoder}, family: qnet, pooling: mean, normalize: true}}\n"
        f"data: {{sources: {{toy: {{source: '{tmp_path / 'toy'}:train'}}}}}}\n"
        "losses: {contrastive: {temperature: 0.1}}\n"
        f"train: {{max_steps: 2, batch_size: 3, device: cpu, cache: {{folder: {tmp_path / 'cache'}}}}}\n"
        f"validation: {{sets: {{toy: {{source: '{tmp_path / 'toy'}:dev'}}}}}}\n"
        "output: {report_to: []}\n"
    )
    return path


def test_train_saves_a_model_and_shows_what_changed(recipe: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["train", str(recipe), "train.max_steps=3", "--output", str(tmp_path / "model")], catch_exceptions=False
    )
    assert result.exit_code == 0
    assert "steps" not in result.stdout
    assert "3 steps" in result.stderr
    assert "untrained" in result.stdout
    record = read_record(tmp_path / "model")
    assert record is not None
    assert record.recipe["train"]["max_steps"] == 3
    assert len(load(tmp_path / "model", device="cpu").compile(["cat"])) == 1


def test_train_names_the_closest_key(recipe: Path) -> None:
    with pytest.raises(HyperseekError, match="did you mean 'max_steps'"):
        CliRunner().invoke(app, ["train", str(recipe), "train.max_step=3"], catch_exceptions=False)


@pytest.mark.parametrize("setting", ["epochs=-1", "max_steps=0", "learning_rate=-1", "batch_size=half"])
def test_a_setting_out_of_range_is_refused_before_a_model_or_data_is_read(
    setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("hyperseek.training._run.build", "hyperseek.training._run.read_sources"):
        monkeypatch.setattr(name, lambda *_, **__: pytest.fail("read before the recipe was checked"))
    output = tmp_path / "model"
    field = setting.partition("=")[0]
    with pytest.raises(HyperseekError, match=f"does not validate:\n  train.{field}: Input should be "):
        CliRunner().invoke(
            app,
            ["train", "qnet-minilm-pydocs", "--output", str(output), f"train.{setting}"],
            catch_exceptions=False,
        )
    assert not output.exists()
