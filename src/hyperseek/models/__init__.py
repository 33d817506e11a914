"""Retrievers: loading, building, saving, and importing other systems' checkpoints.

The public names below are imported on first use, since sentence-transformers and transformers take seconds to import,
and `hyperseek.models.light` needs neither.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

if importlib.util.find_spec("peft") and not importlib.util.find_spec("accelerate"):
    # transformers imports peft wherever it is found, and peft cannot be imported without accelerate.
    sys.modules["peft"] = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from hyperseek.models.backends import BACKENDS, Backend
    from hyperseek.models.families import (
        FAMILIES,
        Family,
        ModelConfig,
        encoder_modules,
        join_routes,
        register_family,
        transformer_of,
    )
    from hyperseek.models.families.card_head import CardConfig, CardHead
    from hyperseek.models.families.dense import LinearHeadConfig
    from hyperseek.models.families.late import LateConfig, LateRetriever
    from hyperseek.models.families.level_head import LevelsConfig, LevelsHead
    from hyperseek.models.families.lorentz.config import LorentzConfig, LorentzEncoderConfig
    from hyperseek.models.families.lorentz.encoder import LorentzEncoder, LorentzEncoderOutput, LorentzForMaskedLM
    from hyperseek.models.families.lorentz.head import LorentzHead
    from hyperseek.models.families.lorentz.transformer import LorentzPoints, LorentzPooling, LorentzTransformer
    from hyperseek.models.families.qnet import PaddedMeanPooling, QNetConfig, QNetHead
    from hyperseek.models.importers.colbert import export_colbert
    from hyperseek.models.importers.hypencoder import import_hypencoder
    from hyperseek.models.importers.hyprag import import_hyprag, read_hyprag
    from hyperseek.models.importers.one_file import import_hrm, import_hydra
    from hyperseek.models.loading import build, load
    from hyperseek.models.modules import Blends, CompilesQueries, Encoder, PlacesDocuments, SavedModule, route_width
    from hyperseek.models.retriever import Retriever
    from hyperseek.nn.token_pooling import TokenPooling
    from hyperseek.nn.token_pruning import PruningTransformer

_HOMES = {
    "BACKENDS": "hyperseek.models.backends",
    "Backend": "hyperseek.models.backends",
    "Blends": "hyperseek.models.modules",
    "CardConfig": "hyperseek.models.families.card_head",
    "CardHead": "hyperseek.models.families.card_head",
    "CompilesQueries": "hyperseek.models.modules",
    "Encoder": "hyperseek.models.modules",
    "FAMILIES": "hyperseek.models.families",
    "Family": "hyperseek.models.families",
    "LateConfig": "hyperseek.models.families.late",
    "LateRetriever": "hyperseek.models.families.late",
    "LevelsConfig": "hyperseek.models.families.level_head",
    "LevelsHead": "hyperseek.models.families.level_head",
    "LinearHeadConfig": "hyperseek.models.families.dense",
    "LorentzConfig": "hyperseek.models.families.lorentz.config",
    "LorentzEncoder": "hyperseek.models.families.lorentz.encoder",
    "LorentzEncoderConfig": "hyperseek.models.families.lorentz.config",
    "LorentzEncoderOutput": "hyperseek.models.families.lorentz.encoder",
    "LorentzForMaskedLM": "hyperseek.models.families.lorentz.encoder",
    "LorentzHead": "hyperseek.models.families.lorentz.head",
    "LorentzPoints": "hyperseek.models.families.lorentz.transformer",
    "LorentzPooling": "hyperseek.models.families.lorentz.transformer",
    "LorentzTransformer": "hyperseek.models.families.lorentz.transformer",
    "ModelConfig": "hyperseek.models.families",
    "PaddedMeanPooling": "hyperseek.models.families.qnet",
    "PlacesDocuments": "hyperseek.models.modules",
    "PruningTransformer": "hyperseek.nn.token_pruning",
    "QNetConfig": "hyperseek.models.families.qnet",
    "QNetHead": "hyperseek.models.families.qnet",
    "Retriever": "hyperseek.models.retriever",
    "SavedModule": "hyperseek.models.modules",
    "TokenPooling": "hyperseek.nn.token_pooling",
    "build": "hyperseek.models.loading",
    "encoder_modules": "hyperseek.models.families",
    "export_colbert": "hyperseek.models.importers.colbert",
    "import_hrm": "hyperseek.models.importers.one_file",
    "import_hydra": "hyperseek.models.importers.one_file",
    "import_hypencoder": "hyperseek.models.importers.hypencoder",
    "import_hyprag": "hyperseek.models.importers.hyprag",
    "join_routes": "hyperseek.models.families",
    "load": "hyperseek.models.loading",
    "read_hyprag": "hyperseek.models.importers.hyprag",
    "register_family": "hyperseek.models.families",
    "route_width": "hyperseek.models.modules",
    "transformer_of": "hyperseek.models.families",
}

__all__ = [
    "BACKENDS",
    "FAMILIES",
    "Backend",
    "Blends",
    "CardConfig",
    "CardHead",
    "CompilesQueries",
    "Encoder",
    "Family",
    "LateConfig",
    "LateRetriever",
    "LevelsConfig",
    "LevelsHead",
    "LinearHeadConfig",
    "LorentzConfig",
    "LorentzEncoder",
    "LorentzEncoderConfig",
    "LorentzEncoderOutput",
    "LorentzForMaskedLM",
    "LorentzHead",
    "LorentzPoints",
    "LorentzPooling",
    "LorentzTransformer",
    "ModelConfig",
    "PaddedMeanPooling",
    "PlacesDocuments",
    "PruningTransformer",
    "QNetConfig",
    "QNetHead",
    "Retriever",
    "SavedModule",
    "TokenPooling",
    "build",
    "encoder_modules",
    "export_colbert",
    "import_hrm",
    "import_hydra",
    "import_hypencoder",
    "import_hyprag",
    "join_routes",
    "load",
    "read_hyprag",
    "register_family",
    "route_width",
    "transformer_of",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hyperseek.models' has no attribute {name!r}; it has: {', '.join(__all__)}")
    # All at once, since those of hyperbolic encoders register themselves with transformers when they are imported.
    for each, home in _HOMES.items():
        globals()[each] = getattr(importlib.import_module(home), each)
    return globals()[name]


def __dir__() -> list[str]:
    return __all__
