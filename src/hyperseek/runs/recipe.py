"""What the recipes of all runs share: sections, removed settings, and environment variables in names of sources."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from hyperseek._config import Config
from hyperseek.errors import ConfigError

_UNSET = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_MEANING = {"HYPERSEEK_DATA": "the folder that holds the collections, each a folder in BEIR form"}


def without_removed(values: Any) -> Any:
    """Leave out entries set to null, by which a recipe takes back what its base names; null itself takes back all."""
    if values is None:
        return {}
    return {k: v for k, v in values.items() if v is not None} if isinstance(values, Mapping) else values


def with_default(values: Any, setting: str, default: Any, *, where: tuple[str, str]) -> Any:
    """Write out a setting's default where another setting has the value with which it is read, for records to say."""
    other, value = where
    if isinstance(values, Mapping) and values.get(other) == value and values.get(setting) is None:
        return {**values, setting: default}
    return values


class OutputConfig(Config):
    """Where results go.

    Attributes:
        folder: Model, checkpoints and `run.json`; None means `runs/NAME` for a recipe `NAME.yaml`.
        name: Name of the run for trackers; None takes the folder's.
        report_to: `tensorboard` and `wandb`, or `auto`: those that are installed (W&B where a key or mode is set).
    """

    folder: str | None = None
    name: str | None = None
    report_to: tuple[Literal["tensorboard", "wandb"], ...] | Literal["auto"] = "auto"


def cache_folder(chosen: str | None) -> Path:
    """Return the folder of caches, variables filled in: that chosen, `$HYPERSEEK_CACHE`, or `~/.cache/hyperseek`."""
    place = chosen or os.environ.get("HYPERSEEK_CACHE") or "~/.cache/hyperseek"
    return Path(os.path.expandvars(place)).expanduser()


def expanded(source: str) -> str:
    """Fill in environment variables.

    Args:
        source: A source, as a recipe names it.

    Returns:
        The source without variables.

    Raises:
        ConfigError: A variable is not set; the message says what to set.
    """
    filled = os.path.expandvars(source)
    unset = _UNSET.search(filled)
    if unset is None or os.path.exists(filled):
        return filled
    name = unset[1] or unset[2]
    meaning = _MEANING.get(name, "the part of the path that it stands for")
    raise ConfigError(
        f"the source {source!r} needs the environment variable {name}, which is not set; set it to {meaning}, as in "
        f"`export {name}=/path/to/data`, or name another source"
    )
