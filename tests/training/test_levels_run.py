"""Whole runs of models with levels: trained behind a frozen trunk, resumed exactly, saved with their schedule."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hyperseek.models import load
from hyperseek.runs.loop import ShowProgress
from hyperseek.training import Recipe, read_recipe, train

LEVELS = {
    "pooling": "attention",
    "pool_dropout": 0.1,  # drawn in every step, so that resuming has to restore the random state
    "num_segments": 3,
    "d_hrm": 16,
    "s_scales": "1,2,4",
    "radius": "head",
    "trainable_curvature": True,
}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.parent.relative_to(folder)}.{name}": tensor
        for path in sorted(folder.rglob("*.safetensors"))
        if "checkpoints" not in path.parts
        for name, tensor in load_file(path).items()
    }


def test_a_stopped_run_resumes_exactly_and_keeps_its_schedule(
    make_recipe: Callable[..., Recipe], tiny_encoder: str, collection: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    recipe = make_recipe(
        model={"trunk": tiny_encoder, "family": "levels", "levels": LEVELS, "pooling": None, "normalize": None},
        data={"sources": {"toy": {"source": f"{collection}:train", "options": {"coarse": {"rules": ["truncated"]}}}}},
        losses={"contrastive": None, "coarse_to_fine": {"temperature": 0.3, "apart": 0.5}},
        train={"max_steps": 6, "batch_size": 8, "save_every": 100, "device": "cpu"},
    )
    advance = ShowProgress.on_step_end

    def press(self: ShowProgress, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            signal.raise_signal(signal.SIGINT)
        advance(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(ShowProgress, "on_step_end", press)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, output=tmp_path / "stopped")
    train(recipe, output=tmp_path / "stopped")
    record = train(recipe, output=tmp_path / "whole")
    assert record.changed
    left, right = weights(tmp_path / "stopped"), weights(tmp_path / "whole")
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    model = load(tmp_path / "whole", device="cpu")
    assert model.route("query")[-1].config.s_scales == (1, 2, 4)
    assert model.space.radius_squared != 1


def test_the_recipe_of_the_original_has_its_defaults() -> None:
    recipe = read_recipe("hrm_hyperbolic")
    levels, loss, loop = recipe.model.options, recipe.losses.coarse_to_fine, recipe.train
    assert recipe.model.trunk == "BAAI/bge-small-en-v1.5"
    assert (levels.d_hrm, levels.n_cycles, levels.t_low, levels.hrm_hidden_mult) == (512, 2, 2, 4)
    assert (levels.pool_heads, levels.pool_hidden_mult, levels.pool_dropout) == (1, 2, 0)
    assert (levels.num_segments, levels.s_scales, levels.hyp_c) == (4, (1, 2, 3, 4), 1)
    assert (levels.pooling, levels.start, levels.radius, levels.refinement) == (
        "attention",
        "original",
        "schedule",
        "hrm",
    )
    assert (loss.temperature, loss.negatives, loss.levels, loss.apart) == (0.05, "own", "same", 0)
    assert (loop.batch_size, loop.epochs, loop.learning_rate, loop.weight_decay) == (128, 1, 1e-4, 0.01)
    assert (loop.warmup, loop.schedule, loop.log_every, loop.workers, loop.seed) == (0.1, "linear", 100, 2, 42)
    assert (recipe.model.query_length, recipe.model.document_length, recipe.data.negatives) == (252, 252, 4)
