"""What a dry run says against what a run takes."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from hyperseek.cli import app
from hyperseek.data import Dataset, write_beir
from hyperseek.training import Recipe, dry_run, train
from hyperseek.training import _run as run_module
from hyperseek.training._forecast import peak_bytes
from hyperseek.types import Document, Query

WORDS = [
    "net",
    "query",
    "document",
    "vector",
    "index",
    "neural",
    "small",
    "deep",
    "word",
    "text",
    "page",
    "cat",
    "dog",
    "bird",
    "fish",
    "sea",
    "sun",
    "moon",
    "tree",
]
LATE: dict[str, Any] = {"family": "late", "pooling": None, "normalize": None, "late": {"dimension": 24}}
LEVELS: dict[str, Any] = {"family": "levels", "normalize": None, "levels": {"d_hrm": 16, "num_segments": 3}}


@pytest.fixture
def long_texts(tmp_path: Path) -> str:
    """48 documents of 40 to 60 words, and for each a query of ten."""
    draw = random.Random(1)
    documents = [" ".join(draw.choices(WORDS, k=draw.randint(40, 60))) for _ in range(48)]
    dataset = Dataset.from_records(
        "long",
        [Document(f"d{place}", text) for place, text in enumerate(documents)],
        queries=[Query(f"q{place}", " ".join(text.split()[:10])) for place, text in enumerate(documents)],
        qrels={"train": {f"q{place}": {f"d{place}": 1} for place in range(48)}},
    )
    write_beir(dataset, tmp_path / "long")
    return f"{tmp_path / 'long'}:train"


@pytest.mark.parametrize(
    ("model", "how"),
    [
        (LATE, {"trunk": "full", "batch_size": 12}),
        ({**LATE, "late": {"dimension": 96}}, {"trunk": "full", "batch_size": 40, "mini_batch": 5}),
        (LATE, {"trunk": "lora", "batch_size": 16, "mini_batch": 8, "gradient_checkpointing": True}),
        ({"family": "dense"}, {"trunk": "last_layers", "batch_size": 24}),
        (LEVELS, {"trunk": "full", "batch_size": 24}),
    ],
)
def test_memory_is_what_a_run_takes(
    make_recipe: Callable[..., Recipe],
    long_texts: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: dict[str, Any],
    how: dict[str, Any],
) -> None:
    """All that torch allocates in training counts, so the test needs no quiet machine."""
    coarse = model["family"] == "levels"
    options = {"coarse": {"rules": ["truncated"], "coarse_max_chars": 200}} if coarse else {}
    recipe = make_recipe(
        model=model,
        data={"sources": {"toy": {"source": long_texts, "options": options}}},
        losses={"contrastive": None, "coarse_to_fine": {}} if coarse else {},
        train={**how, "max_steps": 2, "save_every": None},
    )
    said = dry_run(recipe)
    found: dict[str, int] = {}
    steps = run_module.run_with_progress

    def watched(trainer: Any, title: str) -> int:
        tensors = [*trainer.module.parameters(), *trainer.module.buffers()]
        before = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        before += sum(tensor.numel() * tensor.element_size() for tensor in trainer.module.trainable_state().values())
        found["peak"] = before + peak_bytes(lambda: steps(trainer, title), torch.device("cpu"))
        return 2

    monkeypatch.setattr(run_module, "run_with_progress", watched)
    train(recipe, output=tmp_path / "run")
    assert said.peak == pytest.approx(found["peak"], rel=0.25)
    assert said.steps == 2
    assert all(seconds > 0 for seconds in said.seconds.values())
    assert said.lengths["document"]["longest"] == 62


def test_the_profiler_writes_nothing_to_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    assert peak_bytes(lambda: torch.ones(1000) + 1, torch.device("cpu")) >= 4000
    assert capfd.readouterr() == ("", "")


def test_a_dry_run_prints_tables_and_trains_nothing(long_texts: str, tmp_path: Path, tiny_encoder: str) -> None:
    (tmp_path / "late.yaml").write_text(
        f"model: {{trunk: {tiny_encoder}, family: late}}\n"
        f"data: {{auto_lengths: true, sources: {{long: {{source: '{long_texts}'}}}}}}\n"
        "losses: {contrastive: {}}\ntrain: {epochs: 2, batch_size: 16, trunk: lora, device: cpu}\n"
    )
    before = set(tmp_path.rglob("*"))
    result = CliRunner().invoke(app, ["train", str(tmp_path / "late.yaml"), "--dry-run"])
    assert result.exit_code == 0, result.output
    for words in ("trained parts", "trunk: adapters", "│ document │ 64 ", "peak", "6 steps"):
        assert words in result.output.replace("  ", " ").replace("  ", " "), words
    assert set(tmp_path.rglob("*")) == before
