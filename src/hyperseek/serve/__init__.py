"""A running search that other programs call: an HTTP server of indexes and models, and the client of one.

The server needs the extra `serve`. Nothing of it is imported here before it is asked for, and the client needs neither
the server's packages nor torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyperseek.serve._app import create_app, run
    from hyperseek.serve._limits import ServeSettings
    from hyperseek.serve.client import RemoteIndex, connect

_HOMES = {
    "RemoteIndex": "hyperseek.serve.client",
    "ServeSettings": "hyperseek.serve._limits",
    "connect": "hyperseek.serve.client",
    "create_app": "hyperseek.serve._app",
    "run": "hyperseek.serve._app",
}

__all__ = ["RemoteIndex", "ServeSettings", "connect", "create_app", "run"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hyperseek.serve' has no attribute {name!r}; it has: {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)
