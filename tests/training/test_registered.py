"""A package outside the project adds a loss, a schedule, batches and a metric, which recipes name."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from hyperseek.errors import ConfigError, InputError
from hyperseek.evaluation import register_measure
from hyperseek.training import (
    Loss,
    LossConfig,
    LossesConfig,
    Recipe,
    ScoredBatch,
    register_batches,
    register_loss,
    register_schedule,
)
from hyperseek.training._epoch_batches import EpochBatches
from hyperseek.training._recipe import COMPOSITIONS
from hyperseek.training._training_set import TrainingSet
from hyperseek.training.losses import LOSSES, Objective
from programs import Programs

PACKAGE = """
from hyperseek.training import Loss, LossConfig


class HingeConfig(LossConfig):
    margin: float = 0.2


class HingeLoss(Loss):
    config_class = HingeConfig
    needs_in_batch = True

    def forward(self, batch):
        own = batch.in_batch.gather(1, batch.items[:, :1])
        return (batch.in_batch - own + self.config.margin).clamp_min(0).mean()


def halved(left):
    return 0.5


def in_two(sources):
    return [part for source in sources for part in (source[::2], source[1::2])]


def success(top, judged, depth):
    return float(any(grade > 0 for grade in top))
"""
ENTRY_POINTS = """
[hyperseek.losses]
hinge = outside:HingeLoss
contrastive = outside:HingeLoss

[hyperseek.schedules]
halved = outside:halved
cosine = outside:halved

[hyperseek.batches]
in_two = outside:in_two
one_source = outside:in_two

[hyperseek.measures]
Found = outside:success
"""


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder with an installed package."""
    site = tmp_path / "site"
    info = site / "outside-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "outside.py").write_text(PACKAGE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return site


def test_a_package_outside_the_project_trains_with_its_own_loss(
    make_recipe: Callable[..., Recipe], dev: dict[str, Any], outside: Path, tmp_path: Path, programs: Programs
) -> None:
    values = make_recipe(validation=dev, train={"max_steps": 4, "epochs": None}).model_dump(
        mode="json", exclude_none=True
    )
    values["losses"] = {"hinge": {"margin": 0.3}, "contrastive": {"temperature": 0.05}}
    values["train"] |= {"schedule": "halved", "log_every": 1}
    values["data"]["batches"] = "in_two"
    values["validation"]["metric"] = "Found@2"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values))
    run = programs.run(
        ["-m", "hyperseek", "-v", "train", str(recipe), "--output", str(tmp_path / "model")],
        env={**os.environ, "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}{os.pathsep}{outside}"},
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    record = json.loads((tmp_path / "model" / "run.json").read_text())
    assert record["recipe"]["losses"]["hinge"] == {"weight": 1.0, "margin": 0.3}
    assert record["metric"] == "Found@2"
    queries = 12
    scores = [entry["scores"]["toy"] for entry in record["validation"]]
    assert all(0 < score <= 1 and (score * queries).is_integer() for score in scores)
    assert "'hinge'" in run.stderr  # what was logged of a step
    assert f"'learning_rate': {values['train']['learning_rate'] / 2}" in run.stderr
    for taken in ("contrastive = 'outside:HingeLoss'", "cosine = 'outside:halved'", "one_source = 'outside:in_two'"):
        assert f"{taken} of the package outside is ignored" in run.stderr


class _SquaresConfig(LossConfig):
    power: int = 2


class _Squares(Loss[_SquaresConfig]):
    config_class = _SquaresConfig

    def forward(self, batch: ScoredBatch) -> Tensor:
        return (batch.own**self.config.power).mean()


class _Rows(Loss[LossConfig]):
    def forward(self, batch: ScoredBatch) -> Tensor:
        return batch.own[:, 0]


def test_a_loss_of_each_query_is_refused(make_batch: Callable[..., ScoredBatch]) -> None:
    register_loss("rows")(_Rows)
    try:
        objective = Objective(LossesConfig.from_mapping({"rows": {}}))
        with pytest.raises(InputError, match=r"'rows' must return a scalar, not a tensor of shape \(2,\)"):
            objective(make_batch(torch.ones(2, 4)))
    finally:
        LOSSES.unregister("rows")


def test_a_loss_is_registered_by_a_decorator(make_batch: Callable[..., ScoredBatch]) -> None:
    register_loss("squares")(_Squares)
    try:
        config = LossesConfig.from_mapping({"squares": {"power": 1, "weight": 3.0}})
        total, parts = Objective(config)(make_batch(torch.ones(2, 4) * 5))
        assert (float(total), float(parts["squares"])) == (15.0, 5.0)
        with pytest.raises(ConfigError, match=r"squares.powr: unknown key; did you mean 'power'"):
            LossesConfig.from_mapping({"squares": {"powr": 1}})
        with pytest.raises(InputError, match="'squares' is taken by another loss"):
            register_loss("squares")(_Squares)
    finally:
        LOSSES.unregister("squares")
    with pytest.raises(ConfigError, match="squares: unknown key"):
        LossesConfig.from_mapping({"squares": {}})


@pytest.mark.parametrize(
    ("register", "name"),
    [
        (register_loss, "contrastive"),
        (register_loss, "matryoshka"),
        (register_schedule, "cosine"),
        (register_batches, "mixed"),
        (register_measure, "nDCG"),
    ],
)
def test_taken_names_are_refused(register: Callable[[str], Callable[[object], object]], name: str) -> None:
    with pytest.raises(InputError, match=f"the name '{name}' is taken"):
        register(name)(_Squares)


def test_what_is_no_loss_is_refused() -> None:
    with pytest.raises(InputError, match="a loss is a subclass of Loss"):
        register_loss("logging")(logging)  # type: ignore[type-var]
    for register in (register_schedule, register_batches):
        with pytest.raises(InputError, match=r"'half' must be a function, not 0\.5"):
            register("half")(0.5)  # type: ignore[operator]


def test_a_composition_must_take_every_example(toy_set: TrainingSet) -> None:
    register_batches("rest")(lambda sources: [source[1:] for source in sources])
    try:
        with pytest.raises(InputError, match=r"'rest' must put each of the [0-9]+ examples into a group"):
            EpochBatches(toy_set, 2, composition="rest")
    finally:
        COMPOSITIONS.unregister("rest")
