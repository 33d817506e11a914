"""Retrievers: loading, building, saving, and importing other systems' checkpoints."""

import importlib.util
import sys

if importlib.util.find_spec("peft") and not importlib.util.find_spec("accelerate"):
    # transformers imports peft wherever it is found, and peft cannot be imported without accelerate.
    sys.modules["peft"] = None  # type: ignore[assignment]

from hyperseek.models._build import LinearHeadConfig, ModelConfig, QNetConfig, build
from hyperseek.models.families.late import LateRetriever
from hyperseek.models.families.lorentz.config import LorentzConfig
from hyperseek.models.families.lorentz.encoder import LorentzEncoder, LorentzEncoderOutput
from hyperseek.models.families.lorentz.encoder_config import LorentzEncoderConfig
from hyperseek.models.families.lorentz.head import LorentzHead
from hyperseek.models.families.lorentz.masked_lm import LorentzForMaskedLM
from hyperseek.models.families.lorentz.points import LorentzPoints
from hyperseek.models.families.lorentz.transformer import LorentzPooling, LorentzTransformer
from hyperseek.models.families.qnet import QNetHead
from hyperseek.models.importers.hypencoder import import_hypencoder
from hyperseek.models.importers.hyprag import import_hyprag, is_hyprag, read_hyprag
from hyperseek.models.loading import load, resolve_name
from hyperseek.models.retriever import Retriever

__all__ = [
    "LateRetriever",
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
    "QNetConfig",
    "QNetHead",
    "Retriever",
    "build",
    "import_hypencoder",
    "import_hyprag",
    "is_hyprag",
    "load",
    "read_hyprag",
    "resolve_name",
]
