"""Reading the weight file of another system's checkpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperseek._errors import ModelError, shown
from hyperseek._files import reading
from hyperseek._tensors import read_tensors

_NAMES = ("model.safetensors", "dedup.safetensors", "pytorch_model.bin")


def read_weights(folder: Path, weights: str | os.PathLike[str] | None = None) -> dict[str, Tensor]:
    """Read tensors by name, without running any code of the file.

    Args:
        folder: The checkpoint.
        weights: Its weight file; None looks for the usual names.

    Returns:
        The tensors, on the CPU.

    Raises:
        ModelError: There is no weight file, or it holds something else.
    """
    candidates = [Path(weights)] if weights is not None else [folder / name for name in _NAMES]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise ModelError(f"{folder} has no weights; looked for {', '.join(path.name for path in candidates)}")
    if found.suffix == ".safetensors":
        return read_tensors(found, "a file of tensors", error=ModelError)[0]
    with reading(found, "a file of tensors", error=ModelError):
        loaded: Any = torch.load(found, map_location="cpu", weights_only=True)
    strange = (
        [key for key, value in loaded.items() if not isinstance(value, Tensor)] if isinstance(loaded, dict) else []
    )
    if strange or not isinstance(loaded, dict):
        what = f"{shown(strange[0])} is no tensor" if strange else f"it holds a {type(loaded).__name__}"
        raise ModelError(f"{found} is no plain file of named tensors: {what}; save the model's state_dict() alone")
    for name, tensor in loaded.items():
        if tensor.layout != torch.strided or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            # Repeated by its strides, it may stand for more than any memory holds.
            raise ModelError(f"{found} has a tensor {shown(name)} that is not stored in full")
    return {str(name): tensor for name, tensor in loaded.items()}
