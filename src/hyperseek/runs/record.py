"""`run.json`: a complete description of a run, and whether another run may resume it."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import ConfigDict, Field, model_validator

from hyperseek._config import Config
from hyperseek._files import write_json
from hyperseek._machine import installed_versions
from hyperseek.errors import ConfigError

RECORD = "run.json"
CHECKPOINTS = "checkpoints"
LOGS = "logs"

_PACKAGES = ("hyperseek", "torch", "transformers", "sentence-transformers", "accelerate", "peft", "numpy")
# Where and how long a run continues; a resumed run may change these.
_MAY_CHANGE = ("epochs", "max_steps", "max_seconds", "save_every", "log_every", "workers", "device", "cache")
# Settings that apply only with a value of another one: section, setting, the other, its value.
_READ_WITH = (
    ("train", "last_layers", "trunk", "last_layers"),
    ("train", "lora", "trunk", "lora"),
    ("model", "vocabulary", "tokenizer", "train"),
)

logger = logging.getLogger(__name__)


class SourceUse(Config):
    """Counts of one source's examples, by how they were used.

    Attributes:
        examples: Examples that could be drawn.
        over_limit: Examples left out by the recipe's `limit`.
        held_out: Examples that are validated on instead.
        left_out: Examples left out on reading, by reason; for prepared folders see their `prepared.json`.
        without_effect: Examples from which no loss of the recipe can learn.
        negatives_left_out: Own negatives that turned out to be relevant, or the query itself.
        negatives_not_drawn: Own negatives that are never drawn, as `data.negatives` is 0.
        unused: Examples that were in no batch when training ended; None while it runs.
    """

    examples: int = 0
    over_limit: int = 0
    held_out: int = 0
    left_out: dict[str, int] = Field(default_factory=dict)
    without_effect: int = 0
    negatives_left_out: int = 0
    negatives_not_drawn: int = 0
    unused: int | None = None


class Validated(Config):
    """One validation.

    Attributes:
        step: Optimiser steps before it.
        seconds: Training time before it.
        scores: The metric for each dev set, and `mean`.
        eligible: Whether this may be the best, as no set fell too far.
    """

    model_config = ConfigDict(ser_json_inf_nan="strings")

    step: int = Field(ge=0)
    seconds: float
    scores: dict[str, float] = Field(min_length=1)
    eligible: bool = True


class RunRecord(Config):
    """The contents of `run.json`.

    Attributes:
        status: `finished` is written last, once the model is complete on disk.
        recipe: The resolved recipe.
        seed: Seed of order, draws and dropout.
        training_data: By name of the collection: `splits`, `fingerprint`, `examples`, and the file beside this one
            (`relevant_documents_file`) that lists the ids of documents relevant in training, one per line. For a
            finished run, those that were in a batch; before, those that may be.
        sources: By name of the source in the recipe: counts of its examples.
        texts: Fingerprints of the text sources by name; pre-training only.
        data_fingerprint: Fingerprint of all examples and documents; in pre-training of all token sequences.
        parameters: Number of trained parameters.
        steps: Optimiser steps done.
        changed: Whether the weights of the saved model differ from those at the start.
        seconds: Wall time of each part of the run; `training` is measured by the recipe's clock.
        metric: The metric of validation.
        validation: Every validation, the untrained model first.
        best_step: Step of the model's weights; None without validation.
        interpolation: Scores of each share of the training that was tried.
        share: The share that was kept.
        document_fingerprint: Fingerprints of the model's document side before and after training; if equal, an index
            fits both.
        versions: Versions of packages and Python.
        hardware: Processor, cores, threads, GPU.
    """

    model_config = ConfigDict(ser_json_inf_nan="strings")  # diverged runs have scores that JSON cannot express

    status: Literal["running", "finished"]
    recipe: dict[str, Any]
    seed: int
    training_data: dict[str, dict[str, Any]] = Field(default_factory=dict)
    sources: dict[str, SourceUse] = Field(default_factory=dict)
    texts: dict[str, str] = Field(default_factory=dict)
    data_fingerprint: str | None = None
    parameters: int = 0
    steps: int = 0
    changed: bool = True
    seconds: dict[str, float] = Field(default_factory=dict)
    metric: str | None = None
    validation: tuple[Validated, ...] = ()
    best_step: int | None = None
    interpolation: dict[str, dict[str, float]] = Field(default_factory=dict)
    share: float | None = None
    document_fingerprint: dict[str, str] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    hardware: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_alike(self) -> Self:
        measured = {frozenset(entry.scores) for entry in self.validation}
        measured |= {frozenset(scores) for scores in self.interpolation.values()}
        if len(measured) > 1:
            raise ValueError("its validations did not measure the same sets")
        if self.share is not None and str(self.share) not in self.interpolation:
            raise ValueError(f"it has no scores for the share {self.share} that was kept")
        return self

    @property
    def final_scores(self) -> dict[str, float]:
        """Dev scores of the saved model, and their `mean`; empty without validation."""
        if self.share is not None:
            return self.interpolation[str(self.share)]
        return next((entry.scores for entry in self.validation if entry.step == self.best_step), {})

    @classmethod
    def begun(cls, recipe: Config, *, seed: int, device: torch.device, **values: Any) -> Self:
        """Return the record of a starting run.

        Args:
            recipe: Its recipe.
            seed: Seed of order, draws and dropout.
            device: Its device.
            **values: Additional fields.

        Returns:
            The record, with versions and hardware.
        """
        return cls(
            status="running",
            recipe=recipe.model_dump(mode="json"),
            seed=seed,
            versions=versions(),
            hardware=hardware(device),
            **values,
        )

    def finished(self, seconds: Mapping[str, float], **values: Any) -> Self:
        """Return the record of the finished run.

        Args:
            seconds: Wall time of each part.
            **values: Fields that have changed.

        Returns:
            A new record.
        """
        rounded = {part: round(number, 3) for part, number in seconds.items()}
        return self.model_copy(update={"status": "finished", "seconds": rounded, **values})

    def write(self, folder: Path) -> None:
        """Write `run.json` into a folder."""
        write_json(folder / RECORD, json.loads(self.model_dump_json()))


def read_record(folder: Path) -> RunRecord | None:
    """Return the record of an earlier run in a folder, or None if there is none; DataError if it is damaged."""
    if not (folder / RECORD).exists():
        return None
    return RunRecord.from_json(folder / RECORD, "a record of training", remedy="train from scratch with --no-resume")


def run_folder(place: str | os.PathLike[str] | None) -> Path:
    """Return a run's folder, variables filled in; ConfigError if there is none."""
    if place is None:
        raise ConfigError("no place for the results; give --output DIR or set output.folder")
    return Path(os.path.expandvars(os.fspath(place))).expanduser()


def earlier_run(recipe: Config, folder: Path, *, resume: bool) -> RunRecord | None:
    """Look for an earlier run of a recipe.

    Args:
        recipe: The recipe to run, with a section `train` and optionally `output`.
        folder: The run's folder.
        resume: Whether to resume it; otherwise its record, checkpoints and logs are deleted (its model is
            overwritten at the end).

    Returns:
        Its record, or None to start from scratch.

    Raises:
        ConfigError: The folder holds a run of another recipe.
    """
    if not resume:
        for name in (CHECKPOINTS, LOGS):
            shutil.rmtree(folder / name, ignore_errors=True)
        (folder / RECORD).unlink(missing_ok=True)
        return None
    earlier = read_record(folder)
    if earlier is not None:
        check_same(earlier, recipe, folder)
        if earlier.status == "finished":
            logger.info("%s is finished; pass --no-resume to train from scratch", folder)
    return earlier


def check_same(record: RunRecord, recipe: Config, folder: Path) -> None:
    """Raise ConfigError unless an earlier run's recipe equals this one, apart from limits, logging and places."""
    advice = "choose another --output, or pass --no-resume to replace it"
    try:
        earlier = type(recipe).from_mapping(_without_unread(record.recipe))
    except ConfigError as error:
        raise ConfigError(
            f"{folder} holds a run of a recipe that this version does not accept; {advice} ({error})"
        ) from None
    ours, theirs = _essential(recipe), _essential(earlier)
    differing = [field for name, value in ours.items() for field in _differing(name, value, theirs[name])]
    if differing:
        raise ConfigError(f"{folder} holds a run of another recipe (they differ in: {', '.join(differing)}); {advice}")


def versions() -> dict[str, str]:
    """Return the versions of the main packages, and of Python."""
    return {"python": platform.python_version(), **installed_versions(_PACKAGES)}


def hardware(device: torch.device) -> dict[str, Any]:
    """Return a description of the machine."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "gpu": gpu,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _without_unread(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Leave ineffective settings out of a recorded recipe: earlier versions accepted and recorded them."""
    left = dict(recipe)
    for section, setting, other, value in _READ_WITH:
        part = left.get(section)
        if isinstance(part, Mapping) and part.get(other) != value:
            left[section] = {name: kept for name, kept in part.items() if name != setting}
    return left


def _differing(name: str, ours: Any, theirs: Any) -> list[str]:
    """Return the paths of the fields in which two values of a section differ."""
    if ours == theirs:
        return []
    if isinstance(ours, Config) and type(ours) is type(theirs):
        # Fields, and the sections of open configurations.
        left, right = dict(ours), dict(theirs)
        keys = dict.fromkeys((*left, *right))
        return [path for key in keys for path in _differing(f"{name}.{key}", left.get(key), right.get(key))]
    return [name]


def _essential(recipe: Config) -> dict[str, Any]:
    """Return the fields that must match to resume: all but section `output` and the changeable ones of `train`."""
    values = {name: getattr(recipe, name) for name in type(recipe).model_fields if name != "output"}
    train = values.pop("train")
    kept = {f"train.{name}": getattr(train, name) for name in type(train).model_fields if name not in _MAY_CHANGE}
    return {**values, **kept}
