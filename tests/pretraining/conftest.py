"""Texts with something to learn in them: each is full of one word, so that a hidden one can be told."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyperseek.pretraining import PretrainRecipe

WORDS = ["net", "query", "document", "vector", "index", "word", "text", "cat", "dog", "bird", "sea", "sun", "moon"]


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """300 texts of one word ten times among three others."""
    draw = random.Random(0)
    made = []
    for _ in range(300):
        words = [draw.choice(WORDS)] * 10 + draw.sample(WORDS, 3)
        draw.shuffle(words)
        made.append(" ".join(words))
    return made


@pytest.fixture(scope="session")
def text_file(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The texts as JSON lines under an unusual key."""
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    path.write_text(
        "".join(json.dumps({"number": place, "body_text": text}) + "\n" for place, text in enumerate(texts))
    )
    return path


@pytest.fixture
def make_recipe(text_file: Path, tmp_path: Path) -> Callable[..., PretrainRecipe]:
    """Make a small recipe; keyword arguments replace values of sections."""

    def make(**changes: dict[str, Any]) -> PretrainRecipe:
        values: dict[str, Any] = {
            "model": {
                "architecture": "bert",
                "config": {
                    "hidden_size": 64,
                    "initializer_range": 0.1,
                    "num_hidden_layers": 1,
                    "num_attention_heads": 2,
                    "intermediate_size": 64,
                    "max_position_embeddings": 32,
                },
                "tokenizer": "train",
                "vocabulary": {"size": 200},
            },
            "data": {
                "sources": {"toy": {"source": str(text_file), "text_key": "body_text"}},
                "sequence_length": 16,
                "validation_share": 0.1,
            },
            "train": {
                "max_steps": 6,
                "batch_size": 8,
                "learning_rate": 1e-3,
                "save_every": 2,
                "log_every": 1,
                "device": "cpu",
                "cache": str(tmp_path / "cache"),
            },
            "output": {"report_to": []},
        }
        for section, change in changes.items():
            values[section] = {**values.get(section, {}), **change}
        if values["model"]["tokenizer"] != "train" and "vocabulary" not in changes.get("model", {}):
            values["model"].pop("vocabulary")  # which a tokenizer that is there already has
        return PretrainRecipe.from_mapping(values)

    return make
