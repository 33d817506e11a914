"""Devices by name, checked before anything is put there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperseek._errors import InputError, brief

if TYPE_CHECKING:
    import torch


def check_device(device: str | torch.device | None) -> str | None:
    """See that a device exists here.

    Args:
        device: `"cpu"`, `"cuda"`, `"cuda:1"`, or what else torch knows; None leaves the choice to who asks.

    Returns:
        Its name, or None.

    Raises:
        InputError: torch knows no such device, or this machine has none.
    """
    import torch

    if device is None:
        return None
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError, ValueError, OverflowError):
        raise InputError(f"device {str(device)[:60]!r} is unknown; give cpu, cuda, or cuda:N for the GPU N") from None
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if chosen.type == "cuda" and not count:
        raise InputError(
            f"device {str(chosen)!r} is not there: torch finds no GPU that it can use; give cpu, or no device"
        )
    if chosen.type == "cuda" and (chosen.index or 0) >= count:
        raise InputError(f"device {str(chosen)!r} is not there: the GPUs are cuda:0 to cuda:{count - 1}")
    try:
        # Other kinds are many, and each has its own way to say that it is missing. On `meta` tensors have no values.
        torch.zeros(1, device=chosen).tolist()
    except Exception as error:
        raise InputError(f"device {str(chosen)!r} cannot be used here ({brief(error)}); give cpu or cuda") from None
    return str(chosen)
