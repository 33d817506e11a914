"""hyperseek: encode a corpus once, index it once, search it with any scoring function.

The public names below are imported on first use, so `import hyperseek` loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hyperseek._version import __version__

if TYPE_CHECKING:
    from hyperseek.data import open_dataset
    from hyperseek.errors import HyperseekError
    from hyperseek.evaluation import compare, evaluate
    from hyperseek.index import Index
    from hyperseek.models import Retriever, load
    from hyperseek.scoring import Points, Scorer, Space
    from hyperseek.serve import connect
    from hyperseek.training import read_recipe, train
    from hyperseek.types import Document, Hit, Query

_HOMES = {
    "Document": "hyperseek.types",
    "Hit": "hyperseek.types",
    "HyperseekError": "hyperseek.errors",
    "Index": "hyperseek.index",
    "Points": "hyperseek.scoring",
    "Query": "hyperseek.types",
    "Retriever": "hyperseek.models",
    "Scorer": "hyperseek.scoring",
    "Space": "hyperseek.scoring",
    "compare": "hyperseek.evaluation",
    "connect": "hyperseek.serve",
    "evaluate": "hyperseek.evaluation",
    "load": "hyperseek.models",
    "open_dataset": "hyperseek.data",
    "read_recipe": "hyperseek.training",
    "train": "hyperseek.training",
}

__all__ = [
    "Document",
    "Hit",
    "HyperseekError",
    "Index",
    "Points",
    "Query",
    "Retriever",
    "Scorer",
    "Space",
    "__version__",
    "compare",
    "connect",
    "evaluate",
    "load",
    "open_dataset",
    "read_recipe",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hyperseek' has no attribute {name!r}; it has: {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
