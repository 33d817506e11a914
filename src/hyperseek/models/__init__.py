"""Retrievers: loading, building, saving, and importing other systems' checkpoints."""

import importlib.util
import sys

if importlib.util.find_spec("peft") and not importlib.util.find_spec("accelerate"):
    # transformers imports peft wherever it is found, and peft cannot be imported without accelerate.
    sys.modules["peft"] = None  # type: ignore[assignment]

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

__all__ = [
    "FAMILIES",
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
