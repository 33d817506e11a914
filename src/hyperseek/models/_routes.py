"""Small questions about a route of modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from hyperseek._errors import ModelError


def route_width(modules: Sequence[nn.Module]) -> int:
    """Return how many numbers a text becomes behind these modules.

    Args:
        modules: A route, in order.

    Returns:
        The width that the last module which knows one reports.

    Raises:
        ModelError: No module knows its width.
    """
    for module in reversed(modules):
        method: Any = getattr(module, "get_embedding_dimension", None)
        if method is not None and (width := method()) is not None:
            return int(width)
    names = ", ".join(type(module).__name__ for module in modules)
    raise ModelError(f"none of the modules {names} knows the size of its vectors; give one get_embedding_dimension()")
