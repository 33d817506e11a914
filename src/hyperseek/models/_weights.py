"""Reading the weight file of another system's checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from hyperseek._errors import ModelError

_NAMES = ("model.safetensors", "dedup.safetensors", "pytorch_model.bin")


def read_weights(folder: Path, weights: str | os.PathLike[str] | None = None) -> dict[str, Tensor]:
    """Read tensors by name, without running any code of the file.

    Args:
        folder: The checkpoint.
        weights: Its weight file; None looks for the usual names.

    Returns:
        The tensors, on the CPU.

    Raises:
        ModelError: There is no weight file.
    """
    candidates = [Path(weights)] if weights is not None else [folder / name for name in _NAMES]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise ModelError(f"{folder} has no weights; looked for {', '.join(path.name for path in candidates)}")
    if found.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(found))
    loaded: dict[str, Tensor] = torch.load(found, map_location="cpu", weights_only=True)
    return loaded
