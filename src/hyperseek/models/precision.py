"""Which number format a model computes in."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from hyperseek.errors import UnknownNameError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

logger = logging.getLogger(__name__)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Turn a name into a dtype.

    Args:
        name: `"float32"`, `"bfloat16"`, `"float16"`, or `"auto"`: bfloat16 where the device multiplies it natively
            (there it is about twice as fast and moves cosines by about 1e-4), float32 elsewhere.
        device: Where the model computes.

    Returns:
        The dtype.

    Raises:
        UnknownNameError: The name is none of these.
    """
    if name == "auto":
        native = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_multiplies_bfloat16(device)
        chosen = torch.bfloat16 if native else torch.float32
        logger.info("dtype auto: %s, since %s %s bfloat16 natively", chosen, device, "has" if native else "lacks")
        return chosen
    if name not in _DTYPES:
        raise UnknownNameError("dtype", name, ["auto", *_DTYPES])
    return _DTYPES[name]


def _cpu_multiplies_bfloat16(device: torch.device) -> bool:
    if device.type != "cpu":
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
